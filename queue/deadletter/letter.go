package deadletter

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

// A Letter is a message of a dead-letter queue, and what is known of how it got
// there.
type Letter struct {
	// Message is the message as it is in the dead-letter queue. Its ID is the one in
	// that queue; Record.MessageID is the earlier one.
	Message *queue.Message
	// Record says why the message was given up. It is zero if the message has
	// none: the queue's redrive policy moved it, or there was no room.
	Record retry.DeadLetter
	// Recorded reports whether the message has a record.
	Recorded bool
	// History describes the message's lives before the one that Record describes.
	// Zero if it was never redriven.
	History History
}

// Read returns the message's letter. A record that can't be read is ignored. The
// message is kept, not copied.
func Read(m *queue.Message) Letter {
	l := Letter{Message: m}
	if record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute]); err == nil {
		l.Record, l.Recorded = record, true
	}
	if history, err := ParseHistory(m.Attributes[HistoryAttribute]); err == nil {
		l.History = history
	}
	return l
}

// Attempts returns how often the message was received in all its lives, including
// receives after which it was returned untried. 0: unknown.
func (l Letter) Attempts() int { return l.History.Attempts + l.Record.Attempts }

// First returns when the message was first received, in the first of its lives. Zero:
// unknown.
func (l Letter) First() time.Time {
	if !l.History.First.IsZero() {
		return l.History.First
	}
	return l.Record.First
}

// Died returns when the message was given up, according to its record. Without a
// record it returns when the message was sent; on a standard queue of SQS that is when
// it was first sent to the queue that it came from. Zero: unknown.
func (l Letter) Died() time.Time {
	if !l.Record.Last.IsZero() {
		return l.Record.Last
	}
	return l.Message.SentAt
}

// HistoryAttribute is the name of the message attribute that carries a redriven
// message's [History].
const HistoryAttribute = "rampmeter-redriven"

// A History is what a redriven message carries about its earlier lives, in place of
// the dead-letter record. The message's handler may read it, and it stays with the
// message when that becomes a dead letter again.
type History struct {
	// Redrives is how often the message was redriven.
	Redrives int
	// Run names the last redrive; see [Summary].
	Run string
	// Attempts is how often the message was tried before. 0: unknown.
	Attempts int
	// First is when it was first received. Zero: unknown.
	First time.Time
	// Last is the record that it had when it was last redriven. Zero if it had
	// none.
	Last retry.DeadLetter
}

// encodedHistory is the form of a History in the attribute.
type encodedHistory struct {
	Redrives int             `json:"redrives"`
	Run      string          `json:"run"`
	Attempts int             `json:"attempts,omitempty"`
	First    time.Time       `json:"first,omitzero"`
	Last     json.RawMessage `json:"last,omitempty"`
}

// Encode returns the history as the attribute's value, for [ParseHistory]: JSON
// in printable ASCII, never more than 5 KiB. The texts of Last are truncated like
// those of a record, Run is truncated to 64 bytes, and a time whose year does not have
// four digits is left out.
func (h History) Encode() string {
	e := encodedHistory{Redrives: h.Redrives, Run: h.Run, Attempts: h.Attempts, First: h.First.UTC()}
	if e.First.Year() < 1 || e.First.Year() > 9999 {
		e.First = time.Time{}
	}
	e.Run = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, e.Run)
	e.Run = e.Run[:min(len(e.Run), 64)]
	if h.Last != (retry.DeadLetter{}) {
		e.Last = json.RawMessage(h.Last.Encode())
	}
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // which would make six bytes of each '<' of the record
	if err := encoder.Encode(e); err != nil {
		return "{}" // Last.Encode returns JSON, and nothing else can fail
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// ParseHistory decodes what [History.Encode] returned. It ignores unknown fields.
func ParseHistory(s string) (History, error) {
	var e encodedHistory
	if err := json.Unmarshal([]byte(s), &e); err != nil {
		return History{}, fmt.Errorf("deadletter: parse history: %w", err)
	}
	h := History{Redrives: e.Redrives, Run: e.Run, Attempts: e.Attempts, First: e.First}
	if len(e.Last) > 0 {
		last, err := retry.ParseDeadLetter(string(e.Last))
		if err != nil {
			return History{}, fmt.Errorf("deadletter: parse history: %w", err)
		}
		h.Last = last
	}
	return h, nil
}
