package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// The queue counts the receives of a redriven message from one again, so the
// message has all its attempts again, even when the consumer remembers it.
func TestAttempts_AfterARedrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps []queuetest.Step
		deliver := func(times int) {
			for i := range times {
				m := &queue.Message{ID: "a", Receipt: fmt.Sprint(len(steps)), Attempt: i + 1}
				steps = append(steps, queuetest.Deliver(m), queuetest.Pause(time.Minute))
			}
		}
		deliver(12) // the first is postponed, so eleven attempts fail
		deliver(11)
		deliver(12)
		var dead queuetest.Recorder
		runs := 0
		r := start(t, queuetest.Script(steps...), queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
			if runs++; runs == 1 {
				return queue.Postpone(time.Second, nil)
			}
			if len(dead.Messages()) > 0 {
				t.Errorf("dead-lettered before run %d", runs)
			}
			return retry.After(time.Second, errors.New("a passing error"))
		})
		require.NoError(t, r.wait())
		require.Equal(t, 12+11+12, runs)
		require.Len(t, dead.Messages(), 1)
		require.EqualValues(t, 1, r.Stats().DeadLettered)
	})
}

// An uncounted queue does not report how often it has delivered a message.
type uncounted struct{ *memqueue.Queue }

func (u uncounted) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	msgs, err := u.Queue.Receive(ctx, o)
	for _, m := range msgs {
		m.Attempt = 0
	}
	return msgs, err
}

// If the queue does not count receives, only the failed attempts that the
// consumer has seen count.
func TestAttempts_SourceThatDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		runs := 0
		r := start(t, uncounted{q}, queue.Config{DeadLetter: &dead, Retry: retry.Policy{MaxAttempts: 5}}, func(context.Context, *queue.Message) error {
			if runs++; runs%2 == 1 {
				return queue.Postpone(time.Second, nil)
			}
			return errors.New("a passing error")
		})
		time.Sleep(5 * time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, 10, runs)
		require.Len(t, dead.Messages(), 1)
	})
}
