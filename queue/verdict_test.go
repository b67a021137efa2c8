package queue_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// A postponed message comes back after its delay, however often, and is neither
// failed nor exhausted; its rate tokens are returned, and its breaker ignores it
// even if the reason is one that would open it.
func TestPostponedIsNotFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		b, rate := breaker(t), bucket(t, 0.1, 1)
		var mu sync.Mutex
		var at []time.Duration
		began := time.Now()
		r := start(t, q, queue.Config{Limiter: all(t, b, rate), DeadLetter: dead, Retry: retry.Policy{MaxAttempts: 2}},
			func(context.Context, *queue.Message) error {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Since(began))
				if len(at) < 6 {
					return queue.Postpone(2*time.Second, limiter.ErrMisconfigured)
				}
				return nil
			})
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.Len(t, at, 6)
		require.Less(t, at[5], 15*time.Second, "no token was used up: %v", at)
		s := r.Stats()
		require.EqualValues(t, 5, s.Released)
		require.EqualValues(t, 1, s.Done)
		require.Zero(t, s.Retried+s.DeadLettered)
		require.Equal(t, limiter.Closed, b.State())
	})
}

// Attempted overrides the receives for exhaustion and backoff.
func TestAttemptedCountsInPlaceOfReceives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		runs := 0
		r := start(t, q, queue.Config{DeadLetter: dead, Retry: retry.Policy{MaxAttempts: 3, MaxDelay: time.Second}},
			func(context.Context, *queue.Message) error {
				runs++
				return queue.Attempted(max(1, runs-7), errors.New("passing")) // eight in vain, as the message's first
			})
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.Equal(t, 10, runs)
		msgs, err := dead.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.NoError(t, err)
		record, err := retry.ParseDeadLetter(msgs[0].Attributes[retry.DeadLetterAttribute])
		require.NoError(t, err)
		require.Equal(t, retry.ReasonExhausted, record.Reason)
		require.Equal(t, 3, record.Attempts)
		require.Equal(t, "passing", record.Error)
	})
	require.NoError(t, queue.Attempted(3, nil))
	why := errors.New("busy")
	require.ErrorIs(t, queue.Postpone(time.Second, why), why)
	require.EqualError(t, queue.Postpone(time.Second, why), "queue: postponed for 1s: busy")
	require.EqualError(t, queue.Postpone(-1, nil), "queue: postponed for 0s")
}
