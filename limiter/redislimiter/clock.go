package redislimiter

import "time"

// drift is how fast two clocks may diverge: NTP corrects a clock by up to 500
// ppm, and quartz is off by less.
const drift = 500e-6

// A clock tracks the store's time, within bounds, relative to this process's
// monotonic clock.
//
// A call sent at local time x and answered at y with the store's time T shows
// that the store's clock is ahead of ours by at least T - y and at most T - x,
// since the store read T somewhere in between. Every call narrows the bounds and
// drift widens them. Bounds that contradict each other mean that the store's
// clock was set, so that only the last call counts.
type clock struct {
	at     time.Duration // when the bounds were valid
	lo, hi time.Duration // how far the store's clock was ahead then
	known  bool
}

// hear narrows the bounds by a call's answer. now is truncated to
// microseconds.
func (c *clock) hear(sent, got time.Duration, now int64) {
	t := time.Duration(now) * time.Microsecond
	lo, hi := t-got, t+time.Microsecond-sent
	if c.known {
		wide := time.Duration(float64(got-c.at) * drift)
		oldLo, oldHi := c.lo-wide, c.hi+wide
		if l, h := max(lo, oldLo), min(hi, oldHi); l <= h {
			lo, hi = l, h
		}
	}
	*c = clock{at: got, lo: lo, hi: hi, known: true}
}

// after returns the local time at which the store's clock has certainly
// reached t.
func (c *clock) after(t int64) time.Duration { return time.Duration(t)*time.Microsecond - c.lo }

// before returns the local time until which the store's clock has certainly
// not passed t.
func (c *clock) before(t int64) time.Duration { return time.Duration(t)*time.Microsecond - c.hi }

// store returns the store's time at a local time, roughly.
func (c *clock) store(at time.Duration) int64 { return int64((at + c.lo) / time.Microsecond) }

// width returns how far apart the bounds are.
func (c *clock) width() time.Duration { return c.hi - c.lo }
