package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/results"
)

// Postpone returns an error for a handler that did not run the message because it
// should be delivered again after d: for example, because another run of the same
// operation is under way elsewhere. The message is returned, hidden for d, and
// counts as [Released]: it has not failed, is never exhausted, and its limiters
// learn nothing and get their permits back. Each delivery still costs a receive,
// and counts towards the queue's own maximum. why is for the trace and may be
// nil; it does not affect the result. A negative d counts as 0.
func Postpone(d time.Duration, why error) error {
	return &results.Postponed{Delay: max(d, 0), Why: why}
}

// Attempted wraps err with the number of failed attempts of its message,
// including this one, for handlers that keep a better count than the queue's: the
// queue counts receives, and crashes, drains and postponements are among them.
// Backoff and exhaustion then use n. An n below 1 counts as 1. Attempted(n, nil)
// is nil.
func Attempted(n int, err error) error {
	if err == nil {
		return nil
	}
	return &results.Attempted{Attempts: max(n, 1), Err: err}
}
