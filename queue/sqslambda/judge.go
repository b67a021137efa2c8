package sqslambda

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/results"
	"github.com/rampmeter/rampmeter/retry"
)

// Handle is what the engine calls: it runs the handler, and says what its
// result means here, where each delivery counts and a process may be new.
func (inv *invocation) Handle(ctx context.Context, m *queue.Message) error {
	r := inv.source.index[m.ID]
	if r.nameless {
		m.ID = ""
	}
	if !inv.end.IsZero() {
		ctx = &limited{Context: ctx, end: inv.end}
	}
	began := time.Now()
	err := inv.call(ctx, m)
	now := time.Now()
	overran := err != nil && ctx.Err() != nil
	if overran && limiter.Classify(err) == nil && errors.Is(err, context.Canceled) {
		err = &overrun{err} // of a context derived from ours
	}
	if err == nil || overran {
		inv.took(now.Sub(began))
	}
	return inv.judge(r, err, overran, now)
}

// A limited context tells when the engine will end it: one with a timer of its
// own is a third of what a message costs.
type limited struct {
	context.Context
	end time.Time
}

func (c *limited) Deadline() (time.Time, bool) { return c.end, true }

func (c *limited) Err() error {
	if context.Cause(c.Context) == queue.ErrDrainTimeout {
		return context.DeadlineExceeded
	}
	return c.Context.Err()
}

// An overrun is the error of a handler that had no more time. It counts as one
// of the far side, as the errors of all timeouts do.
type overrun struct{ err error }

func (e *overrun) Error() string {
	return "sqslambda: ended by the function's deadline: " + e.err.Error()
}
func (e *overrun) Unwrap() error { return e.err }
func (e *overrun) Is(target error) bool {
	return target == context.DeadlineExceeded || target == limiter.ErrUnavailable
}

// call makes a panic an error, or the engine would try its message for ever.
func (inv *invocation) call(ctx context.Context, m *queue.Message) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p := &queue.PanicError{Value: v, Stack: debug.Stack()}
			inv.cfg.Logger.Error("sqslambda: handler panicked", "function", inv.name, "message", m.ID,
				"panic", fmt.Sprint(v), "stack", string(p.Stack))
			err = p
		}
	}()
	return inv.handler.Handle(ctx, m)
}

// took notes how long a handler took.
func (inv *invocation) took(d time.Duration) {
	inv.lately.add(d)
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.runs++
	inv.ran += d
	if inv.latest != nil && inv.stopped == goingOn {
		inv.latest.Reset(time.Until(inv.latestStart()))
	}
}

// judge returns the error that makes the engine do what err means. A message
// that fails because the far side can't be reached is not its own fault, however
// often it did, unless others succeed.
func (inv *invocation) judge(r *record, err error, overran bool, now time.Time) error {
	if err == nil {
		inv.health.succeeded(now)
		inv.guard.normal()
		return nil
	}
	if _, ok := results.IsPostponed(err); ok {
		inv.source.note(r, func(r *record) { r.judged, r.outage, r.overran = true, false, false })
		return err // it was not run: nothing is learned from it
	}
	class := limiter.Classify(err)
	attempts := max(results.Attempts(r.msg.Attempt, err), 1)
	permanent := errors.Is(err, retry.ErrPermanent)
	blameless, outage := false, false
	switch {
	case permanent:
	case class == limiter.ErrOverload, class == limiter.ErrMisconfigured:
		blameless, outage = true, true
	case class == limiter.ErrUnavailable:
		blameless = !inv.health.failed(now) || limiter.Tripped(inv.limits)
		outage = blameless || r.msg.Attempt > 1
	}
	inv.source.note(r, func(r *record) { r.judged, r.outage, r.overran = true, outage, overran })

	policy := inv.cfg.Retry.WithDefaults()
	switch {
	case permanent:
	case blameless:
		return err
	case policy.Retryable != nil && !policy.Retryable(err):
		err = retry.Permanent(err)
	case policy.MaxAttempts > 0 && attempts >= policy.MaxAttempts:
		err = retry.Permanent(&retry.Error{Attempts: attempts, Cause: retry.ErrExhausted, Err: err})
	default:
		return err
	}
	allowed, tripped := inv.guard.dead()
	if tripped {
		inv.cfg.Logger.Error("sqslambda: dead-letter guard: more than half of the last results would be dead-lettered, "+
			"which points at this program rather than at the messages; the hand-off stops, and batches are returned at their first failure",
			"function", inv.name)
	}
	if allowed {
		return err
	}
	inv.stop(guarding)
	return &guarded{err: err, class: class, after: policy.MaxDelay}
}

// A guarded error was to end in a dead letter, and must not.
type guarded struct {
	err   error
	class error // of err, for the breaker
	after time.Duration
}

func (e *guarded) Error() string             { return "sqslambda: dead-letter guard: " + e.err.Error() }
func (e *guarded) Is(target error) bool      { return e.class != nil && target == e.class }
func (e *guarded) RetryAfter() time.Duration { return e.after }

// lately knows how long handlers took of late.
type lately struct {
	mu sync.Mutex // guards d
	d  time.Duration
}

// long returns how long a handler takes, if it takes long.
func (l *lately) long() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.d
}

// add takes the longest, and forgets it by an eighth with every shorter one.
func (l *lately) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.d = max(d, l.d-(l.d-d)/8)
}

const (
	healthAge    = 30 * time.Second // how long a success says that the far side is well
	healthMisses = 3                // unless it could not be reached so often since
)

// health knows how the far side was when it was last called. A process that has
// just started, or was frozen, knows nothing.
type health struct {
	mu     sync.Mutex // guards all below
	last   time.Time  // success
	misses int        // since then
}

func (h *health) succeeded(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.misses = now, 0
}

// failed notes that the far side could not be reached, and reports whether it is
// well for all that.
func (h *health) failed(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.misses++
	return !h.last.IsZero() && now.Sub(h.last) <= healthAge && h.misses < healthMisses
}
