package queue

import (
	lru "container/list"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// maxRemembered bounds the messages that a memory remembers.
const maxRemembered = 50_000

// A memory remembers, for messages that were returned to the queue, what the
// queue's receive count does not show: how many attempts have failed. A receive
// that ended without a run, or in a refusal, is no attempt; a run that is
// repeated without another receive is one. It forgets the least recently updated
// message first. Used under Consumer.mu.
type memory struct {
	by    map[string]*lru.Element
	order *lru.List // of remembered, the latest last
}

type remembered struct {
	id       string
	receives int // of the message, so far
	failures int // attempts that it has failed in
	streak   judge.Streak
}

// failures returns how many attempts a message had failed in before a receive,
// and its failures in a row.
func (y *memory) failures(m *Message) (int, judge.Streak) {
	known, ok := y.by[m.ID]
	if !ok {
		return max(m.Attempt-1, 0), judge.Streak{}
	}
	r := known.Value.(remembered)
	if 0 < m.Attempt && m.Attempt <= r.receives { // it was redriven, and its count has restarted
		y.forget(m)
		return m.Attempt - 1, judge.Streak{}
	}
	return r.failures + max(m.Attempt-1-r.receives, 0), r.streak // other receivers may have tried it
}

// note remembers a message that is returned to the queue.
func (y *memory) note(m *Message, failures int, streak judge.Streak) {
	known, ok := y.by[m.ID]
	r := remembered{id: m.ID, receives: m.Attempt, failures: failures, streak: streak}
	switch {
	case m.ID == "" || !ok && failures == m.Attempt && streak == (judge.Streak{}):
		return // the queue's count is enough
	case ok:
		known.Value = r
		y.order.MoveToBack(known)
		return
	case y.by == nil:
		y.by, y.order = make(map[string]*lru.Element), lru.New()
	}
	y.by[m.ID] = y.order.PushBack(r)
	if y.order.Len() > maxRemembered {
		oldest := y.order.Front()
		delete(y.by, y.order.Remove(oldest).(remembered).id)
	}
}

// forget removes a message that is done.
func (y *memory) forget(m *Message) {
	if known, ok := y.by[m.ID]; ok {
		y.order.Remove(known)
		delete(y.by, m.ID)
	}
}
