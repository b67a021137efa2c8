package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/results"
	"github.com/rampmeter/rampmeter/retry"
)

// A verdict is what a handler's result means for its message.
type verdict struct {
	kind   verdictKind
	delay  time.Duration // hold, giveBack: how long
	reason string        // bury: for the dead-letter record
	as     Outcome       // giveBack: what it counts as
}

type verdictKind uint8

const (
	ackIt    verdictKind = iota // done
	bury                        // failed for good: to the dead-letter sink
	hold                        // trouble at the far side: stays in hand
	giveBack                    // to be delivered again after a delay
	drop                        // no longer ours: settle nothing
)

// judge is the table of results of the package documentation. The permit has
// been released with err before, so a breaker that err opened is open. The
// caller does not hold mu.
func (e *engine) judge(j job, err error, now time.Time) verdict {
	if err == nil {
		return verdict{kind: ackIt}
	}
	if delay, ok := results.IsPostponed(err); ok {
		return verdict{kind: giveBack, delay: delay, as: Released}
	}
	if errors.Is(err, retry.ErrPermanent) {
		return verdict{kind: bury, reason: retry.Reason(err)}
	}
	if cause := context.Cause(j.ctx); cause == ErrDrainTimeout || cause == ErrLeaseLost {
		return verdict{kind: giveBack, as: Released} // we have ended it, so its error is no verdict
	}
	class := limiter.Classify(err)
	if class == limiter.ErrOverload || class == limiter.ErrMisconfigured ||
		class == limiter.ErrUnavailable && (limiter.Tripped(e.limits) || j.d.lane.own != nil && limiter.Tripped(j.d.lane.own)) {
		delay, _ := e.patient.Next(j.run, err)
		if j.heldFor(now)+delay >= e.cfg.MaxHold {
			return verdict{kind: giveBack, delay: delay, as: Released}
		}
		return verdict{kind: hold, delay: delay}
	}
	delay, ok := e.cfg.Retry.Next(max(results.Attempts(j.m.Attempt, err), 1), err)
	switch {
	case ok:
		return verdict{kind: giveBack, delay: delay, as: Retried}
	case e.cfg.Retry.Retryable != nil && !e.cfg.Retry.Retryable(err):
		return verdict{kind: bury, reason: retry.Reason(err)}
	}
	return verdict{kind: bury, reason: retry.ReasonExhausted}
}

// finish gives the permit and the slot back, then does what the result means.
// It reports whether Run has given the handler up meanwhile, and otherwise
// whether another message could be started at once.
func (e *engine) finish(j job, permit limiter.Permit, err error) (orphaned, more bool) {
	own := giveBackPermits(j, permit, err)
	d, now := j.d, time.Now()
	took := now.Sub(j.at)
	v := e.judge(j, err, now)
	apart := v.kind == hold && (own || d.lane.own != nil && !troubled(e.limits))
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
	switch {
	case d.lost:
		v = verdict{kind: drop}
	case e.draining && v.kind == hold:
		v = verdict{kind: giveBack, delay: v.delay, as: Released} // nobody is left to run it again
	}
	guarded := false
	switch {
	case v.kind == ackIt:
		_, guarded = e.guard.result(now, j.at, false)
	case v.kind == bury:
		var allowed bool
		if allowed, guarded = e.guard.result(now, j.at, true); !allowed || e.cfg.DeadLetter == nil {
			v = verdict{kind: giveBack, delay: e.cfg.Retry.WithDefaults().MaxDelay, as: Retried}
		}
	case v.kind == giveBack && v.as == Retried:
		e.guard.inconclusive(now, j.at)
	}

	e.pace.ended(now, took, e.cfg.Concurrency)
	d.err, d.cancel = err, nil
	switch v.kind {
	case ackIt:
		e.settle(d, settlement{op: opAck, outcome: Done}, now)
	case bury:
		e.move(d, handing, now)
	case hold:
		e.hold(d, now, v.delay, apart)
	case giveBack:
		e.returnGroup(d, now)
		e.settle(d, settlement{op: opNack, delay: v.delay, outcome: v.as}, now)
	case drop:
		e.returnGroup(d, now)
		e.end(d, LostLease, now)
	}
	due := d.due
	more, wait := e.startable(now)
	if wait > 0 || guarded || v.kind != ackIt {
		e.wakeDispatch.set() // else the caller takes the next one, or there is none before something wakes it anyway
	}
	e.unlock()

	e.report(j, v, took, err, due)
	if guarded {
		e.reportGuard()
	}
	if v.kind == bury {
		e.handOver(j, v.reason, err)
	}
	return false, more
}

// giveBackPermits lets the limiters learn from a run; from a postponed one there
// is nothing to learn. It reports whether err is trouble that the message's own
// limiter has taken note of. Such trouble is the key's, and not told to the
// limits for all: one key's 429 would have their breaker stop every key.
func giveBackPermits(j job, shared limiter.Permit, err error) (own bool) {
	if _, postponed := results.IsPostponed(err); postponed {
		j.own.Cancel()
		shared.Cancel()
		return false
	}
	j.own.Release(err)
	if own = j.d.lane.own != nil && limiter.Classify(err) != nil && troubled(j.d.lane.own); own {
		// It did run, so it is not cancelled, which would give its rate token
		// back; nor did it succeed. Without the chain of err it says nothing
		// of the far side.
		err = fmt.Errorf("queue: trouble of the message's own limiter: %v", err)
	}
	shared.Release(err)
	return own
}

func (e *engine) report(j job, v verdict, took time.Duration, err error, due time.Time) {
	if f := e.cfg.Trace.Finished; f != nil {
		o := map[verdictKind]Outcome{ackIt: Done, bury: DeadLettered, giveBack: v.as, drop: LostLease}[v.kind]
		f(FinishedInfo{Message: j.m, Run: j.run, Took: took, Err: err, Outcome: o})
	}
	switch v.kind {
	case hold:
		call(e.cfg.Trace.Held, HeldInfo{Message: j.m, Err: err, Until: due})
	case drop:
		e.cfg.Logger.Warn("queue: lease lost while the handler ran; nothing is settled", "consumer", e.cfg.Name, "message", j.m.ID, "took", took)
	}
}

func (e *engine) reportGuard() {
	e.mu.Lock()
	tripped := e.guard.tripped
	e.mu.Unlock()
	if tripped {
		e.cfg.Logger.Error("queue: dead-letter guard: more than half of the last results would be dead-lettered, "+
			"which points at this program rather than at the messages; the hand-off stops and one message at a time is tried",
			"consumer", e.cfg.Name)
		return
	}
	e.cfg.Logger.Info("queue: dead-letter guard: results are normal again", "consumer", e.cfg.Name)
}

// troubled reports whether l has taken note of trouble at the far side: whether
// a breaker is not closed, or it pauses. A limiter that is only used up has not.
func troubled(l limiter.Limiter) bool {
	by, _ := l.Blocked()
	why, _, _ := strings.Cut(by, " ")
	return why == limiter.ByPause || limiter.Tripped(l)
}

// hold keeps a message in hand until the far side may be better. Trouble that
// is its lane's own (apart) lets the other lanes go on: the lane's limiter has
// taken note of it, or the limits for all have not. When too much is held so,
// some of it is given back after all, be it this one. The caller holds mu.
func (e *engine) hold(d *delivery, now time.Time, delay time.Duration, apart bool) {
	if apart {
		d.apart = true
		e.apart++
	} else if e.counts[held] == e.apart {
		e.heldLimit = e.cfg.MaxHeld
		if e.heldLimit == 0 {
			e.heldLimit = e.inHand()
		}
	}
	if d.heldSince.IsZero() {
		d.heldSince = now
	}
	d.due, d.since = now.Add(delay), now
	e.move(d, held, now)
	e.holds = append(e.holds, d)
	e.keepBy(d.heldSince.Add(e.cfg.MaxHold))
	e.shed(now)
}

// handOver sends a copy of the message to the dead-letter sink and acks the
// message if the sink has accepted it. The lease is kept meanwhile.
func (e *engine) handOver(j job, reason string, cause error) {
	e.mu.Lock()
	m := j.d.msg
	e.mu.Unlock()
	record := retry.DeadLetter{
		Reason: reason, Error: fmt.Sprint(cause), Attempts: results.Attempts(m.Attempt, cause), Source: e.cfg.Name, MessageID: m.ID,
		First: m.FirstReceivedAt, Last: time.Now(),
	}
	if record.First.IsZero() {
		record.First = m.ReceivedAt
	}
	copied := m.Clone()
	copied.Delay = 0
	if m.ordered() {
		copied.Dedup = m.ID // a copy sent twice arrives once
	}
	if copied.Attributes == nil {
		copied.Attributes = make(map[string]string, 1)
	}
	copied.Attributes[retry.DeadLetterAttribute] = record.Encode()

	ctx, cancel := context.WithTimeout(e.calls, callLimit)
	err := errorOf(e.cfg.DeadLetter.Send(ctx, copied), 0)
	cancel()
	retryIn := time.Duration(0)
	if err != nil {
		retryIn = e.cfg.Retry.Backoff(m.Attempt)
		e.failed("dead-letter", err, retryIn)
	} else {
		call(e.cfg.Trace.DeadLettered, DeadLetteredInfo{Message: m, Record: record})
		e.cfg.Logger.Warn("queue: message dead-lettered", "consumer", e.cfg.Name, "message", m.ID,
			"reason", reason, "error", cause, "attempts", record.Attempts)
	}

	now := time.Now()
	e.mu.Lock()
	e.stats.DeadLetterCalls++
	d := j.d
	switch {
	case d.lost:
		e.returnGroup(d, now)
		e.end(d, LostLease, now)
	case err != nil:
		e.returnGroup(d, now)
		e.settle(d, settlement{op: opNack, delay: retryIn, outcome: Retried}, now)
	default:
		e.settle(d, settlement{op: opAck, outcome: DeadLettered}, now)
	}
	e.unlock()
}
