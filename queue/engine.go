package queue

import (
	"context"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/audit"
	"github.com/rampmeter/rampmeter/queue/internal/host"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// An engine is one Run of a consumer. Consumer.mu guards its fields below the
// line. Its contexts end in turn: starts when the drain begins, polls when the
// time of the drain is over, calls when Run gives up.
type engine struct {
	*Consumer
	until    context.Context // Run's context: nothing starts once it is done, even before the drain begins
	base     context.Context // the values of Run's context, without its end
	handlers context.Context // for handlers: base, until the host's deadline
	starts   context.Context // for waiting on limits, and for receives that can stop without risk
	polls    context.Context // for receives
	calls    context.Context // for all other calls
	endStart context.CancelFunc
	endPolls context.CancelFunc
	endCalls context.CancelFunc
	spare    chan func()   // to idle goroutines that make calls to the source
	finished chan struct{} // closed when the source has ended and nothing is left
	host     host.Host     // nil: none
	deadline time.Time     // the host's, for handlers; zero: none
	telling  time.Duration // the error of a handler that the deadline ends sooner than this is ignored
	policy   judge.Policy
	guard    *judge.Guard   // nil: dead letters are not rationed
	wg       sync.WaitGroup // every goroutine of the run, but handlers that were abandoned

	// Each loop sleeps on a signal of its own (a channel of capacity 1).
	wakeIntake, wakeDispatch, wakeKeeper, wakeFlush, wakeRun signal

	// ----- guarded by Consumer.mu -----

	ledger

	ladder      ladder             // how many receives may be in flight
	asking      context.Context    // for waiting on the limits: until the first message of an outage is held
	interrupt   context.CancelFunc // ends it
	wantedSince time.Time          // since when a receive has been wanted; zero if none is
	wakesAt     time.Time          // when the intake's timer fires; zero: it is not set
	limited     bool               // the intake waits for the limits to admit more
	failures    int                // receives that failed in a row
	idles       int                // receives that came back empty at once, in a row
	receiveAt   time.Time          // after failures: not before
	everWorked  bool               // a receive has succeeded

	awaitsPermit bool      // a start waits for the limits
	permitAt     time.Time // until when, as far as is known

	down       bool      // the limits admitted only single probes when last checked
	heldLimit  int       // how many may be held in the present outage
	holdsSince time.Time // since when any have been held
	freshAt    time.Time // when one more fresh message may be received although heldMost messages are held
	freshGood  time.Time // start of the last fresh message that succeeded
	leeway     int       // how many more fresh messages may fail in a row before it is an outage
	pace       pace
	pending    map[batchKey]*batch // results waiting to be settled, by call
	full       *batch              // batches to send after unlocking mu, linked
	ends       []EndedInfo         // to report to Trace after unlocking mu
	retrying   heap[*delivery]     // results whose call failed, by the time of the next try
	nextKeep   time.Time           // when the lease loop will look again
	nextFlush  time.Time           // the same for the flush loop; zero: when it is woken

	draining, eof, isFinished bool
	fatal                     error
	still                     standstill
	journal                   journal
	steps                     int // counted for the audit
}

func newEngine(ctx context.Context, c *Consumer) *engine {
	h, perAgain := host.FromContext(ctx), freshPerAgain
	if h != nil {
		perAgain = freshPerAgainHost
	}
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
		ledger:       newLedger(c.keys.Complete, perAgain),
		retrying: heap[*delivery]{
			less: func(a, b *delivery) bool { return a.retryAt.Before(b.retryAt) },
			at:   func(d *delivery) *int { return &d.retryPos },
		},
		pending: make(map[batchKey]*batch),
		host:    h,
		policy: judge.Policy{
			Retry: c.cfg.Retry, MaxHold: c.cfg.MaxHold, MaxOrdered: maxOrdered, GiveUp: judge.GiveUp, DeadLetters: c.cfg.DeadLetter != nil,
		},
	}
	if e.host != nil {
		e.policy.MaxOrdered, e.policy.GiveUp = 0, 0 // with a host it is unknown since when a message has failed
		e.base = host.NewContext(e.base, nil)       // consumers that handlers run do not have this host
	}
	e.handlers = e.base
	switch {
	case c.cfg.NoDeadLetterGuard || c.cfg.DeadLetter == nil:
	case e.host != nil:
		e.guard = e.host.Guard()
	default:
		e.guard = &c.rations
	}
	e.starts, e.endStart = context.WithCancel(e.base)
	e.polls, e.endPolls = context.WithCancel(e.base)
	e.calls, e.endCalls = context.WithCancel(e.base)
	e.asking, e.interrupt = context.WithCancel(e.starts)
	return e
}

// ----- deliveries come and go -----

// accept adds a delivery, and reports whether its message is new. d is zero; own
// is the message's own limiter, if it has one. The caller holds mu.
func (e *engine) accept(d *delivery, m *Message, own limiter.Limiter, now time.Time) bool {
	if m.ReceivedAt.IsZero() {
		m.ReceivedAt = now
	}
	e.stats.Received++
	if old := e.byID[m.ID]; old != nil && m.ID != "" {
		if !old.nackSent() {
			e.supersede(old, m, now)
			return false
		}
		// Its nack has taken effect, whatever the reply will be.
		e.end(old, old.settle.outcome, now)
	}
	d.msg, d.since, d.spare = m, now, e.mayReturn(m)
	d.failures, d.streak = e.memory.failures(m)
	first := e.ledger.accept(d, own)
	e.lease(d, m.LeaseUntil, now)
	if !m.LeaseUntil.IsZero() && !d.extendAt.Equal(now) && d.extendAt.Equal(m.LeaseUntil) {
		d.extendAt = now // the reply was slow, and little of the lease is left
	}
	e.attend(d)
	if !first && d.group.unsent > 0 {
		// The queue has already redelivered messages that we are still returning,
		// and d with them: d is returned too, or it would run before the others.
		e.settle(d, settlement{op: opNack, outcome: Released}, now)
	}
	return true
}

// supersede gives a delivery the newest receipt of its message: the queue has
// redelivered the message, so the older receipt is worthless. The work continues,
// and is not done twice. A handler whose lease had run out has its context ended
// all the same, but its result counts, since the message is ours again.
func (e *engine) supersede(d *delivery, m *Message, now time.Time) {
	e.stats.Superseded++
	if e.cfg.Trace.Ended != nil {
		e.ends = append(e.ends, EndedInfo{Message: m, Outcome: Superseded})
	}
	if d.state == running && !d.ours(now) {
		d.cancel(ErrLeaseLost)
	}
	d.msg, d.lost = m, false
	e.lease(d, m.LeaseUntil, now)
	if d.state != settling {
		e.attend(d)
	} else if d.receipt != "" {
		d.resettle = true
	}
}

// end ends a delivery with its outcome. The caller holds mu.
func (e *engine) end(d *delivery, o Outcome, now time.Time) {
	from, crowded := d.state, e.unsettled() >= e.maxUnsettled()
	e.stats.add(o)
	switch o {
	case Done, DeadLettered:
		e.memory.forget(d.msg)
	default:
		e.memory.note(d.msg, d.failures, d.streak)
	}
	e.retrying.remove(d)
	next, left := e.ledger.end(d)
	if next != nil {
		next.since = now
		e.attend(next)
		e.wakeDispatch.set()
	}
	if left != nil {
		left.stop()
	}
	if e.cfg.Trace.Ended != nil {
		e.ends = append(e.ends, EndedInfo{Message: d.msg, Outcome: o, Err: d.err})
	}
	// A confirmed result makes room only when there were too many.
	if from != handing && from != settling || crowded || e.draining || e.eof {
		e.changed(now)
	}
}

// unlock unlocks mu, and then does what must not be done under it: it sends the
// batches that have become full, and reports ended deliveries to Trace.
func (e *engine) unlock() {
	full, ends := e.full, e.ends
	e.full, e.ends = nil, nil
	if audit.On {
		e.audited()
	}
	e.mu.Unlock()
	for b := full; b != nil; b = b.next {
		e.calling(func() { e.send(b) })
	}
	for _, info := range ends {
		e.cfg.Trace.Ended(info)
	}
}

// calling runs f, which makes a call to the source, in a goroutine of its own.
// Such a goroutine waits for further calls until Run gives up: an SDK's calls
// need a deep stack, and growing a new one for each of them costs more than
// everything else in the engine.
func (e *engine) calling(f func()) {
	select {
	case e.spare <- f:
		return
	default: // none is idle
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

// inHand counts the deliveries that are received and not finished.
func (e *engine) inHand() int { return e.fresh.n + e.kept.n + e.busy.n }

// unsettled counts the deliveries that are finished and not confirmed.
func (e *engine) unsettled() int { return e.out.n }

// waiting counts the deliveries that have not been started.
func (e *engine) waiting() int { return e.fresh.n }

// holding counts the deliveries that wait to run again.
func (e *engine) holding() int { return e.kept.n }

// maxUnsettled bounds the results that wait to be confirmed. It is at least twice
// the number in flight at full speed, so that only a source that stops confirming
// them stops the intake.
func (e *engine) maxUnsettled() int {
	return max(100, 10*e.capacity, e.pace.last.unsettled)
}

// demand counts the messages that will take a permit as soon as they can.
// Messages behind the first of their group are left out, or one slow group would
// keep the other groups' slots empty, unless there are more than a full receive
// for each slot. Suspects are left out too, since they start after fresh
// messages, unless there is no look-ahead: then they take the slot that a fresh
// message would be received for.
func (e *engine) demand() int {
	again := e.count[due] - e.stalled
	if !e.cfg.NoLookAhead {
		again -= e.suspects
	}
	return e.waiting() - e.parked - min(e.count[behind], (batchSize-1)*(e.capacity+e.holding())) + again + e.asked
}

// onlyAgain reports whether every message that could start has failed before.
// Then one fresh message is wanted, even if there are no permits for it:
// otherwise messages that fail each time take all permits, and nothing shows that
// only they fail. Without look-ahead it needs a free slot, which the others must
// not take meanwhile. The caller holds mu.
func (e *engine) onlyAgain() bool {
	if e.cfg.NoLookAhead && !e.awaitsPermit {
		return false
	}
	return e.waiting()-e.parked+e.asked == 0 && e.turns.first() != nil
}

// slots is how many handlers may run at once.
func (e *engine) slots() int {
	return max(0, e.capacity-e.orphans)
}

// changed wakes the loops that wait for fewer messages in flight. The caller
// holds mu.
func (e *engine) changed(now time.Time) {
	if e.draining || e.eof {
		e.wakeRun.set()
	}
	if e.eof && !e.draining && e.atRest() && !e.isFinished {
		e.isFinished = true
		close(e.finished)
	}
	e.nudgeIntake(now)
}

// atRest reports whether nothing is in flight: received, unsettled or being
// received.
func (e *engine) atRest() bool { return e.inHand()+e.out.n+len(e.receiving) == 0 }

// audited panics when the ledger differs from a recount. With many deliveries, or
// after many steps, it recounts only now and then, or a test would take time
// quadratic in their number.
func (e *engine) audited() {
	e.steps++
	every := 1
	if e.steps > 10_000 {
		every = 61
	}
	if size := e.inHand() + e.out.n; size > 100 {
		every = max(every, size/20)
	}
	if e.steps%every != 0 {
		return
	}
	if err := e.audit(); err != nil {
		panic("queue: the ledger is wrong: " + err.Error())
	}
}

// snapshot adds the present state. The caller holds mu; limits is the Block that
// the limits report.
func (e *engine) snapshot(s *Stats, limits limiter.Block) {
	s.InHand, s.Unsettled = e.inHand(), e.unsettled()
	s.Waiting, s.Running, s.Held = e.waiting(), e.count[running], e.holding()
	s.Parked = e.crowded()
	s.Receiving = len(e.receiving)
	if len(e.receiving) > 0 && !e.draining {
		return
	}
	s.Blocked = limits
	now := time.Now()
	e.ripen(now)
	if p := e.plan(now); p.by != "" {
		s.Blocked = outermost(limiter.Block{Reason: p.by, Until: e.blockedUntil(p)}, limits)
		if p.by == limiter.ByValve {
			s.Blocked.Cause = e.why
		}
	}
}
