package queue

import "github.com/rampmeter/rampmeter/queue/internal/judge"

// maxRemembered bounds how many messages a memory has something about.
const maxRemembered = 10_000

// A memory knows of messages that were returned to the queue what the queue's
// count of receives doesn't say: how many attempts they have failed in. A receive
// that ended without a run, or in a refusal, is none; a run that is repeated in
// hand is one without a receive. It forgets what it learned longest ago. Used
// under Consumer.mu.
type memory struct {
	by   map[string]remembered
	ring []string // ids in the order in which they came; may name what was forgotten
	next int      // in ring
}

type remembered struct {
	receives int // of the message, so far
	failures int // attempts that it has failed in
	streak   judge.Streak
	slot     int // in ring
}

// failures returns how many attempts a message had failed in before a receive,
// and its failures in a row.
func (y *memory) failures(m *Message) (int, judge.Streak) {
	r, ok := y.by[m.ID]
	if !ok {
		return max(m.Attempt-1, 0), judge.Streak{}
	}
	return r.failures + max(m.Attempt-1-r.receives, 0), r.streak // what others received, they may have tried
}

// note takes note of a message that is returned to the queue.
func (y *memory) note(m *Message, failures int, streak judge.Streak) {
	r, known := y.by[m.ID]
	switch {
	case m.ID == "" || !known && failures == m.Attempt && streak == (judge.Streak{}):
		return // the queue's count says it
	case !known:
		if y.by == nil {
			y.by = make(map[string]remembered)
		}
		if len(y.ring) < maxRemembered {
			y.ring = append(y.ring, m.ID)
			r.slot = len(y.ring) - 1
		} else {
			r.slot = y.next
			y.next = (y.next + 1) % maxRemembered
			if oldest := y.ring[r.slot]; y.by[oldest].slot == r.slot {
				delete(y.by, oldest)
			}
			y.ring[r.slot] = m.ID
		}
	}
	r.receives, r.failures, r.streak = m.Attempt, failures, streak
	y.by[m.ID] = r
}

// forget forgets a message that is done.
func (y *memory) forget(m *Message) {
	if len(y.by) > 0 {
		delete(y.by, m.ID)
	}
}
