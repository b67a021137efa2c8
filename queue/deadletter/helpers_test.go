package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

var quiet = slog.New(slog.DiscardHandler)

func newQueue(t *testing.T, cfg memqueue.Config) *memqueue.Queue {
	t.Helper()
	q, err := memqueue.New(cfg)
	require.NoError(t, err)
	return q
}

// record returns the record of the i-th letter.
func record(i int) retry.DeadLetter {
	return retry.DeadLetter{
		Reason: []string{retry.ReasonPermanent, retry.ReasonExhausted, retry.ReasonUndecodable}[i%3],
		Error:  fmt.Sprintf("no stock for %d", i), Attempts: i%12 + 1, Source: []string{"orders", "returns"}[i%2], MessageID: fmt.Sprint("orig-", i),
		First: time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC), Last: time.Date(2026, 1, 2, 0, 0, i, 0, time.UTC),
	}
}

// fill puts n letters into q, in groups if there are any.
func fill(t *testing.T, q queue.Sink, n, groups int) {
	t.Helper()
	for i := range n {
		m := &queue.Message{
			Body:       []byte(fmt.Sprint("m", i)),
			Attributes: map[string]string{"color": fmt.Sprint(i), retry.DeadLetterAttribute: record(i).Encode()},
		}
		if groups > 0 {
			m.Group, m.Dedup = fmt.Sprint("g", i%groups), fmt.Sprint("first-", i)
		}
		require.NoError(t, q.Send(t.Context(), m))
	}
}

// drain takes all visible messages out of a queue.
func drain(t *testing.T, q *memqueue.Queue) []*queue.Message {
	t.Helper()
	var all []*queue.Message
	for {
		if s := q.Stats(); s.Visible == 0 {
			return all
		}
		msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		require.NoError(t, err)
		require.NoError(t, q.Ack(t.Context(), msgs...))
		all = append(all, msgs...)
	}
}

// bodies returns how often each body is among the messages.
func bodies(msgs []*queue.Message) map[string]int {
	count := make(map[string]int)
	for _, m := range msgs {
		count[string(m.Body)]++
	}
	return count
}

// requireAddsUp checks that every letter has one outcome.
func requireAddsUp(t *testing.T, s deadletter.Summary) {
	t.Helper()
	require.Equal(t, s.Examined, s.Redriven+s.Failed+s.InDoubt+s.Kept, "%+v", s)
	require.LessOrEqual(t, s.Matched+s.Newer, s.Examined, "%+v", s)
	require.LessOrEqual(t, s.Redriven+s.Failed+s.InDoubt, s.Matched, "%+v", s)
}

// list returns the letters that List finds.
func list(t *testing.T, from queue.Source, cfg deadletter.Config) []deadletter.Letter {
	t.Helper()
	cfg.Logger = quiet
	var all []deadletter.Letter
	for l, err := range deadletter.List(t.Context(), from, cfg) {
		require.NoError(t, err)
		all = append(all, l)
	}
	return all
}

// sinkOf returns the sink of a double of both queues, which would be taken for one
// queue otherwise.
func sinkOf(s queue.Sink) queue.Sink { return struct{ queue.Sink }{s} }

// A picky sink refuses messages, each with an error of its own, or fails as a
// whole.
type picky struct {
	queue.Sink
	refuse func(m *queue.Message) error
	whole  func() error
	calls  int
	sizes  []int
}

func (p *picky) Send(ctx context.Context, msgs ...*queue.Message) error {
	p.calls++
	p.sizes = append(p.sizes, len(msgs))
	if p.whole != nil {
		if err := p.whole(); err != nil {
			return err
		}
	}
	failed := make(map[int]error)
	var good []*queue.Message
	for i, m := range msgs {
		if p.refuse != nil {
			if err := p.refuse(m); err != nil {
				failed[i] = err
				continue
			}
		}
		good = append(good, m)
	}
	if err := p.Sink.Send(ctx, good...); err != nil {
		return err
	}
	if len(failed) > 0 {
		return &queue.BatchError{Op: "send", Failed: failed}
	}
	return nil
}

var errRefused = errors.New("not this one")

// refuse returns a function that refuses messages with these bodies.
func refuse(some ...string) func(*queue.Message) error {
	return func(m *queue.Message) error {
		if slices.Contains(some, string(m.Body)) {
			return errRefused
		}
		return nil
	}
}
