package queue

import (
	"context"
	"errors"
	"slices"
	"time"
)

// lease records until when d is leased, and that its lease is to be extended at
// half of that time. The caller holds mu, and calls attend.
func (e *engine) lease(d *delivery, until, now time.Time) {
	d.leaseUntil, d.extendAt = until, time.Time{}
	if until.IsZero() {
		return
	}
	d.extendAt = until
	if half := until.Sub(now) / 2; half > time.Second/4 {
		d.extendAt = now.Add(half) // else the queue's own maximum is near: let it end
	}
}

// attend schedules d's next look by the lease loop, if there is any. The caller
// holds mu.
func (e *engine) attend(d *delivery) {
	at := e.attention(d)
	e.look(d, at)
	if !at.IsZero() && (e.nextKeep.IsZero() || at.Before(e.nextKeep)) {
		e.nextKeep = at
		e.wakeKeeper.set()
	}
}

// attention is when d's lease is to be extended or ends, or d has been held for
// too long, whichever is first; zero if there is no such time.
func (e *engine) attention(d *delivery) time.Time {
	if d.lost || d.state == settling {
		return time.Time{}
	}
	at := d.leaseUntil
	if !at.IsZero() && !d.extending {
		at = d.extendAt
	}
	if until, ok := e.heldUntil(d); ok && (at.IsZero() || until.Before(at)) {
		at = until
	}
	return at
}

// keepLeases is the loop that extends the leases of all messages in flight, ends
// deliveries whose lease is lost, and returns messages that were held too long.
// It ends when Run gives up.
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

// lookAfter handles the deliveries whose time has come in the lease loop. It
// returns the deliveries to extend, and sets nextKeep. The caller holds mu.
func (e *engine) lookAfter(now time.Time) (extend []*delivery) {
	soon := now.Add(e.cfg.Lease / 16) // what is due soon shares the call of what is due now
	for d, ok := e.watch.top(); ok; d, ok = e.watch.top() {
		extends := !d.leaseUntil.IsZero() && !d.extending && !d.extendAt.Equal(d.leaseUntil)
		if early := d.looks.After(now); early {
			if len(extend) == 0 || !extends || d.looks.After(soon) || d.looks.Before(d.extendAt) {
				break
			}
		}
		until, limited := e.heldUntil(d)
		switch {
		case !d.ours(now):
			e.lose(d, now)
		case limited && !until.After(now):
			e.returnGroup(d, now)
			delay := max(0, d.due.Sub(now))
			if d.state == queued && d.lane.aside {
				delay = d.lane.turn(max(d.msg.Attempt, 1), now)
			}
			e.settle(d, settlement{op: opNack, delay: delay, outcome: Released}, now)
		case extends && !d.extendAt.After(soon):
			d.extending = true
			extend = append(extend, d)
			e.look(d, e.attention(d))
		default:
			e.look(d, e.attention(d)) // its state has changed since it was put here
		}
	}
	// The rest of a group may have been returned after it was looked at.
	extend = slices.DeleteFunc(extend, func(d *delivery) bool {
		if d.state != settling && d.state != ended {
			return false
		}
		d.extending = false
		if d.state == settling {
			e.extended(d, now)
		}
		return true
	})
	e.nextKeep = time.Time{}
	if d, ok := e.watch.top(); ok {
		e.nextKeep = d.looks
	}
	return extend
}

// heldUntil is when a message that does not run is returned, whatever it waits
// for. The messages behind it in its group are returned with it.
func (e *engine) heldUntil(d *delivery) (time.Time, bool) {
	switch ordered := d.group != nil && e.policy.MaxOrdered > 0; {
	case d.state != queued && d.state != held && d.state != due:
		return time.Time{}, false
	case ordered:
		return d.msg.ReceivedAt.Add(e.policy.MaxOrdered), true
	case d.state == queued:
		// Returning a message to a host's source would not undo its receive.
		return d.since.Add(e.cfg.MaxHold), e.host == nil
	}
	return d.heldSince.Add(e.cfg.MaxHold), true
}

// lose ends a delivery that is no longer ours. The caller holds mu.
func (e *engine) lose(d *delivery, now time.Time) {
	e.returnGroup(d, now)
	switch d.state {
	case running:
		d.lost = true // it ends when its handler returns
		d.cancel(ErrLeaseLost)
		e.attend(d)
	case handing:
		d.lost = true // it ends when the sink has returned
		e.attend(d)
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
			e.extended(d, now)
		case d.state == ended || d.lost:
			// ended meanwhile
		case d.msg.Receipt != copies[i].Receipt:
			e.attend(d) // a newer delivery has taken over, with a lease of its own
		case errors.Is(err, ErrLeaseLost):
			e.lose(d, now)
		case err != nil:
			unextended = err
			d.extendAt = now.Add(retryIn)
			if d.extendAt.After(d.leaseUntil) {
				d.extendAt = d.leaseUntil
			}
			e.attend(d)
		case copies[i].LeaseUntil.IsZero():
			e.lease(d, began.Add(e.cfg.Lease), now)
			e.attend(d)
		default:
			e.lease(d, copies[i].LeaseUntil, now)
			e.attend(d)
		}
	}
	e.unlock()
	if unextended != nil {
		e.failed("extend", unextended, retryIn)
	}
}
