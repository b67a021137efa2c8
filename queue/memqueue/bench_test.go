package memqueue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// BenchmarkSendReceiveAck passes batches through a queue with a constant backlog.
// An op is a batch.
func BenchmarkSendReceiveAck(b *testing.B) {
	for _, c := range []struct {
		fifo           bool
		batch, backlog int
	}{
		{batch: 1},
		{batch: 10},
		{batch: 10, backlog: 100_000},
		{fifo: true, batch: 10},
	} {
		b.Run(fmt.Sprintf("fifo=%v/batch=%d/backlog=%d", c.fifo, c.batch, c.backlog), func(b *testing.B) {
			ctx := context.Background()
			q, err := memqueue.New(memqueue.Config{FIFO: c.fifo})
			if err != nil {
				b.Fatal(err)
			}
			body := make([]byte, 200)
			for range c.backlog {
				if err := q.Send(ctx, &queue.Message{Body: body}); err != nil {
					b.Fatal(err)
				}
			}
			msgs := make([]*queue.Message, c.batch)
			for i := range msgs {
				msgs[i] = &queue.Message{Body: body, Group: fmt.Sprint("group-", i%3)}
			}
			b.ReportAllocs()
			sent := 0
			for b.Loop() {
				if c.fifo {
					for _, m := range msgs {
						sent++
						m.Dedup = fmt.Sprint(sent)
					}
				}
				if err := q.Send(ctx, msgs...); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < c.batch; {
					received, err := q.Receive(ctx, queue.ReceiveOptions{Max: c.batch - got, Lease: time.Minute})
					if err != nil {
						b.Fatal(err)
					}
					if err := q.Ack(ctx, received...); err != nil {
						b.Fatal(err)
					}
					got += len(received)
				}
			}
			b.ReportMetric(float64(b.N*c.batch)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

// BenchmarkHandOff is a queue between two goroutines, of which the receiving
// one mostly waits. An op is a batch.
func BenchmarkHandOff(b *testing.B) {
	const batch = 10
	ctx := context.Background()
	q, err := memqueue.New(memqueue.Config{MaxMessages: 100})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for {
			msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: batch, Lease: time.Minute})
			if err == nil {
				err = q.Ack(ctx, msgs...)
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	msgs := make([]*queue.Message, batch)
	for i := range msgs {
		msgs[i] = &queue.Message{Body: make([]byte, 200)}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := q.Send(ctx, msgs...); err != nil {
			b.Fatal(err)
		}
	}
	q.Close()
	if err := <-done; !errors.Is(err, io.EOF) {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "msgs/s")
}
