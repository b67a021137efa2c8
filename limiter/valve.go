package limiter

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// A Valve lets everything pass while it is open, and nothing while it is
// closed. It is closed by hand, for a maintenance window or an incident, or by
// a schedule, such as the opening hours of a downstream. It is open only when
// both allow it.
//
// The zero Valve is open. The fields must not be changed once the valve is in
// use.
type Valve struct {
	// Name identifies the valve in Blocked. Default: none.
	Name string

	// Schedule, if set, returns until when the valve is closed at the time now,
	// which may be in the future. A result that is not after now means that it
	// is open. The valve calls it again at the time that it returned, so it may
	// return an early time when the real end is not known. It is called with the
	// valve locked: it must be quick, and must not use the valve.
	Schedule func(now time.Time) (closedUntil time.Time)

	mu     sync.Mutex // guards all below
	line   line.Line
	closed bool
	until  time.Time // closed by hand until then; zero: until Open is called
	why    error
}

var _ Limiter = (*Valve)(nil)

// errScheduled is the cause when the valve's schedule closes it.
var errScheduled = errors.New("closed by its schedule")

// Close closes the valve until [Valve.Open] is called. Operations in flight
// continue. Blocked returns why as the cause; it may be empty. A later call of
// Close or [Valve.CloseUntil] replaces it.
func (v *Valve) Close(why string) { v.set(true, time.Time{}, why) }

// CloseUntil is like [Valve.Close], but only until the given time. A time that
// has passed opens the valve.
func (v *Valve) CloseUntil(until time.Time, why string) { v.set(!until.IsZero(), until, why) }

// Open opens a valve that was closed by hand. A schedule may still close it.
func (v *Valve) Open() { v.set(false, time.Time{}, "") }

func (v *Valve) set(closed bool, until time.Time, why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed, v.until, v.why = closed, until, nil
	if why != "" {
		v.why = errors.New(why)
	}
	v.line.Stir()
}

// at returns what blocks at that time.
func (v *Valve) at(now time.Time) Block {
	block := Block{Until: now}
	if v.closed && (v.until.IsZero() || v.until.After(now)) {
		block = Block{Reason: ByValve, Name: v.Name, Until: v.until, Cause: v.why}
	}
	if v.Schedule != nil && !block.Until.IsZero() {
		if end := v.Schedule(now); end.After(block.Until) {
			block = Block{Reason: ByValve, Name: v.Name, Until: end, Cause: errScheduled}
		}
	}
	if block.Reason == "" {
		return Block{}
	}
	return block
}

// wait returns how long after now to check again, or 0 if the valve is open at
// now.
func (v *Valve) wait(now time.Time) time.Duration {
	switch block := v.at(now); {
	case block.Reason == "":
		return 0
	case block.Until.IsZero():
		return line.Never
	default:
		return block.Until.Sub(now)
	}
}

// Ready implements [Limiter]: max, if the valve is open at the end of the given
// time. So nothing is received that would find it closed.
func (v *Valve) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.line.Watch(ctx, &v.mu, max, func() (int, time.Duration) {
		if wait := v.wait(time.Now().Add(within)); wait > 0 {
			return 0, wait
		}
		return max, line.Never
	})
}

// Acquire implements [Limiter].
func (v *Valve) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return Permit{}, v.line.Join(ctx, &v.mu, func() (time.Duration, bool) {
		wait := v.wait(time.Now())
		return wait, wait == 0
	}, nil)
}

// TryAcquire implements [Limiter].
func (v *Valve) TryAcquire() (Permit, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Permit{}, v.line.Waiting() == 0 && v.wait(time.Now()) == 0
}

// Blocked implements [Limiter].
func (v *Valve) Blocked() Block {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at(time.Now())
}

// Idle reports whether the valve is as good as new, so that a [Keyed] may
// forget it: it is not closed by hand, and nobody waits.
func (v *Valve) Idle() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.line.Empty() && (!v.closed || !v.until.IsZero() && !v.until.After(time.Now()))
}
