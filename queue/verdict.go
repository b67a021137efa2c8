package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/results"
)

// Postpone returns an error by which a handler says that it did not run the
// message, and that it is to be delivered again after d: a run of the same
// operation is under way elsewhere, say. The message is given back, hidden for
// d, and counts as [Released]: it has not failed, is never exhausted, and its
// limiters learn nothing and get their permits back. Each delivery costs a
// receive all the same, and counts towards the queue's own maximum of them. why
// is for the trace and may be nil; it does not count as a verdict. A negative d
// counts as 0.
func Postpone(d time.Duration, why error) error {
	return &results.Postponed{Delay: max(d, 0), Why: why}
}

// Attempted returns err with the number of attempts that its message has failed
// in, this one included, as somebody knows who counts better than the queue:
// the queue counts receives, and crashes, drains and postponements are among
// them. Backoff and exhaustion go by n then. An n below 1 counts as 1.
// Attempted(n, nil) is nil.
func Attempted(n int, err error) error {
	if err == nil {
		return nil
	}
	return &results.Attempted{Attempts: max(n, 1), Err: err}
}
