// Package results has the errors by which handlers say more of a result than
// that it failed, for those who run handlers. Package queue makes them.
package results

import (
	"errors"
	"time"
)

// Postponed says that the message was not run, and is to come back after Delay.
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

// Unwrap returns the reason, which is no verdict.
func (e *Postponed) Unwrap() error { return e.Why }

// Attempted says how many attempts have failed, by a better count than the
// queue's receives.
type Attempted struct {
	Attempts int
	Err      error
}

func (e *Attempted) Error() string { return e.Err.Error() }

// Unwrap returns the failure.
func (e *Attempted) Unwrap() error { return e.Err }

// IsPostponed reports whether err says that the message was not run, and after
// how long it is to come back.
func IsPostponed(err error) (time.Duration, bool) {
	if err == nil {
		return 0, false // before there is a target, which costs an allocation
	}
	var p *Postponed
	if !errors.As(err, &p) {
		return 0, false
	}
	return p.Delay, true
}

// Attempts returns how many attempts had failed when a run of a message that was
// received so many times ended with err. 0: unknown.
func Attempts(receives int, err error) int {
	if a := (*Attempted)(nil); errors.As(err, &a) {
		return a.Attempts
	}
	return receives
}
