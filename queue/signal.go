package queue

import (
	"context"
	"time"
)

// A signal wakes one sleeper; setting it twice is setting it once.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// sleep waits for the signal, for d to pass (0: forever) or for ctx to end,
// and reports whether ctx is still alive.
func (s signal) sleep(ctx context.Context, t *time.Timer, d time.Duration) bool {
	var timeout <-chan time.Time
	if d > 0 {
		t.Reset(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-s:
	case <-timeout:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}

func newTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
