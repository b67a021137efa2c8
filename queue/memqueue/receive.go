package memqueue

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// A receiver is a Receive that waits for a message. All of it is guarded by
// the queue's mu until it is out of Queue.receivers.
type receiver struct {
	opts  queue.ReceiveOptions
	until time.Duration // when it gives up
	msgs  []*queue.Message
	err   error
	done  chan struct{} // closed when it has its messages, or there will be none
	turn  node[*receiver]
}

// Receive returns 1 to o.Max visible messages, at most ten, first those that
// became visible first, and hides them for o.Lease. If there are none it waits
// for one, for Config.Wait at most, or o.Wait if that is less, and then returns
// no messages and a nil error; when o.Stop is closed it does so at once. Waiting
// receivers are served in the order of their calls. After [Queue.Close], once the
// last message is gone, it returns io.EOF.
//
// o.Max must be at least 1, o.Lease positive and at most Config.MaxLease.
func (q *Queue) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	switch {
	case o.Max < 1:
		return nil, fmt.Errorf("memqueue: receive: Max is %d: must be at least 1", o.Max)
	case o.Lease <= 0 || o.Lease > q.cfg.MaxLease:
		return nil, fmt.Errorf("memqueue: receive: Lease is %v: must be positive and at most %v", o.Lease, q.cfg.MaxLease)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("memqueue: receive: %w", context.Cause(ctx))
	}
	select {
	case <-o.Stop:
		return nil, nil
	default:
	}
	msgs, r, err := q.receive(o)
	if r == nil {
		return msgs, err
	}
	var enough <-chan time.Time
	if o.Wait > 0 && o.Wait < q.cfg.Wait {
		timer := time.NewTimer(o.Wait)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-r.done:
	case <-enough:
		q.leave(r)
	case <-o.Stop:
		q.leave(r)
	case <-ctx.Done():
		if q.leave(r) {
			return nil, fmt.Errorf("memqueue: receive: %w", context.Cause(ctx))
		}
	}
	return r.msgs, r.err
}

// leave ends a receiver's wait, and reports whether it was still waiting. A
// receiver that was served at the same moment was not: its messages must not be
// lost.
func (q *Queue) leave(r *receiver) (waiting bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting = q.receivers.has(&r.turn)
	q.receivers.remove(&r.turn)
	return waiting
}

// receive returns the available messages, or a receiver that waits.
func (q *Queue) receive(o queue.ReceiveOptions) ([]*queue.Message, *receiver, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.advance()
	defer q.update(now)
	if q.receivers.empty() {
		if msgs := q.take(o, now); len(msgs) > 0 {
			return msgs, nil, nil
		}
	}
	if q.drained() {
		return nil, nil, io.EOF
	}
	if q.cfg.Wait < 0 {
		return nil, nil, nil
	}
	r := &receiver{opts: o, until: later(now, q.cfg.Wait), done: make(chan struct{})}
	q.receivers.pushBack(&r.turn, r)
	return nil, r, nil
}

// deliver gives messages to the receiver that has waited longest, and reports
// whether that has changed the queue. The caller holds mu.
func (q *Queue) deliver(now time.Duration) bool {
	r := q.receivers.front()
	if r == nil {
		return false
	}
	before := q.total
	r.msgs = q.take(r.opts, now)
	if len(r.msgs) > 0 {
		q.receivers.remove(&r.turn)
		close(r.done)
		return true
	}
	return q.total < before
}

// take puts visible messages in flight and returns them for delivery. It moves
// those that were received often enough to the dead-letter queue instead. The
// caller holds mu.
func (q *Queue) take(o queue.ReceiveOptions, now time.Duration) []*queue.Message {
	var room [maxReceive]*item
	picked := room[:0]
	most := min(o.Max, maxReceive, q.cfg.MaxInFlight-q.inFlight)
	pick := func(it *item) {
		if q.cfg.MaxReceives > 0 && it.receives >= q.cfg.MaxReceives {
			q.redrive(it)
			return
		}
		q.lease(it, now, o.Lease)
		picked = append(picked, it)
	}
	for it := q.ready.front(); it != nil && len(picked) < most; it = q.ready.front() {
		pick(it)
	}
	for g := q.groups.turns.front(); g != nil && len(picked) < most; g = q.groups.turns.front() {
		for it := g.items.front(); it != nil && len(picked) < most; {
			following := g.items.after(&it.turn)
			pick(it)
			it = following
		}
		q.groups.update(g)
	}
	return q.export(picked)
}

// export makes messages of items just leased. They are copies, so that the caller
// may change them. Without attributes a batch costs four allocations, however
// long it is. The caller holds mu.
func (q *Queue) export(items []*item) []*queue.Message {
	if len(items) == 0 {
		return nil
	}
	size, text := 0, q.scratch[:0]
	var ends [maxReceive]struct{ id, receipt, sequence int }
	for i, it := range items {
		size += len(it.body)
		text = q.appendID(text, it)
		ends[i].id = len(text)
		text = append(text, '.')
		text = strconv.AppendInt(text, int64(it.receives), 10)
		ends[i].receipt = len(text)
		if q.cfg.FIFO {
			text = appendSequence(text, it.serial)
		}
		ends[i].sequence = len(text)
	}
	q.scratch = text
	q.counts.Received += uint64(len(items))

	var (
		names  = string(text)
		bodies = make([]byte, 0, size)
		array  = make([]queue.Message, len(items))
		msgs   = make([]*queue.Message, len(items))
		begin  = 0
	)
	for i, it := range items {
		end, body := ends[i], len(bodies)
		bodies = append(bodies, it.body...)
		m := &array[i]
		*m = queue.Message{
			ID:              it.id,
			Body:            bodies[body:len(bodies):len(bodies)], // an append must not overwrite the next body
			Group:           it.tenant,
			Dedup:           it.dedup,
			Sequence:        names[end.receipt:end.sequence],
			Attempt:         it.receives,
			SentAt:          q.start.Add(it.sent),
			FirstReceivedAt: q.start.Add(it.firstReceived),
			ReceivedAt:      q.start.Add(it.received),
			LeaseUntil:      q.start.Add(it.due),
			Receipt:         names[begin:end.receipt],
		}
		if m.ID == "" {
			m.ID = names[begin:end.id]
		}
		if it.attributes != nil {
			m.Attributes = maps.Clone(it.attributes)
		}
		msgs[i] = m
		begin = end.sequence
	}
	return msgs
}

// appendID appends the queue's id of the item. A receipt is that id, a dot, and
// the number of the receive.
func (q *Queue) appendID(text []byte, it *item) []byte {
	return strconv.AppendUint(append(text, q.prefix...), it.serial, 10)
}

// appendSequence appends 20 digits, so that the order of sequences as text is
// that of their numbers.
func appendSequence(text []byte, serial uint64) []byte {
	const zeros = "00000000000000000000"
	var digits [20]byte
	number := strconv.AppendUint(digits[:0], serial, 10)
	return append(append(text, zeros[len(number):]...), number...)
}

// parseReceipt parses a receipt that export has written.
func (q *Queue) parseReceipt(receipt string) (serial uint64, receive int, err error) {
	rest, ours := strings.CutPrefix(receipt, q.prefix)
	id, number, complete := strings.Cut(rest, ".")
	if ours && complete {
		if serial, err = strconv.ParseUint(id, 10, 64); err == nil {
			receive, err = strconv.Atoi(number)
		}
	}
	if !ours || !complete || err != nil {
		return 0, 0, fmt.Errorf("memqueue: receipt %q is not one of this queue", receipt)
	}
	return serial, receive, nil
}
