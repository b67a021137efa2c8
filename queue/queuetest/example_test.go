package queuetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"testing"
	"time"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// The body of a test of a queue.
func ExampleTestSource() {
	_ = func(t *testing.T) {
		queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
			q, err := memqueue.New(memqueue.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return q
		}, queuetest.Config{Synctest: true, Stops: true, MaxLease: 12 * time.Hour})
	}
}

// A loop that should nack a message after an error, and continue after a receive
// that failed.
func ExampleScript() {
	ctx := context.Background()
	src := queuetest.Script(
		queuetest.Deliver(&queue.Message{ID: "good"}, &queue.Message{ID: "bad"}),
		queuetest.Fail(errors.New("connection reset")),
		queuetest.Deliver(&queue.Message{ID: "bad", Attempt: 2}),
	)
	handle := func(m *queue.Message) error {
		if m.ID == "bad" && m.Attempt == 1 {
			return errors.New("not now")
		}
		return nil
	}
	for {
		msgs, err := src.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		if errors.Is(err, io.EOF) {
			break
		}
		for _, m := range msgs {
			if handle(m) != nil {
				err = src.Nack(ctx, 5*time.Second, m)
			} else {
				err = src.Ack(ctx, m)
			}
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	for _, s := range src.Settled() {
		fmt.Println(s.Op, s.ID, s.For)
	}
	// Output:
	// connection reset
	// ack good 0s
	// nack bad 5s
	// ack bad 0s
}

// A sender retries after a lost reply: the message is in the queue twice.
func ExampleFaulty() {
	ctx := context.Background()
	q, err := memqueue.New(memqueue.Config{})
	if err != nil {
		log.Fatal(err)
	}
	f := &queuetest.Faulty{Source: q, Sink: q, Plan: queuetest.OnCall(1, queuetest.Fault{Mode: queuetest.LoseReply})}
	for f.Send(ctx, &queue.Message{Body: []byte("order 7")}) != nil {
	}
	fmt.Println(f.Calls(queuetest.OpSend), "calls,", q.Stats().Visible, "messages")
	// Output: 2 calls, 2 messages
}

func ExampleRecorder() {
	var dead queuetest.Recorder
	if err := dead.Send(context.Background(), &queue.Message{Body: []byte("poison")}); err != nil {
		log.Fatal(err)
	}
	for _, m := range dead.Messages() {
		fmt.Printf("%s\n", m.Body)
	}
	// Output: poison
}
