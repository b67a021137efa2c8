package judge

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/results"
	"github.com/rampmeter/rampmeter/retry"
)

// A Result is what a handler's error says.
type Result struct {
	Err       error
	Class     error         // limiter.ErrOverload, ErrUnavailable or ErrMisconfigured; nil for none of them
	Permanent bool          // it will never succeed, for Reason
	Reason    string        // for the dead-letter record
	Postponed bool          // the handler did not run the message
	Delay     time.Duration // Postponed: for how long
	Attempts  int           // failed attempts by the handler's own count, this one included; 0: it has none
	Pause     time.Duration // its Retry-After
	Final     bool          // the policy says that it is not worth another attempt
	Panicked  bool          // the handler did not return
}

// Read reads a handler's error. Everything that is ever asked of the error, and of
// the policy about it, is asked here first, so that an error whose methods panic (a
// nil pointer in an error, as a rule) fails its own message and nothing else: then
// the result's error is the one that panicked makes of the panic.
func Read(err error, policy retry.Policy, panicked func(v any, stack []byte) error) (r Result) {
	if err == nil {
		return Result{}
	}
	defer func() {
		if v := recover(); v != nil {
			made := panicked(fmt.Sprintf("the error that the handler returned, a %T, panicked when it was read: %v", err, v), debug.Stack())
			r = Result{Err: made, Reason: retry.Reason(made), Panicked: true}
		}
	}()
	r = Result{Err: err, Class: limiter.Classify(err), Permanent: errors.Is(err, retry.ErrPermanent), Reason: retry.Reason(err)}
	r.Delay, r.Postponed = results.IsPostponed(err)
	r.Attempts = results.Attempts(0, err)
	r.Pause, _ = limiter.RetryAfter(err)
	r.Final = policy.Retryable != nil && !policy.Retryable(err)
	_ = errors.Is(err, context.Canceled)
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) {
		_ = timeout.Timeout()
	}
	_ = err.Error()
	return r
}
