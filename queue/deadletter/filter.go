package deadletter

import (
	"regexp"
	"slices"
	"time"
)

// A Filter selects the letters that match all of its fields that are set. The zero
// Filter selects all letters.
type Filter struct {
	// IDs are ids of messages, in the dead-letter queue or in the queue that they
	// came from.
	IDs []string
	// Reasons are those of [retry.DeadLetter]. "" stands for letters without a
	// record.
	Reasons []string
	// Sources are names of queues, as in the records.
	Sources []string
	// Error matches part of the error's text.
	Error *regexp.Regexp
	// From and Until limit when letters were given up ([Letter.Died]): not
	// before From, and before Until, which must be later. A letter without a known
	// time does not match.
	From, Until time.Time
	// Func reports whether the letter matches. It must not change the message.
	Func func(Letter) bool
}

// Match reports whether the letter matches the filter.
func (f Filter) Match(l Letter) bool {
	died := l.Died()
	switch {
	case len(f.IDs) > 0 && !slices.Contains(f.IDs, l.Message.ID) && (l.Record.MessageID == "" || !slices.Contains(f.IDs, l.Record.MessageID)),
		len(f.Reasons) > 0 && !slices.Contains(f.Reasons, l.Record.Reason),
		len(f.Sources) > 0 && !slices.Contains(f.Sources, l.Record.Source),
		f.Error != nil && !f.Error.MatchString(l.Record.Error),
		!(f.From.IsZero() && f.Until.IsZero()) && died.IsZero(),
		!f.From.IsZero() && died.Before(f.From),
		!f.Until.IsZero() && !died.Before(f.Until),
		f.Func != nil && !f.Func(l):
		return false
	}
	return true
}
