package queue

import (
	"context"
	"slices"
	"strings"
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

	since    time.Time // waiting: since when
	runs     int       // handlers started, in this delivery
	cancel   context.CancelCauseFunc
	lost     bool // the lease ended while the handler ran, or the hand-over was under way
	orphaned bool // Run has returned: the handler's goroutine is on its own
	err      error

	heldSince time.Time // since the first run that ran into trouble at the far side
	due       time.Time // held: not before

	leaseUntil time.Time // zero: no lease
	extendAt   time.Time
	extending  bool

	settle   settlement // settling: how
	receipt  string     // settling: the receipt that the call under way uses
	tries    int        // settling: calls that failed
	retryAt  time.Time  // settling: after a failed call, not before
	resettle bool       // settling: superseded while a call was under way
}

// An engine is one Run of a consumer. Consumer.mu guards its fields below the
// line; the lists of goroutines say who ends them.
type engine struct {
	*Consumer
	base     context.Context // for handlers: the values of Run's context, without its end
	starts   context.Context // for waiting on limits; ends when the drain begins
	polls    context.Context // for receives; ends when the drain's time is over
	calls    context.Context // for all other calls; ends when Run gives up
	endStart context.CancelFunc
	endPolls context.CancelFunc
	endCalls context.CancelFunc
	finished chan struct{}  // closed when the source has ended and nothing is left
	wg       sync.WaitGroup // every goroutine of the run, but handlers that were abandoned

	// Each loop sleeps on a signal of its own (a channel of capacity 1).
	wakeIntake, wakeDispatch, wakeKeeper, wakeFlush, wakeRun signal

	// ----- guarded by Consumer.mu -----

	all    []*delivery          // every delivery that has not ended
	byID   map[string]*delivery // of these, by message id
	counts [ended]int           // of these, by state
	ready  fifo                 // waiting deliveries in the order of arrival, those behind their group's head excepted
	holds  []*delivery          // held deliveries
	groups map[string]*group    // ordered groups of which something is in hand

	asked       int       // messages asked for by the receives under way
	nPolls      int       // receives under way
	pollLimit   int       // as many are allowed
	wantedSince time.Time // since when a receive has been wanted that is not yet worth its call
	limited     bool      // the intake waits for the limits to admit more
	failures    int       // receives that failed in a row
	idles       int       // receives that came back empty at once, in a row
	receiveAt   time.Time // after failures: not before
	everWorked  bool      // a receive has succeeded

	troubled  int // deliveries in hand that were held, also while they run again
	heldLimit int // how many there may be of them in the present trouble
	pace      pace
	guard     guard
	pending   map[batchKey]*batch // results waiting to be settled, by call
	retrying  []*delivery         // results whose call failed
	nextKeep  time.Time           // when the lease loop will look again

	draining, eof, isFinished bool
	fatal                     error
	blockedBy                 string // what Trace was last told
	blockedAt                 time.Time
}

func newEngine(ctx context.Context, c *Consumer) *engine {
	e := &engine{
		Consumer:     c,
		base:         context.WithoutCancel(ctx),
		finished:     make(chan struct{}),
		wakeIntake:   newSignal(),
		wakeDispatch: newSignal(),
		wakeKeeper:   newSignal(),
		wakeFlush:    newSignal(),
		wakeRun:      newSignal(),
		byID:         make(map[string]*delivery),
		groups:       make(map[string]*group),
		pending:      make(map[batchKey]*batch),
		pollLimit:    1,
		guard:        guard{off: c.cfg.NoDeadLetterGuard || c.cfg.DeadLetter == nil},
	}
	e.starts, e.endStart = context.WithCancel(e.base)
	e.polls, e.endPolls = context.WithCancel(e.base)
	e.calls, e.endCalls = context.WithCancel(e.base)
	return e
}

// ----- the ledger: every change of a delivery's state goes through here -----

// accept takes a new delivery in. The caller holds mu.
func (e *engine) accept(d *delivery, m *Message, now time.Time) {
	if m.ReceivedAt.IsZero() {
		m.ReceivedAt = now
	}
	e.stats.Received++
	if old := e.byID[m.ID]; old != nil && m.ID != "" {
		e.supersede(old, m, now)
		return
	}
	*d = delivery{msg: m, state: waiting, since: now, place: len(e.all)}
	e.all = append(e.all, d)
	e.counts[waiting]++
	if m.ID != "" {
		e.byID[m.ID] = d
	}
	e.lease(d, m.LeaseUntil, now)
	if e.joinGroup(d) {
		e.ready.push(d)
	}
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
	d.msg, d.lost = m, false
	e.lease(d, m.LeaseUntil, now)
	if d.state == settling && d.receipt != "" {
		d.resettle = true
	}
}

// move changes the state, and wakes the intake if that may make room for more.
// The caller holds mu.
func (e *engine) move(d *delivery, to state) {
	from := d.state
	// A result that is confirmed makes room only when there were too many.
	room := to != running && (from < handing || e.unsettled() >= e.maxUnsettled())
	e.counts[from]--
	if from == held {
		e.holds = remove(e.holds, d)
	}
	if from < handing && to >= handing && !d.heldSince.IsZero() {
		e.troubled--
	}
	d.state = to
	if to != ended {
		e.counts[to]++
	} else {
		e.forget(d)
	}
	if room || e.draining || e.eof {
		e.changed()
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
}

// end brings a delivery to its outcome. It returns what tells Trace, to be
// called without mu, which the caller holds.
func (e *engine) end(d *delivery, o Outcome) (told func()) {
	e.stats.add(o)
	e.leaveGroup(d)
	e.move(d, ended)
	if e.cfg.Trace.Ended == nil {
		return nothing
	}
	info := EndedInfo{Message: d.msg, Outcome: o, Err: d.err}
	return func() { e.cfg.Trace.Ended(info) }
}

func nothing() {}

// inHand counts what is received and not finished.
func (e *engine) inHand() int { return e.counts[waiting] + e.counts[running] + e.counts[held] }

// unsettled counts what is finished and not confirmed.
func (e *engine) unsettled() int { return e.counts[handing] + e.counts[settling] }

// maxUnsettled bounds the results that wait to be confirmed: a hundred, or as
// many as full speed needs while an ack is on its way.
func (e *engine) maxUnsettled() int { return max(100, 10*e.cfg.Concurrency) }

// demand counts what will take a permit as soon as it can.
func (e *engine) demand(now time.Time) int {
	n := e.counts[waiting] + e.asked
	for _, d := range e.holds {
		if !d.due.After(now) {
			n++
		}
	}
	return n
}

// slots is how many handlers may run at once.
func (e *engine) slots() int {
	if e.guard.tripped {
		return 1
	}
	return e.cfg.Concurrency
}

// changed wakes those who wait for less in hand. The caller holds mu.
func (e *engine) changed() {
	if e.draining || e.eof {
		e.wakeRun.set()
	}
	if e.eof && !e.draining && len(e.all) == 0 && e.nPolls == 0 && !e.isFinished {
		e.isFinished = true
		close(e.finished)
	}
	e.nudgeIntake()
}

// snapshot adds what is going on now. The caller holds mu; by and until are
// what the limits say.
func (e *engine) snapshot(s *Stats, by string, until time.Time) {
	s.InHand, s.Unsettled = e.inHand(), e.unsettled()
	s.Waiting, s.Running, s.Held = e.counts[waiting], e.counts[running], e.counts[held]
	if e.nPolls > 0 && !e.draining {
		return
	}
	now := time.Now()
	if p := e.plan(now); p.by != "" {
		s.BlockedBy, s.BlockedUntil = p.by, p.until
	} else if by != "" && !strings.HasPrefix(by, limiter.ByConcurrency) || e.demand(now) == 0 {
		s.BlockedBy, s.BlockedUntil = by, until
	}
}

// ----- ordered groups -----

// A group is what is in hand of one ordered group: its first message, which
// alone may run, and those behind it.
type group struct{ members []*delivery }

// joinGroup reports whether d may be started.
func (e *engine) joinGroup(d *delivery) bool {
	if !d.msg.ordered() {
		return true
	}
	g := e.groups[d.msg.Group]
	if g == nil {
		g = &group{}
		e.groups[d.msg.Group] = g
	}
	g.members = append(g.members, d)
	return len(g.members) == 1
}

// leaveGroup takes d, which has come to its outcome, out of its group. What is
// then first and still waits may start; after a failure there is nothing such,
// unless it was received since. The caller holds mu.
func (e *engine) leaveGroup(d *delivery) {
	g := e.groups[d.msg.Group]
	if !d.msg.ordered() || g == nil {
		return
	}
	first := len(g.members) > 0 && g.members[0] == d
	g.members = remove(g.members, d)
	if len(g.members) == 0 {
		delete(e.groups, d.msg.Group)
		return
	}
	if first && g.members[0].state == waiting {
		e.ready.push(g.members[0])
		e.wakeDispatch.set()
	}
}

// returnGroup gives back, in order, what waits behind d, which is to be
// delivered again first. It returns batches to send. The caller holds mu.
func (e *engine) returnGroup(d *delivery) (full []*batch) {
	g := e.groups[d.msg.Group]
	if !d.msg.ordered() || g == nil {
		return nil
	}
	for _, behind := range g.members[slices.Index(g.members, d)+1:] {
		if behind.state == waiting {
			full = append(full, e.settle(behind, settlement{op: opNack, outcome: Released})...)
		}
	}
	return full
}

// ----- small tools -----

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

func remove(ds []*delivery, d *delivery) []*delivery {
	for i := range ds {
		if ds[i] == d {
			copy(ds[i:], ds[i+1:])
			ds[len(ds)-1] = nil
			return ds[:len(ds)-1]
		}
	}
	return ds
}

// A fifo is a queue of deliveries that reuses its array.
type fifo struct {
	items []*delivery
	head  int
}

func (f *fifo) push(d *delivery) {
	if f.head > 0 && len(f.items) == cap(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, d)
}

// pop returns the first delivery that still waits, or nil.
func (f *fifo) pop() *delivery {
	for f.head < len(f.items) {
		d := f.items[f.head]
		f.items[f.head] = nil
		f.head++
		if d.state == waiting {
			return d
		}
	}
	f.items, f.head = f.items[:0], 0
	return nil
}

// empty forgets what no longer waits and reports whether nothing is left.
func (f *fifo) empty() bool {
	for f.head < len(f.items) && f.items[f.head].state != waiting {
		f.items[f.head] = nil
		f.head++
	}
	return f.head == len(f.items)
}
