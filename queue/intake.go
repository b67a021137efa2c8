package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
)

// nudgeIntake wakes the intake if there is something new to do. The caller
// holds mu. It is called for every message, so it is cheap, and does not wake
// the intake for what its timer will wake it for anyway.
func (e *engine) nudgeIntake(now time.Time) {
	p := e.plan(now)
	sooner := p.wait > 0 && (e.wakesAt.IsZero() || now.Add(p.wait).Before(e.wakesAt))
	if p.ask > 0 || sooner || e.draining || e.eof {
		e.wakeIntake.set()
	}
}

// limitsRecheck is how long the intake waits when all that the limits admit is
// spoken for, and nothing happens.
const limitsRecheck = time.Second

// intake is the loop that decides when to receive, and how much. It ends when
// the drain begins or the source has ended.
func (e *engine) intake() {
	timer := newTimer()
	var short time.Time // since when the limits have admitted less than is worth a call
	for {
		now := time.Now()
		e.mu.Lock()
		e.ripen(now)
		p := e.plan(now)
		if p.wanted < 1 {
			e.wantedSince = time.Time{}
		} else if e.wantedSince.IsZero() {
			e.wantedSince = now
		}
		e.wakesAt = time.Time{}
		if p.wait > 0 {
			e.wakesAt = now.Add(p.wait)
		}
		before := e.demand()
		until, why := e.blockedUntil(p), e.why
		stop := e.draining || e.eof
		e.mu.Unlock()
		if stop {
			return
		}
		if p.ask == 0 {
			block := limiter.Block{Reason: p.by, Until: until}
			switch p.by {
			case limiter.ByValve:
				block.Cause = why
			case ByHeld:
				block = outermost(block, e.limits.Blocked())
			}
			e.tell(block)
			if !e.wakeIntake.sleep(e.starts, timer, p.wait) {
				return
			}
			continue
		}

		if block := e.limits.Blocked(); block.Reason != "" {
			e.tell(block)
		}
		// What is in hand and due will take its permits first, so the limits are
		// asked for that and for what is wanted on top of it.
		n, err := e.limits.Ready(e.starts, before+p.ask, p.look.horizon)
		if e.starts.Err() != nil {
			return
		}
		if err != nil { // only a foreign limiter fails for another reason
			e.failed("ready", err, time.Second)
			if !sleep.For(e.starts, time.Second) {
				return
			}
			continue
		}

		now = time.Now()
		e.mu.Lock()
		e.ripen(now)
		p = e.plan(now)
		ask := min(p.ask, n-e.demand())
		if p.probe {
			ask = 1 // it takes turns with those that are held
		}
		wait := time.Duration(0)
		switch {
		case p.ask == 0: // something has changed meanwhile
			e.mu.Unlock()
			continue
		case ask < 1: // it is all for what is in hand or asked for
			short = time.Time{}
			wait = limitsRecheck
		case ask < min(p.ask, p.look.worth): // let it become more
			if short.IsZero() {
				short = now
			}
			wait = max(0, p.look.gather-now.Sub(short))
		}
		if wait > 0 {
			e.limited = true // a start or the end of a receive wakes us sooner
			e.mu.Unlock()
			if !e.wakeIntake.sleep(e.starts, timer, wait) {
				return
			}
			continue
		}
		if p.probe {
			e.nextFresh(now)
		}
		short, e.wantedSince = time.Time{}, time.Time{}
		call := e.ask(ask)
		failures, inFlight := e.failures, len(e.receiving)
		e.mu.Unlock()
		e.calling(func() { e.receive(call, failures, inFlight) })
	}
}
