package queue

import (
	"context"
	"errors"
	"slices"
	"time"
)

// lease notes until when d is ours, and that it is to be extended at half of
// that time. The caller holds mu.
func (e *engine) lease(d *delivery, until, now time.Time) {
	d.leaseUntil, d.extendAt = until, time.Time{}
	if until.IsZero() {
		return
	}
	d.extendAt = until
	if half := until.Sub(now) / 2; half > time.Second/4 {
		d.extendAt = now.Add(half) // else the queue's own maximum is near: let it end
	}
	e.keepBy(d.extendAt)
}

// keepBy has the lease loop look again at t at the latest. The caller holds mu.
func (e *engine) keepBy(t time.Time) {
	if e.nextKeep.IsZero() || t.Before(e.nextKeep) {
		e.nextKeep = t
		e.wakeKeeper.set()
	}
}

// keepLeases is the loop that extends the leases of all that is in hand, gives
// up what was lost, and gives back what was held too long. It ends when Run
// gives up.
func (e *engine) keepLeases() {
	timer := newTimer()
	for {
		now := time.Now()
		e.mu.Lock()
		due := e.lookAfter(now)
		wait := time.Duration(0)
		if !e.nextKeep.IsZero() {
			wait = max(e.nextKeep.Sub(now), time.Microsecond)
		}
		e.unlock()
		for batch := range slices.Chunk(due, batchSize) {
			e.wg.Go(func() { e.extend(batch) })
		}
		if !e.wakeKeeper.sleep(e.calls, timer, wait) {
			return
		}
	}
}

// lookAfter goes through all that is leased. It returns what to extend, and
// sets nextKeep. The caller holds mu.
func (e *engine) lookAfter(now time.Time) (due []*delivery) {
	e.nextKeep = time.Time{}
	lookBy := func(t time.Time) { // as keepBy, but the loop is awake
		if e.nextKeep.IsZero() || t.Before(e.nextKeep) {
			e.nextKeep = t
		}
	}
	var early []*delivery
	soon := now.Add(e.cfg.Lease / 16)      // what is due soon joins the call of what is due now
	for i := len(e.all) - 1; i >= 0; i-- { // backwards, since lose takes the present one out
		d := e.all[i]
		if d.state == settling || d.lost {
			continue
		}
		if !d.leaseUntil.IsZero() && !now.Before(d.leaseUntil) {
			e.lose(d, now)
			continue
		}
		if until, ok := e.heldUntil(d); ok {
			if !until.After(now) {
				e.returnGroup(d, now)
				delay := max(0, d.due.Sub(now))
				if d.state == waiting && d.lane.aside {
					delay = d.lane.turn(max(d.msg.Attempt, 1), now)
				}
				e.settle(d, settlement{op: opNack, delay: delay, outcome: Released}, now)
				continue
			}
			lookBy(until)
		}
		switch {
		case d.leaseUntil.IsZero():
		case d.extending || d.extendAt.Equal(d.leaseUntil):
			lookBy(d.leaseUntil)
		case !d.extendAt.After(now):
			due = append(due, d)
		case !d.extendAt.After(soon):
			early = append(early, d)
		default:
			lookBy(d.extendAt)
		}
	}
	if len(due) > 0 {
		due = append(due, early...)
		early = nil
	}
	for _, d := range early {
		lookBy(d.extendAt)
	}
	// The rest of a group may have been given back after it was looked at.
	due = slices.DeleteFunc(due, func(d *delivery) bool { return d.state >= settling })
	for _, d := range due {
		d.extending = true
		lookBy(d.leaseUntil)
	}
	return due
}

// heldUntil is when a message that does not run is given back, whatever it
// waits for. What waits behind the first of its group goes with it.
func (e *engine) heldUntil(d *delivery) (time.Time, bool) {
	switch d.state {
	case held:
		return d.heldSince.Add(e.cfg.MaxHold), true
	case waiting:
		if d.behind {
			return time.Time{}, false
		}
		return d.since.Add(e.cfg.MaxHold), true
	}
	return time.Time{}, false
}

// lose gives up a delivery that is no longer ours. The caller holds mu.
func (e *engine) lose(d *delivery, now time.Time) {
	e.returnGroup(d, now)
	switch d.state {
	case running:
		d.lost = true // it ends when its handler returns
		d.cancel(ErrLeaseLost)
	case handing:
		d.lost = true // it ends when the sink has answered
	default:
		e.end(d, LostLease, now)
	}
}

// extend makes one call for up to batchSize messages. They are copies, since
// the source changes LeaseUntil while others may read the originals.
func (e *engine) extend(ds []*delivery) {
	copies := make([]*Message, len(ds))
	e.mu.Lock()
	for i, d := range ds {
		m := *d.msg
		m.LeaseUntil = time.Time{}
		copies[i] = &m
	}
	e.stats.ExtendCalls++
	e.mu.Unlock()

	began := time.Now()
	ctx, cancel := context.WithTimeout(e.calls, min(callLimit, max(e.cfg.Lease/4, time.Second)))
	err := e.src.Extend(ctx, e.cfg.Lease, copies...)
	cancel()
	now := time.Now()
	call(e.cfg.Trace.Extended, ExtendedInfo{Messages: copies, Took: now.Sub(began), Err: err})

	var unextended error
	retryIn := max(e.cfg.Lease/32, time.Second/8)
	e.mu.Lock()
	for i, d := range ds {
		err := errorOf(err, i)
		d.extending = false
		switch {
		case d.state == settling:
			e.enqueue(d, now) // it has waited for this call to end
		case d.state == ended || d.lost:
			// gone meanwhile
		case d.msg.Receipt != copies[i].Receipt:
			e.keepBy(d.extendAt) // a newer delivery has taken over, with a lease of its own
		case errors.Is(err, ErrLeaseLost):
			e.lose(d, now)
		case err != nil:
			unextended = err
			d.extendAt = now.Add(retryIn)
			e.keepBy(d.extendAt)
		case copies[i].LeaseUntil.IsZero():
			e.lease(d, began.Add(e.cfg.Lease), now)
		default:
			e.lease(d, copies[i].LeaseUntil, now)
		}
	}
	e.unlock()
	if unextended != nil {
		e.failed("extend", unextended, retryIn)
	}
}
