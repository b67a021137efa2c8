package sqslambda

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/rampmeter/rampmeter/queue"
)

// A source is an event's records as a queue that ends. It delivers one message of
// an ordered group at a time, and none of a group after one of its messages was
// returned.
type source struct {
	index map[string]*record // by the id in the engine's message; never changes
	nack  func(ctx context.Context, delay time.Duration, some []*record)

	mu      sync.Mutex // guards all below, and the records
	records []record   // in the event's order; of those with the same id, the first
	next    int        // none before is pending
	closed  bool       // no more messages are delivered
	changed chan struct{}
}

var _ queue.Source = (*source)(nil)

func newSource(raw []events.SQSMessage, now time.Time) *source {
	s := &source{index: make(map[string]*record, len(raw)), records: make([]record, 0, len(raw))}
	var groups map[string]*group
	for i := range raw {
		id := raw[i].MessageId
		if id != "" && s.index[id] != nil {
			continue // twice in one event; one response covers both
		}
		s.records = append(s.records, record{})
		r := &s.records[len(s.records)-1]
		r.fill(&raw[i], now)
		r.nameless = id == ""
		if !r.nameless {
			s.index[id] = r
		}
		if r.ordered() {
			if groups == nil {
				groups = make(map[string]*group)
			}
			if groups[r.msg.Group] == nil {
				groups[r.msg.Group] = &group{}
			}
			r.group = groups[r.msg.Group]
		}
	}
	for i := range s.records {
		r := &s.records[i]
		for n := i; r.msg.ID == ""; n++ { // the engine needs a unique id
			if id := "record " + strconv.Itoa(n); s.index[id] == nil {
				r.msg.ID = id
				s.index[id] = r
			}
		}
	}
	return s
}

// name returns the message's own id, given the one that the engine uses; "" if it has
// none: other messages get the engine's in other events.
func (s *source) name(id string) string {
	if r := s.index[id]; r != nil && r.nameless {
		return ""
	}
	return id
}

// Receive returns messages that may be started. The last ones come with io.EOF.
func (s *source) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	for {
		s.mu.Lock()
		msgs, more := s.take(o.Max)
		var changed chan struct{}
		if more && len(msgs) == 0 {
			if s.changed == nil {
				s.changed = make(chan struct{})
			}
			changed = s.changed
		}
		s.mu.Unlock()
		switch {
		case !more:
			return msgs, io.EOF
		case len(msgs) > 0:
			return msgs, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take returns up to n messages, and reports whether others may follow. The
// caller holds mu.
func (s *source) take(n int) (msgs []*queue.Message, more bool) {
	if s.closed {
		return nil, false
	}
	for i := s.next; i < len(s.records); i++ {
		r := &s.records[i]
		switch {
		case r.state != pending:
			if i == s.next {
				s.next++
			}
			continue
		case r.group != nil && r.group.failed:
			continue
		case len(msgs) == n:
			return msgs, true
		case r.group != nil && r.group.out:
			more = true
			continue
		}
		r.state = out
		if r.group != nil {
			r.group.out = true
		}
		msgs = append(msgs, &r.msg)
		if i == s.next {
			s.next++
		}
	}
	return msgs, more
}

// Ack records that messages are done.
func (s *source) Ack(_ context.Context, msgs ...*queue.Message) error {
	s.settle(msgs, done)
	return nil
}

// Nack records that messages are to be delivered again, and hides them.
func (s *source) Nack(ctx context.Context, delay time.Duration, msgs ...*queue.Message) error {
	s.nack(ctx, delay, s.settle(msgs, returned))
	return nil
}

// Extend does nothing: messages that Lambda has received stay hidden for longer than
// the function may run.
func (s *source) Extend(context.Context, time.Duration, ...*queue.Message) error { return nil }

func (s *source) settle(msgs []*queue.Message, to state) []*record {
	some := make([]*record, 0, len(msgs))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		r := s.index[m.ID]
		if r == nil {
			continue // not ours
		}
		some = append(some, r)
		r.state = to
		if r.group != nil {
			r.group.out = false
			r.group.failed = r.group.failed || to == returned
		}
	}
	s.wake()
	return some
}

// wake wakes the receives that wait. The caller holds mu.
func (s *source) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// close ends delivery, marks the undelivered messages as returned, and returns
// them.
func (s *source) close() (rest []*record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for i := range s.records {
		if r := &s.records[i]; r.state == pending {
			r.state = returned
			rest = append(rest, r)
		}
	}
	s.wake()
	return rest
}

// note records the result of a message's run.
func (s *source) note(id string, f fate, throttled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.index[id]
	r.fate, r.throttled = f, throttled
}

// count returns how many messages there are, and how many of them were returned
// untried.
func (s *source) count() (all, idle int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.records {
		if r := &s.records[i]; r.state == returned && r.fate == untried {
			idle++
		}
	}
	return len(s.records), idle
}
