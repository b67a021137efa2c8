package retry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rampmeter/rampmeter/retry"
)

func Example() {
	p := retry.Policy{MaxAttempts: 5, BaseDelay: time.Millisecond}
	attempt := 0
	stock, err := retry.Value(context.Background(), p, func(context.Context) (int, error) {
		if attempt++; attempt < 3 {
			return 0, errors.New("connection reset")
		}
		return 42, nil
	})
	fmt.Println(stock, err, attempt)
	// Output: 42 <nil> 3
}

func ExampleDo() {
	p := retry.Policy{MaxAttempts: 2, BaseDelay: time.Millisecond}
	err := retry.Do(context.Background(), p, func(context.Context) error {
		return errors.New("connection reset")
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, retry.ErrExhausted))
	// Output:
	// retry: 2 attempts used up: connection reset
	// true
}

func ExampleValue() {
	sku, err := retry.Value(context.Background(), retry.Policy{}, func(context.Context) (string, error) {
		return "", retry.Permanent(errors.New("no such order"))
	})
	fmt.Printf("%q %v\n", sku, err)
	// Output: "" no such order
}

func ExamplePolicy_Next() {
	p := retry.Policy{MaxAttempts: 3, BaseDelay: 10 * time.Second, Jitter: -1}
	err := errors.New("connection reset")
	fmt.Println(p.Next(1, err))
	fmt.Println(p.Next(2, err))
	fmt.Println(p.Next(2, retry.After(time.Minute, err)))
	fmt.Println(p.Next(2, retry.Permanent(err)))
	fmt.Println(p.Next(3, err))
	// Output:
	// 10s true
	// 20s true
	// 1m0s true
	// 0s false
	// 0s false
}

func ExamplePermanent() {
	err := fmt.Errorf("order 7: %w", retry.Permanent(errors.New("no such product")))
	fmt.Println(err)
	fmt.Println(errors.Is(err, retry.ErrPermanent))
	// Output:
	// order 7: no such product
	// true
}

func ExampleParseRetryAfter() {
	h := http.Header{}
	h.Set("Date", "Sun, 01 Mar 2026 12:00:00 GMT")
	h.Set("Retry-After", "Sun, 01 Mar 2026 12:01:30 GMT")
	fmt.Println(retry.ParseRetryAfter(h, time.Now()))
	// Output: 1m30s true
}

func ExampleDeadLetter() {
	d := retry.DeadLetter{Reason: retry.ReasonPermanent, Error: "no such product", Attempts: 1, Source: "orders"}
	attribute := d.Encode()
	fmt.Println(attribute)
	d, err := retry.ParseDeadLetter(attribute)
	fmt.Println(d.Reason, err)
	// Output:
	// {"reason":"permanent","error":"no such product","attempts":1,"source":"orders"}
	// permanent <nil>
}
