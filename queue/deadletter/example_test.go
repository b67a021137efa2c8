package deadletter_test

import (
	"context"
	"fmt"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// deadLetters returns a queue with two letters in it.
func deadLetters() (*memqueue.Queue, error) {
	dead, err := memqueue.New(memqueue.Config{Wait: 10 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	return dead, dead.Send(context.Background(),
		&queue.Message{Body: []byte("3 widgets"), Attributes: map[string]string{
			retry.DeadLetterAttribute: retry.DeadLetter{Reason: retry.ReasonExhausted, Error: "inventory: 503", Attempts: 12}.Encode(),
		}},
		&queue.Message{Body: []byte("-1 gadgets"), Attributes: map[string]string{
			retry.DeadLetterAttribute: retry.DeadLetter{Reason: retry.ReasonPermanent, Error: "inventory: no such quantity", Attempts: 1}.Encode(),
		}},
	)
}

func ExampleList() {
	dead, err := deadLetters()
	if err != nil {
		fmt.Println(err)
		return
	}
	for l, err := range deadletter.List(context.Background(), dead, deadletter.Config{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s after %d attempts: %s\n", l.Message.Body, l.Record.Reason, l.Attempts(), l.Record.Error)
	}
	fmt.Println(dead.Stats().Visible, "are still there")
	// Output:
	// 3 widgets: exhausted after 12 attempts: inventory: 503
	// -1 gadgets: permanent after 1 attempts: inventory: no such quantity
	// 2 are still there
}

func ExampleRedrive() {
	dead, err := deadLetters()
	if err != nil {
		fmt.Println(err)
		return
	}
	orders, err := memqueue.New(memqueue.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	bucket, err := limiter.NewTokenBucket(20, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := deadletter.Redrive(context.Background(), dead, orders, deadletter.Config{
		Filter:  deadletter.Filter{Reasons: []string{retry.ReasonExhausted}},
		Limiter: bucket,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d examined, %d redriven, %d kept\n", s.Examined, s.Redriven, s.Kept)
	// Output: 2 examined, 1 redriven, 1 kept
}

func ExampleHistory() {
	h := deadletter.History{Redrives: 1, Attempts: 12, Last: retry.DeadLetter{Reason: retry.ReasonExhausted}}
	m := &queue.Message{Body: []byte("3 widgets"), Attributes: map[string]string{deadletter.HistoryAttribute: h.Encode()}}

	// In a handler that treats its last chance with care:
	if l := deadletter.Read(m); l.History.Redrives > 0 {
		fmt.Printf("redriven before, after %d attempts that ended %s\n", l.Attempts(), l.History.Last.Reason)
	}
	// Output: redriven before, after 12 attempts that ended exhausted
}
