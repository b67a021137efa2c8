package queue

import (
	"context"
	"time"

	"github.com/rampmeter/rampmeter/internal/again"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// maxOrdered is how long a message of an ordered group may be held: SQS allows a
// lease of 12 h.
const maxOrdered = 11 * time.Hour

// finish passes a run's result on to the limits, frees the slot, and applies the
// verdict to the message. It reports whether Run has given the handler up
// meanwhile, and otherwise whether another message could be started at once.
func (e *engine) finish(j *job, permit limiter.Permit, result judge.Result) (orphaned, more bool) {
	d, now := j.d, time.Now()
	took := now.Sub(j.at)
	f := judge.Facts{
		Result: result, Run: j.run, Took: took, Held: j.heldFor(now), InHand: now.Sub(j.m.ReceivedAt), Age: j.m.age(now), Ordered: j.m.ordered(),
	}
	cause := context.Cause(j.ctx)
	f.Interrupted = cause == ErrDrainTimeout || cause == ErrLeaseLost || cause == context.DeadlineExceeded && took < e.telling
	if f.Class != nil && !f.Permanent && !f.Postponed && !f.Interrupted {
		e.compare(j, &f, now)
	}
	f.Repeated = e.repeated(j, &f, now)
	everybody := e.hear(j, permit, &f, now)
	f.Outage = f.Class == limiter.ErrUnavailable && (limiter.Tripped(e.limits) || d.lane.own != nil && limiter.Tripped(d.lane.own))
	local := f.Err != nil && d.lane.own != nil && !(everybody && suffers(e.limits))
	j.cancel(nil)

	e.mu.Lock()
	if d.orphaned {
		e.orphans--
		if later := e.active; later != nil {
			later.wakeDispatch.set()
			later.wakeIntake.set()
		}
		e.mu.Unlock()
		return true, false
	}
	f.LeaseLost, f.Draining, f.Failures = d.lost, e.draining, d.failures
	fresh := j.run == 1 && d.streak.Len() == 0 && !f.Postponed && !f.Interrupted
	if f.Class == nil && !f.Postponed && !f.Interrupted {
		d.streak = judge.Streak{} // the failures are no longer in a row
	}
	f.Streak, f.Failing = d.streak.Len(), d.streak.Lasts(now)
	v := judge.Judge(&e.policy, &f)
	var rations string
	switch v.Action {
	case judge.Ack:
		if e.guard.Succeeded(now) {
			rations = guardEnds
		}
		if fresh {
			e.others.Add(now, nil)
			if d.lane.own != nil {
				d.lane.results.Add(now, nil)
			}
		}
		if j.run == 1 { // a held message says nothing about the others
			e.leeway, e.freshGood, e.holdsSince, e.freshAt = freshLeeway, j.at, now, time.Time{}
		}
	case judge.DeadLetter:
		allowed, began := e.guard.Allow(now)
		if !allowed {
			f.Guarded = true
			v = judge.Judge(&e.policy, &f)
		}
		if began {
			rations = guardBegins
		}
	}
	if e.host != nil {
		e.host.Judged(j.m.ID, j.m.Attempt, f, v)
	}

	e.pace.ended(now, took, e.capacity)
	d.err, d.cancel = f.Err, nil
	switch {
	case v.Failed && f.Attempts > 0:
		d.failures = f.Attempts
	case v.Failed || v.Action == judge.Drop: // the message may be the reason why it takes too long
		d.failures++
	}
	switch v.Action {
	case judge.Ack:
		e.settle(d, settlement{op: opAck, outcome: Done}, now)
	case judge.DeadLetter:
		e.ledger.handOver(d)
		e.attend(d)
		e.changed(now)
	case judge.Hold:
		// A failure of the message itself, or of its key, says nothing about
		// other messages.
		suspect := f.Guilt != judge.Innocent || d.streak.Suspected()
		apart := local || v.Failed || f.Postponed || suspect
		e.hold(d, now, v.Delay, apart, suspect)
		if !apart && j.run == 1 {
			e.leeway = max(0, e.leeway-1)
			e.nextFresh(now)
		}
	case judge.Return:
		e.returnGroup(d, now)
		e.settle(d, settlement{op: opNack, delay: v.Delay, outcome: returned(v)}, now)
	case judge.Drop:
		e.returnGroup(d, now)
		e.end(d, LostLease, now)
	}
	due := d.due
	more, wait := e.startable(now)
	if wait > 0 || v.Action != judge.Ack {
		e.wakeDispatch.set() // else the caller takes the next message, or something else wakes the dispatcher
	}
	e.unlock()

	e.report(j, &f, v, took, due)
	e.logResult(j, &f, v)
	e.reportGuard(rations)
	if v.Action == judge.DeadLetter {
		e.handOver(*j, v.Reason, f.Err)
	}
	return false, more
}

// returned is the outcome of a nacked message.
func returned(v judge.Verdict) Outcome {
	if v.Failed {
		return Retried
	}
	return Released
}

// age is the time since the message was first received by anyone, as far as is
// known.
func (m *Message) age(now time.Time) time.Duration {
	first := m.FirstReceivedAt
	if first.IsZero() {
		first = m.ReceivedAt
	}
	return now.Sub(first)
}

// compare sets the guilt of a message whose result has a class, by the results of
// others; whether it was a suspect before; and whether a host does not wait for
// it alone.
func (e *engine) compare(j *job, f *judge.Facts, now time.Time) {
	if e.host != nil {
		f.Guilt, f.Alone, f.Typical = e.host.Guilt(j.m.ID, j.m.Attempt, *f)
		f.Suspected = f.Guilt != judge.Innocent
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	d, others := j.d, &e.others
	if d.lane.own != nil {
		others = &d.lane.results // another key's success says nothing about this one
	}
	if j.run == 1 && d.streak.Len() == 0 {
		others.Add(now, f.Class)
	}
	f.Suspected = d.streak.Suspected()
	f.Guilt = others.Fail(now, &d.streak, f.Class)
	f.Unlikely = d.streak.Unlikely()
}

// repeated reports whether a failure says nothing new about the downstream: the
// message has failed the same way before, and a fresh one has succeeded since. It
// would be counted again and again, until a third of the messages, those of one
// backend of several, made up most of the failures.
func (e *engine) repeated(j *job, f *judge.Facts, now time.Time) bool {
	if f.Class == nil || e.host != nil || j.d.lane.own != nil {
		return false
	}
	e.mu.Lock()
	s := j.d.streak
	works := s.Len() > 1 && e.freshGood.After(now.Add(-s.Lasts(now)))
	e.mu.Unlock()
	return works && !probing(e.limits)
}

// hear reports a run's result to the limits as far as they should learn it, and
// returns whether it was reported to the limits for all. A failure downstream of
// a message with its own limiter concerns that key, and the limits for all
// abstain, or one key's 429 would pace every key, unless half of the keys fail.
func (e *engine) hear(j *job, shared limiter.Permit, f *judge.Facts, now time.Time) (everybody bool) {
	switch heard := f.Hears(); heard {
	case judge.NeverRan:
		j.own.Cancel()
		shared.Cancel()
	case judge.Unjudged:
		j.own.Abstain()
		shared.Abstain()
	case judge.Heard, judge.Heeded:
		err := f.Err
		if heard == judge.Heeded {
			err = again.Mark(err)
		}
		j.own.Release(err)
		everybody = true
		if l := j.d.lane; l.own != nil {
			var paused time.Time
			if f.Class != nil {
				paused = l.own.Blocked().Until
			}
			e.mu.Lock()
			if l.aside && paused.After(l.until) {
				l.until = paused
			}
			everybody = e.troubles.result(l.key, f.Class != nil, paused, now) || f.Class == nil
			e.mu.Unlock()
		}
		if everybody {
			shared.Release(err)
		} else {
			shared.Abstain()
		}
	}
	return everybody
}

// suffers reports whether l has registered an outage downstream: whether a
// breaker is not closed, or it pauses. A limiter that is only used up has not.
func suffers(l limiter.Limiter) bool {
	return l.Blocked().Reason == limiter.ByPause || limiter.Tripped(l)
}

// hold keeps a message until it may run again. One that is apart does not count
// against MaxHeld, and does not hold up others; when too many are held like that,
// some are returned after all, possibly this one. The caller holds mu.
func (e *engine) hold(d *delivery, now time.Time, delay time.Duration, apart, suspect bool) {
	if !apart && e.counted == 0 { // the first of an outage
		e.interrupt()
		e.heldLimit = e.cfg.MaxHeld
		if e.heldLimit == 0 {
			e.heldLimit = max(e.capacity, e.inHand())
		}
		e.holdsSince = now
	}
	if d.heldSince.IsZero() {
		d.heldSince = now
	}
	d.due, d.since = now.Add(delay), now
	e.ledger.hold(d, apart, suspect)
	e.attend(d)
	e.wakeDispatch.set() // it sleeps until the first one is due
	e.shed(now)
	e.changed(now)
}

// heldMost is how many may be held: more while fresh messages succeed, since then
// the downstream does not hold up the others. The caller holds mu.
func (e *engine) heldMost() int {
	if e.leeway > 0 && e.cfg.MaxHeld == 0 {
		return max(e.heldLimit, 100*e.capacity)
	}
	return e.heldLimit
}

// nextFresh sets when the next fresh message may be received although heldMost
// messages are held: the longer any have been held, the later. The caller holds
// mu.
func (e *engine) nextFresh(now time.Time) {
	e.freshAt = now.Add(max(leastFresh, now.Sub(e.holdsSince)/10))
}

// freshLeeway is how many fresh messages in a row must fail before the held ones
// are attributed to an outage: if a third of all messages fails by itself, that
// many in a row are one chance in a billion.
const freshLeeway = 20

// leastFresh is how long the consumer waits at least, when heldMost messages are
// held, before it receives a fresh one to see whether that succeeds.
const leastFresh = time.Second

func (e *engine) report(j *job, f *judge.Facts, v judge.Verdict, took time.Duration, due time.Time) {
	if finished := e.cfg.Trace.Finished; finished != nil {
		var o Outcome
		switch v.Action {
		case judge.Ack:
			o = Done
		case judge.DeadLetter:
			o = DeadLettered
		case judge.Return:
			o = returned(v)
		case judge.Drop:
			o = LostLease
		}
		finished(FinishedInfo{Message: j.m, Run: j.run, Took: took, Err: f.Err, Outcome: o})
	}
	switch v.Action {
	case judge.Hold:
		call(e.cfg.Trace.Held, HeldInfo{Message: j.m, Err: f.Err, Until: due})
	case judge.Drop:
		e.cfg.Logger.Warn("queue: lease lost while the handler ran; nothing is settled", "consumer", e.cfg.Name, "message", j.m.ID, "took", took)
	}
}

const (
	guardBegins = "queue: dead letters are rationed: hardly any message succeeds, which points at this program rather than at the messages; " +
		"one a minute goes out, and two for each message that succeeds; the others are returned"
	guardEnds = "queue: dead letters are no longer rationed"
)

// reportGuard logs that the guard has started or stopped rationing dead letters.
func (e *engine) reportGuard(change string) {
	switch change {
	case guardBegins:
		e.cfg.Logger.Error(change, "consumer", e.cfg.Name)
	case guardEnds:
		e.cfg.Logger.Info(change, "consumer", e.cfg.Name)
	}
}
