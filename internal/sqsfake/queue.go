package sqsfake

import (
	"container/list"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A queue is the state of a queue. The server's mutex guards all of it.
type queue struct {
	config
	name                      string
	fifo                      bool
	maxInFlight               int
	created, modified, purged time.Time
	dead                      func(name string) *queue // the dead-letter queue, nil if there is none

	messages map[string]*message // by id
	ready    list.List           // of *message: visible ones in the order they became visible; of *group on FIFO queues
	groups   map[string]*group   // FIFO queues only
	hidden   byTime              // messages in flight and delayed, by when that ends
	ages     byTime              // all messages
	seq      uint64              // of the last message
	counts   QueueStats

	dedups   window[sentEntry] // FIFO queues only: the reply to the sender of the first one
	attempts window[[]message] // FIFO queues only: what receives with an attempt id returned

	polls list.List   // of *poll: waiting for a message
	timer *time.Timer // runs wake; created by the first poll that waits
}

// A poll is a receive that waits for a message.
type poll struct {
	max        int
	visibility time.Duration
	attempt    string
	until      time.Time
	gone       bool           // the caller has gone, but the service does not know
	got        chan []message // has room for one value; closed when the queue is deleted
}

// A group is the messages of a message group in a FIFO queue, in order.
type group struct {
	msgs     []*message
	inFlight int
	ready    *list.Element // while its first message can be received
}

func newQueue(name string, c config, maxInFlight int, now time.Time) *queue {
	return &queue{
		config:      c,
		name:        name,
		fifo:        strings.HasSuffix(name, fifoSuffix),
		maxInFlight: maxInFlight,
		created:     now,
		modified:    now,
		messages:    make(map[string]*message),
		groups:      make(map[string]*group),
		hidden:      byTime{key: func(m *message) time.Time { return m.until }, index: func(m *message) *int { return &m.inHidden }},
		ages:        byTime{key: func(m *message) time.Time { return m.sent }, index: func(m *message) *int { return &m.inAges }},
	}
}

// send stores a message that has been checked, unless it is a duplicate. The checksums
// it returns are those of the message as it arrived, for the sender to compare; with
// firstChecksums a duplicate gets those of the first message.
func (q *queue) send(now time.Time, e *entry, firstChecksums bool) sentEntry {
	m := &message{
		id:         newID(),
		body:       *e.MessageBody,
		attributes: e.MessageAttributes,
		trace:      e.MessageSystemAttributes["AWSTraceHeader"].text(),
		md5:        md5OfBody(*e.MessageBody),
		sent:       now,
	}
	if e.MessageGroupID != nil {
		m.group = *e.MessageGroupID
	}
	sent := sentEntry{
		ID:                           e.ID,
		MessageID:                    m.id,
		MD5OfMessageBody:             m.md5,
		MD5OfMessageAttributes:       md5OfAttributes(e.MessageAttributes),
		MD5OfMessageSystemAttributes: md5OfAttributes(e.MessageSystemAttributes),
	}
	var key string
	if q.fifo {
		m.dedup = e.dedupID()
		key = m.dedup
		if q.dedupByGroup {
			key = m.group + " " + m.dedup
		}
		if first, ok := q.dedups.get(now, key); ok {
			sent.MessageID, sent.SequenceNumber = first.MessageID, first.SequenceNumber
			if firstChecksums {
				first.ID = e.ID
				return first
			}
			return sent
		}
	}
	delay := q.delay
	if e.DelaySeconds != nil && !q.fifo {
		delay = time.Duration(*e.DelaySeconds) * time.Second
	}
	q.counts.Sent++
	q.add(m, now.Add(delay), delay > 0)
	if q.fifo {
		sent.SequenceNumber = sequenceNumber(m.seq)
		q.dedups.put(now, key, sent)
	}
	return sent
}

// add appends a message to the queue, delayed until then or visible.
func (q *queue) add(m *message, until time.Time, delayed bool) {
	q.seq++
	m.seq = q.seq
	m.inHidden, m.inAges = -1, -1
	q.messages[m.id] = m
	q.ages.add(m)
	if q.fifo {
		g := q.groups[m.group]
		if g == nil {
			g = &group{}
			q.groups[m.group] = g
		}
		g.msgs = append(g.msgs, m)
	}
	if delayed {
		m.delayed, m.until = true, until
		q.counts.Delayed++
		q.hidden.add(m)
		return
	}
	q.offer(m)
}

// offer makes a message that is not hidden available to receives.
func (q *queue) offer(m *message) {
	if q.fifo {
		q.regroup(q.groups[m.group])
		return
	}
	m.inReady = q.ready.PushBack(m)
}

// regroup makes a group available to receives or not, depending on its messages.
func (q *queue) regroup(g *group) {
	can := g.inFlight == 0 && len(g.msgs) > 0 && !g.msgs[0].delayed
	switch {
	case can && g.ready == nil:
		g.ready = q.ready.PushBack(g)
	case !can && g.ready != nil:
		q.ready.Remove(g.ready)
		g.ready = nil
	}
}

// show makes a hidden message visible.
func (q *queue) show(m *message) {
	q.hidden.remove(m)
	q.unhide(m)
	q.offer(m)
}

// unhide counts a message as no longer hidden.
func (q *queue) unhide(m *message) {
	switch {
	case m.inFlight:
		q.counts.InFlight--
		if q.fifo {
			q.groups[m.group].inFlight--
		}
	case m.delayed:
		q.counts.Delayed--
	}
	m.inFlight, m.delayed = false, false
}

// remove removes a message from the queue.
func (q *queue) remove(m *message) {
	delete(q.messages, m.id)
	q.ages.remove(m)
	q.hidden.remove(m)
	q.unhide(m)
	if m.inReady != nil {
		q.ready.Remove(m.inReady)
		m.inReady = nil
	}
	if !q.fifo {
		return
	}
	g := q.groups[m.group]
	for i := range g.msgs {
		if g.msgs[i] == m {
			g.msgs = append(g.msgs[:i], g.msgs[i+1:]...)
			break
		}
	}
	q.regroup(g)
	if len(g.msgs) == 0 {
		delete(q.groups, m.group)
	}
}

// advance updates the queue to now: hidden messages become visible, old ones are
// dropped.
func (q *queue) advance(now time.Time) {
	for m := q.hidden.first(); m != nil && !now.Before(m.until); m = q.hidden.first() {
		q.show(m)
	}
	for m := q.ages.first(); m != nil && !now.Before(m.sent.Add(q.retention)); m = q.ages.first() {
		q.remove(m)
		q.counts.Expired++
	}
}

// full reports whether no more messages may be in flight.
func (q *queue) full() bool { return q.counts.InFlight >= q.maxInFlight }

// take receives up to n visible messages.
func (q *queue) take(now time.Time, n int, visibility time.Duration) []message {
	n = min(n, q.maxInFlight-q.counts.InFlight)
	var taken []*message
	for len(taken) < n && q.ready.Len() > 0 {
		switch front := q.ready.Front(); v := front.Value.(type) {
		case *message:
			if q.redrive(now, v) {
				continue
			}
			q.ready.Remove(front)
			v.inReady = nil
			taken = append(taken, v)
		case *group:
			q.ready.Remove(front)
			v.ready = nil
			for i := 0; len(taken) < n && i < len(v.msgs) && !v.msgs[i].delayed; {
				// The group leaves the ready list, and may come back into it: hiding
				// the taken messages, below, keeps it out.
				if m := v.msgs[i]; !q.redrive(now, m) {
					taken = append(taken, m)
					i++
				}
			}
			if v.ready != nil { // redrive has put it back
				q.ready.Remove(v.ready)
				v.ready = nil
			}
		}
	}
	got := make([]message, len(taken))
	for i, m := range taken {
		m.receives++
		m.received = now
		if m.firstReceived.IsZero() {
			m.firstReceived = now
		}
		m.receipt = q.newReceipt(m)
		m.until = now.Add(visibility)
		got[i] = *m
		q.counts.Received++
		if visibility > 0 {
			q.hide(m)
		}
	}
	for _, m := range taken {
		if !m.inFlight || q.fifo {
			q.offer(m)
		}
	}
	return got
}

// hide puts a received message in flight.
func (q *queue) hide(m *message) {
	m.inFlight = true
	q.hidden.add(m)
	if q.fifo {
		q.groups[m.group].inFlight++
	}
	q.counts.InFlight++
	q.counts.MaxInFlight = max(q.counts.MaxInFlight, q.counts.InFlight)
}

// redrive moves a message that has been received too often to the dead-letter
// queue.
func (q *queue) redrive(now time.Time, m *message) bool {
	if q.deadLetter == "" || m.receives < q.maxReceives {
		return false
	}
	dead := q.dead(q.deadLetter)
	if dead == nil {
		return false
	}
	q.remove(m)
	q.counts.Redriven++
	m.source = arn(q.name)
	m.receipt = ""
	if q.fifo {
		m.dedup, m.sent = m.id, now
	}
	dead.add(m, now, false)
	dead.wake(now)
	return true
}

// wake serves the waiting polls as long as there are messages.
func (q *queue) wake(now time.Time) {
	q.advance(now)
	for e := q.polls.Front(); e != nil; e = q.polls.Front() {
		p := e.Value.(*poll)
		if p.gone && !now.Before(p.until) {
			q.polls.Remove(e)
			continue
		}
		got := q.take(now, p.max, p.visibility)
		if len(got) == 0 {
			break
		}
		q.polls.Remove(e)
		if p.attempt != "" {
			q.attempts.put(now, p.attempt, got)
		}
		p.got <- got // into its buffer, even if nobody reads it
	}
	q.setTimer(now)
}

// setTimer makes wake run at the next change of the queue, while a poll waits.
func (q *queue) setTimer(now time.Time) {
	if q.timer == nil {
		return
	}
	q.timer.Stop()
	if q.polls.Len() == 0 {
		return
	}
	var next time.Time
	if m := q.hidden.first(); m != nil {
		next = m.until
	}
	if m := q.ages.first(); m != nil {
		if t := m.sent.Add(q.retention); next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if !next.IsZero() {
		q.timer.Reset(next.Sub(now))
	}
}

// find returns the message of a receipt handle, nil if it is deleted.
func (q *queue) find(handle string) (*message, error) {
	text, err := base64.StdEncoding.DecodeString(handle)
	parts := strings.Split(string(text), " ")
	if err != nil || len(parts) != 3 {
		return nil, badHandle(handle)
	}
	if parts[0] != q.name {
		return nil, badValue(handle, "ReceiptHandle", "The receipt handle is not valid for this queue.")
	}
	return q.messages[parts[1]], nil
}

func (q *queue) newReceipt(m *message) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s %s %d-%x", q.name, m.id, m.receives, rand.Uint32()))
}

// delete deletes the message of a receipt handle. On standard queues it succeeds for
// any handle that was once valid, but only the latest deletes; with undelete it makes
// the message visible instead.
func (q *queue) delete(handle string, undelete bool) error {
	m, err := q.find(handle)
	switch {
	case err != nil:
		return err
	case m == nil:
		return nil
	case q.fifo && (m.receipt != handle || !m.inFlight):
		return expiredHandle(handle)
	case m.receipt != handle, undelete && !m.inFlight:
		return nil
	case undelete:
		q.show(m)
		return nil
	}
	q.remove(m)
	q.counts.Deleted++
	return nil
}

// change makes the message of a receipt handle visible after that many seconds.
func (q *queue) change(now time.Time, handle string, seconds int) error {
	m, err := q.find(handle)
	visibility := time.Duration(seconds) * time.Second
	switch {
	case err != nil:
		return err
	case seconds < 0 || visibility > maxVisibility:
		return badValue(seconds, "VisibilityTimeout", "Must be between 0 and 43200.")
	case m == nil:
		return unavailable(handle)
	case q.fifo && (m.receipt != handle || !m.inFlight):
		return expiredHandle(handle)
	case m.receipt != handle:
		return unavailable(handle)
	case !m.inFlight:
		return notInFlight()
	case now.Add(visibility).Sub(m.received) > maxVisibility:
		return badValue(seconds, "VisibilityTimeout", "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]")
	case seconds == 0:
		q.show(m)
	default:
		q.hidden.remove(m)
		m.until = now.Add(visibility)
		q.hidden.add(m)
	}
	return nil
}

// replay returns the messages that an earlier receive with the same attempt id
// returned, hides them again, and reports whether there was such a receive.
func (q *queue) replay(now time.Time, attempt string, visibility time.Duration) ([]message, bool, error) {
	before, ok := q.attempts.get(now, attempt)
	if !ok {
		return nil, false, nil
	}
	expired := false
	for _, b := range before {
		m := q.messages[b.id]
		if m == nil || m.receipt != b.receipt || m.inFlight && !m.until.Equal(b.until) {
			return nil, true, badValue(attempt, "ReceiveRequestAttemptId", "The receiveRequestAttemptId is not valid anymore since the receive call is not retryable.")
		}
		expired = expired || !m.inFlight
	}
	if expired {
		q.attempts.forget(attempt)
		return nil, false, nil
	}
	for i := range before {
		m := q.messages[before[i].id]
		q.hidden.remove(m)
		m.until = now.Add(visibility)
		q.hidden.add(m)
		before[i].until = m.until
	}
	return slices.Clone(before), true, nil // the caller reads it without the mutex
}

// purge removes all messages.
func (q *queue) purge() {
	for _, m := range q.messages {
		q.remove(m)
	}
}

func sequenceNumber(n uint64) string { return fmt.Sprintf("188%017d", n) }

func newID() string {
	a, b := rand.Uint64(), rand.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xFFFF, a&0xFFF, 0x8000|b>>50, b&0xFFFF_FFFF_FFFF)
}
