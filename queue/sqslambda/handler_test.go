package sqslambda_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
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
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

func succeed(context.Context, *queue.Message) error { return nil }

// An event that is not one of SQS has no Records. The function logs that once, and does
// not fail.
func TestEventWithoutRecords(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var log bytes.Buffer
		f, err := sqslambda.Handler(queue.HandlerFunc(succeed), sqslambda.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		for range 3 {
			var e events.SQSEvent
			require.NoError(t, json.Unmarshal([]byte(`{"key1":"value1"}`), &e))
			require.Empty(t, returned(t, f, time.Minute, e))
		}
		require.Equal(t, 1, strings.Count(log.String(), "no Records"), log.String())
	})
}

func TestBadConfigurationIsRefused(t *testing.T) {
	breaker, err := limiter.NewBreaker(limiter.BreakerConfig{})
	require.NoError(t, err)
	q, err := memqueue.New(memqueue.Config{})
	require.NoError(t, err)
	for want, cfg := range map[string]sqslambda.Config{
		"Config.Concurrency is -1":                {Concurrency: -1},
		"Config.Retry: retry: Policy: BaseDelay":  {Retry: retry.Policy{BaseDelay: -1}},
		"Config.Limiter and Config.Gate have a":   {Limiter: breaker, Gate: breaker},
		"Config.OpenBreaker is 2: must be Return": {OpenBreaker: 2},
		"Config.Queue is nil (a *sqsqueue.Queue)": {Queue: (*sqsqueue.Queue)(nil)},
		"Config.DeadLetter is nil (a *sqsqueue.Q": {DeadLetter: (*sqsqueue.Queue)(nil)},
		"Config.Limiter is nil (a *limiter.Break": {Limiter: (*limiter.Breaker)(nil)},
		"Config.Gate is nil (a *limiter.Breaker)": {Gate: (*limiter.Breaker)(nil)},
		"Config.DeadLetter is Config.Queue":       {Queue: q, DeadLetter: q},
		"Config.OpenBreaker is -1":                {OpenBreaker: -1, Concurrency: -1},
	} {
		f, err := sqslambda.Handler(queue.HandlerFunc(succeed), cfg)
		require.ErrorContains(t, err, want)
		require.True(t, strings.HasPrefix(err.Error(), "sqslambda: Handler: "), err)
		require.Nil(t, f)
	}
	for _, h := range []queue.Handler{nil, queue.HandlerFunc(nil), sqslambda.Wrap((func(context.Context, events.SQSEvent) error)(nil))} {
		_, err := sqslambda.Handler(h, sqslambda.Config{})
		require.ErrorContains(t, err, "Handler is nil")
	}
}

// What a result means, with and without a queue and a dead-letter sink.
func TestResults(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		panics   bool
		receives int
		done     bool // with a dead-letter sink; without one only what is also not dead
		dead     string
		least    time.Duration
		most     time.Duration
	}{
		"success":     {done: true},
		"permanent":   {err: retry.Permanent(errors.New("no such product")), done: true, dead: "permanent", least: time.Nanosecond, most: 5 * time.Minute},
		"undecodable": {err: &queue.DecodeError{Err: errors.New("?")}, done: true, dead: "undecodable", least: time.Nanosecond, most: 5 * time.Minute},
		"other":       {err: errors.New("?"), most: time.Second},
		"later":       {err: retry.After(time.Minute, errors.New("?")), least: time.Minute, most: time.Minute},
		"exhausted":   {err: errors.New("?"), receives: 12, done: true, dead: "exhausted", least: time.Nanosecond, most: 5 * time.Minute},
		// However often it was received.
		"postponed":    {err: queue.Postpone(time.Minute, limiter.ErrOverload), receives: 40, least: time.Minute, most: time.Minute},
		"few attempts": {err: queue.Attempted(1, errors.New("?")), receives: 40, most: time.Second},

		"panic":      {panics: true, most: time.Second},
		"last panic": {panics: true, receives: 12, done: true, dead: "exhausted", least: time.Nanosecond, most: 5 * time.Minute},
		"overload":   {err: limiter.ErrOverload, least: 30 * time.Second, most: 38 * time.Second},
		"overloads":  {err: limiter.ErrOverload, receives: 4, least: 4 * time.Minute, most: 5 * time.Minute},
		// A process that has seen no success can't distinguish an outage from a bad
		// message.
		"unavailable":      {err: limiter.ErrUnavailable, least: 30 * time.Second, most: 38 * time.Second},
		"long unavailable": {err: limiter.ErrUnavailable, receives: 40, least: 15 * time.Minute, most: 15 * time.Minute},
		"misconfigured":    {err: limiter.ErrMisconfigured, least: 30 * time.Second, most: 38 * time.Second},
	} {
		for _, with := range []string{"nothing", "a queue", "a sink", "both"} {
			bubble(t, name+" with "+with, func(t *testing.T) {
				q, dead := &sourceQueue{}, &sink{}
				var cfg sqslambda.Config
				if with == "a queue" || with == "both" {
					cfg.Queue = q
				}
				if with == "a sink" || with == "both" {
					cfg.DeadLetter = dead
				}
				f := newFunction(t, func(context.Context, *queue.Message) error {
					if c.panics {
						panic("?")
					}
					return c.err
				}, cfg)
				done := c.done && (c.dead == "" || cfg.DeadLetter != nil)
				got := returned(t, f, time.Minute, received(newEvent(1), max(c.receives, 1)))
				if done {
					require.Empty(t, got)
				} else {
					require.Equal(t, []string{"0"}, got)
				}
				delays := q.delays(t)
				if done || cfg.Queue == nil {
					require.Empty(t, delays)
				} else {
					require.GreaterOrEqual(t, delays["0"], c.least)
					require.LessOrEqual(t, delays["0"], c.most)
				}
				if c.dead == "" || cfg.DeadLetter == nil {
					require.Empty(t, dead.msgs)
					return
				}
				record, err := retry.ParseDeadLetter(dead.msgs[0].Attributes[retry.DeadLetterAttribute])
				require.NoError(t, err)
				require.Equal(t, c.dead, record.Reason)
				require.Equal(t, "orders", record.Source)
				require.Equal(t, max(c.receives, 1), record.Attempts)
			})
		}
	}
}

func TestTheAnswerIsNeverNull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFunction(t, succeed, sqslambda.Config{})
		for _, e := range []events.SQSEvent{{}, {Records: []events.SQSMessage{}}, newEvent(1), newEvent(10)} {
			answer, err := invoke(t, f, time.Minute, e)
			require.NoError(t, err)
			text, err := json.Marshal(answer)
			require.NoError(t, err)
			require.JSONEq(t, `{"batchItemFailures":[]}`, string(text))
		}
	})
}

// With ten messages of two seconds and a timeout of five seconds, two are done and the
// others are returned untried and without a delay. No call that settles them is cut
// short.
func TestNothingIsStartedThatCantEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &sourceQueue{took: 200 * time.Millisecond}
		var log bytes.Buffer
		var started, ended atomic.Int32
		f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
			started.Add(1)
			if !sleep.For(ctx, 2*time.Second) {
				return ctx.Err()
			}
			ended.Add(1)
			return nil
		}, sqslambda.Config{Queue: q, Logger: slog.New(slog.NewTextHandler(&log, nil))})

		for n := range 3 {
			require.Equal(t, numbers(2, 9), returned(t, f, 5*time.Second, newEvent(10)))
			require.EqualValues(t, 2*(n+1), started.Load())
			require.EqualValues(t, 2*(n+1), ended.Load())
		}
		require.Zero(t, q.cut)
		for _, c := range q.calls {
			require.Zero(t, c.delay)
		}
		require.Equal(t, 1, strings.Count(log.String(), "batch is too big"), log.String())
	})
}

// There is no warning about a batch that fits.
func TestABatchThatFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
			time.Sleep(2 * time.Second)
			return nil
		}, sqslambda.Config{Concurrency: 5, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.Empty(t, returned(t, f, 6*time.Second, newEvent(10)))
		require.Empty(t, log.String())
	})
}

func TestAHandlersContextEndsBeforeTheFunction(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{
		15 * time.Minute: 15*time.Minute - time.Second, 6 * time.Second: 5 * time.Second, 3 * time.Second: 2500 * time.Millisecond,
	} {
		bubble(t, timeout.String(), func(t *testing.T) {
			dead := &sink{took: timeout / 10}
			q := &sourceQueue{took: timeout / 20}
			if timeout > time.Minute {
				dead.took, q.took = 400*time.Millisecond, 400*time.Millisecond
			}
			began := time.Now()
			f := newFunction(t, func(ctx context.Context, m *queue.Message) error {
				deadline, ok := ctx.Deadline()
				require.True(t, ok)
				require.Equal(t, want, deadline.Sub(began))
				child, cancel := context.WithCancel(ctx)
				defer cancel()
				<-child.Done()
				require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
				require.Equal(t, want, time.Since(began))
				return fmt.Errorf("call: %w", child.Err())
			}, sqslambda.Config{Concurrency: 2, DeadLetter: dead, Queue: q})
			e := newEvent(3)
			e.Records[1].Attributes["ApproximateReceiveCount"] = "12"
			returned := returned(t, f, timeout, e)
			require.Equal(t, []string{"0", "1", "2"}, returned, "no success was seen, so it may be an outage")
			require.Zero(t, q.cut)
			delays := q.delays(t)
			require.GreaterOrEqual(t, delays["0"], 30*time.Second)
			require.GreaterOrEqual(t, delays["1"], 15*time.Minute)
			require.Zero(t, delays["2"])
		})
	}
}

// A handler that the deadline ended, and whose error says nothing about the downstream,
// has failed, and its message comes back like any other failed message.
func TestAHandlerThatTookTooLongHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &sourceQueue{}
		f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
			<-ctx.Done()
			return errors.New("half done")
		}, sqslambda.Config{Queue: q, Retry: retry.Policy{BaseDelay: time.Minute, Jitter: -1}})
		require.Equal(t, []string{"0"}, returned(t, f, 10*time.Second, received(newEvent(1), 2)))
		require.Equal(t, 2*time.Minute, q.delays(t)["0"])
	})
}

// The first message of an invocation is tried, however long handlers took.
func TestSomethingIsAlwaysTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		takes := 9 * time.Second
		var started atomic.Int32
		f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
			started.Add(1)
			if !sleep.For(ctx, takes) {
				return ctx.Err()
			}
			return nil
		}, sqslambda.Config{})
		for n := range 3 {
			require.Equal(t, []string{"0"}, returned(t, f, 6*time.Second, newEvent(1)))
			require.EqualValues(t, n+1, started.Load())
		}
		takes = time.Second
		require.Equal(t, numbers(1, 4), returned(t, f, 6*time.Second, newEvent(5)))
		for range 20 {
			returned(t, f, 6*time.Second, newEvent(4))
		}
		require.Empty(t, returned(t, f, 6*time.Second, newEvent(4)), "it finds out that handlers are fast again")
	})
}

// A handler that ignores its context does not cost the others their results.
func TestAHandlerThatIgnoresItsContextIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			if m.ID == "0" {
				time.Sleep(time.Hour)
			}
			return nil
		}, sqslambda.Config{Concurrency: 2, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.Equal(t, []string{"0"}, returned(t, f, 10*time.Second, newEvent(5)))
		require.Contains(t, log.String(), "ignoring their context")
		time.Sleep(2 * time.Hour)
	})
}

// Nothing is done after the answer, and no timer fires.
func TestNothingRunsAfterTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps, answered atomic.Int64
		note := func() {
			if answered.Load() != 0 {
				steps.Add(1)
			}
		}
		trace := &queue.Trace{
			Received: func(queue.ReceivedInfo) { note() }, Started: func(queue.StartedInfo) { note() }, Finished: func(queue.FinishedInfo) { note() },
			Settled: func(queue.SettledInfo) { note() }, Ended: func(queue.EndedInfo) { note() }, Blocked: func(queue.BlockedInfo) { note() },
			Unblocked: func(queue.UnblockedInfo) { note() }, Held: func(queue.HeldInfo) { note() }, Error: func(queue.ErrorInfo) { note() },
		}
		q, dead := &sourceQueue{took: 10 * time.Millisecond}, &sink{}
		results := []error{nil, errors.New("?"), limited{time.Minute}, retry.Permanent(errors.New("?")), limited{time.Minute}}
		f := newFunction(t, func(_ context.Context, m *queue.Message) error { return results[int(m.ID[0]-'0')%len(results)] },
			sqslambda.Config{Queue: q, DeadLetter: dead, Trace: trace, Concurrency: 3, Limiter: &watched{all(t), note}})
		got := returned(t, f, time.Minute, newEvent(10))
		answered.Store(1)
		calls := len(q.calls)
		require.NotEmpty(t, got)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, steps.Load())
		require.Len(t, q.calls, calls)
	})
}

// A watched limiter reports when it is consulted.
type watched struct {
	limiter.Limiter
	asked func()
}

func (w *watched) Blocked() limiter.Block {
	w.asked()
	return w.Limiter.Blocked()
}

func TestAContextWithoutDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
			_, ok := ctx.Deadline()
			require.False(t, ok)
			time.Sleep(time.Hour)
			return nil
		}, sqslambda.Config{})
		require.Empty(t, returned(t, f, 0, newEvent(10)))

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(90*time.Minute, cancel)
		began := time.Now()
		answer, err := f(ctx, newEvent(3))
		require.NoError(t, err)
		require.Equal(t, []string{"1", "2"}, ids(t, answer))
		require.Less(t, time.Since(began), 92*time.Minute)
		time.Sleep(time.Hour) // the handler that ignored its context
	})
}

func TestAContextThatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &sourceQueue{}
		f := newFunction(t, func(context.Context, *queue.Message) error {
			t.Error("started")
			return nil
		}, sqslambda.Config{Queue: q})
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Minute))
		defer cancel()
		for _, ctx := range []context.Context{canceled, expired} {
			answer, err := f(ctx, newEvent(3))
			require.NoError(t, err)
			require.Equal(t, numbers(0, 2), ids(t, answer))
			require.Empty(t, q.calls)
		}
	})
}

// Limits belong to the process: concurrent invocations share them, and after a freeze
// there is one burst at most.
func TestLimitsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst, places = 10, 5, 3
		bucket, err := limiter.NewTokenBucket(rate, burst)
		require.NoError(t, err)
		sem, err := limiter.NewSemaphore(places)
		require.NoError(t, err)
		var mu sync.Mutex
		var starts []time.Time
		running, peak := 0, 0
		f := newFunction(t, func(context.Context, *queue.Message) error {
			mu.Lock()
			starts = append(starts, time.Now())
			running++
			peak = max(peak, running)
			mu.Unlock()
			time.Sleep(50 * time.Millisecond)
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		}, sqslambda.Config{Limiter: all(t, sem, bucket), Concurrency: 2})
		for range 3 {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					_, err := f(ctx, newEvent(10))
					require.NoError(t, err)
				})
			}
			wg.Wait()
			time.Sleep(10 * time.Minute) // frozen
		}
		require.GreaterOrEqual(t, len(starts), 100)
		require.LessOrEqual(t, peak, places)
		for i := range starts {
			for j := i; j < len(starts); j++ {
				most := float64(burst) + rate*starts[j].Sub(starts[i]).Seconds() + 1e-6
				require.LessOrEqual(t, float64(j-i+1), most, "starts %d to %d", i, j)
			}
		}
	})
}

func TestFleetLimit(t *testing.T) {
	for want, l := range map[string]sqslambda.FleetLimit{
		"Rate is 0":            {MaxConcurrency: 1},
		"Rate is NaN":          {Rate: math.NaN(), MaxConcurrency: 1},
		"Rate is +Inf":         {Rate: math.Inf(1), MaxConcurrency: 1},
		"MaxConcurrency is 0":  {Rate: 1},
		"Burst is 9: must be ": {Rate: 1, MaxConcurrency: 10, Burst: 9},
	} {
		_, err := l.Limiter()
		require.ErrorContains(t, err, want)
	}

	// Ten processes, each restarted after every batch, together keep the rate, with a
	// burst of ten at most.
	synctest.Test(t, func(t *testing.T) {
		const rate, processes = 20.0, 10
		var mu sync.Mutex
		var starts []time.Time
		var wg sync.WaitGroup
		for range processes {
			wg.Go(func() {
				for range 6 {
					share, err := sqslambda.FleetLimit{Rate: rate, MaxConcurrency: processes}.Limiter()
					require.NoError(t, err)
					f := newFunction(t, func(context.Context, *queue.Message) error {
						mu.Lock()
						defer mu.Unlock()
						starts = append(starts, time.Now())
						return nil
					}, sqslambda.Config{Limiter: share})
					require.Empty(t, returned(t, f, time.Minute, newEvent(5)))
				}
			})
		}
		wg.Wait()
		require.Len(t, starts, 300)
		began := starts[0].Add(-time.Duration(processes / rate * float64(time.Second)))
		require.InDelta(t, 300/rate, starts[299].Sub(began).Seconds(), 1, "and use it")
		for i := range starts {
			for j := i; j < len(starts); j++ {
				require.LessOrEqual(t, float64(j-i+1), processes+rate*starts[j].Sub(starts[i]).Seconds()+1e-6)
			}
		}
	})
}

// An invocation waits for two seconds for the end of an outage. Then it returns the
// batch until the outage may be over.
func TestTroubleIsHeldForTwoSeconds(t *testing.T) {
	for name, c := range map[string]struct {
		lasts    time.Duration // the outage
		err      error
		done     bool
		within   time.Duration // of time that is billed
		deadline time.Duration // 0: none
	}{
		"short":                   {lasts: 500 * time.Millisecond, err: limiter.ErrUnavailable, done: true, within: 3 * time.Second, deadline: time.Minute},
		"long":                    {lasts: time.Hour, err: limiter.ErrOverload, within: 2100 * time.Millisecond, deadline: time.Minute},
		"long, with Retry-After":  {lasts: time.Hour, err: limited{time.Minute}, within: time.Millisecond, deadline: time.Minute},
		"long, without deadline":  {lasts: time.Hour, err: limiter.ErrOverload, within: 2100 * time.Millisecond},
		"misconfigured":           {lasts: time.Hour, err: limiter.ErrMisconfigured, within: 2001 * time.Millisecond, deadline: time.Minute},
		"unavailable, many times": {lasts: time.Hour, err: limiter.ErrUnavailable, within: 2001 * time.Millisecond, deadline: time.Minute},
	} {
		bubble(t, name, func(t *testing.T) {
			q, dead := &sourceQueue{}, &sink{}
			began := time.Now()
			calls := 0
			f := newFunction(t, func(context.Context, *queue.Message) error {
				calls++
				if time.Since(began) < c.lasts {
					return c.err
				}
				return nil
			}, sqslambda.Config{Queue: q, DeadLetter: dead})
			got := returned(t, f, c.deadline, newEvent(20))
			require.LessOrEqual(t, time.Since(began), c.within)
			require.Empty(t, dead.msgs)
			if c.done {
				require.Empty(t, got)
				require.Equal(t, 30, calls, "ten open the breaker, and run again")
				return
			}
			require.Equal(t, numbers(0, 19), got)
			least := 30 * time.Second
			if wait, ok := limiter.RetryAfter(c.err); ok {
				least = wait
			}
			for id, d := range q.delays(t) {
				require.GreaterOrEqual(t, d, least, id)
				require.LessOrEqual(t, d, least*5/4+time.Second, id)
			}
			require.Len(t, q.delays(t), 20)

			// Further messages meet an open breaker or a pause, are not tried, and not held
			// long. Refusals without a Retry-After are an outage after ten seconds.
			again := func(most time.Duration, mostCalls int) {
				calls, began = 0, time.Now()
				require.Equal(t, numbers(0, 4), returned(t, f, c.deadline, received(newEvent(5), 3)))
				require.LessOrEqual(t, time.Since(began), most)
				require.LessOrEqual(t, calls, mostCalls)
			}
			if c.err == limiter.ErrOverload {
				again(5*time.Second, 10)
				time.Sleep(10 * time.Second)
				again(5*time.Second, 10)
			}
			again(2001*time.Millisecond, 3)
		})
	}
}

// A limited error is an overload with a Retry-After.
type limited struct{ after time.Duration }

func (e limited) Error() string             { return "429" }
func (e limited) Is(target error) bool      { return target == limiter.ErrOverload }
func (e limited) RetryAfter() time.Duration { return e.after }

// A single message that meets an overload is returned alone as long as others succeed,
// unless a breaker is open.
func TestOneOverloadDoesNotEndTheInvocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			if m.ID == "0" {
				return limiter.ErrOverload
			}
			time.Sleep(900 * time.Millisecond)
			return nil
		}, sqslambda.Config{Limiter: all(t), NoBreaker: true, NoPace: true})
		require.Equal(t, []string{"0"}, returned(t, f, time.Minute, newEvent(10)))
	})
}

// Waiting for a rate is not an outage, and is not cut short.
func TestARateIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bucket, err := limiter.NewTokenBucket(0.2, 1)
		require.NoError(t, err)
		q := &sourceQueue{}
		f := newFunction(t, succeed, sqslambda.Config{Limiter: bucket, Queue: q})
		require.Equal(t, numbers(7, 9), returned(t, f, 33*time.Second, newEvent(10)))
		for id, d := range q.delays(t) {
			require.Zero(t, d, id)
		}
	})
}

// The handler's own client may have the limiter; then it is the gate.
func TestAGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{Max: 100})
		require.NoError(t, err)
		calls := 0
		f := newFunction(t, func(ctx context.Context, _ *queue.Message) error {
			return limiter.Do(ctx, gate, func(context.Context) error {
				calls++
				return limited{time.Minute}
			})
		}, sqslambda.Config{Gate: gate})
		began := time.Now()
		require.Equal(t, numbers(0, 9), returned(t, f, 5*time.Minute, newEvent(10)))
		require.Equal(t, numbers(0, 9), returned(t, f, 5*time.Minute, newEvent(10)))
		require.Equal(t, 1, calls)
		require.Zero(t, time.Since(began))
	})
}

func TestAnOpenBreakerMayFailTheInvocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &sourceQueue{}
		down := true
		f := newFunction(t, func(context.Context, *queue.Message) error {
			if down {
				return limited{time.Minute}
			}
			return nil
		}, sqslambda.Config{Queue: q, OpenBreaker: sqslambda.Error})
		for range 2 {
			_, err := invoke(t, f, time.Minute, newEvent(3))
			require.EqualError(t, err, "sqslambda: function orders: the downstream is not available: all 3 messages are returned")
		}
		require.Len(t, q.calls, 3, "the delays are set first")

		time.Sleep(time.Minute)
		down = false
		answer, err := invoke(t, f, time.Minute, newEvent(3))
		require.NoError(t, err)
		require.Empty(t, answer.BatchItemFailures)
	})
	t.Run("not when something is done, nor for other failures", func(t *testing.T) {
		for _, failure := range []error{limited{time.Minute}, errors.New("?")} {
			f := newFunction(t, func(_ context.Context, m *queue.Message) error {
				if first := m.ID == "0"; !first || limiter.Classify(failure) == nil {
					return failure
				}
				return nil
			}, sqslambda.Config{OpenBreaker: sqslambda.Error})
			require.NotEmpty(t, returned(t, f, time.Minute, newEvent(3)))
		}
	})
}

// Messages that were not run say nothing about this program or the downstream, however
// often they were received.
func TestPostponedMessagesAreNoResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, dead := &sourceQueue{}, &sink{}
		postpone := true
		f := newFunction(t, func(context.Context, *queue.Message) error {
			if postpone {
				return queue.Postpone(time.Minute, limiter.ErrMisconfigured)
			}
			return retry.Permanent(errors.New("no such product"))
		}, sqslambda.Config{Queue: q, DeadLetter: dead})
		for range 10 {
			require.Equal(t, numbers(0, 4), returned(t, f, time.Minute, received(newEvent(5), 40)))
			for id, delay := range q.delays(t) {
				require.Equal(t, time.Minute, delay, "message %s", id)
			}
			q.calls = nil
		}
		postpone = false
		require.Empty(t, returned(t, f, time.Minute, newEvent(5)), "neither the guard nor the breaker has heard of them")
		require.Len(t, dead.msgs, 5)
	})
}

// A postponed message comes back when it should, even if it met an outage before.
func TestPostponedAfterTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, runs := &sourceQueue{}, 0
		f := newFunction(t, func(context.Context, *queue.Message) error {
			if runs++; runs == 1 {
				return limiter.ErrOverload
			}
			return queue.Postpone(5*time.Second, nil)
		}, sqslambda.Config{Queue: q, OpenBreaker: sqslambda.Error})
		require.Equal(t, []string{"0"}, returned(t, f, time.Minute, newEvent(1)))
		require.Equal(t, 2, runs)
		require.Equal(t, map[string]time.Duration{"0": 5 * time.Second}, q.delays(t))
	})
}

// A handler that counts better than the queue decides when a message is
// exhausted.
func TestAttemptedCountsInPlaceOfReceives(t *testing.T) {
	dead := &sink{}
	f := newFunction(t, func(context.Context, *queue.Message) error { return queue.Attempted(12, errors.New("?")) }, sqslambda.Config{DeadLetter: dead})
	require.Empty(t, returned(t, f, 0, received(newEvent(1), 2)))
	require.Len(t, dead.msgs, 1)
	record, err := retry.ParseDeadLetter(dead.msgs[0].Attributes[retry.DeadLetterAttribute])
	require.NoError(t, err)
	require.Equal(t, retry.ReasonExhausted, record.Reason)
	require.Equal(t, 12, record.Attempts)
}

func TestADeadLetterSinkThatFailsLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := &sink{err: errors.New("access denied")}
		f := newFunction(t, func(_ context.Context, m *queue.Message) error {
			if m.ID == "1" {
				return retry.Permanent(errors.New("?"))
			}
			return nil
		}, sqslambda.Config{DeadLetter: dead})
		require.Equal(t, []string{"1"}, returned(t, f, time.Minute, newEvent(3)))
	})
}

// If a delay can't be set, only that delay is lost.
func TestAQueueThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, q := range []*sourceQueue{{err: errors.New("throttled")}, {took: time.Hour}} {
			f := newFunction(t, func(context.Context, *queue.Message) error { return errors.New("?") }, sqslambda.Config{Queue: q})
			require.Equal(t, numbers(0, 2), returned(t, f, 10*time.Second, newEvent(3)))
		}
	})
}

func TestOutageSpan(t *testing.T) {
	for n, want := range map[int]time.Duration{
		-1: 0, 0: 0, 1: 30 * time.Second, 5: 930 * time.Second, 20: 4*time.Hour + 30*time.Second, 50: 11*time.Hour + 30*time.Minute + 30*time.Second,
	} {
		require.Equal(t, want, sqslambda.OutageSpan(n), n)
	}
}
