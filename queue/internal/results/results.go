// Package results has the errors with which handlers report more than that a run
// failed, for code that runs handlers. Package queue makes them.
package results

import (
	"errors"
	"time"
)

// Postponed means that the message was not run, and must be delivered again after
// Delay.
type Postponed struct {
	Delay time.Duration
	Why   error // may be nil
}

func (e *Postponed) Error() string {
	text := "queue: postponed for " + e.Delay.String()
	if e.Why != nil {
		text += ": " + e.Why.Error()
	}
	return text
}

// Unwrap returns the reason, which does not affect the result.
func (e *Postponed) Unwrap() error { return e.Why }

// Attempted has the number of failed attempts, by a better count than the queue's
// receives.
type Attempted struct {
	Attempts int
	Err      error
}

func (e *Attempted) Error() string { return e.Err.Error() }

// Unwrap returns the failure.
func (e *Attempted) Unwrap() error { return e.Err }

// IsPostponed reports whether err means that the message was not run, and returns
// after how long it must be delivered again.
func IsPostponed(err error) (time.Duration, bool) {
	if err == nil {
		return 0, false // before the target of errors.As is allocated
	}
	var p *Postponed
	if !errors.As(err, &p) {
		return 0, false
	}
	return p.Delay, true
}

// Attempts returns how many attempts had failed when a run ended with err, for a
// message that was received that many times. 0: unknown.
func Attempts(receives int, err error) int {
	if a := (*Attempted)(nil); errors.As(err, &a) {
		return a.Attempts
	}
	return receives
}
