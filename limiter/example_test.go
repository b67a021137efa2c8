package limiter_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

func Example() {
	places, err := limiter.NewSemaphore(10) // 10 at once
	if err != nil {
		panic(err)
	}
	starts, err := limiter.NewTokenBucket(200, 20) // 200 a second, 20 in a burst
	if err != nil {
		panic(err)
	}
	trouble, err := limiter.NewBreaker(limiter.BreakerConfig{}) // none while it is down
	if err != nil {
		panic(err)
	}
	limit, err := limiter.All(places, starts, trouble)
	if err != nil {
		panic(err)
	}

	err = limiter.Do(context.Background(), limit, func(ctx context.Context) error {
		fmt.Println("calling the API")
		return nil
	})
	fmt.Println(err)
	// Output:
	// calling the API
	// <nil>
}

func ExampleNewSemaphore() {
	s, err := limiter.NewSemaphore(2)
	if err != nil {
		panic(err)
	}
	first, _ := s.TryAcquire()
	_, _ = s.TryAcquire()
	_, ok := s.TryAcquire()
	fmt.Println("a third:", ok)

	first.Release(nil)
	_, ok = s.TryAcquire()
	fmt.Println("after a release:", ok)

	_, err = limiter.NewSemaphore(0)
	fmt.Println(err)
	// Output:
	// a third: false
	// after a release: true
	// limiter: NewSemaphore: n is 0: must be at least 1
}

func ExampleSemaphore_Resize() {
	s, err := limiter.NewSemaphore(1)
	if err != nil {
		panic(err)
	}
	_, _ = s.TryAcquire()
	if err := s.Resize(3); err != nil {
		panic(err)
	}
	n, err := s.Ready(context.Background(), 10, 0)
	fmt.Println(n, err)
	fmt.Printf("%+v\n", s.Stats())
	// Output:
	// 2 <nil>
	// {Limit:3 InUse:1 Waiting:0}
}

func ExampleNewTokenBucket() {
	b, err := limiter.NewTokenBucket(100, 3) // 100 a second, 3 in a burst
	if err != nil {
		panic(err)
	}
	begin := time.Now()
	for range 5 { // three at once, two more 10 ms apart
		if _, err := b.Acquire(context.Background()); err != nil {
			panic(err)
		}
	}
	fmt.Println("at least 20 ms:", time.Since(begin) > 19*time.Millisecond)
	// Output:
	// at least 20 ms: true
}

func ExampleTokenBucket_Pause() {
	b, err := limiter.NewTokenBucket(100, 3)
	if err != nil {
		panic(err)
	}
	b.Pause(time.Now().Add(time.Hour))
	block := b.Blocked()
	fmt.Println(block.Reason, time.Until(block.Until).Round(time.Minute))
	b.Resume()
	n, err := b.Ready(context.Background(), 10, 20*time.Millisecond)
	fmt.Println(n, err) // three that are there, and two that come within 20 ms
	// Output:
	// pause 1h0m0s
	// 5 <nil>
}

// tooManyRequests is the error of a client for a 429.
type tooManyRequests struct{ retryAfter time.Duration }

func (e *tooManyRequests) Error() string             { return "inventory: too many requests" }
func (e *tooManyRequests) Is(target error) bool      { return target == limiter.ErrOverload }
func (e *tooManyRequests) RetryAfter() time.Duration { return e.retryAfter }

func ExampleNewBreaker() {
	b, err := limiter.NewBreaker(limiter.BreakerConfig{
		Name:        "inventory",
		MinFailures: 3,
		OpenFor:     30 * time.Millisecond,
		OnChange: func(from limiter.State, now limiter.BreakerStats) {
			fmt.Printf("%v -> %v: %v\n", from, now.State, now.Cause)
		},
	})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	call := func(result error) error {
		return limiter.Do(ctx, b, func(context.Context) error { return result })
	}
	_ = call(errors.New("no such item")) // says nothing about the downstream
	_ = call(&tooManyRequests{})         // nor does a refusal: it is about the pace
	for range 3 {
		_ = call(fmt.Errorf("status 503: %w", limiter.ErrUnavailable))
	}
	fmt.Println("blocked by:", b.Blocked().Reason, b.Blocked().Name)
	for range 4 { // the first is the probe, and waits for it to be due
		_ = call(nil)
	}
	// Output:
	// closed -> open: status 503: limiter: the downstream is unavailable
	// blocked by: breaker inventory
	// open -> half-open: status 503: limiter: the downstream is unavailable
	// half-open -> closed: status 503: limiter: the downstream is unavailable
}

func ExampleValve() {
	// Closed from 2:00 to 2:30, when the downstream is backed up.
	valve := &limiter.Valve{Name: "backup", Schedule: func(now time.Time) time.Time {
		y, m, d := now.UTC().Date()
		if begin := time.Date(y, m, d, 2, 0, 0, 0, time.UTC); !now.Before(begin) {
			return begin.Add(30 * time.Minute)
		}
		return time.Time{}
	}}
	places, err := limiter.NewSemaphore(10)
	if err != nil {
		panic(err)
	}
	limit, err := limiter.All(valve, places)
	if err != nil {
		panic(err)
	}

	valve.Close("incident 17") // by hand
	fmt.Println(limit.Blocked())
	_, ok := limit.TryAcquire()
	fmt.Println("an operation may start:", ok)
	valve.Open()
	// Output:
	// valve backup: incident 17
	// an operation may start: false
}

func ExampleBreakerStats() {
	b, err := limiter.NewBreaker(limiter.BreakerConfig{})
	if err != nil {
		panic(err)
	}
	text, err := json.Marshal(b.Stats())
	fmt.Println(string(text), err)
	// Output: {"state":"closed","probes":0,"failures":0,"allowed":0,"in_flight":0,"waiting":0} <nil>
}

func ExampleAll() {
	places, err := limiter.NewSemaphore(5)
	if err != nil {
		panic(err)
	}
	starts, err := limiter.NewTokenBucket(1, 2)
	if err != nil {
		panic(err)
	}
	both, err := limiter.All(places, starts)
	if err != nil {
		panic(err)
	}

	n, err := both.Ready(context.Background(), 10, 0)
	fmt.Println("ready:", n, err)
	for range 2 {
		_, _ = both.TryAcquire()
	}
	_, ok := both.TryAcquire()
	fmt.Println("a third:", ok, "because of", both.Blocked().Reason)
	fmt.Println("places in use:", places.Stats().InUse) // nothing held for the third
	// Output:
	// ready: 2 <nil>
	// a third: false because of rate
	// places in use: 2
}

func ExampleDo() {
	s, err := limiter.NewSemaphore(1)
	if err != nil {
		panic(err)
	}
	err = limiter.Do(context.Background(), s, func(ctx context.Context) error {
		fmt.Println("in use:", s.Stats().InUse)
		return errors.New("out of stock")
	})
	fmt.Println(err, "- in use:", s.Stats().InUse)
	// Output:
	// in use: 1
	// out of stock - in use: 0
}

func ExampleTransport() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer server.Close()

	rate, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{Max: 100})
	if err != nil {
		panic(err)
	}
	transport, err := limiter.NewTransport(rate, nil)
	if err != nil {
		panic(err)
	}
	client := &http.Client{Transport: transport}
	res, err := client.Get(server.URL)
	if err != nil {
		panic(err)
	}
	err = limiter.ResponseError(res) // what the caller needs
	_ = res.Body.Close()             // returns the permit and reports the response to the limiter
	after, _ := limiter.RetryAfter(err)
	fmt.Println(limiter.Classify(err), "for", after)
	block := rate.Blocked()
	fmt.Println(block.Reason, "for", time.Until(block.Until).Round(time.Second))
	// Output:
	// limiter: the downstream is overloaded for 1m0s
	// pause for 1m0s
}

func ExampleResponseError() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/orders/1":
			w.WriteHeader(http.StatusNoContent)
		case "/orders/2":
			http.Error(w, `{"error": "no such order"}`, http.StatusNotFound)
		case "/orders/3":
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer api.Close()

	// A message handler returns this error.
	handle := func(ctx context.Context, order string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, api.URL+"/orders/"+order, nil)
		if err != nil {
			return retry.Permanent(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		return limiter.ResponseError(res)
	}
	for _, order := range []string{"1", "2", "3", "4"} {
		err := handle(context.Background(), order)
		after, _ := limiter.RetryAfter(err)
		fmt.Println(order, "permanent:", errors.Is(err, retry.ErrPermanent), "class:", limiter.Classify(err), "after:", after)
	}
	// Output:
	// 1 permanent: false class: <nil> after: 0s
	// 2 permanent: true class: <nil> after: 0s
	// 3 permanent: false class: limiter: the downstream is overloaded after: 5s
	// 4 permanent: false class: limiter: the downstream is unavailable after: 0s
}

func ExampleClassify() {
	fmt.Println(limiter.Classify(&tooManyRequests{}))
	fmt.Println(limiter.Classify(context.DeadlineExceeded))
	fmt.Println(limiter.Classify(errors.New("no such item")))
	// Output:
	// limiter: the downstream is overloaded
	// limiter: the downstream is unavailable
	// <nil>
}

func ExampleNewAdaptive() {
	// The API can handle some 8 calls at once, but nobody knows the number.
	a, err := limiter.NewAdaptive(limiter.AdaptiveConfig{Max: 100, Initial: 10})
	if err != nil {
		panic(err)
	}
	var calls []limiter.Permit
	for {
		p, ok := a.TryAcquire()
		if !ok {
			break
		}
		calls = append(calls, p)
	}
	fmt.Println(len(calls), "at once")
	calls[0].Release(limiter.ErrOverload) // 429 Too Many Requests
	fmt.Println("the limit is", a.Limit(), "now")
	calls[1].Release(nil)
	_, ok := a.TryAcquire()
	fmt.Println("with", a.Stats().InFlight, "in flight another one may start:", ok)

	_, err = limiter.NewAdaptive(limiter.AdaptiveConfig{})
	fmt.Println(err)
	// Output:
	// 10 at once
	// the limit is 9 now
	// with 9 in flight another one may start: true
	// limiter: NewAdaptive: Max is 0: must be at least 1
}

func ExampleNewAdaptiveRate() {
	// Nobody knows how much the API accepts.
	pace, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{})
	if err != nil {
		panic(err)
	}
	fmt.Println(pace.Stats().Mode, pace.Rate(), "a second")

	call, _ := pace.Acquire(context.Background())
	res := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}}
	call.Release(limiter.ResponseError(res)) // a Transport does
	_, ok := pace.TryAcquire()
	fmt.Println("another one may start:", ok)
	fmt.Println(pace.Blocked().Reason, "for", time.Until(pace.Blocked().Until).Round(time.Second))
	// Output:
	// free +Inf a second
	// another one may start: false
	// pause for 1s
}

func ExampleNewKeyed() {
	perTenant, err := limiter.NewKeyed(func(tenant string) (limiter.Limiter, error) {
		return limiter.NewSemaphore(1)
	})
	if err != nil {
		panic(err)
	}
	all, err := limiter.NewSemaphore(10)
	if err != nil {
		panic(err)
	}
	acme, err := limiter.All(perTenant.For("acme"), all)
	if err != nil {
		panic(err)
	}
	other, err := limiter.All(perTenant.For("other"), all)
	if err != nil {
		panic(err)
	}
	first, _ := acme.TryAcquire()
	_, ok := acme.TryAcquire()
	fmt.Println("a second one of the same tenant:", ok)
	_, ok = other.TryAcquire()
	fmt.Println("one of another tenant:", ok)
	first.Release(nil)
	// Output:
	// a second one of the same tenant: false
	// one of another tenant: true
}
