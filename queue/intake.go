package queue

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// A plan says what the intake would do now: ask for so many messages, or wait,
// and why.
type plan struct {
	wanted int // messages that are wanted
	ask    int
	by     string        // what blocks receiving; "" if nothing does
	until  time.Time     // until when, if that is known
	wait   time.Duration // look again after this; 0: when something changes
	look   outlook
}

// plan decides whether a receive is due, by everything but the limits. The
// caller holds mu.
func (e *engine) plan(now time.Time) plan {
	in := func(t time.Time) time.Duration { return max(t.Sub(now), time.Microsecond) }
	slots, look := e.slots(), e.pace.outlook(now, e.cfg.Concurrency)
	ahead := look.limited
	switch {
	case e.counts[running] >= slots:
		ahead = look.lookAhead
	case e.starving():
		ahead = look.starved
	}
	if e.cfg.NoLookAhead || e.guard.tripped {
		ahead = 0
		look.worth = min(look.worth, max(slots, 1)) // more is never wanted
	}
	switch {
	case e.draining || e.eof || e.fatal != nil:
		return plan{by: ByDrain}
	case e.receiveAt.After(now):
		return plan{by: ByErrors, until: e.receiveAt, wait: in(e.receiveAt)}
	case e.guard.tripped && e.guard.probeAt.After(now):
		return plan{by: ByGuard, until: e.guard.probeAt, wait: in(e.guard.probeAt)}
	case e.unsettled() >= e.maxUnsettled():
		return plan{by: ByUnsettled, wait: longUnsettled}
	case e.counts[held] > e.apart && e.counts[held]-e.apart >= e.heldLimit:
		return plan{by: ByHeld}
	case e.crowded() > e.maxParked():
		return plan{by: ByParked, wait: longParked}
	case e.nPolls >= e.ladder.allowed():
		return plan{}
	}
	wanted := slots + ahead - e.counts[running] - e.demand(now)
	if wanted < 1 {
		by := BySlots
		if e.guard.tripped {
			by = ByGuard
		}
		return plan{by: by}
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
		first := e.firstDue()
		for _, l := range e.lanes {
			if l.aside && !l.until.IsZero() && (first.IsZero() || l.until.Before(first)) {
				first = l.until
			}
		}
		return first
	}
	return p.until
}

// firstDue is when the first of the held deliveries may start, if its lane does
// not stand aside; zero if there is none. The caller holds mu.
func (e *engine) firstDue() (t time.Time) {
	for _, d := range e.holds {
		if !d.lane.aside && (t.IsZero() || d.due.Before(t)) {
			t = d.due
		}
	}
	return t
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
		before := e.demand(now)
		until := e.blockedUntil(p)
		stop := e.draining || e.eof
		e.mu.Unlock()
		if stop {
			return
		}
		if p.ask == 0 {
			e.tell(p.by, until)
			if !e.wakeIntake.sleep(e.starts, timer, p.wait) {
				return
			}
			continue
		}

		if by, until := e.limits.Blocked(); by != "" {
			e.tell(by, until)
		}
		// What is in hand and due will take its permits first, so the limits are
		// asked for that and for what is wanted on top of it.
		n, err := e.limits.Ready(e.starts, before+p.ask, p.look.horizon)
		if e.starts.Err() != nil {
			return
		}
		if err != nil { // only a foreign limiter fails for another reason
			e.failed("ready", err, time.Second)
			if !sleep(e.starts, time.Second) {
				return
			}
			continue
		}

		now = time.Now()
		e.mu.Lock()
		p = e.plan(now)
		ask := min(p.ask, n-e.demand(now))
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
		short, e.wantedSince = time.Time{}, time.Time{}
		e.asked += ask
		e.nPolls++
		failures, inFlight := e.failures, e.nPolls
		e.mu.Unlock()
		e.calling(func() { e.receive(ask, failures, inFlight) })
	}
}

// receive makes one call for up to n messages and takes in what it brings.
// failures is how many had failed in a row when it was decided, and inFlight how
// many are in flight, this one included.
func (e *engine) receive(n, failures, inFlight int) {
	e.tell("", time.Time{})
	began := time.Now()
	msgs, err := e.src.Receive(e.polls, ReceiveOptions{Max: n, Lease: e.cfg.Lease, Wait: e.cfg.pollWait()})
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
	e.nPolls--
	e.asked -= n
	e.stats.ReceiveCalls++
	deliveries := make([]delivery, len(live))
	fresh := 0
	for i, m := range live {
		d := &deliveries[i]
		if e.accept(d, m, own[i], now) {
			fresh++
		}
		if errs[i] != nil && d.state == waiting {
			e.refuse(d, errs[i], now)
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
			asked: n, got: len(live), took: took, began: inFlight, inFlight: e.nPolls + 1,
			slots: e.cfg.Concurrency, look: e.pace.outlook(now, e.cfg.Concurrency),
		})
	}
	if e.draining {
		e.releaseWaiting(now)
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
	longUnsettled = time.Second      // results that wait for so long are worth a line in the log
	longParked    = 10 * time.Second // and so are messages that wait for their own limiters, and keep others waiting

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

// tell reports a change of what blocks receiving to Trace and log.
func (e *engine) tell(by string, until time.Time) {
	now := time.Now()
	e.mu.Lock()
	was, since, warned := e.blockedBy, e.blockedAt, e.warned
	news := by != was
	warn := worthALine(by) && !warned
	switch by { // what is so for a moment now and then
	case ByUnsettled:
		warn = warn && !news && now.Sub(since) >= longUnsettled
	case ByParked:
		warn = warn && !news && now.Sub(since) >= longParked
	}
	if !news && !warn || by != "" && by != ByDrain && e.nPolls > 0 {
		e.mu.Unlock()
		return
	}
	if news {
		e.blockedBy, e.blockedAt = by, now
	}
	e.mu.Unlock()
	// Probing an open breaker unblocks for a moment; that is not worth a line.
	again := by == "" && warned && !limiter.Tripped(e.limits)
	if warn || again {
		e.mu.Lock()
		e.warned = warn
		e.mu.Unlock()
	}
	if news && was != "" {
		call(e.cfg.Trace.Unblocked, UnblockedInfo{By: was, After: now.Sub(since)})
	}
	if news && by != "" {
		call(e.cfg.Trace.Blocked, BlockedInfo{By: by, Until: until})
	}
	switch {
	case warn && until.IsZero():
		e.cfg.Logger.Warn("queue: receiving nothing", "consumer", e.cfg.Name, "blocked_by", by)
	case warn:
		e.cfg.Logger.Warn("queue: receiving nothing", "consumer", e.cfg.Name, "blocked_by", by, "until", until)
	case again:
		e.cfg.Logger.Info("queue: receiving again", "consumer", e.cfg.Name)
	}
}

// worthALine tells trouble from the ordinary working of limits.
func worthALine(by string) bool {
	return strings.HasPrefix(by, limiter.ByBreaker) || by == ByHeld || by == ByParked || by == ByUnsettled || by == ByGuard
}

// failed reports a call that failed and will be tried again.
func (e *engine) failed(op string, err error, retryIn time.Duration) {
	e.mu.Lock()
	e.stats.Errors++
	e.mu.Unlock()
	call(e.cfg.Trace.Error, ErrorInfo{Op: op, Err: err, RetryIn: retryIn})
	e.cfg.Logger.LogAttrs(context.Background(), levelOf(err), "queue: "+op+" failed", attrs(e.cfg.Name, err, retryIn)...)
}
