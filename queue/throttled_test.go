package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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

// A run is one of a handler.
type run struct {
	at      time.Duration // since the test began
	attempt int
}

// A throttled message is held, leased, and runs again when it may; if that is too
// late, it is returned for the rest of the wait.
func TestThrottledIsNotFailed(t *testing.T) {
	after := func(d time.Duration) error { return stamped{limiter.ErrOverload, d} }
	for name, c := range map[string]struct {
		results []error // of the runs; then it succeeds
		cfg     queue.Config
		runs    []run
	}{
		"a short wait": {
			results: []error{after(time.Second)},
			runs:    []run{{0, 1}, {time.Second, 1}},
		},
		"longer than the lease": {
			results: []error{after(31 * time.Second)},
			cfg:     queue.Config{Lease: 2 * time.Second},
			runs:    []run{{0, 1}, {31 * time.Second, 1}},
		},
		"almost as long as it may be held": {
			results: []error{after(15*time.Minute - time.Second)},
			runs:    []run{{0, 1}, {15*time.Minute - time.Second, 1}},
		},
		"longer than it may be held": {
			results: []error{after(15*time.Minute + time.Second)},
			runs:    []run{{0, 1}, {15*time.Minute + time.Second, 2}},
		},
		"again and again, until that is too long": {
			results: []error{after(4 * time.Minute), after(4 * time.Minute), after(4 * time.Minute)},
			cfg:     queue.Config{MaxHold: 10 * time.Minute},
			runs:    []run{{0, 1}, {4 * time.Minute, 1}, {8 * time.Minute, 1}, {12 * time.Minute, 2}},
		},
		"more often than there are attempts": {
			results: []error{after(time.Minute), after(time.Minute), after(time.Minute), after(time.Minute)},
			cfg:     queue.Config{Retry: retry.Policy{MaxAttempts: 1}},
			runs:    []run{{0, 1}, {time.Minute, 1}, {2 * time.Minute, 1}, {3 * time.Minute, 1}, {4 * time.Minute, 1}},
		},
		"given back more often than there are attempts": {
			results: []error{after(time.Hour), after(time.Hour), after(time.Hour)},
			cfg:     queue.Config{Retry: retry.Policy{MaxAttempts: 1}},
			runs:    []run{{0, 1}, {time.Hour, 2}, {2 * time.Hour, 3}, {3 * time.Hour, 4}},
		},
		"for longer than the queue can hide it": {
			results: []error{after(24 * time.Hour)},
			runs:    []run{{0, 1}, {24 * time.Hour, 2}}, // it is there again after 12 h, and not received
		},
		"without a Retry-After": {
			results: []error{after(0), after(0)},
			cfg:     queue.Config{Retry: retry.Policy{BaseDelay: 4 * time.Second, Jitter: -1}},
			runs:    []run{{0, 1}, {4 * time.Second, 1}, {12 * time.Second, 1}},
		},
		"wrapped": {
			results: []error{fmt.Errorf("reserve 3 of SKU-1: %w", errors.Join(errors.New("429"), after(2*time.Minute)))},
			runs:    []run{{0, 1}, {2 * time.Minute, 1}},
		},
		"after a failure of its own": {
			results: []error{errors.New("?"), after(2 * time.Minute)},
			cfg:     queue.Config{Retry: retry.Policy{BaseDelay: 10 * time.Second, Jitter: -1}},
			runs:    []run{{0, 1}, {10 * time.Second, 2}, {130 * time.Second, 2}},
		},
	} {
		bubble(t, name, func(t *testing.T) {
			var dead queuetest.Recorder
			own := newQueue(t, memqueue.Config{})
			q := newQueue(t, memqueue.Config{MaxReceives: 10, DeadLetter: own, Wait: time.Second})
			fill(t, q, 1)
			cfg := c.cfg
			cfg.DeadLetter, cfg.NoDeadLetterGuard = &dead, true
			if cfg.MaxHold == 0 {
				cfg.MaxHold = 15 * time.Minute
			}
			began := time.Now()
			var mu sync.Mutex
			var runs []run
			r := start(t, q, cfg, func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				defer mu.Unlock()
				runs = append(runs, run{time.Since(began), m.Attempt})
				if n := len(runs); n <= len(c.results) {
					return c.results[n-1]
				}
				return nil
			})
			for q.Stats().Acked == 0 {
				require.Less(t, time.Since(began), 48*time.Hour, "%+v", r.Stats())
				time.Sleep(time.Second)
			}
			require.NoError(t, r.drain())
			require.Len(t, runs, len(c.runs), "%v", runs)
			for i, want := range c.runs {
				require.Equal(t, want.attempt, runs[i].attempt, "%v", runs)
				require.GreaterOrEqual(t, runs[i].at, want.at, "%v", runs)
				require.LessOrEqual(t, runs[i].at, want.at+2*time.Second, "%v", runs)
			}
			require.Empty(t, dead.Messages())
			require.Zero(t, own.Stats().Sent)
			require.EqualValues(t, runs[len(runs)-1].attempt, q.Stats().Received, "nobody else has received it meanwhile")
			require.Zero(t, r.Stats().LostLease)
		})
	}
}

// While a message is held it is leased: a second consumer of the queue never
// receives it, and the counts show what is going on.
func TestAHeldMessageIsNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 3)
		began := time.Now()
		throttled := func(context.Context, *queue.Message) error {
			if time.Since(began) < 10*time.Minute {
				return stamped{limiter.ErrOverload, 10*time.Minute - time.Since(began)}
			}
			return nil
		}
		one := start(t, q, queue.Config{Lease: 5 * time.Second}, throttled)
		time.Sleep(time.Second)
		two := start(t, q, queue.Config{Lease: 5 * time.Second}, throttled) // with a breaker of its own
		time.Sleep(8 * time.Minute)
		s, idle := one.Stats(), two.Stats()
		time.Sleep(3 * time.Minute)
		require.NoError(t, one.drain())
		require.NoError(t, two.drain())
		require.Equal(t, 3, s.InHand, "%+v", s)
		require.Positive(t, s.Held)
		require.NotEmpty(t, s.Blocked.Reason)
		require.WithinDuration(t, began.Add(10*time.Minute), s.Blocked.Until, time.Second)
		require.Zero(t, idle.Received)
		require.EqualValues(t, 3, one.Stats().Done)
		require.EqualValues(t, 3, q.Stats().Received)
	})
}

// What would be held for longer than it may be is not held at all.
func TestALongWaitIsNotSpentInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 10)
		r := start(t, q, queue.Config{MaxHold: 5 * time.Minute}, func(context.Context, *queue.Message) error {
			time.Sleep(time.Second) // all of them start
			return stamped{limiter.ErrOverload, 6 * time.Minute}
		})
		time.Sleep(2 * time.Second)
		s := r.Stats()
		require.NoError(t, r.drain())
		require.EqualValues(t, 10, s.Released, "%+v", s)
		require.Zero(t, s.InHand)
	})
}

// A drain returns held messages for the rest of their wait.
func TestWhatIsGivenBackStaysAwayForTheRest(t *testing.T) {
	for name, c := range map[string]struct {
		after   time.Duration // that the API asked for
		drainAt time.Duration
		back    time.Duration // when it is there again
	}{
		"a drain at once":           {after: 10 * time.Minute, drainAt: time.Second, back: 10 * time.Minute},
		"a drain shortly before":    {after: 10 * time.Minute, drainAt: 9 * time.Minute, back: 10 * time.Minute},
		"a drain just before":       {after: 10 * time.Minute, drainAt: 10*time.Minute - time.Millisecond, back: 10 * time.Minute},
		"it was given back already": {after: time.Hour, drainAt: time.Minute, back: time.Hour},
	} {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 1)
			began := time.Now()
			r := start(t, q, queue.Config{}, func(context.Context, *queue.Message) error { return stamped{limiter.ErrOverload, c.after} })
			time.Sleep(c.drainAt)
			require.NoError(t, r.drain())
			require.EqualValues(t, 1, r.Stats().Released, "%+v", r.Stats())
			msgs := []*queue.Message{}
			for len(msgs) == 0 {
				var err error
				msgs, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
				require.NoError(t, err)
			}
			require.InDelta(t, c.back, time.Since(began), float64(time.Second))
			require.Equal(t, 2, msgs[0].Attempt, "which costs one receive, and no more")
		})
	}
}

// Messages that have not started when the limits close for long are returned
// after MaxHold, and not received again before the limits open.
func TestWhatDidNotStartComesBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := newQueue(t, memqueue.Config{})
		q := newQueue(t, memqueue.Config{MaxReceives: 3, DeadLetter: own})
		fill(t, q, 10)
		src := &queuetest.Faulty{Source: q, Latency: time.Second}
		bucket := pausable(t)
		receives := map[int]int{}
		var mu sync.Mutex
		r := start(t, src, queue.Config{Limiter: bucket, MaxHold: 15 * time.Minute}, func(_ context.Context, m *queue.Message) error {
			mu.Lock()
			defer mu.Unlock()
			receives[m.Attempt]++
			return nil
		})
		time.Sleep(700 * time.Millisecond) // the receive is under way
		bucket.Pause(time.Now().Add(5 * time.Hour))
		time.Sleep(6 * time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, map[int]int{2: 10}, receives)
		require.Zero(t, own.Stats().Sent)
	})
}

// A Retry-After of one message applies to that message only, unless it is an
// overload.
func TestOneMessagesDelayPausesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 100)
		began := time.Now()
		var mu sync.Mutex
		var others time.Duration
		r := start(t, q, queue.Config{}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "0" && m.Attempt == 1 {
				return retry.After(time.Hour, errors.New("not open yet"))
			}
			time.Sleep(time.Second)
			if string(m.Body) != "0" {
				mu.Lock()
				defer mu.Unlock()
				others = time.Since(began)
			}
			return nil
		})
		time.Sleep(2 * time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 100, r.Stats().Done)
		require.LessOrEqual(t, others, 11*time.Second)
	})
}

// The block is the same in Stats, in Trace and in the log, with the breaker's
// name and the error that opened it.
func TestBlockedNamesTheBreakerAndItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var mu sync.Mutex // guards the two
		var blocked, unblocked []limiter.Block
		note := func(to *[]limiter.Block, b limiter.Block) {
			mu.Lock()
			defer mu.Unlock()
			*to = append(*to, b)
		}
		breaker, err := limiter.NewBreaker(limiter.BreakerConfig{Name: "inventory"})
		require.NoError(t, err)
		cause := stamped{is: limiter.ErrUnavailable}
		for range 10 {
			p, ok := breaker.TryAcquire()
			require.True(t, ok)
			p.Release(cause)
		}
		want := limiter.Block{Reason: limiter.ByBreaker, Name: "inventory", Until: breaker.Stats().NextProbe, Cause: cause}

		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		r := start(t, q, queue.Config{
			Limiter: breaker, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Trace: &queue.Trace{
				Blocked:   func(i queue.BlockedInfo) { note(&blocked, i.Block) },
				Unblocked: func(i queue.UnblockedInfo) { note(&unblocked, i.Block) },
			},
		}, sleeper(constant(time.Millisecond)))
		time.Sleep(time.Second / 2)
		require.Equal(t, want, r.Stats().Blocked)
		time.Sleep(2 * time.Minute)
		require.NoError(t, r.drain())
		require.Equal(t, want, blocked[0])
		require.Equal(t, want, unblocked[0])
		require.Contains(t, log.String(), `blocked_by="breaker inventory" until=`)
		require.Equal(t, limiter.Block{Reason: queue.ByIdle}, r.Stats().Blocked)
	})
}
