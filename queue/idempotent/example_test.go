package idempotent_test

import (
	"context"
	"fmt"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/idempotent"
)

func Example() {
	store, err := idempotent.NewMemory(10_000)
	if err != nil {
		fmt.Println(err)
		return
	}
	once, err := idempotent.New(store, idempotent.Config{
		Key: func(m *queue.Message) (string, error) { return m.Attributes["order-id"], nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	reserve := queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
		claim, _ := idempotent.Current(ctx)
		fmt.Printf("reserve %s, idempotency key %s\n", m.Body, claim.Key)
		return nil
	})
	h := queue.Chain(reserve, once.Wrap)

	order := &queue.Message{Body: []byte("3 widgets"), Attributes: map[string]string{"order-id": "o-17"}}
	for range 3 { // delivered three times
		if err := h.Handle(context.Background(), order); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Printf("%+v\n", once.Stats())
	// Output:
	// reserve 3 widgets, idempotency key o-17
	// {Runs:1 Done:2 Busy:0 InDoubt:0 Late:0 Unrecorded:0}
}

func ExampleSetResult() {
	store, err := idempotent.NewMemory(10_000)
	if err != nil {
		fmt.Println(err)
		return
	}
	once, err := idempotent.New(store, idempotent.Config{
		OnDone: func(_ context.Context, _ *queue.Message, result []byte) error {
			fmt.Printf("confirm %s again\n", result)
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	h := once.Wrap(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
		idempotent.SetResult(ctx, []byte("reservation 7"))
		fmt.Println("confirm reservation 7")
		return nil
	}))
	for range 2 {
		if err := h.Handle(context.Background(), &queue.Message{Body: []byte("3 widgets")}); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// confirm reservation 7
	// confirm reservation 7 again
}
