package memqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

func newQueue(t *testing.T, cfg memqueue.Config) *memqueue.Queue {
	t.Helper()
	q, err := memqueue.New(cfg)
	require.NoError(t, err)
	return q
}

// message returns one for a standard queue.
func message(body string) *queue.Message { return &queue.Message{Body: []byte(body)} }

// grouped returns one for a FIFO queue, with its body as Dedup.
func grouped(group, body string) *queue.Message {
	return &queue.Message{Body: []byte(body), Group: group, Dedup: body}
}

func send(t *testing.T, q *memqueue.Queue, msgs ...*queue.Message) {
	t.Helper()
	require.NoError(t, q.Send(t.Context(), msgs...))
}

// sendN sends n messages with the bodies 0, 1, 2...
func sendN(t *testing.T, q *memqueue.Queue, n int) {
	t.Helper()
	for i := range n {
		send(t, q, message(fmt.Sprint(i)))
	}
}

func receive(t *testing.T, q *memqueue.Queue, max int, lease time.Duration) []*queue.Message {
	t.Helper()
	msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: max, Lease: lease})
	require.NoError(t, err)
	return msgs
}

func bodies(msgs []*queue.Message) []string {
	all := []string{}
	for _, m := range msgs {
		all = append(all, string(m.Body))
	}
	return all
}

// failed returns err's error for each message; nil means that all were done.
func failed(t *testing.T, err error) map[int]error {
	t.Helper()
	if err == nil {
		return nil
	}
	var batch *queue.BatchError
	require.True(t, errors.As(err, &batch), "%v", err)
	return batch.Failed
}

// depth is a queue's Visible, Delayed and InFlight.
func depth(q *memqueue.Queue) [3]int {
	s := q.Stats()
	return [3]int{s.Visible, s.Delayed, s.InFlight}
}

// poll is a Receive on a goroutine of its own.
type poll struct {
	msgs []*queue.Message
	err  error
	at   time.Time // when it returned
	done chan struct{}
}

func startPoll(ctx context.Context, q *memqueue.Queue, max int) *poll {
	p := &poll{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.msgs, p.err = q.Receive(ctx, queue.ReceiveOptions{Max: max, Lease: time.Minute})
		p.at = time.Now()
	}()
	return p
}

func (p *poll) returned() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
