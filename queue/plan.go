package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// A plan is what the intake would do now: ask for some messages, or wait, and
// why.
type plan struct {
	wanted int // messages that are wanted
	ask    int
	by     limiter.Reason // what blocks receiving; "" if nothing does
	until  time.Time      // until when, if that is known
	wait   time.Duration  // look again after this; 0: when something changes
	look   outlook
	probe  bool // the receive tests whether fresh messages succeed
}

// plan decides whether to receive, by everything except the limits. The caller
// holds mu.
func (e *engine) plan(now time.Time) plan {
	in := func(t time.Time) time.Duration { return max(t.Sub(now), time.Microsecond) }
	slots, look := e.slots(), e.pace.outlook(now, e.capacity)
	ahead := look.limited
	switch {
	case e.count[running] >= slots:
		ahead = look.lookAhead
	case e.starving():
		ahead = look.starved
	}
	if e.cfg.NoLookAhead {
		ahead = 0
		look.worth = min(look.worth, max(slots, 1)) // more is never wanted
		look.gather = min(look.gather, gatherTime)  // the slots are empty meanwhile
	}
	switch {
	case e.draining || e.eof || e.fatal != nil || e.until.Err() != nil:
		return plan{by: ByDrain}
	case e.paused:
		return plan{by: limiter.ByValve}
	case e.receiveAt.After(now):
		return plan{by: ByErrors, until: e.receiveAt, wait: in(e.receiveAt)}
	case e.unsettled() >= e.maxUnsettled():
		return plan{by: ByUnsettled, wait: longUnsettled}
	case e.counted > 0 && (e.down || e.counted >= e.heldMost()):
		// The limit of held messages is reached, or they would take every probe.
		// One fresh message now and then shows whether only they fail, or
		// everything.
		if soon := e.freshAt.After(now); soon || e.count[queued]-e.parked+e.asked > 0 {
			wait := time.Duration(0)
			if soon {
				wait = in(e.freshAt)
			}
			if e.down && (wait == 0 || wait > limitsRecheck) {
				wait = limitsRecheck // nothing else reports the end of the outage
			}
			return plan{by: ByHeld, wait: wait}
		}
		return plan{wanted: 1, ask: 1, look: look, probe: true}
	case e.crowded() > e.maxParked():
		return plan{by: ByParked, wait: longParked}
	case len(e.receiving) >= e.ladder.allowed():
		return plan{}
	}
	wanted := slots + ahead - e.count[running] - e.demand()
	if e.onlyAgain() {
		wanted = max(wanted, 1)
	}
	if wanted < 1 {
		return plan{by: BySlots}
	}
	since := e.wantedSince
	if since.IsZero() {
		since = now
	}
	if ripe := since.Add(look.gather); wanted < look.worth && ripe.After(now) {
		return plan{wanted: wanted, wait: in(ripe)} // more slots will come free for the same call
	}
	return plan{wanted: wanted, ask: min(wanted, batchSize), look: look}
}

// starving reports whether slots wait for receives: no message is buffered for
// them, not even one that may not start yet, or again. The caller holds mu.
func (e *engine) starving() bool { return e.inHand()-e.apart < e.slots() }

// blockedUntil is until when the plan's reason holds, as far as that is known.
// plan itself does not look it up, since it is called for every message. The
// caller holds mu.
func (e *engine) blockedUntil(p plan) time.Time {
	switch p.by {
	case ByHeld:
		return e.firstDue()
	case ByParked:
		if l, ok := e.crowds.top(); ok && !l.until.IsZero() {
			return l.until // of the lane with the most spares
		}
		return e.firstDue()
	}
	return p.until
}

// firstDue is when the next held delivery may start; zero if there is none. The
// caller holds mu.
func (e *engine) firstDue() time.Time {
	if d, ok := e.holds.top(); ok {
		return d.due
	}
	return time.Time{}
}

// outermost chooses between the consumer's own block and that of its limits: an
// outage is the reason why messages are held, and comes first.
func outermost(own, limits limiter.Block) limiter.Block {
	if limits.Reason.Outage() && (own.Reason == ByHeld || own.Reason == BySlots || own.Reason == ByParked) {
		return limits
	}
	return own
}
