package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

type settleOp uint8

const (
	opAck settleOp = iota
	opNack
)

func (o settleOp) String() string { return [...]string{"ack", "nack"}[o] }

// A settlement is how a delivery is to be settled, and its outcome.
type settlement struct {
	op      settleOp
	delay   time.Duration // of a nack
	outcome Outcome
}

// A batchKey identifies the results that can share a call. Ordered messages share
// one only with their group, so that they are returned in order.
type batchKey struct {
	op    settleOp
	delay time.Duration // of a nack: the upper bound of those that share its call
	group string
}

// shared is the upper bound of the delays that share a nack's call: whole
// seconds, and at most an eighth longer than delay. The call uses the longest
// delay of its messages, so one that shares it with none waits no longer than it
// must.
func shared(delay time.Duration) time.Duration {
	if delay <= 0 {
		return 0
	}
	step := time.Second
	for delay/step >= 16 {
		step *= 2
	}
	return (delay + step - 1).Truncate(step)
}

// A batch is the results that wait for the same call.
type batch struct {
	key        batchKey
	delay      time.Duration // of a nack
	deliveries []*delivery
	array      [batchSize]*delivery // for deliveries
	since      time.Time            // when the first one was added
	next       *batch               // in engine.full
}

const (
	maxLinger      = 500 * time.Millisecond
	minSettleRetry = 50 * time.Millisecond
	maxSettleRetry = 5 * time.Second
)

// linger is how long a result waits for others to share its call.
func (e *engine) linger(key batchKey) time.Duration {
	if e.draining || e.eof || key.group != "" || e.scattered() {
		return 0
	}
	return min(maxLinger, e.cfg.Lease/4)
}

// scattered reports whether nothing is received because the waiting results
// differ too much to share calls. The caller holds mu.
func (e *engine) scattered() bool {
	return len(e.pending) > batchSize && e.unsettled() >= e.maxUnsettled()
}

// settle moves d to settling, to be acked or returned. The caller holds mu.
func (e *engine) settle(d *delivery, s settlement, now time.Time) {
	s.delay = min(s.delay, judge.Longest)
	d.settle, d.since, d.tries, d.receipt = s, now, 0, ""
	e.ledger.settle(d)
	if !d.extending || d.keepsOrder() {
		e.enqueue(d, now)
	} // else it is added once the extension, which might overtake it, has ended
	if e.scattered() {
		e.wakeFlush.set()
	}
	e.changed(now)
}

// keepsOrder reports whether d is to be nacked in the order of its group. It then
// has its position in the batch even while it is being extended, and the batch
// waits for that to end.
func (d *delivery) keepsOrder() bool { return d.group != nil && d.settle.op == opNack }

// extended resumes a settling delivery whose extension has ended. The caller
// holds mu.
func (e *engine) extended(d *delivery, now time.Time) {
	if d.keepsOrder() {
		e.flushBy(now)
	} else {
		e.enqueue(d, now)
	}
}

// enqueue puts a settling delivery into its batch. The caller holds mu.
func (e *engine) enqueue(d *delivery, now time.Time) {
	key := batchKey{op: d.settle.op, delay: shared(d.settle.delay), group: d.groupName()}
	b := e.pending[key]
	if b == nil {
		b = &batch{key: key, since: now}
		b.deliveries = b.array[:0]
		e.pending[key] = b
		e.flushBy(now.Add(e.linger(key)))
	}
	b.deliveries = append(b.deliveries, d)
	b.delay = max(b.delay, d.settle.delay)
	if len(b.deliveries) == batchSize && key.group == "" {
		e.sendSoon(b)
	}
}

// sendSoon queues a batch that unlock sends. The caller holds mu.
func (e *engine) sendSoon(b *batch) {
	delete(e.pending, b.key)
	b.next, e.full = e.full, b
}

// flushBy makes the flush loop look again at t at the latest. The caller holds
// mu.
func (e *engine) flushBy(t time.Time) {
	if e.nextFlush.IsZero() || t.Before(e.nextFlush) {
		e.nextFlush = t
		e.wakeFlush.set()
	}
}

// flush is the loop that sends batches which do not fill up in time, and tries
// failed settlements again. It ends when Run gives up.
func (e *engine) flush() {
	timer := newTimer()
	for {
		now := time.Now()
		var next time.Time
		wakeAt := func(t time.Time) {
			if next.IsZero() || t.Before(next) {
				next = t
			}
		}
		e.mu.Lock()
		for d, ok := e.retrying.top(); ok; d, ok = e.retrying.top() {
			if d.retryAt.After(now) {
				wakeAt(d.retryAt)
				break
			}
			e.retrying.remove(d)
			e.enqueue(d, now)
		}
		for key, b := range e.pending {
			if ripe := b.since.Add(e.linger(key)); ripe.After(now) {
				wakeAt(ripe)
				continue
			}
			if key.group != "" && slices.ContainsFunc(b.deliveries, func(d *delivery) bool { return d.state == settling && d.extending }) {
				continue // extended wakes this loop
			}
			e.sendSoon(b)
		}
		e.nextFlush = next
		e.unlock()
		wait := time.Duration(0)
		if !next.IsZero() {
			wait = max(next.Sub(now), time.Microsecond)
		}
		if !e.wakeFlush.sleep(e.calls, timer, wait) {
			return
		}
	}
}

// send settles a batch with one call, except for a group that returns more
// messages than fit into one; those calls are made one after the other, in order.
func (e *engine) send(b *batch) {
	for len(b.deliveries) > batchSize {
		e.sendOne(b, b.deliveries[:batchSize])
		b.deliveries = b.deliveries[batchSize:]
	}
	e.sendOne(b, b.deliveries)
}

func (e *engine) sendOne(b *batch, ds []*delivery) {
	key := b.key
	e.mu.Lock()
	// Messages that the queue has redelivered are settled already.
	ds = slices.DeleteFunc(ds, func(d *delivery) bool { return d.state != settling })
	if len(ds) == 0 {
		e.mu.Unlock()
		return
	}
	msgs := make([]*Message, len(ds))
	for i, d := range ds {
		msgs[i], d.receipt = d.msg, d.msg.Receipt
		e.sending(d)
	}
	if key.op == opAck {
		e.stats.AckCalls++
	} else {
		e.stats.NackCalls++
	}
	e.mu.Unlock()

	began := time.Now()
	ctx, cancel := context.WithTimeout(e.calls, callLimit)
	var err error
	if key.op == opAck {
		err = e.src.Ack(ctx, msgs...)
	} else {
		err = e.src.Nack(ctx, b.delay, msgs...)
	}
	cancel()
	now := time.Now()
	call(e.cfg.Trace.Settled, SettledInfo{Op: key.op.String(), Delay: b.delay, Messages: msgs, Took: now.Sub(began), Err: err})

	var unsettled error
	retryIn := time.Duration(0)
	e.mu.Lock()
	for i, d := range ds {
		err := errorOf(err, i)
		d.receipt = ""
		switch {
		case d.state != settling:
			// The queue has redelivered it meanwhile.
		case d.resettle:
			d.resettle = false
			e.enqueue(d, now)
		case err == nil:
			e.end(d, d.settle.outcome, now)
		case errors.Is(err, ErrLeaseLost) || now.After(e.giveUpAt(d)):
			e.returnGroup(d, now) // the queue will deliver it again, before those behind it
			e.end(d, LostLease, now)
		default:
			unsettled = err
			retryIn = e.trySettleLater(d, now)
		}
	}
	e.unlock()
	if unsettled != nil {
		e.failed(key.op.String(), unsettled, retryIn)
	}
}

// trySettleLater schedules another try for a delivery whose call has failed. The
// caller holds mu.
func (e *engine) trySettleLater(d *delivery, now time.Time) time.Duration {
	delay := min(minSettleRetry<<min(d.tries, 10), maxSettleRetry)
	delay = delay/2 + rand.N(delay/2+1)
	d.tries++
	d.retryAt = now.Add(delay)
	e.retrying.fix(d)
	e.flushBy(d.retryAt)
	return delay
}

// giveUpAt is until when a settlement is tried. A nack is pointless once the
// lease has ended; an ack may still find the message unclaimed for a while.
func (e *engine) giveUpAt(d *delivery) time.Time {
	switch {
	case d.leaseUntil.IsZero():
		return d.since.Add(e.cfg.MaxHold)
	case d.settle.op == opAck:
		return d.leaseUntil.Add(e.cfg.Lease)
	}
	return d.leaseUntil
}
