package queue

import (
	"context"
	"errors"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/limits"
)

// nudgeIntake wakes the intake if there is something new to do. The caller holds
// mu. It is called for every message, so it is cheap, and does not wake the
// intake early for work that its timer will wake it for anyway.
func (e *engine) nudgeIntake(now time.Time) {
	p := e.plan(now)
	sooner := p.wait > 0 && (e.wakesAt.IsZero() || now.Add(p.wait).Before(e.wakesAt))
	if p.ask > 0 || sooner || e.draining || e.eof {
		e.wakeIntake.set()
	}
}

// limitsRecheck is how long the intake waits, if nothing happens, when everything
// that the limits admit is already planned for.
const limitsRecheck = time.Second

// intake is the loop that decides when to receive, and how many messages. It ends
// when the drain begins or the source has ended.
func (e *engine) intake() {
	timer := newTimer()
	var short time.Time // since when the limits have admitted too few messages to be worth a call
	for {
		down := probing(e.limits)
		now := time.Now()
		e.mu.Lock()
		e.down = down
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
		before, asking := e.demand(), e.asking
		if asking.Err() != nil {
			e.asking, e.interrupt = context.WithCancel(e.starts)
			asking = e.asking
		}
		holds, only, permitAt := e.counted > 0, e.onlyAgain(), e.permitAt
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

		block := e.limits.Blocked()
		if block.Reason != "" {
			e.tell(block)
		}
		// Buffered messages that may start will take their permits first, so the
		// limits must admit those and the wanted ones on top.
		n, err := before+p.ask, error(nil)
		wait, ahead := time.Duration(0), false
		if only {
			if block.Reason == limiter.ByRate && !permitAt.IsZero() {
				block.Until = permitAt // when the dispatcher starts the next message: the limits report the start after that
			}
			wait, ahead = aheadOf(block, now.Add(p.look.horizon))
		}
		switch {
		case p.probe && down: // a probe takes its turn whenever the limits admit one
		case ahead && wait > 0:
			if !e.wakeIntake.sleep(e.starts, timer, min(wait, limitsRecheck)) {
				return
			}
			continue
		case ahead:
			n = before + 1 // it alternates with messages that have failed
		default:
			n, err = e.ready(asking, before+p.ask, p.look.horizon, holds)
		}
		if e.starts.Err() != nil {
			return
		}
		if err == errNotReady {
			continue
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
		if p.probe || ask < 1 && e.onlyAgain() {
			ask = 1 // it alternates with held messages
		}
		wait = 0
		switch {
		case p.ask == 0: // something has changed meanwhile
			e.mu.Unlock()
			continue
		case ask < 1: // all of it is for messages buffered or asked for
			short = time.Time{}
			wait = limitsRecheck
		case ask < min(p.ask, p.look.worth): // wait for more
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

// aheadOf reports whether a message may be received before a block ends, and
// after how long: so that the block is over when it arrives. It may not when the
// end is unknown, as in an outage.
func aheadOf(b limiter.Block, then time.Time) (wait time.Duration, ok bool) {
	switch {
	case b.Reason == "": // not blocked: the limits report how many may start
		return 0, false
	case b.Until.IsZero():
		return 0, !b.Reason.Outage()
	}
	return max(0, b.Until.Sub(then)), b.Reason == limiter.ByPause || !b.Reason.Outage()
}

// errNotReady means that the intake must check again whether there is an outage.
var errNotReady = errors.New("queue: not ready")

// ready waits until the limits admit messages, and returns how many could start.
// While messages are held it waits only briefly, and stops waiting when the first
// one is held: should the breaker open meanwhile, its probes are for the held
// messages.
func (e *engine) ready(ctx context.Context, most int, within time.Duration, holds bool) (int, error) {
	if holds {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, leastFresh)
		defer cancel()
	}
	n, err := e.limits.Ready(ctx, most, within)
	if err != nil && ctx.Err() != nil {
		return 0, errNotReady
	}
	return n, err
}

// probing reports whether the limits admit single probes.
func probing(limit limiter.Limiter) bool {
	return limits.Any(limit, func(b *limiter.Breaker) bool { return b.State() == limiter.Open }) ||
		limits.Any(limit, func(a *limiter.AdaptiveRate) bool { return a.Stats().Mode == limiter.PaceOutage })
}
