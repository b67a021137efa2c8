package queue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// An order, as its JSON in the queue has it.
type order struct {
	ID  string `json:"id"`
	SKU string `json:"sku"`
}

func ExampleConsumer() {
	ctx := context.Background()
	orders, err := memqueue.New(memqueue.Config{})
	if err != nil {
		panic(err)
	}
	dead, err := memqueue.New(memqueue.Config{})
	if err != nil {
		panic(err)
	}
	err = orders.Send(ctx,
		&queue.Message{Body: []byte(`{"id":"1","sku":"pen"}`)},
		&queue.Message{Body: []byte(`{"id":"2","sku":"ink"}`)},
		&queue.Message{Body: []byte(`not an order`)},
	)
	if err != nil {
		panic(err)
	}
	orders.Close() // no more will come, so that Run returns by itself

	bucket, errRate := limiter.NewTokenBucket(100, 1) // a hundred a second, one at a time
	breaker, errBreaker := limiter.NewBreaker(limiter.BreakerConfig{})
	limit, errLimit := limiter.All(breaker, bucket)
	if err := errors.Join(errRate, errBreaker, errLimit); err != nil {
		panic(err)
	}
	handler := queue.Decode(json.Unmarshal, func(ctx context.Context, m *queue.Message, o order) error {
		fmt.Println("order", o.ID, "for", o.SKU)
		return nil
	})
	c, err := queue.NewConsumer(orders, handler, queue.Config{
		Name: "orders", Limiter: limit, DeadLetter: dead, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Run(ctx); err != nil {
		fmt.Println(err)
	}
	s := c.Stats()
	fmt.Println(s.Done, "done,", s.DeadLettered, "dead-lettered")

	msgs, err := dead.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
	if err != nil {
		panic(err)
	}
	record, err := retry.ParseDeadLetter(msgs[0].Attributes[retry.DeadLetterAttribute])
	if err != nil {
		panic(err)
	}
	fmt.Println(record.Reason, "from", record.Source)
	// Output:
	// order 1 for pen
	// order 2 for ink
	// 2 done, 1 dead-lettered
	// undecodable from orders
}

func ExampleDecode() {
	h := queue.Decode(json.Unmarshal, func(_ context.Context, _ *queue.Message, o order) error {
		fmt.Println(o.SKU)
		return nil
	})
	fmt.Println(h.Handle(context.Background(), &queue.Message{Body: []byte(`{"sku":"pen"}`)}))
	err := h.Handle(context.Background(), &queue.Message{Body: []byte(`{`)})
	fmt.Println(err, errors.Is(err, retry.ErrPermanent))
	// Output:
	// pen
	// <nil>
	// queue: decode body: unexpected end of JSON input true
}

func ExampleChain() {
	timed := func(next queue.Handler) queue.Handler {
		return queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
			defer fmt.Println("handled", string(m.Body))
			return next.Handle(ctx, m)
		})
	}
	h := queue.Chain(queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
		fmt.Println("handling", string(m.Body))
		return nil
	}), timed, queue.Timeout(time.Minute))
	_ = h.Handle(context.Background(), &queue.Message{Body: []byte("a")})
	// Output:
	// handling a
	// handled a
}

// The error of a handler sets when the message is tried again.
func ExampleConsumer_results() {
	src := queuetest.Script(queuetest.Deliver(
		&queue.Message{ID: "busy"}, &queue.Message{ID: "fine"}, &queue.Message{ID: "wrong"},
	))
	h := queue.HandlerFunc(func(_ context.Context, m *queue.Message) error {
		switch m.ID {
		case "busy":
			return retry.After(time.Minute, errors.New("warehouse is closed"))
		case "wrong":
			return retry.Permanent(errors.New("no such SKU"))
		}
		return nil
	})
	var dead queuetest.Recorder
	c, err := queue.NewConsumer(src, h, queue.Config{Concurrency: 1, DeadLetter: &dead, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Run(context.Background()))
	for _, s := range src.Settled() {
		if s.Op == queuetest.OpNack {
			fmt.Println(s.ID, "again in", s.For)
		}
	}
	fmt.Println("acked", slices.Sorted(slices.Values(src.IDs(queuetest.OpAck))))
	fmt.Println("dead", dead.Messages()[0].ID)
	// Output:
	// <nil>
	// busy again in 1m0s
	// acked [fine wrong]
	// dead wrong
}
