package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// Queues are the two queues of a run: its own methods are those of the queue of
// orders, and DeadLetters returns the dead-letter queue.
type Queues interface {
	queue.Source
	queue.Sink
	DeadLetters() queue.Sink

	// Open is how many orders of this run were sent and are not settled.
	Open() int

	// Close says that no more orders will be sent. Receive continues until all orders
	// of this run are settled, and then returns io.EOF.
	Close()

	// Rest looks into both queues when the consumer has ended, for the orders of
	// this run. It returns when it has found all the ids that are missing, or
	// when the others can't be there. An error says that it could not look
	// everywhere.
	Rest(ctx context.Context, missing map[string]bool) (letters, left []*queue.Message, err error)
}

// memoryQueues are lost when the program ends.
type memoryQueues struct {
	*memqueue.Queue
	dead *memqueue.Queue
}

var _ Queues = (*memoryQueues)(nil)

func newMemoryQueues() (*memoryQueues, error) {
	orders, err := memqueue.New(memqueue.Config{})
	if err != nil {
		return nil, err
	}
	dead, err := memqueue.New(memqueue.Config{})
	if err != nil {
		return nil, err
	}
	return &memoryQueues{Queue: orders, dead: dead}, nil
}

// DeadLetters implements [Queues].
func (q *memoryQueues) DeadLetters() queue.Sink { return q.dead }

// Open implements [Queues].
func (q *memoryQueues) Open() int {
	stats := q.Stats()
	return stats.Visible + stats.Delayed + stats.InFlight
}

// Rest implements [Queues]. Nothing else uses the queues, so it empties them.
// After an interrupt, messages may still be hidden for a retry's delay.
func (q *memoryQueues) Rest(ctx context.Context, _ map[string]bool) (letters, left []*queue.Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	left, leftErr := empty(ctx, q.Queue)
	letters, deadErr := empty(ctx, q.dead)
	return letters, left, errors.Join(leftErr, deadErr)
}

// empty closes a queue and takes everything out of it.
func empty(ctx context.Context, q *memqueue.Queue) ([]*queue.Message, error) {
	q.Close()
	var all []*queue.Message
	for {
		msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err == nil {
			all = append(all, msgs...)
			err = q.Ack(ctx, msgs...)
		}
		if err != nil {
			return all, fmt.Errorf("read what is left in a queue: %w", err)
		}
	}
}

// OpenQueues opens the queues that the settings name, or makes some in memory.
func OpenQueues(ctx context.Context, s Settings, progress io.Writer) (Queues, error) {
	if s.QueueURL == "" {
		return newMemoryQueues()
	}
	return openSQS(ctx, s, progress)
}
