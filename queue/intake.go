package queue

import (
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
)

// A plan says what the intake would do now: ask for so many messages, or wait,
// and why.
type plan struct {
	wanted int // messages that are wanted
	ask    int
	by     limiter.Reason // what blocks receiving; "" if nothing does
	until  time.Time      // until when, if that is known
	wait   time.Duration  // look again after this; 0: when something changes
	look   outlook
	probe  bool // it is to see whether fresh messages succeed
}

// plan decides whether a receive is due, by everything but the limits. The
// caller holds mu.
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
	case e.counted > 0 && e.counted >= e.heldMost():
		// As many are held as may be. One fresh message now and then shows whether
		// it is they that fail, and not everything.
		if e.count[queued]-e.parked+e.asked > 0 {
			return plan{by: ByHeld}
		}
		if e.freshAt.After(now) {
			return plan{by: ByHeld, wait: in(e.freshAt)}
		}
		return plan{wanted: 1, ask: 1, look: look, probe: true}
	case e.crowded() > e.maxParked():
		return plan{by: ByParked, wait: longParked}
	case len(e.receiving) >= e.ladder.allowed():
		return plan{}
	}
	wanted := slots + ahead - e.count[running] - e.demand()
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

// starving reports whether slots wait for receives: there is nothing in hand for
// them, not even what may not start yet, or again. The caller holds mu.
func (e *engine) starving() bool { return e.inHand()-e.apart < e.slots() }

// blockedUntil is until when the plan's reason lasts, as far as that is known.
// plan itself does not look through all that is held: it is called for every
// message. The caller holds mu.
func (e *engine) blockedUntil(p plan) time.Time {
	switch p.by {
	case ByHeld:
		return e.firstDue()
	case ByParked:
		if l, ok := e.crowds.top(); ok && !l.until.IsZero() {
			return l.until // of the lane that has most
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

// outermost is what to report of what the consumer itself waits for and of what
// its limits report: an outage is why it holds messages, and comes first.
func outermost(own, limits limiter.Block) limiter.Block {
	if limits.Reason.Outage() && (own.Reason == ByHeld || own.Reason == BySlots || own.Reason == ByParked) {
		return limits
	}
	return own
}

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

// receive makes one call and takes in what it brings. failures is how many had
// failed in a row when it was decided, and inFlight how many were in flight, this
// one included.
func (e *engine) receive(p *poll, failures, inFlight int) {
	n := p.asked
	if e.until.Err() != nil { // since it was decided
		e.mu.Lock()
		e.answered(p)
		e.changed(time.Now())
		e.unlock()
		return
	}
	e.tell(limiter.Block{})
	began := time.Now()
	msgs, err := e.src.Receive(e.polls, ReceiveOptions{Max: n, Lease: e.cfg.Lease, Wait: e.cfg.pollWait(), Stop: e.starts.Done()})
	now := time.Now()
	took := now.Sub(began)
	live := msgs[:0]
	for _, m := range msgs {
		if m != nil {
			live = append(live, m)
		}
	}
	call(e.cfg.Trace.Received, ReceivedInfo{Asked: n, Messages: live, Took: took, Err: err})

	own, errs := make([]limiter.Limiter, len(live)), make([]error, len(live))
	for i, m := range live {
		own[i], errs[i] = e.limiterOf(m)
	}

	e.mu.Lock()
	e.answered(p)
	e.stats.ReceiveCalls++
	deliveries := make([]delivery, len(live))
	fresh := 0
	for i, m := range live {
		d := &deliveries[i]
		if e.accept(d, m, own[i], now) {
			fresh++
		}
		if errs[i] != nil && (d.state == queued || d.state == behind) {
			e.refuse(d, errs[i], now)
		}
	}
	if e.paused {
		for e.releaseUnstarted(now) { // it is of a few messages: one call
		}
	}
	e.shed(now)
	var retryIn time.Duration
	failed := false
	switch {
	case err == io.EOF: // as it is: wrapped, it is a connection that broke
		e.eof = true
		e.wakeFlush.set()
	case err != nil && (e.draining || e.polls.Err() != nil):
		// The drain has ended it.
	case err != nil:
		failed = true
		retryIn = e.backOff(now, failures)
		if !e.everWorked && errors.Is(err, limiter.ErrMisconfigured) && e.fatal == nil {
			e.fatal = err
			if !e.isFinished {
				e.isFinished = true
				close(e.finished)
			}
		}
	case fresh == 0:
		if len(live) == 0 {
			e.stats.EmptyReceives++
		}
		e.everWorked = true
		e.ladder.restart()
		e.failures, e.receiveAt = 0, time.Time{}
		if took < minPoll && !e.draining {
			e.idle(now)
		}
	default:
		e.everWorked = true
		e.failures, e.idles, e.receiveAt = 0, 0, time.Time{}
		e.pace.received(took, n > 1 && len(live) >= n)
		e.ladder.landed(now, arrival{
			asked: n, got: len(live), took: took, began: inFlight, inFlight: len(e.receiving) + 1,
			slots: e.capacity, look: e.pace.outlook(now, e.capacity),
		})
	}
	for e.draining && e.releaseWaiting(now) {
	}
	e.wakeDispatch.set()
	e.wakeIntake.set()
	e.changed(now)
	e.unlock()
	if failed {
		e.failed("receive", err, retryIn)
	}
	if err := errors.Join(errs...); err != nil {
		e.failed("choose limiter", err, 0)
	}
}

// refuse gives back a message that can't be run, since nobody can tell under
// which limiter. The caller holds mu.
func (e *engine) refuse(d *delivery, err error, now time.Time) {
	d.err = err
	// Full jitter may draw nothing, and this costs a receive each time.
	delay := max(e.cfg.Retry.Backoff(d.msg.Attempt), minRefusal)
	e.returnGroup(d, now)
	e.settle(d, settlement{op: opNack, delay: delay, outcome: Retried}, now)
}

const (
	limitsRecheck = time.Second // when all that the limits admit is spoken for, and nothing happens

	minRefusal = time.Second // before a message whose limiter nobody can tell is received again

	minPoll     = 50 * time.Millisecond // a receive that brings nothing new sooner than this does not wait for it
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 20 * time.Second
	shortPoll   = 20 * time.Millisecond // first pause after a receive of a source that does not wait
	longestIdle = time.Second           // and the longest
)

// backOff notes a failed receive and returns how long the next one waits. One
// failure among successes costs nothing but its own call, and half of the
// parallel receives; receives that fail one after the other wait longer and
// longer. The caller holds mu.
func (e *engine) backOff(now time.Time, before int) time.Duration {
	e.ladder.halve()
	if before != e.failures {
		return max(0, e.receiveAt.Sub(now)) // began before the last failure, and met the same trouble
	}
	e.failures++
	if e.failures == 1 {
		return 0
	}
	e.ladder.restart()
	d := maxBackoff
	if n := e.failures - 2; n < 10 {
		d = min(d, minBackoff<<n)
	}
	d = d/2 + rand.N(d/2+1)
	e.receiveAt = now.Add(d)
	return d
}

// idle slows down on a source that returns at once when it has nothing new. The
// caller holds mu.
func (e *engine) idle(now time.Time) {
	e.idles = min(e.idles+1, 10)
	e.receiveAt = now.Add(min(longestIdle, shortPoll<<(e.idles-1)))
}
