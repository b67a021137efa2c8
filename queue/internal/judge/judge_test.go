package judge_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
	"github.com/rampmeter/rampmeter/retry"
)

var errPlain = errors.New("?")

// read returns the result of a handler that returned err.
func read(err error, p retry.Policy) judge.Result {
	return judge.Read(err, p, func(v any, stack []byte) error { return &queue.PanicError{Value: v, Stack: stack} })
}

// panicked is the result of a handler that panicked.
func panicked() judge.Result {
	return judge.Result{Err: &queue.PanicError{Value: "?"}, Panicked: true}
}

func newPolicy() judge.Policy {
	return judge.Policy{
		Retry:   retry.Policy{MaxAttempts: 10, MaxDelay: time.Minute, Jitter: -1},
		MaxHold: 15 * time.Minute, MaxOrdered: 11 * time.Hour, GiveUp: judge.GiveUp, DeadLetters: true,
	}
}

// The table of results in package queue's documentation, and the other
// conditions. In each case 10 attempts are allowed, and delays are 1 s, 2 s, 4 s
// and so on up to 1 min.
func TestJudge(t *testing.T) {
	const hour = time.Hour
	ordered := func(f judge.Facts) judge.Facts { f.Ordered = true; return f }
	noSink := func(p *judge.Policy) { p.DeadLetters = false }
	picky := func(p *judge.Policy) { p.Retry.Retryable = func(error) bool { return false } }
	for _, c := range []struct {
		name  string
		err   error // the handler's
		facts judge.Facts
		with  func(*judge.Policy) // nil: the policy as it is
		want  judge.Verdict
		hears judge.Hearing
	}{
		// nil
		{name: "nil", want: judge.Verdict{Action: judge.Ack}},
		{name: "nil, while it drains", facts: judge.Facts{Draining: true, Interrupted: true}, want: judge.Verdict{Action: judge.Ack}},

		// permanent
		{name: "permanent", err: retry.Permanent(errPlain), want: judge.Verdict{Action: judge.DeadLetter, Reason: "permanent", Failed: true}},
		{name: "undecodable", err: &queue.DecodeError{Err: errPlain}, want: judge.Verdict{Action: judge.DeadLetter, Reason: "undecodable", Failed: true}},
		{name: "permanent overload", err: retry.Permanent(limiter.ErrOverload), want: judge.Verdict{Action: judge.DeadLetter, Reason: "permanent", Failed: true}},
		{
			name: "permanent, at the end of a drain", err: retry.Permanent(errPlain), facts: judge.Facts{Interrupted: true},
			want: judge.Verdict{Action: judge.DeadLetter, Reason: "permanent", Failed: true}, hears: judge.Unjudged,
		},
		{
			name: "permanent without a sink", err: retry.Permanent(errPlain), with: noSink,
			want: judge.Verdict{Action: judge.Return, Delay: time.Minute, Failed: true},
		},
		{
			name: "permanent without a sink, ordered", err: retry.Permanent(errPlain), facts: ordered(judge.Facts{}), with: noSink,
			want: judge.Verdict{Action: judge.Return, Delay: time.Minute, Failed: true},
		},

		// refused through no fault of its own
		{name: "overload", err: limiter.ErrOverload, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},
		{name: "misconfigured", err: limiter.ErrMisconfigured, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},
		{name: "unavailable, breaker open", err: limiter.ErrUnavailable, facts: judge.Facts{Outage: true}, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},
		{name: "unavailable, nothing to compare with", err: limiter.ErrUnavailable, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},
		{name: "timeout", err: fmt.Errorf("call: %w", context.DeadlineExceeded), want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},
		{name: "fourth run", err: limiter.ErrOverload, facts: judge.Facts{Run: 4, Failures: 9}, want: judge.Verdict{Action: judge.Hold, Delay: 8 * time.Second}},
		{name: "never exhausted", err: limiter.ErrOverload, facts: judge.Facts{Run: 1000, Failures: 1000}, want: judge.Verdict{Action: judge.Hold, Delay: time.Minute}},
		{name: "Retry-After", err: retry.After(5*time.Minute, limiter.ErrOverload), want: judge.Verdict{Action: judge.Hold, Delay: 5 * time.Minute}},
		{name: "Retry-After beyond MaxHold", err: retry.After(hour, limiter.ErrOverload), want: judge.Verdict{Action: judge.Return, Delay: hour}},
		{name: "held for MaxHold", err: limiter.ErrOverload, facts: judge.Facts{Run: 9, Held: 15*time.Minute - 1}, want: judge.Verdict{Action: judge.Return, Delay: time.Minute}},
		{
			name: "ordered, Retry-After beyond MaxHold", err: retry.After(hour, limiter.ErrOverload), facts: ordered(judge.Facts{Held: hour, InHand: 9 * hour}),
			want: judge.Verdict{Action: judge.Hold, Delay: hour},
		},
		{name: "ordered, in hand for too long", err: limiter.ErrOverload, facts: ordered(judge.Facts{InHand: 11 * hour}), want: judge.Verdict{Action: judge.Return, Delay: time.Second}},
		{
			name: "ordered, MaxHold for all", err: limiter.ErrOverload, facts: ordered(judge.Facts{Held: 15 * time.Minute}), with: func(p *judge.Policy) { p.MaxOrdered = 0 },
			want: judge.Verdict{Action: judge.Return, Delay: time.Second},
		},
		{name: "refused in a drain", err: limiter.ErrOverload, facts: ordered(judge.Facts{Draining: true}), want: judge.Verdict{Action: judge.Return, Delay: time.Second}},
		{
			name: "suspect", err: limiter.ErrOverload, facts: judge.Facts{Guilt: judge.Suspect, Run: 2},
			want: judge.Verdict{Action: judge.Hold, Delay: 2 * time.Second}, hears: judge.Unjudged,
		},
		{name: "until GiveUp", err: limiter.ErrOverload, facts: judge.Facts{Age: 12*hour - 1}, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},
		{
			name: "after GiveUp, but it has just begun to fail", err: limiter.ErrOverload, facts: judge.Facts{Age: 12 * hour, Failing: time.Minute},
			want: judge.Verdict{Action: judge.Hold, Delay: time.Second},
		},
		{name: "a long streak", err: limiter.ErrOverload, facts: judge.Facts{Streak: 4}, want: judge.Verdict{Action: judge.Hold, Delay: 8 * time.Second}},
		{
			name: "after GiveUp", err: limiter.ErrOverload, facts: judge.Facts{Age: 12 * hour, Failing: hour},
			want: judge.Verdict{Action: judge.DeadLetter, Reason: "exhausted: nothing to compare with", Failed: true},
		},

		// its own failure
		{name: "plain error", err: errPlain, want: judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}},
		{name: "plain error, third attempt", err: errPlain, facts: judge.Facts{Failures: 2}, want: judge.Verdict{Action: judge.Return, Delay: 4 * time.Second, Failed: true}},
		{name: "our own cancellation", err: context.Canceled, want: judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}},
		{name: "retry.After", err: retry.After(hour, errPlain), want: judge.Verdict{Action: judge.Return, Delay: hour, Failed: true}},
		{name: "panic", facts: judge.Facts{Result: panicked()}, want: judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}, hears: judge.Unjudged},
		{
			name: "unavailable and guilty", err: limiter.ErrUnavailable, facts: judge.Facts{Guilt: judge.Guilty, Failures: 1},
			want: judge.Verdict{Action: judge.Return, Delay: 2 * time.Second, Failed: true}, hears: judge.Unjudged,
		},
		{
			name: "overload and guilty", err: limiter.ErrOverload, facts: judge.Facts{Guilt: judge.Guilty, Outage: true},
			want: judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}, hears: judge.Unjudged,
		},
		{name: "ordered", err: errPlain, facts: ordered(judge.Facts{Failures: 2}), want: judge.Verdict{Action: judge.Hold, Delay: 4 * time.Second, Failed: true}},
		{name: "ordered, panic", facts: ordered(judge.Facts{Result: panicked()}), want: judge.Verdict{Action: judge.Hold, Delay: time.Second, Failed: true}, hears: judge.Unjudged},
		{name: "ordered, in hand for too long", err: errPlain, facts: ordered(judge.Facts{InHand: 11*hour - time.Second}), want: judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}},
		{name: "ordered, in a drain", err: errPlain, facts: ordered(judge.Facts{Draining: true}), want: judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}},

		// attempts used up
		{name: "ninth attempt", err: errPlain, facts: judge.Facts{Failures: 8}, want: judge.Verdict{Action: judge.Return, Delay: time.Minute, Failed: true}},
		{name: "tenth attempt", err: errPlain, facts: judge.Facts{Failures: 9}, want: judge.Verdict{Action: judge.DeadLetter, Reason: "exhausted", Failed: true}},
		{name: "tenth attempt, ordered", err: errPlain, facts: ordered(judge.Facts{Failures: 9}), want: judge.Verdict{Action: judge.DeadLetter, Reason: "exhausted", Failed: true}},
		{
			name: "tenth attempt, guilty", err: limiter.ErrOverload, facts: judge.Facts{Failures: 9, Guilt: judge.Guilty},
			want: judge.Verdict{Action: judge.DeadLetter, Reason: "exhausted", Failed: true}, hears: judge.Unjudged,
		},
		{
			name: "tenth attempt, panic", facts: judge.Facts{Result: panicked(), Failures: 9},
			want: judge.Verdict{Action: judge.DeadLetter, Reason: "exhausted", Failed: true}, hears: judge.Unjudged,
		},
		{name: "tenth by the handler's count", err: queue.Attempted(10, errPlain), want: judge.Verdict{Action: judge.DeadLetter, Reason: "exhausted", Failed: true}},
		{name: "first by the handler's count", err: queue.Attempted(1, errPlain), facts: judge.Facts{Failures: 99}, want: judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}},
		{
			name: "exhausted without a sink", err: errPlain, facts: judge.Facts{Failures: 9}, with: noSink,
			want: judge.Verdict{Action: judge.Return, Delay: time.Minute, Failed: true},
		},
		{
			name: "exhausted without a sink, Retry-After", err: retry.After(hour, errPlain), facts: judge.Facts{Failures: 9}, with: noSink,
			want: judge.Verdict{Action: judge.Return, Delay: hour, Failed: true},
		},
		{
			name: "no limit of attempts", err: errPlain, facts: judge.Facts{Failures: 999}, with: func(p *judge.Policy) { p.Retry.MaxAttempts = -1 },
			want: judge.Verdict{Action: judge.Return, Delay: time.Minute, Failed: true},
		},

		// not worth another attempt
		{name: "not retryable", err: errPlain, with: picky, want: judge.Verdict{Action: judge.DeadLetter, Reason: "permanent", Failed: true}},
		{name: "not retryable, unavailable", err: limiter.ErrUnavailable, with: picky, want: judge.Verdict{Action: judge.DeadLetter, Reason: "permanent", Failed: true}},
		{name: "not retryable, in an outage", err: limiter.ErrUnavailable, facts: judge.Facts{Outage: true}, with: picky, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},
		{name: "not retryable, overload", err: limiter.ErrOverload, with: picky, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}},

		// no dead letter may go out
		{name: "rationed", err: retry.Permanent(errPlain), facts: judge.Facts{Guarded: true}, want: judge.Verdict{Action: judge.Return, Delay: time.Minute, Failed: true}},
		{name: "rationed, third receive", err: retry.Permanent(errPlain), facts: judge.Facts{Guarded: true, Failures: 2}, want: judge.Verdict{Action: judge.Return, Delay: 4 * time.Minute, Failed: true}},
		{name: "rationed, many receives", err: retry.Permanent(errPlain), facts: judge.Facts{Guarded: true, Failures: 99}, want: judge.Verdict{Action: judge.Return, Delay: 11 * hour, Failed: true}},
		{name: "rationed, exhausted", err: errPlain, facts: judge.Facts{Guarded: true, Failures: 9}, want: judge.Verdict{Action: judge.Return, Delay: time.Minute, Failed: true}},
		{name: "rationed, exhausted long ago", err: errPlain, facts: judge.Facts{Guarded: true, Failures: 11}, want: judge.Verdict{Action: judge.Return, Delay: 4 * time.Minute, Failed: true}},
		{name: "rationed, ordered", err: retry.Permanent(errPlain), facts: ordered(judge.Facts{Guarded: true}), want: judge.Verdict{Action: judge.Hold, Delay: time.Minute, Failed: true}},

		// not run
		{name: "postponed", err: queue.Postpone(hour, limiter.ErrMisconfigured), facts: judge.Facts{Failures: 99}, want: judge.Verdict{Action: judge.Return, Delay: hour}, hears: judge.NeverRan},
		{name: "postponed, ordered", err: queue.Postpone(time.Second, nil), facts: ordered(judge.Facts{}), want: judge.Verdict{Action: judge.Hold, Delay: time.Second}, hears: judge.NeverRan},
		{
			name: "postponed in a drain", err: queue.Postpone(time.Second, nil), facts: judge.Facts{Draining: true, Interrupted: true},
			want: judge.Verdict{Action: judge.Return, Delay: time.Second}, hears: judge.NeverRan,
		},

		// the drain's time is over, or the lease is lost
		{name: "interrupted", err: context.DeadlineExceeded, facts: judge.Facts{Interrupted: true, Draining: true, Failures: 99}, want: judge.Verdict{Action: judge.Return}, hears: judge.Unjudged},
		{name: "interrupted, plain error", err: errPlain, facts: judge.Facts{Interrupted: true, Draining: true}, want: judge.Verdict{Action: judge.Return}, hears: judge.Unjudged},
		{name: "lease lost", err: errPlain, facts: judge.Facts{LeaseLost: true, Interrupted: true}, want: judge.Verdict{Action: judge.Drop}, hears: judge.Unjudged},
		{name: "lease lost, nil", facts: judge.Facts{LeaseLost: true}, want: judge.Verdict{Action: judge.Drop}},
		{name: "lease lost, permanent", err: retry.Permanent(errPlain), facts: judge.Facts{LeaseLost: true}, want: judge.Verdict{Action: judge.Drop}},

		// what is no news
		{name: "typical", err: limiter.ErrOverload, facts: judge.Facts{Typical: true}, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}, hears: judge.Heeded},
		{
			name: "typical, with a Retry-After", err: retry.After(time.Minute, limiter.ErrOverload), facts: judge.Facts{Typical: true},
			want: judge.Verdict{Action: judge.Hold, Delay: time.Minute}, hears: judge.Unjudged,
		},
		{name: "repeated", err: limiter.ErrUnavailable, facts: judge.Facts{Repeated: true}, want: judge.Verdict{Action: judge.Hold, Delay: time.Second}, hears: judge.Unjudged},
		{
			name: "repeated, Retry-After", err: retry.After(time.Minute, limiter.ErrOverload), facts: judge.Facts{Repeated: true},
			want: judge.Verdict{Action: judge.Hold, Delay: time.Minute}, hears: judge.Heard,
		},
		{
			name: "unlikely, Retry-After", err: retry.After(time.Minute, limiter.ErrOverload), facts: judge.Facts{Repeated: true, Unlikely: true},
			want: judge.Verdict{Action: judge.Hold, Delay: time.Minute}, hears: judge.Heeded,
		},
		{
			name: "suspect from now on, Retry-After", err: retry.After(time.Minute, limiter.ErrOverload), facts: judge.Facts{Guilt: judge.Suspect, Unlikely: true},
			want: judge.Verdict{Action: judge.Hold, Delay: time.Minute}, hears: judge.Heeded,
		},
		{
			name: "suspect, Retry-After", err: retry.After(time.Minute, limiter.ErrOverload), facts: judge.Facts{Guilt: judge.Suspect, Unlikely: true, Suspected: true},
			want: judge.Verdict{Action: judge.Hold, Delay: time.Minute}, hears: judge.Unjudged,
		},
		{
			name: "repeated, unavailable for a while", err: retry.After(time.Minute, limiter.ErrUnavailable), facts: judge.Facts{Repeated: true, Unlikely: true},
			want: judge.Verdict{Action: judge.Hold, Delay: time.Minute}, hears: judge.Unjudged,
		},

		// delays that overflow
		{name: "longest Retry-After", err: retry.After(math.MaxInt64, limiter.ErrOverload), facts: ordered(judge.Facts{InHand: hour}), want: judge.Verdict{Action: judge.Return, Delay: judge.Longest}},
		{name: "longest retry.After", err: retry.After(math.MaxInt64, errPlain), facts: ordered(judge.Facts{InHand: hour}), want: judge.Verdict{Action: judge.Return, Delay: judge.Longest, Failed: true}},
		{name: "longest postponed", err: queue.Postpone(math.MaxInt64, nil), want: judge.Verdict{Action: judge.Return, Delay: judge.Longest}, hears: judge.NeverRan},
		{
			name: "longest MaxDelay", err: retry.Permanent(errPlain), facts: ordered(judge.Facts{InHand: hour}), with: func(p *judge.Policy) { p.DeadLetters, p.Retry.MaxDelay = false, math.MaxInt64 },
			want: judge.Verdict{Action: judge.Return, Delay: judge.Longest, Failed: true},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, f := newPolicy(), c.facts
			if c.with != nil {
				c.with(&p)
			}
			if f.Err == nil {
				f.Result = read(c.err, p.Retry)
			}
			f.Run = max(f.Run, 1)
			require.Equal(t, c.want, judge.Judge(&p, &f))
			require.Equal(t, c.hears, f.Hears())
		})
	}
}

// What holds for any facts and any policy.
func TestJudge_Properties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	flip := func() bool { return r.IntN(2) == 0 }
	duration := func() time.Duration {
		switch r.IntN(4) {
		case 0:
			return 0
		case 1:
			return math.MaxInt64
		}
		return time.Duration(r.Int64N(int64(24 * time.Hour)))
	}
	for range 10_000 {
		delay := duration()
		err := []error{
			nil, errPlain, retry.Permanent(errPlain), limiter.ErrOverload, limiter.ErrUnavailable, limiter.ErrMisconfigured, context.DeadlineExceeded,
			retry.After(delay, errPlain), retry.After(delay, limiter.ErrOverload), queue.Postpone(delay, nil), queue.Attempted(1+r.IntN(20), errPlain),
		}[r.IntN(11)]
		f := judge.Facts{
			Run: 1 + r.IntN(40), Failures: r.IntN(40), Held: time.Duration(r.Int64N(int64(time.Hour))),
			InHand: time.Duration(r.Int64N(int64(12 * time.Hour))), Age: duration(), Ordered: flip(), LeaseLost: r.IntN(8) == 0, Interrupted: r.IntN(4) == 0,
			Draining: flip(), Outage: flip(), Guilt: judge.Guilt(r.IntN(3)),
		}
		p := judge.Policy{
			Retry:   retry.Policy{MaxAttempts: r.IntN(20) - 1, BaseDelay: min(duration(), time.Hour), MaxDelay: max(duration(), time.Hour)},
			MaxHold: time.Duration(r.Int64N(int64(time.Hour))), MaxOrdered: []time.Duration{0, 11 * time.Hour}[r.IntN(2)], GiveUp: judge.GiveUp, DeadLetters: flip(),
		}
		if flip() {
			worth := flip()
			p.Retry.Retryable = func(error) bool { return worth }
		}
		f.Result = read(err, p.Retry)
		v := judge.Judge(&p, &f)
		what := fmt.Sprintf("%+v of %+v by %+v", v, f, p)
		refused := f.Class != nil && !f.Permanent && !f.Postponed && f.Guilt != judge.Guilty

		require.GreaterOrEqual(t, v.Delay, time.Duration(0), what)
		require.LessOrEqual(t, v.Delay, judge.Longest, what)
		require.Equal(t, f.LeaseLost, v.Action == judge.Drop, what)
		require.Equal(t, !f.LeaseLost && f.Err == nil, v.Action == judge.Ack, what)
		switch v.Action {
		case judge.Ack, judge.Drop:
			require.Equal(t, judge.Verdict{Action: v.Action}, v, what)
		case judge.DeadLetter:
			require.True(t, p.DeadLetters && v.Failed && v.Reason != "" && v.Delay == 0, what)
			require.False(t, f.Interrupted && !f.Permanent, what)
			require.False(t, refused && f.Class != limiter.ErrUnavailable && f.Age < p.GiveUp, what)
			f.Guarded = true
			guarded := judge.Judge(&p, &f)
			require.Contains(t, []judge.Action{judge.Return, judge.Hold}, guarded.Action, what)
			require.True(t, guarded.Failed && guarded.Delay >= min(p.Retry.MaxDelay, judge.Longest), what)
		case judge.Hold:
			require.False(t, f.Draining || f.Interrupted && !f.Permanent && !f.Postponed, what)
			if f.Ordered && p.MaxOrdered > 0 {
				require.Less(t, f.InHand+v.Delay, p.MaxOrdered, what)
			} else {
				require.Less(t, f.Held+v.Delay, p.MaxHold, what)
			}
			require.True(t, f.Ordered || refused, what)
		case judge.Return:
		default:
			require.Fail(t, "no action", what)
		}
		if f.Postponed || f.Interrupted && !f.Permanent {
			require.False(t, v.Failed, what)
		}
		if after, ok := limiter.RetryAfter(f.Err); ok && (v.Action == judge.Hold || v.Action == judge.Return) && !f.Interrupted {
			require.GreaterOrEqual(t, v.Delay, min(after, judge.Longest), what)
		}
	}
}

// A badError has a method that panics; which one is its value.
type badError string

func (e badError) panics(method string) {
	if string(e) == method {
		panic(method)
	}
}

func (e badError) Error() string             { e.panics("Error"); return "bad" }
func (e badError) Is(error) bool             { e.panics("Is"); return false }
func (e badError) As(any) bool               { e.panics("As"); return false }
func (e badError) Unwrap() error             { e.panics("Unwrap"); return nil }
func (e badError) RetryAfter() time.Duration { e.panics("RetryAfter"); return time.Second }
func (e badError) Reason() string            { e.panics("Reason"); return "bad" }
func (e badError) Timeout() bool             { e.panics("Timeout"); return false }
func (e badError) Temporary() bool           { return false }

// Whichever method of an error panics, it does so while the error is read, and
// its message fails as it would by a panic of the handler.
func TestRead_ErrorThatPanics(t *testing.T) {
	for _, method := range []string{"Error", "Is", "As", "Unwrap", "RetryAfter", "Reason", "Timeout"} {
		for name, err := range map[string]error{"bare": badError(method), "wrapped": fmt.Errorf("call: %w", badError(method))} {
			t.Run(method+", "+name, func(t *testing.T) {
				if method == "Error" && name == "wrapped" {
					t.SkipNow() // fmt has called it
				}
				var panicked *queue.PanicError
				result := read(err, retry.Policy{})
				require.True(t, result.Panicked)
				require.ErrorAs(t, result.Err, &panicked)
				require.Contains(t, panicked.Error(), method)
				require.NotEmpty(t, panicked.Stack)
				p := newPolicy()
				v := judge.Judge(&p, &judge.Facts{Result: result, Run: 1})
				require.Equal(t, judge.Verdict{Action: judge.Return, Delay: time.Second, Failed: true}, v)
			})
		}
	}
	var typed *queue.DecodeError
	require.True(t, read(typed, retry.Policy{}).Panicked)
	require.Equal(t, judge.Result{}, read(nil, retry.Policy{}))
	require.Equal(t, judge.Result{Err: badError(""), Reason: "bad", Pause: time.Second}, read(badError(""), retry.Policy{}))
}
