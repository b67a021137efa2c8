package memqueue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"time"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

func ExampleNew() {
	ctx := context.Background()
	q, err := memqueue.New(memqueue.Config{})
	if err != nil {
		log.Fatal(err)
	}
	if err := q.Send(ctx, &queue.Message{Body: []byte("hello")}, &queue.Message{Body: []byte("world")}); err != nil {
		log.Fatal(err)
	}
	msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: 30 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range msgs {
		fmt.Printf("%s, attempt %d\n", m.Body, m.Attempt)
	}
	if err := q.Ack(ctx, msgs[0]); err != nil {
		log.Fatal(err)
	}
	if err := q.Nack(ctx, time.Minute, msgs[1]); err != nil {
		log.Fatal(err)
	}
	fmt.Println(q.Stats().InFlight, "is hidden for a minute more")
	// Output:
	// hello, attempt 1
	// world, attempt 1
	// 1 is hidden for a minute more
}

// A message that nobody acks ends in the dead-letter queue.
func ExampleConfig_redrive() {
	ctx := context.Background()
	dead, err := memqueue.New(memqueue.Config{})
	if err != nil {
		log.Fatal(err)
	}
	q, err := memqueue.New(memqueue.Config{Wait: -1, MaxReceives: 3, DeadLetter: dead})
	if err != nil {
		log.Fatal(err)
	}
	if err := q.Send(ctx, &queue.Message{Body: []byte("poison")}); err != nil {
		log.Fatal(err)
	}
	for {
		msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		if err != nil {
			log.Fatal(err)
		}
		if len(msgs) == 0 {
			break
		}
		fmt.Println("attempt", msgs[0].Attempt)
		if err := q.Nack(ctx, 0, msgs...); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println(dead.Stats().Visible, "dead letter")
	// Output:
	// attempt 1
	// attempt 2
	// attempt 3
	// 1 dead letter
}

func ExampleQueue_Close() {
	ctx := context.Background()
	q, err := memqueue.New(memqueue.Config{FIFO: true, ContentDedup: true})
	if err != nil {
		log.Fatal(err)
	}
	for _, body := range []string{"reserve", "pay", "ship", "ship"} {
		if err := q.Send(ctx, &queue.Message{Body: []byte(body), Group: "order-7"}); err != nil {
			log.Fatal(err)
		}
	}
	q.Close()
	for {
		msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", msgs[0].Body)
		if err := q.Ack(ctx, msgs...); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// reserve
	// pay
	// ship
}
