package queue

import (
	"context"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// The life of a delivery:
//
//	            +-------------------------- held <-+
//	            v                                  |
//	waiting -> running -> (the result) ------------+
//	  |                      |     |
//	  |                      |     +-> handing over -+   to the dead-letter sink
//	  |                      v                       v
//	  +--------------------> settling ------------> ended
//
// Held deliveries are settled, too, when they were held too long or the drain
// begins; and any delivery but a settling one ends when its lease is lost.
//
// A delivery is in hand while waiting, running or held: its lease is extended.
// It is unsettled while handing over (still extended) or settling (no longer).
type state uint8

const (
	waiting state = iota
	running
	held
	handing
	settling
	ended
)

// A delivery is one message as the engine sees it, from its receive to its
// outcome. Its fields are guarded by Consumer.mu.
type delivery struct {
	msg   *Message // as received: replaced by a newer delivery of the same message, never changed
	state state
	place int // index in engine.all

	number int64  // counts deliveries, in the order of arrival
	group  string // the ordered group that it is in; "" if it is in none
	lane   *lane

	since    time.Time // waiting: since when
	behind   bool      // waiting: for the first of its group to be done
	queued   bool      // waiting: in its lane's line
	runs     int       // handlers started, in this delivery
	cancel   context.CancelCauseFunc
	lost     bool // the lease ended while the handler ran, or the hand-over was under way
	orphaned bool // Run has returned: the handler's goroutine is on its own
	err      error

	heldSince time.Time // since the first run that ran into trouble at the far side
	due       time.Time // held: not before
	apart     bool      // held: because of trouble of its own lane

	leaseUntil time.Time // zero: no lease
	extendAt   time.Time
	extending  bool

	settle   settlement // settling: how
	receipt  string     // settling: the receipt that the call under way uses
	tries    int        // settling: calls that failed
	retryAt  time.Time  // settling: after a failed call, not before
	resettle bool       // settling: superseded while a call was under way
	again    bool       // was superseded
}

// An engine is one Run of a consumer. Consumer.mu guards its fields below the
// line. Its contexts say what ends when: starts when the drain begins, polls
// when its time is over, calls when Run gives up.
type engine struct {
	*Consumer
	until    context.Context // Run's own: nothing starts once it is done, even before the drain begins
	base     context.Context // for handlers: the values of Run's context, without its end
	starts   context.Context // for waiting on limits
	polls    context.Context // for receives
	calls    context.Context // for all other calls
	endStart context.CancelFunc
	endPolls context.CancelFunc
	endCalls context.CancelFunc
	spare    chan func()    // to goroutines that have made a call and can make another one
	finished chan struct{}  // closed when the source has ended and nothing is left
	wg       sync.WaitGroup // every goroutine of the run, but handlers that were abandoned

	// Each loop sleeps on a signal of its own (a channel of capacity 1).
	wakeIntake, wakeDispatch, wakeKeeper, wakeFlush, wakeRun signal

	// ----- guarded by Consumer.mu -----

	all    []*delivery          // every delivery that has not ended
	byID   map[string]*delivery // of these, by message id
	counts [ended]int           // of these, by state
	holds  []*delivery          // held deliveries
	groups map[string]*group    // ordered groups of which something is in hand
	behind int                  // waiting deliveries that are not the first of their group

	plain  lane                      // of all messages without a limiter of their own
	lanes  map[limiter.Limiter]*lane // the others
	turns  turns                     // lanes with something to start
	parked int                       // deliveries that wait in lanes that stand aside
	apart  int                       // held deliveries that do not count against heldLimit

	asked       int       // messages asked for by the receives under way
	nPolls      int       // receives under way
	ladder      ladder    // how many are allowed
	wantedSince time.Time // since when a receive has been wanted; zero if none is
	wakesAt     time.Time // when the intake will wake by itself; zero: it won't
	limited     bool      // the intake waits for the limits to admit more
	failures    int       // receives that failed in a row
	idles       int       // receives that came back empty at once, in a row
	receiveAt   time.Time // after failures: not before
	everWorked  bool      // a receive has succeeded

	heldLimit int // how many may be held in the present trouble
	pace      pace
	guard     guard
	pending   map[batchKey]*batch // results waiting to be settled, by call
	full      *batch              // batches to be sent when mu is let go of, linked
	ends      []EndedInfo         // what Trace is told then
	retrying  []*delivery         // results whose call failed
	nextKeep  time.Time           // when the lease loop will look again
	nextFlush time.Time           // when the flush loop will; zero: when it is woken

	draining, eof, isFinished bool
	fatal                     error
	blockedBy                 string // what Trace was last told
	blockedAt                 time.Time
	warned                    bool // the log's last word is that nothing is received
}

func newEngine(ctx context.Context, c *Consumer) *engine {
	e := &engine{
		Consumer:     c,
		until:        ctx,
		base:         context.WithoutCancel(ctx),
		spare:        make(chan func()),
		finished:     make(chan struct{}),
		wakeIntake:   newSignal(),
		wakeDispatch: newSignal(),
		wakeKeeper:   newSignal(),
		wakeFlush:    newSignal(),
		wakeRun:      newSignal(),
		byID:         make(map[string]*delivery),
		groups:       make(map[string]*group),
		lanes:        make(map[limiter.Limiter]*lane),
		pending:      make(map[batchKey]*batch),
		guard:        guard{off: c.cfg.NoDeadLetterGuard || c.cfg.DeadLetter == nil},
	}
	e.starts, e.endStart = context.WithCancel(e.base)
	e.polls, e.endPolls = context.WithCancel(e.base)
	e.calls, e.endCalls = context.WithCancel(e.base)
	return e
}

// ----- the ledger: every change of a delivery's state goes through here -----

// accept takes a new delivery in, and reports whether its message is new, too. d
// is zero; own is the message's own limiter, if it has one. The caller holds mu.
func (e *engine) accept(d *delivery, m *Message, own limiter.Limiter, now time.Time) bool {
	if m.ReceivedAt.IsZero() {
		m.ReceivedAt = now
	}
	e.stats.Received++
	if old := e.byID[m.ID]; old != nil && m.ID != "" {
		e.supersede(old, m, now)
		return false
	}
	d.msg, d.state, d.since, d.place, d.number = m, waiting, now, len(e.all), e.stats.Received
	e.all = append(e.all, d)
	e.counts[waiting]++
	if m.ID != "" {
		e.byID[m.ID] = d
	}
	if m.ordered() {
		d.group = m.Group
	}
	e.lease(d, m.LeaseUntil, now)
	if !m.LeaseUntil.IsZero() && !d.extendAt.Equal(now) && d.extendAt.Equal(m.LeaseUntil) {
		d.extendAt = now // little is left of it: the reply was slow
		e.keepBy(now)
	}
	e.keepBy(now.Add(e.cfg.MaxHold))
	e.enter(d, own)
	if e.joinGroup(d, now) {
		e.queueUp(d)
	}
	return true
}

// supersede gives a delivery in hand the newest receipt of its message: the
// queue has handed it out again, so the older receipt is worth nothing. The
// work goes on, and is not done twice. A handler whose lease had run out is
// still told, but its result counts, since the message is ours again.
func (e *engine) supersede(d *delivery, m *Message, now time.Time) {
	e.stats.Superseded++
	if d.state == running && !d.leaseUntil.IsZero() && !now.Before(d.leaseUntil) {
		d.cancel(ErrLeaseLost)
	}
	d.msg, d.lost, d.again = m, false, true
	e.lease(d, m.LeaseUntil, now)
	if d.state == settling && d.receipt != "" {
		d.resettle = true
	}
}

// move changes the state, and wakes the intake if that may make room for more.
// The caller holds mu.
func (e *engine) move(d *delivery, to state, now time.Time) {
	from := d.state
	// A result that is confirmed makes room only when there were too many.
	room := from == held || to != running && (from < handing || e.unsettled() >= e.maxUnsettled())
	e.counts[from]--
	switch {
	case from == held:
		e.holds = remove(e.holds, d)
		if d.apart {
			d.apart = false
			e.apart--
		}
	case d.behind:
		d.behind = false
		e.behind--
	default:
		e.quit(d)
	}
	d.state = to
	if to != ended {
		e.counts[to]++
	} else {
		e.forget(d)
	}
	if room || e.draining || e.eof {
		e.changed(now)
	}
}

// forget takes a delivery that has ended out of the lists.
func (e *engine) forget(d *delivery) {
	last := len(e.all) - 1
	e.all[d.place] = e.all[last]
	e.all[d.place].place = d.place
	e.all[last] = nil
	e.all = e.all[:last]
	if e.byID[d.msg.ID] == d {
		delete(e.byID, d.msg.ID)
	}
	e.leave(d)
}

// end brings a delivery to its outcome. The caller holds mu.
func (e *engine) end(d *delivery, o Outcome, now time.Time) {
	e.stats.add(o)
	e.leaveGroup(d, now)
	e.move(d, ended, now)
	if e.cfg.Trace.Ended != nil {
		e.ends = append(e.ends, EndedInfo{Message: d.msg, Outcome: o, Err: d.err})
	}
}

// unlock lets go of mu, and then does what could not be done under it: it sends
// the batches that have become full, and tells Trace what has ended.
func (e *engine) unlock() {
	full, ends := e.full, e.ends
	e.full, e.ends = nil, nil
	e.mu.Unlock()
	for b := full; b != nil; b = b.next {
		e.calling(func() { e.send(b) })
	}
	for _, info := range ends {
		e.cfg.Trace.Ended(info)
	}
}

// calling runs f, which makes a call to the source, in a goroutine of its own.
// One that has made its call waits for the next one until Run gives up: an SDK's
// calls need a deep stack, and growing a new one for each of them costs more than
// all that the engine does.
func (e *engine) calling(f func()) {
	select {
	case e.spare <- f:
		return
	default: // none is spare
	}
	e.wg.Go(func() {
		for {
			f()
			select {
			case f = <-e.spare:
			case <-e.calls.Done():
				return
			}
		}
	})
}

// inHand counts what is received and not finished.
func (e *engine) inHand() int { return e.counts[waiting] + e.counts[running] + e.counts[held] }

// unsettled counts what is finished and not confirmed.
func (e *engine) unsettled() int { return e.counts[handing] + e.counts[settling] }

// maxUnsettled bounds the results that wait to be confirmed: at least twice as
// many as full speed has in flight, so that only a source that stops confirming
// them stops the intake.
func (e *engine) maxUnsettled() int {
	return max(100, 10*e.cfg.Concurrency, e.pace.last.unsettled)
}

// demand counts what will take a permit as soon as it can. What waits behind
// the first of its group is left out, or one slow group would keep the other
// groups' slots empty, unless it is more than a full receive for each slot.
func (e *engine) demand(now time.Time) int {
	n := e.counts[waiting] - e.parked - min(e.behind, (batchSize-1)*e.cfg.Concurrency) + e.asked
	for _, d := range e.holds {
		if !d.due.After(now) && !d.lane.aside {
			n++
		}
	}
	return n
}

// slots is how many handlers may run at once.
func (e *engine) slots() int {
	slots := max(0, e.cfg.Concurrency-e.orphans)
	if e.guard.tripped {
		return min(1, slots)
	}
	return slots
}

// changed wakes those who wait for less in hand. The caller holds mu.
func (e *engine) changed(now time.Time) {
	if e.draining || e.eof {
		e.wakeRun.set()
	}
	if e.eof && !e.draining && len(e.all) == 0 && e.nPolls == 0 && !e.isFinished {
		e.isFinished = true
		close(e.finished)
	}
	e.nudgeIntake(now)
}

// snapshot adds what is going on now. The caller holds mu; by and until are
// what the limits say.
func (e *engine) snapshot(s *Stats, by string, until time.Time) {
	s.InHand, s.Unsettled = e.inHand(), e.unsettled()
	s.Waiting, s.Running, s.Held = e.counts[waiting], e.counts[running], e.counts[held]
	s.Parked = e.crowded()
	if e.nPolls > 0 && !e.draining {
		return
	}
	now := time.Now()
	if p := e.plan(now); p.by != "" {
		by, until = p.by, e.blockedUntil(p)
	}
	s.BlockedBy, s.BlockedUntil = by, until
}
