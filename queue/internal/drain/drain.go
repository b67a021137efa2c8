// Package drain tells a consumer, by the cause with which its Run's context is
// ended, until when the drain may let handlers run. It is for hosts that know
// that only when the drain begins.
package drain

import (
	"context"
	"errors"
	"time"
)

// Until is the cause: handlers may run until Time, and the consumer's
// DrainTimeout does not count.
type Until struct{ Time time.Time }

// Error says what the cause is about.
func (u *Until) Error() string { return "drain until " + u.Time.Format(time.RFC3339Nano) }

// Timeout returns how long the drain of a Run whose context is ctx, which has
// ended, may take from now on: otherwise, unless the cause says something else.
func Timeout(ctx context.Context, otherwise time.Duration) time.Duration {
	var u *Until
	if errors.As(context.Cause(ctx), &u) {
		return max(time.Until(u.Time), 0)
	}
	return otherwise
}
