package queue_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

func noTenant(*queue.Message) limiter.Limiter { panic(errors.New("no tenant")) }

// A message whose limiter can't be chosen is returned. When the reply to that
// call is lost, the queue delivers it again while it is still being returned.
func TestRedelivery_WhileItIsReturned(t *testing.T) {
	bubble(t, "lost replies to nacks", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		src := &queuetest.Faulty{Source: q, Plan: queuetest.On(queuetest.OpNack, queuetest.Fault{Mode: queuetest.LoseReply}, 1, 2, 3, 4, 5, 6)}
		r := start(t, src, queue.Config{LimiterFor: noTenant}, func(context.Context, *queue.Message) error { return nil })
		time.Sleep(2 * time.Minute)
		require.NoError(t, r.drain())
		require.Greater(t, r.Stats().Retried, int64(6))
	})
	bubble(t, "twice in one receive", func(t *testing.T) {
		src := queuetest.Script(queuetest.Deliver(&queue.Message{ID: "a", Receipt: "1"}, &queue.Message{ID: "a", Receipt: "2"}))
		r := start(t, src, queue.Config{LimiterFor: noTenant}, func(context.Context, *queue.Message) error { return nil })
		require.NoError(t, r.wait())
		require.EqualValues(t, 2, r.Stats().Received)
	})
}

// A nack whose reply arrives after the message's next delivery has taken effect:
// that is a new delivery, and runs. The receives that it takes are no failed
// attempts.
func TestRedelivery_BeforeTheNackIsAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		slow time.Duration // how much later the reply to a nack comes
		fail error
	}{
		"1.5 s":               {1500 * time.Millisecond, errors.New("not yet")},
		"3 s, a delay of 1 s": {3 * time.Second, retry.After(time.Second, errors.New("not yet"))},
		"postponed for 0 s":   {100 * time.Millisecond, queue.Postpone(0, nil)},
	} {
		bubble(t, name, func(t *testing.T) {
			var dead queuetest.Recorder
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 10)
			src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond, Plan: func(call queuetest.Call) queuetest.Fault {
				if call.Op == queuetest.OpNack {
					return queuetest.Fault{After: c.slow}
				}
				return queuetest.Fault{}
			}}
			runs, most := map[string]int{}, 0
			r := start(t, src, queue.Config{Concurrency: 1, DeadLetter: &dead, Retry: retry.Policy{MaxAttempts: 5}}, func(_ context.Context, m *queue.Message) error {
				most = max(most, m.Attempt)
				if runs[m.ID]++; runs[m.ID] < 3 {
					return c.fail
				}
				return nil
			})
			time.Sleep(2 * time.Minute)
			require.NoError(t, r.drain())
			require.EqualValues(t, 10, r.Stats().Done, "%+v", r.Stats())
			require.LessOrEqual(t, most, 5)
			require.Empty(t, dead.Messages())
		})
	}
}

// Ended is called for each outcome that Stats counts, superseded deliveries too.
func TestRedelivery_IsTraced(t *testing.T) {
	src := queuetest.Script(queuetest.Deliver(&queue.Message{ID: "a", Receipt: "1"}, &queue.Message{ID: "a", Receipt: "2"}))
	var ended, superseded atomic.Int64
	r := start(t, src, queue.Config{Trace: &queue.Trace{Ended: func(i queue.EndedInfo) {
		ended.Add(1)
		if i.Outcome == queue.Superseded {
			superseded.Add(1)
		}
	}}}, func(context.Context, *queue.Message) error { return nil })
	require.NoError(t, r.wait())
	require.EqualValues(t, 1, superseded.Load())
	require.Equal(t, r.Stats().Received, ended.Load(), "%+v", r.Stats())
}

// Receives that ended without a run are no attempts, however many there were.
func TestAttempts_UnstartedReceives(t *testing.T) {
	bubble(t, "returned untried eight times", func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		runs := 0
		r := start(t, q, queue.Config{DeadLetter: &dead, Retry: retry.Policy{MaxAttempts: 3, Jitter: -1}}, func(context.Context, *queue.Message) error {
			if runs++; runs <= 8 {
				return queue.Postpone(time.Second, nil)
			}
			return errors.New("failed")
		})
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, 8+3, runs)
		require.Len(t, dead.Messages(), 1)
		record, err := retry.ParseDeadLetter(dead.Messages()[0].Attributes[retry.DeadLetterAttribute])
		require.NoError(t, err)
		require.Equal(t, 3, record.Attempts)
	})
	bubble(t, "by drains", func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		paused, runs := pausable(t), 0
		c, err := queue.NewConsumer(&queuetest.Faulty{Source: q, Latency: time.Second}, queue.HandlerFunc(func(context.Context, *queue.Message) error {
			runs++
			return errors.New("failed")
		}), queue.Config{Limiter: paused, DeadLetter: &dead, Logger: quiet, Retry: retry.Policy{MaxAttempts: 3, Jitter: -1}})
		require.NoError(t, err)
		for range 5 { // deploys: the message is received and returned
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			time.AfterFunc(500*time.Millisecond, func() { paused.Pause(time.Now().Add(time.Minute)) })
			require.NoError(t, c.Run(ctx))
			cancel()
			paused.Resume()
		}
		require.EqualValues(t, 5, c.Stats().Released)
		require.Zero(t, runs)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.NoError(t, c.Run(ctx))
		require.Equal(t, 3, runs)
		require.Len(t, dead.Messages(), 1)
	})
}

// Once Run's context has ended nothing more is received, not even by a receive
// that was decided before.
func TestReceive_NoneOnceTheContextHasEnded(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 10)
			var r *running
			begin := make(chan struct{})
			before := uint64(0)
			r = start(t, q, queue.Config{Concurrency: 1}, func(context.Context, *queue.Message) error {
				<-begin
				synctest.Wait() // nothing is under way: there is one slot, and this handler has it
				before = q.Stats().Received
				r.stop()
				return nil
			})
			close(begin)
			require.NoError(t, r.wait())
			require.Equal(t, before, q.Stats().Received)
		})
	}
}
