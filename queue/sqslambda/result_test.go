package sqslambda_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/retry"
)

// record returns an event with one record that was received so often.
func record(id string, receives int) events.SQSEvent {
	return received(events.SQSEvent{Records: []events.SQSMessage{newRecord(id)}}, receives)
}

// ----- guilt -----

// A message is guilty of a failure that has a class when it was received at least three
// times, others succeeded within 30 s, and few have failed with that class since.
func TestGuilt(t *testing.T) {
	const bad = "bad"
	for name, c := range map[string]struct {
		before   []error       // results of other messages
		ago      time.Duration // they came
		receives int
		guilty   bool
	}{
		"nothing is known":            {receives: 12},
		"others succeed":              {before: []error{nil}, receives: 12, guilty: true},
		"others succeed, 3rd receive": {before: []error{nil}, receives: 3, guilty: true},
		"others succeed, 2nd receive": {before: []error{nil}, receives: 2},
		"others succeeded 30 s ago":   {before: []error{nil}, ago: 30 * time.Second, receives: 12, guilty: true},
		"others succeeded 31 s ago":   {before: []error{nil}, ago: 31 * time.Second, receives: 12},
		"one has failed since":        {before: []error{nil, limiter.ErrUnavailable}, receives: 12, guilty: true},
		"two have failed since":       {before: []error{nil, limiter.ErrUnavailable, limiter.ErrUnavailable}, receives: 12},
		"another class has":           {before: []error{nil, limiter.ErrMisconfigured, limiter.ErrMisconfigured}, receives: 12, guilty: true},
		"two have failed before":      {before: []error{limiter.ErrUnavailable, limiter.ErrUnavailable, nil}, receives: 12, guilty: true},
		"partial outage":              {before: append(repeat(10, limiter.ErrUnavailable, nil, nil), nil), receives: 12},
		"hardly any other fails":      {before: append(repeat(2, limiter.ErrUnavailable), repeat(40, nil)...), receives: 12, guilty: true},
	} {
		bubble(t, name, func(t *testing.T) {
			q, dead := &sourceQueue{}, &sink{}
			l := &counted{Limiter: all(t)}
			f := newFunction(t, func(_ context.Context, m *queue.Message) error {
				if m.ID == bad {
					return limiter.ErrUnavailable
				}
				i, err := strconv.Atoi(m.ID)
				require.NoError(t, err)
				return c.before[i]
			}, sqslambda.Config{
				Queue: q, DeadLetter: dead, Limiter: l,
				Retry: retry.Policy{MaxAttempts: 3, BaseDelay: 10 * time.Second, MaxDelay: 10 * time.Second, Jitter: -1}, // too long to wait for
			})
			for i := range c.before {
				returned(t, f, time.Minute, record(strconv.Itoa(i), 1))
			}
			time.Sleep(c.ago)
			l.heard = 0
			got := returned(t, f, time.Minute, record(bad, c.receives))
			if c.guilty {
				require.Empty(t, got)
				require.Equal(t, []string{bad}, dead.ids())
				require.Zero(t, l.heard, "the limits hear nothing of it")
				return
			}
			require.Equal(t, []string{bad}, got)
			require.Empty(t, dead.ids())
			require.GreaterOrEqual(t, q.delays(t)[bad], 30*time.Second)
			require.Equal(t, 1, l.heard)
		})
	}
}

// A message that is retried without being returned counts once as failed.
func TestGuilt_CountsMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, runs := &sink{}, 0
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			if m.ID == "good" {
				return nil
			}
			runs++
			return limiter.ErrUnavailable
		}, sqslambda.Config{DeadLetter: dead, Limiter: all(t), NoBreaker: true, NoPace: true, Retry: retry.Policy{MaxAttempts: 3, BaseDelay: 100 * time.Millisecond, Multiplier: 1}})
		require.Empty(t, returned(t, f, time.Minute, record("good", 1)))
		ordered := newFIFOEvent("a1") // retried without being returned, although others succeed
		ordered.Records[0].MessageId = "other"
		require.Equal(t, []string{"other"}, returned(t, f, time.Minute, ordered))
		require.Greater(t, runs, 10)
		require.Empty(t, returned(t, f, time.Minute, record("bad", 3)))
		require.Equal(t, []string{"bad"}, dead.ids())
	})
}

// An old message may have failed all the time or only waited, so it is not given up for
// its age.
func TestGuilt_AgeIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, dead := &sourceQueue{}, &sink{}
		f := newFunction(t, func(context.Context, *queue.Message) error { return limiter.ErrUnavailable },
			sqslambda.Config{Queue: q, DeadLetter: dead, Limiter: all(t), NoBreaker: true, NoPace: true})
		e := record("old", 49)
		e.Records[0].Attributes["ApproximateFirstReceiveTimestamp"] = strconv.FormatInt(time.Now().Add(-100*time.Hour).UnixMilli(), 10)
		require.Equal(t, []string{"old"}, returned(t, f, time.Minute, e))
		require.Empty(t, dead.ids())
		require.GreaterOrEqual(t, q.delays(t)["old"], 15*time.Minute)
	})
}

// repeat returns errs n times over.
func repeat(n int, errs ...error) (all []error) {
	for range n {
		all = append(all, errs...)
	}
	return all
}

// A counted limiter counts the failures that are reported to it.
type counted struct {
	limiter.Limiter
	mu    sync.Mutex
	heard int
}

func (c *counted) Acquire(context.Context) (limiter.Permit, error) {
	return limiter.NewPermit(c, 0), nil
}
func (c *counted) TryAcquire() (limiter.Permit, bool) { return limiter.NewPermit(c, 0), true }
func (c *counted) CancelPermit(uint64)                {}
func (c *counted) ObservePermit(uint64, error)        {}
func (c *counted) AbstainPermit(uint64)               {}
func (c *counted) ReleasePermit(_ uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.heard++
	}
}

// A guilty message is retried like any other failed one, and exhausted in the end; the
// other messages of its batches are done meanwhile.
func TestGuilt_Exhausts(t *testing.T) {
	for _, class := range []error{limiter.ErrUnavailable, limiter.ErrMisconfigured, limiter.ErrOverload} {
		bubble(t, class.Error(), func(t *testing.T) {
			q, dead := &sourceQueue{}, &sink{}
			f := newFunction(t, func(_ context.Context, m *queue.Message) error {
				if m.ID == "0" {
					return class
				}
				return nil
			}, sqslambda.Config{Queue: q, DeadLetter: dead, Limiter: all(t), NoBreaker: true, NoPace: true, Retry: retry.Policy{MaxAttempts: 5, Jitter: -1}})
			require.Empty(t, returned(t, f, time.Minute, record("1", 1)))
			for receives := 1; receives < 5; receives++ {
				e := received(newEvent(3), receives)
				require.Equal(t, []string{"0"}, returned(t, f, time.Minute, e))
				delay := q.delays(t)["0"]
				switch {
				case receives < 3 && class == limiter.ErrOverload:
					require.Equal(t, time.Second<<(receives-1), delay, "we were too fast")
				case receives < 3:
					require.GreaterOrEqual(t, delay, 30*time.Second, "it may be an outage that others have seen")
				default:
					require.Equal(t, time.Second<<(receives-1), delay)
				}
				q.calls = nil
			}
			require.Empty(t, returned(t, f, time.Minute, received(newEvent(3), 5)))
			require.Equal(t, []string{"0"}, dead.ids())
		})
	}
}

// One message that fails alone does not end an invocation, however long the
// others take.
func TestOneRefusedMessageIsNoOutage(t *testing.T) {
	for _, class := range []error{limiter.ErrUnavailable, limiter.ErrOverload} {
		bubble(t, class.Error(), func(t *testing.T) {
			f := newFunction(t, func(_ context.Context, m *queue.Message) error {
				if m.ID == "0" {
					return class
				}
				time.Sleep(5 * time.Second)
				return nil
			}, sqslambda.Config{Limiter: all(t), NoBreaker: true, NoPace: true, Concurrency: 2})
			require.Equal(t, []string{"0"}, returned(t, f, time.Minute, newEvent(8)))
		})
	}
}

// An invocation waits for outages that end within two seconds, however many there are.
func TestShortOutagesAreWaitedFor(t *testing.T) {
	for name, l := range limiters(10) {
		bubble(t, name, func(t *testing.T) {
			runs := 0
			f := newFunction(t, func(context.Context, *queue.Message) error {
				time.Sleep(10 * time.Millisecond)
				if runs++; runs%5 == 0 {
					return limited{1500 * time.Millisecond}
				}
				return nil
			}, sqslambda.Config{Limiter: l(t)})
			require.Empty(t, returned(t, f, 10*time.Minute, newEvent(40)))
		})
	}
}

// When the limits report an outage, the invocation does not wait for held messages,
// whether they wait for their turn, for a permit, or for their group.
func TestAnOutageEndsTheWait(t *testing.T) {
	for name, l := range limiters(10) {
		for _, class := range []error{limited{time.Minute}, limiter.ErrMisconfigured} {
			if class == limiter.ErrMisconfigured && name != "the default" && !strings.Contains(name, "Breaker") {
				continue // these know nothing of it
			}
			for batch, e := range map[string]events.SQSEvent{
				"all received": newEvent(55), "many left": newEvent(500), "one group": newFIFOEvent(strings.Repeat("a1 ", 50) + "a2 a3 a4 a5 a6"),
			} {
				for _, concurrency := range []int{1, 2, 10} {
					bubble(t, fmt.Sprintf("%s, %v, %s, %d at once", name, class, batch, concurrency), func(t *testing.T) {
						for i := range e.Records { // also those of the group have ids of their own
							e.Records[i].MessageId = fmt.Sprint(i)
							e.Records[i].ReceiptHandle = fmt.Sprint("receipt-", i)
						}
						var mu sync.Mutex
						runs, last := 0, time.Now()
						q := &sourceQueue{}
						f := newFunction(t, func(_ context.Context, m *queue.Message) error {
							time.Sleep(time.Millisecond)
							mu.Lock()
							defer mu.Unlock()
							if runs++; runs > 50 {
								return class
							}
							last = time.Now()
							return nil
						}, sqslambda.Config{Queue: q, Concurrency: concurrency, Limiter: l(t)})
						got := returned(t, f, 14*time.Minute, e)
						require.Len(t, got, len(e.Records)-50)
						require.LessOrEqual(t, time.Since(last), 2500*time.Millisecond)
						if batch != "one group" {
							for id, delay := range q.delays(t) {
								require.GreaterOrEqual(t, delay, 30*time.Second, id)
							}
						}
					})
				}
			}
		}
	}
}

// A pause that is longer than an invocation waits ends the wait, even if a message that
// started before the pause succeeds during it.
func TestASuccessInAPauseDoesNotEndIt(t *testing.T) {
	for name, l := range limiters(10) {
		bubble(t, name, func(t *testing.T) {
			var runs atomic.Int64
			f := newFunction(t, func(context.Context, *queue.Message) error {
				switch n := runs.Add(1); {
				case n <= 50:
					time.Sleep(time.Millisecond)
				case n == 51: // by then all has been received
					time.Sleep(time.Second)
					return limited{time.Minute}
				case n == 52:
					time.Sleep(time.Second + time.Millisecond)
				default:
					return limited{time.Minute}
				}
				return nil
			}, sqslambda.Config{Concurrency: 2, Limiter: l(t)})
			began := time.Now()
			require.Len(t, returned(t, f, 14*time.Minute, newEvent(55)), 4)
			require.LessOrEqual(t, time.Since(began), 3500*time.Millisecond)
		})
	}
}

// After a long outage every message has many receives, and no process remembers the
// outage. If it ends in a partial outage, no message is guilty.
func TestAPartialOutageDeadLettersNothing(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			dead := &sink{}
			f := newFunction(t, func(context.Context, *queue.Message) error {
				if r.IntN(3) == 0 {
					return limiter.ErrOverload
				}
				return nil
			}, sqslambda.Config{Queue: &sourceQueue{}, DeadLetter: dead, Limiter: all(t), NoBreaker: true, NoPace: true, Retry: retry.Policy{MaxAttempts: 20}})
			for range 5 { // what a process learns first
				returned(t, f, time.Minute, received(newEvent(10), 10))
			}
			for range 50 {
				returned(t, f, time.Minute, received(newEvent(10), 40))
			}
			require.Empty(t, dead.ids(), "seed %d", seed)
		})
	}
}

// ----- the dead-letter guard -----

// A bad deploy does not dead-letter the whole queue, however few messages an invocation
// has.
func TestGuard_LivesAcrossInvocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, dead := &sourceQueue{}, &sink{}
		var log bytes.Buffer
		broken, calls := true, 0
		f := newFunction(t, func(context.Context, *queue.Message) error {
			calls++
			if broken {
				return &queue.DecodeError{Err: errors.New("unknown field")}
			}
			return nil
		}, sqslambda.Config{Queue: q, DeadLetter: dead, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		for range 50 {
			returned(t, f, time.Minute, newEvent(5))
		}
		require.Len(t, dead.msgs, 20)
		require.Equal(t, 250, calls, "all of them are tried")
		require.Equal(t, 1, strings.Count(log.String(), "dead letters are rationed"))

		last := time.Duration(0) // each receive of a rationed message is followed by a longer delay
		for receives := range 12 {
			q.calls = nil
			require.Equal(t, []string{"0"}, returned(t, f, time.Minute, record("0", receives+1)))
			delay := q.delays(t)["0"]
			require.GreaterOrEqual(t, delay, max(5*time.Minute, last))
			require.LessOrEqual(t, delay, 11*time.Hour)
			last = delay
		}
		require.Equal(t, 11*time.Hour, last)

		time.Sleep(3 * time.Minute)
		require.Equal(t, numbers(3, 4), returned(t, f, time.Minute, newEvent(5)), "one a minute goes out")
		broken = false
		require.Empty(t, returned(t, f, time.Minute, newEvent(5)))
		broken = true
		require.Empty(t, returned(t, f, time.Minute, newEvent(5)), "and two for each that succeeds")
		require.Len(t, dead.msgs, 28)
	})
}

func TestGuard_Off(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &sink{}
		f := newFunction(t, func(context.Context, *queue.Message) error { return retry.Permanent(errors.New("?")) },
			sqslambda.Config{DeadLetter: dead, NoDeadLetterGuard: true})
		for range 10 {
			require.Empty(t, returned(t, f, time.Minute, newEvent(5)))
		}
		require.Len(t, dead.msgs, 50)
	})
}

// When most messages are bad, the good ones are still done, and their successes allow
// dead letters.
func TestGuard_GoodMessagesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &sink{}
		var done atomic.Int32
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			if n, _ := strconv.Atoi(m.ID); n%5 < 3 {
				return retry.Permanent(errors.New("?"))
			}
			done.Add(1)
			return nil
		}, sqslambda.Config{DeadLetter: dead, Concurrency: 3})
		for range 20 {
			require.Empty(t, returned(t, f, time.Minute, newEvent(10)))
		}
		require.EqualValues(t, 80, done.Load())
		require.Len(t, dead.msgs, 120)
	})
}

// ----- the deadline -----

// A handler that the deadline cuts short after most of the function's time has timed
// out. A handler that had less time says nothing: it opens no breaker, and does not
// count as an attempt.
func TestDeadline_WhatItSays(t *testing.T) {
	for name, c := range map[string]struct {
		waits  time.Duration // before the message starts
		err    error         // nil: that of the context
		counts bool
	}{
		"had its time":                {counts: true},
		"had half of it":              {waits: 4 * time.Second, counts: true},
		"had its time, and failed":    {err: errors.New("half done"), counts: true},
		"had its time, and overload":  {err: limiter.ErrOverload, counts: true},
		"started late":                {waits: 5 * time.Second},
		"started late, and failed":    {waits: 5 * time.Second, err: errors.New("half done")},
		"started late, misconfigured": {waits: 5 * time.Second, err: limiter.ErrMisconfigured},
	} {
		bubble(t, name, func(t *testing.T) {
			q, dead := &sourceQueue{}, &sink{}
			l := &counted{Limiter: all(t)}
			waits := c.waits
			f := newFunction(t, func(ctx context.Context, m *queue.Message) error {
				if m.ID == "0" {
					time.Sleep(waits)
					return nil
				}
				child, cancel := context.WithCancel(ctx)
				defer cancel()
				<-child.Done()
				require.Equal(t, context.DeadlineExceeded, child.Err())
				if c.err != nil {
					return c.err
				}
				return fmt.Errorf("call: %w", child.Err())
			}, sqslambda.Config{Queue: q, DeadLetter: dead, Limiter: l, NoBreaker: true, NoPace: true, Retry: retry.Policy{MaxAttempts: 3, BaseDelay: time.Minute, Jitter: -1}})
			batch := func(receives int) events.SQSEvent {
				e := newEvent(2)
				e.Records[1].Attributes["ApproximateReceiveCount"] = strconv.Itoa(receives)
				return e
			}
			if !c.counts {
				require.Equal(t, []string{"1"}, returned(t, f, 10*time.Second, batch(40)))
				require.Zero(t, l.heard)
				require.Equal(t, 5*time.Minute, q.delays(t)["1"], "it may get more time")
				return
			}
			require.Equal(t, []string{"1"}, returned(t, f, 10*time.Second, batch(2)))
			require.Equal(t, 1, l.heard)
			waits /= 2
			require.Empty(t, returned(t, f, 10*time.Second, batch(3)))
			require.Equal(t, []string{"1"}, dead.ids(), "others succeed, so it is the message that takes too long")
		})
	}
}

// If a handler ignores the end of its context, there is still time for the response,
// even with a short timeout.
func TestDeadline_IgnoredByAHandler(t *testing.T) {
	for _, timeout := range []time.Duration{time.Second, 3 * time.Second, 15 * time.Minute} {
		bubble(t, timeout.String(), func(t *testing.T) {
			q := &sourceQueue{}
			f := newFunction(t, func(_ context.Context, m *queue.Message) error {
				if m.ID == "0" {
					time.Sleep(time.Hour)
				}
				return nil
			}, sqslambda.Config{Concurrency: 2, Queue: q})
			require.Equal(t, []string{"0"}, returned(t, f, timeout, newEvent(5)))
			require.Zero(t, q.cut)
			time.Sleep(time.Hour)
		})
	}
}

// However far away the deadline is, nothing overflows.
func TestDeadline_FarAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			time.Sleep(time.Hour)
			return nil
		}, sqslambda.Config{Concurrency: 100_000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithDeadline(t.Context(), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))
		defer cancel()
		answer, err := f(ctx, newEvent(10))
		require.NoError(t, err)
		require.Empty(t, answer.BatchItemFailures)
		require.Empty(t, log.String())
	})
}

// ----- delays -----

// A delay of any length comes out as one that the queue can take.
func TestDelays_DoNotOverflow(t *testing.T) {
	until9999 := time.Until(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))
	for name, err := range map[string]error{
		"plain, the largest":       retry.After(math.MaxInt64, errors.New("?")),
		"plain, until 9999":        retry.After(until9999, errors.New("?")),
		"postponed, the largest":   queue.Postpone(math.MaxInt64, nil),
		"overload, the largest":    retry.After(math.MaxInt64, limiter.ErrOverload),
		"overload, until 9999":     limited{until9999},
		"unavailable, the largest": retry.After(math.MaxInt64, limiter.ErrUnavailable),
	} {
		for _, receives := range []int{1, 12, math.MaxInt} {
			for _, ordered := range []bool{false, true} {
				bubble(t, fmt.Sprintf("%s, received %d times, ordered %v", name, receives, ordered), func(t *testing.T) {
					q := &sourceQueue{}
					f := newFunction(t, func(context.Context, *queue.Message) error { return err }, sqslambda.Config{Queue: q, Retry: retry.Policy{MaxAttempts: -1}})
					e := newEvent(3)
					if ordered {
						e = newFIFOEvent("a1 a2 b1")
					}
					began := time.Now()
					require.Len(t, returned(t, f, time.Minute, received(e, receives)), 3)
					require.Zero(t, time.Since(began), "there is nothing to wait for")
					first := q.delays(t)[e.Records[0].MessageId]
					require.Greater(t, first, 300*24*time.Hour)
					require.Less(t, first, 100*365*24*time.Hour)
				})
			}
		}
	}
}

// Neither does the delay after a run that the deadline has cut off.
func TestDelays_DoNotOverflowAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &sourceQueue{}
		f := newFunction(t, func(ctx context.Context, m *queue.Message) error {
			if m.ID == "0" {
				time.Sleep(6 * time.Second)
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, sqslambda.Config{Queue: q, Retry: retry.Policy{BaseDelay: math.MaxInt64, Jitter: -1}})
		require.Equal(t, []string{"1"}, returned(t, f, 10*time.Second, newEvent(2)))
		require.Greater(t, q.delays(t)["1"], 300*24*time.Hour)
	})
}

// ----- order -----

// The first message of a group is retried before the next one while that takes little
// time, and the later ones lose no receive. If it continues to fail, its group is
// returned soon, and the other groups are done.
func TestOrder_FailingHead(t *testing.T) {
	for name, c := range map[string]struct {
		failures int // of a1
		err      error
		returned []string
		runs     int // of a1, at the least
	}{
		"once":               {failures: 1, err: errors.New("?"), runs: 2},
		"for a while":        {failures: 2, err: limiter.ErrUnavailable, runs: 3},
		"panics once":        {failures: 1, err: errPanic, runs: 2},
		"always":             {failures: 99, err: errors.New("?"), returned: []string{"a1", "a2", "a3"}, runs: 2},
		"always unavailable": {failures: 99, err: limiter.ErrUnavailable, returned: []string{"a1", "a2", "a3"}, runs: 2},
		"for a minute":       {failures: 1, err: retry.After(time.Minute, errors.New("?")), returned: []string{"a1", "a2", "a3"}, runs: 1},
	} {
		for _, concurrency := range []int{1, 3} {
			bubble(t, fmt.Sprintf("%s, %d at once", name, concurrency), func(t *testing.T) {
				q, runs, done := &sourceQueue{}, 0, []string{}
				var mu sync.Mutex
				f := newFunction(t, func(_ context.Context, m *queue.Message) error {
					mu.Lock()
					defer mu.Unlock()
					if m.ID != "a1" {
						done = append(done, m.ID)
						return nil
					}
					if runs++; runs > c.failures {
						return nil
					}
					if c.err == errPanic {
						panic("?")
					}
					return c.err
				}, sqslambda.Config{
					Queue: q, Concurrency: concurrency, Limiter: all(t), NoBreaker: true, NoPace: true, Retry: retry.Policy{BaseDelay: 500 * time.Millisecond, Multiplier: 1},
				})
				began := time.Now()
				got := returned(t, f, 15*time.Minute, newFIFOEvent("a1 b1 a2 b2 a3 b3"))
				require.ElementsMatch(t, c.returned, got)
				require.LessOrEqual(t, time.Since(began), 2*time.Second)
				require.GreaterOrEqual(t, runs, c.runs)
				require.Len(t, done, 5-max(len(got)-1, 0))
				delays := q.delays(t)
				require.Len(t, delays, len(got))
				require.Zero(t, delays["a2"]+delays["a3"])
			})
		}
	}
}

// The deadline ends the wait for a head as well.
func TestOrder_DeadlineBeforeTheRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &sourceQueue{}
		f := newFunction(t, func(context.Context, *queue.Message) error { return errors.New("?") },
			sqslambda.Config{Queue: q, Retry: retry.Policy{BaseDelay: 1900 * time.Millisecond, Jitter: -1}})
		require.Equal(t, []string{"a1", "a2"}, returned(t, f, time.Second, newFIFOEvent("a1 a2")))
		require.Equal(t, map[string]time.Duration{"a1": 2 * time.Second, "a2": 0}, q.delays(t))
	})
}

// A dead letter that can't be sent holds up its group, but not the invocation.
func TestOrder_DeadLetterSinkFails(t *testing.T) {
	for delay, runs := range map[time.Duration]int{time.Minute: 1, time.Second: 2, 600 * time.Millisecond: 4} {
		bubble(t, delay.String(), func(t *testing.T) {
			q, dead, calls := &sourceQueue{}, &sink{err: errors.New("access denied")}, 0
			f := newFunction(t, func(_ context.Context, m *queue.Message) error {
				if m.ID == "a1" {
					calls++
					return retry.Permanent(errors.New("?"))
				}
				return nil
			}, sqslambda.Config{Queue: q, DeadLetter: dead, Retry: retry.Policy{BaseDelay: delay, Multiplier: 1, Jitter: -1}})
			began := time.Now()
			require.Equal(t, []string{"a1", "a2"}, returned(t, f, 15*time.Minute, newFIFOEvent("a1 a2 b1")))
			require.LessOrEqual(t, time.Since(began), 2*time.Second)
			require.Equal(t, runs, calls)
			require.GreaterOrEqual(t, q.delays(t)["a1"], delay)
		})
	}
}

// ----- handlers that do not return -----

// brokenError is an error whose methods panic.
type brokenError struct{}

func (*brokenError) Error() string { panic("no error") }

// A handler that ends its goroutine, or whose error can't be read, has failed with
// its own message only.
func TestHandlersThatBreak(t *testing.T) {
	for name, breaks := range map[string]func() error{
		"panic":        func() error { panic("?") },
		"panic nil":    func() error { panic(nil) },
		"Goexit":       func() error { runtime.Goexit(); return nil },
		"error panics": func() error { return (*brokenError)(nil) },
	} {
		for _, ordered := range []bool{false, true} {
			bubble(t, fmt.Sprintf("%s, ordered %v", name, ordered), func(t *testing.T) {
				dead := &sink{}
				var log bytes.Buffer
				e := newEvent(3)
				if ordered {
					e = newFIFOEvent("a1 b1 c1")
				}
				breaking := e.Records[1].MessageId
				f := newFunction(t, func(_ context.Context, m *queue.Message) error {
					if m.ID == breaking {
						return breaks()
					}
					return nil
				}, sqslambda.Config{DeadLetter: dead, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				require.Equal(t, []string{breaking}, returned(t, f, time.Minute, e))
				require.Contains(t, log.String(), "queue: handler panicked")
				require.Empty(t, returned(t, f, time.Minute, received(e, 12)))
				require.Equal(t, []string{breaking}, dead.ids())
			})
		}
	}
}

// ----- the consumer within -----

// The user's own trace gets the outcome of each result.
func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		finished, ended := make(map[string]queue.Outcome), make(map[string]queue.Outcome)
		failure, letter := errors.New("?"), retry.Permanent(errors.New("no such product"))
		trace := &queue.Trace{
			Finished: func(i queue.FinishedInfo) {
				mu.Lock()
				defer mu.Unlock()
				finished[i.Message.ID] = i.Outcome
				require.Equal(t, []error{nil, failure, letter, limiter.ErrUnavailable}[i.Message.ID[0]-'0'], i.Err)
			},
			Ended: func(i queue.EndedInfo) {
				mu.Lock()
				defer mu.Unlock()
				ended[i.Message.ID] = i.Outcome
			},
		}
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			return []error{nil, failure, letter, limiter.ErrUnavailable}[m.ID[0]-'0']
		}, sqslambda.Config{DeadLetter: &sink{}, Trace: trace})
		require.Equal(t, []string{"1", "3"}, returned(t, f, time.Minute, newEvent(4)))
		want := map[string]queue.Outcome{"0": queue.Done, "1": queue.Retried, "2": queue.DeadLettered, "3": queue.Released}
		require.Equal(t, want, finished)
		require.Equal(t, want, ended)
	})
}

// A consumer that a handler runs is independent: its results do not affect the
// function's messages.
func TestAConsumerWithinAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
			q, err := memqueue.New(memqueue.Config{})
			require.NoError(t, err)
			require.NoError(t, q.Send(ctx, &queue.Message{Body: []byte("x")}, &queue.Message{Body: []byte("y")}))
			runs := 0
			inner, err := queue.NewConsumer(q, queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
				if runs++; runs < 20 {
					return limiter.ErrUnavailable
				}
				return nil
			}), queue.Config{Concurrency: 1, Limiter: all(t), NoBreaker: true, NoPace: true, Logger: quiet, Retry: retry.Policy{MaxDelay: time.Second}})
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
			defer cancel()
			require.NoError(t, inner.Run(ctx))
			require.EqualValues(t, 2, inner.Stats().Done)
			return nil
		}, sqslambda.Config{})
		require.Empty(t, returned(t, f, 15*time.Minute, newEvent(2)))
	})
}

// Waiting for a slot or a rate costs a message no receive.
func TestWaitingIsNoReasonToReturn(t *testing.T) {
	for _, concurrency := range []int{2, 5} {
		bubble(t, strconv.Itoa(concurrency), func(t *testing.T) {
			var mu sync.Mutex
			runs := 0
			f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
				mu.Lock()
				runs++
				takes := time.Millisecond // fast ones first, so that many are taken ahead
				if runs > 50 {
					takes = 20 * time.Second
				}
				mu.Unlock()
				sleep.For(ctx, takes)
				return nil
			}, sqslambda.Config{Concurrency: concurrency})
			require.Empty(t, returned(t, f, 14*time.Minute, newEvent(100)))
		})
	}
}
