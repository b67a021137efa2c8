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

// A Result is the content of a handler's error.
type Result struct {
	Err       error
	Class     error         // limiter.ErrOverload, ErrUnavailable or ErrMisconfigured; nil for none of them
	Permanent bool          // the message will never succeed, for Reason
	Reason    string        // for the dead-letter record
	Postponed bool          // the handler did not run the message
	Delay     time.Duration // for how long, if Postponed
	Attempts  int           // failed attempts by the handler's own count, this one included; 0: it has none
	Pause     time.Duration // its Retry-After
	Final     bool          // the policy rules out another attempt
	Panicked  bool          // the handler did not return
}

// Read reads a handler's error. Every method of the error, and of the policy
// about it, that is called anywhere is called here first, so that an error whose
// methods panic (typically a nil pointer in an error) fails its own message and
// nothing else: then the result's error is the one that panicked makes of the
// panic.
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
