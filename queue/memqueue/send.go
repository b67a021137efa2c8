package memqueue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// A sender is a Send that waits for room. All of it is guarded by the queue's
// mu until it is out of Queue.senders.
type sender struct {
	msgs   []*queue.Message
	next   int           // of msgs
	failed map[int]error // of msgs; nil: none
	done   chan struct{} // closed when it is served
	turn   node[*sender]
}

// fail makes err the result of the messages that are not in the queue yet.
func (s *sender) fail(err error) {
	for ; s.next < len(s.msgs); s.next++ {
		s.refuse(s.next, err)
	}
}

func (s *sender) refuse(i int, err error) {
	if s.failed == nil {
		s.failed = make(map[int]error)
	}
	if s.failed[i] == nil {
		s.failed[i] = err
	}
}

func (s *sender) result() error { return batchError("send", s.failed) }

// Send puts messages into the queue, any number of them, in their order. It
// copies their Body, Attributes, Group, Dedup and Delay, and assigns their IDs
// itself.
//
// A message that SQS would reject fails alone, in a [queue.BatchError]: see
// "Messages" in the package documentation.
//
// When the queue holds Config.MaxMessages, Send waits for room, first come, first
// served, and adds the messages that fit; messages for which there was no room
// when ctx ended fail with its cause in a [queue.BatchError].
func (q *Queue) Send(ctx context.Context, msgs ...*queue.Message) error {
	if ctx.Err() != nil {
		return fmt.Errorf("memqueue: send: %w", context.Cause(ctx))
	}
	if len(msgs) == 0 {
		return nil
	}
	s := sender{msgs: msgs}
	for i, m := range msgs {
		if err := q.check(m); err != nil {
			s.refuse(i, err)
		}
	}
	if waiting := q.send(&s); waiting != nil {
		select {
		case <-waiting.done:
		case <-ctx.Done():
			q.mu.Lock()
			if q.senders.has(&waiting.turn) {
				q.senders.remove(&waiting.turn)
				waiting.fail(context.Cause(ctx))
				q.update(q.advance()) // the next in line may fit
			}
			q.mu.Unlock()
		}
		return waiting.result()
	}
	return s.result()
}

// send adds what it can at once, and returns nil if it is done with all of s, or
// else a copy of s that waits for room. (So s itself need not be allocated.)
func (q *Queue) send(s *sender) *sender {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		s.fail(ErrClosed)
		return nil
	}
	now := q.advance()
	defer q.update(now)
	if q.senders.empty() && q.accept(s, now) {
		return nil
	}
	if q.cfg.RefuseWhenFull {
		s.fail(ErrFull)
		return nil
	}
	waiting := &sender{msgs: s.msgs, next: s.next, failed: s.failed, done: make(chan struct{})}
	q.senders.pushBack(&waiting.turn, waiting)
	return waiting
}

// admit adds messages of the sender that has waited longest, as far as there is
// room, and reports whether that sender is done. The caller holds mu.
func (q *Queue) admit(now time.Duration) bool {
	s := q.senders.front()
	if s == nil || !q.accept(s, now) {
		return false
	}
	q.senders.remove(&s.turn)
	close(s.done)
	return true
}

// accept adds messages of s while there is room, and reports whether all are
// done. The caller holds mu.
func (q *Queue) accept(s *sender, now time.Duration) bool {
	for ; s.next < len(s.msgs); s.next++ {
		if s.failed[s.next] != nil {
			continue
		}
		m := s.msgs[s.next]
		var id string
		if q.cfg.FIFO {
			id = dedupID(m)
			if q.dedups.has(id) {
				q.counts.Deduplicated++
				continue
			}
		}
		if q.cfg.MaxMessages > 0 && q.total >= q.cfg.MaxMessages {
			return false
		}
		if q.cfg.FIFO {
			q.dedups.add(id, now)
		}
		it := q.spare.get()
		it.body = append(it.body[:0], m.Body...)
		if len(m.Attributes) > 0 {
			it.attributes = maps.Clone(m.Attributes)
		}
		it.tenant, it.dedup, it.sent = m.Group, id, now
		q.add(it, now, m.Delay)
	}
	return true
}

// redrive moves an item that was received often enough to the dead-letter queue,
// in one step: it is always in exactly one of the two. The caller holds mu.
func (q *Queue) redrive(it *item) {
	d := q.cfg.DeadLetter
	id := it.id
	if id == "" {
		id = string(q.appendID(nil, it))
	}
	sent := q.start.Add(it.sent)

	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.advance()
	moved := d.spare.get()
	moved.id, moved.tenant = id, it.tenant
	moved.body, it.body = it.body, moved.body
	moved.attributes = it.attributes
	if d.cfg.FIFO {
		moved.sent, moved.dedup = now, id
	} else {
		moved.sent, moved.moved = sent.Sub(d.start), true
	}
	d.add(moved, now, 0)
	d.update(now)

	q.drop(it)
	q.counts.Redriven++
}

// check returns why SQS would reject the message, nil if it would not.
func (q *Queue) check(m *queue.Message) error {
	if m == nil {
		return errors.New("memqueue: message is nil")
	}
	size, attributes := len(m.Body), 0
	for name, value := range m.Attributes {
		if name == traceHeader {
			continue
		}
		if err := checkName(name); err != nil {
			return err
		}
		size += len(name) + len(value)
		attributes++
	}
	switch {
	case size > maxSize:
		return fmt.Errorf("memqueue: body and attributes have %d bytes: must be at most %d", size, maxSize)
	case attributes > maxAttributes:
		return fmt.Errorf("memqueue: %d attributes: must be at most %d", attributes, maxAttributes)
	case !token(m.Group):
		return fmt.Errorf("memqueue: Group is %q: must be at most %d printable ASCII characters without spaces", m.Group, maxGroupLength)
	case !token(m.Dedup):
		return fmt.Errorf("memqueue: Dedup is %q: must be at most %d printable ASCII characters without spaces", m.Dedup, maxGroupLength)
	case q.cfg.FIFO && m.Group == "":
		return errors.New("memqueue: Group is empty: a FIFO queue needs one")
	case q.cfg.FIFO && m.Dedup == "" && !q.cfg.ContentDedup:
		return errors.New("memqueue: Dedup is empty: a FIFO queue needs one, or Config.ContentDedup")
	case q.cfg.FIFO && m.Delay != 0:
		return fmt.Errorf("memqueue: Delay is %v: a message of a FIFO queue can have none", m.Delay)
	case m.Delay < 0 || m.Delay > maxDelay:
		return fmt.Errorf("memqueue: Delay is %v: must be from 0 to %v", m.Delay, maxDelay)
	}
	return nil
}

// traceHeader is sqsqueue.TraceHeader, which SQS does not count as an attribute
// of the message.
const traceHeader = "AWS.TraceHeader"

// checkName returns why SQS would reject an attribute of that name, nil if it
// would not.
func checkName(name string) error {
	good := name != "" && len(name) <= maxNameLength && name[0] != '.' && name[len(name)-1] != '.' && !strings.Contains(name, "..")
	for i := 0; i < len(name) && good; i++ {
		c := name[i]
		good = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
	}
	if !good {
		return fmt.Errorf("memqueue: attribute name %q: must be 1 to %d letters, digits, _, - and single inner dots", name, maxNameLength)
	}
	if lower := strings.ToLower(name); strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") {
		return fmt.Errorf("memqueue: attribute name %q: what begins with AWS. or Amazon. is reserved", name)
	}
	return nil
}

// token reports whether s can be a group or deduplication id; an empty one is
// allowed.
func token(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= maxGroupLength
}

// dedupID returns the message's deduplication id on a FIFO queue.
func dedupID(m *queue.Message) string {
	if m.Dedup != "" {
		return m.Dedup
	}
	sum := sha256.Sum256(m.Body)
	return hex.EncodeToString(sum[:])
}

// batchError returns nil if no message failed.
func batchError(op string, failed map[int]error) error {
	if len(failed) == 0 {
		return nil
	}
	return &queue.BatchError{Op: op, Failed: failed}
}
