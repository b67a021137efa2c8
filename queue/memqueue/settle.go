package memqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// Ack deletes messages. As on SQS, it succeeds for a message that is already
// gone, and for one that was received again since, which stays: only the latest
// receipt of a message deletes it, even when its lease has run out.
func (q *Queue) Ack(ctx context.Context, msgs ...*queue.Message) error {
	return q.settle(ctx, "ack", msgs, func(_ *queue.Message, it *item, _ bool, _ time.Duration) error {
		if it != nil {
			q.drop(it)
			q.counts.Acked++
		}
		return nil
	})
}

// Nack makes messages visible after delay, but no later than Config.MaxLease
// after they were received. A message whose lease is over fails with
// [queue.ErrLeaseLost]. Until the delay is over the message counts as in flight,
// and holds up its group; its receipt stays valid, as on SQS.
func (q *Queue) Nack(ctx context.Context, delay time.Duration, msgs ...*queue.Message) error {
	if delay < 0 {
		return fmt.Errorf("memqueue: nack: delay is %v: must not be negative", delay)
	}
	return q.settle(ctx, "nack", msgs, func(_ *queue.Message, it *item, leased bool, now time.Duration) error {
		if !leased {
			return queue.ErrLeaseLost
		}
		q.hide(it, now, delay)
		return nil
	})
}

// Extend makes messages visible lease from now, but no later than Config.MaxLease
// after they were received, and sets their LeaseUntil to the result. A message
// whose lease is over fails with [queue.ErrLeaseLost].
func (q *Queue) Extend(ctx context.Context, lease time.Duration, msgs ...*queue.Message) error {
	if lease < 0 {
		return fmt.Errorf("memqueue: extend: lease is %v: must not be negative", lease)
	}
	return q.settle(ctx, "extend", msgs, func(m *queue.Message, it *item, leased bool, now time.Duration) error {
		if !leased {
			return queue.ErrLeaseLost
		}
		m.LeaseUntil = q.start.Add(q.hide(it, now, lease))
		return nil
	})
}

// settle calls do for each of the messages, with the item whose latest receipt
// the message has, nil if there is none, and whether that item is leased.
func (q *Queue) settle(ctx context.Context, op string, msgs []*queue.Message, do func(m *queue.Message, it *item, leased bool, now time.Duration) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("memqueue: %s: %w", op, context.Cause(ctx))
	}
	if len(msgs) == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.advance()
	defer q.update(now)
	var failed map[int]error
	for i, m := range msgs {
		it, err := q.find(m)
		if err == nil {
			err = do(m, it, it != nil && it.state == inFlight, now)
		}
		if err != nil {
			if failed == nil {
				failed = make(map[int]error)
			}
			failed[i] = err
		}
	}
	return batchError(op, failed)
}

// find returns the item whose latest receipt the message has, nil if there is
// none. The caller holds mu.
func (q *Queue) find(m *queue.Message) (*item, error) {
	if m == nil {
		return nil, errors.New("memqueue: message is nil")
	}
	serial, receive, err := q.parseReceipt(m.Receipt)
	if err != nil {
		return nil, err
	}
	if it, ok := q.known.get(serial); ok && it.receives == receive {
		return it, nil
	}
	return nil, nil
}

// hide changes when an item in flight becomes visible, and returns the result.
// The caller holds mu.
func (q *Queue) hide(it *item, now, d time.Duration) time.Duration {
	it.due = min(later(now, d), later(it.received, q.cfg.MaxLease))
	if it.due <= now {
		q.show(it)
	} else {
		q.hidden.fix(it)
	}
	return it.due
}
