package retry

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// DeadLetterAttribute is the name of the message attribute that carries an
// encoded [DeadLetter].
const DeadLetterAttribute = "rampmeter-dead-letter"

// Why a message was given up: what [Reason] returns for errors that don't say
// it more precisely themselves.
const (
	ReasonPermanent   = "permanent"   // its handler says that it will never succeed
	ReasonUndecodable = "undecodable" // its body could not be decoded
	ReasonExhausted   = "exhausted"   // it failed as often as the policy allows
)

// Reason returns in one word why err makes a message a dead letter: what the
// first Reason() string in err's tree says that is not empty; else
// [ReasonExhausted] for [ErrExhausted], and [ReasonPermanent] for everything
// else.
func Reason(err error) string {
	if r := reasonIn(err); r != "" {
		return r
	}
	if errors.Is(err, ErrExhausted) {
		return ReasonExhausted
	}
	return ReasonPermanent
}

// reasonIn walks err's tree in the order of errors.As, which itself would stop
// at an empty answer.
func reasonIn(err error) string {
	for err != nil {
		if e, ok := err.(interface{ Reason() string }); ok {
			if r := e.Reason(); r != "" {
				return r
			}
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				if r := reasonIn(err); r != "" {
					return r
				}
			}
			return ""
		default:
			return ""
		}
	}
	return ""
}

// A DeadLetter says about a message why it was given up.
type DeadLetter struct {
	// Reason is one word; see [Reason].
	Reason string `json:"reason,omitempty"`
	// Error is the text of the last error.
	Error string `json:"error,omitempty"`
	// Attempts is how often the message was tried: its receives, unless its
	// handler counts better. 0: unknown.
	Attempts int `json:"attempts,omitempty"`
	// Source names the queue that the message comes from.
	Source string `json:"source,omitempty"`
	// MessageID is what that queue called the message.
	MessageID string `json:"message_id,omitempty"`
	// First and Last are when the message was first received and when it was
	// given up. Zero: unknown.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

// How much of a record's texts is encoded: bytes of the text, and bytes of its
// encoding. The encodings, field names, times and the number of attempts add up
// to less than 4 KiB.
const (
	maxReason, maxReasonEncoded       = 128, 256
	maxErrorText, maxErrorTextEncoded = 1024, 2048
	maxSource, maxSourceEncoded       = 512, 768
	maxMessageID, maxMessageIDEncoded = 256, 512
)

// cutMark ends a text that was cut.
const cutMark = '…'

// Encode returns the record as a message attribute's value, for
// [ParseDeadLetter]: JSON in printable ASCII, since queues differ in which
// other characters they refuse, and never more than 4 KiB. The error's text is
// cut to 1,024 bytes, fewer if it is mostly not ASCII (about 340 such
// characters); Reason, Source and MessageID to 128, 512 and 256. What was cut
// ends in "…". Invalid UTF-8 is replaced, and a time whose year has not four
// digits is left out.
func (d DeadLetter) Encode() string {
	b := append(make([]byte, 0, 512), '{')
	text := func(name, s string, limit, encoded int) {
		if s != "" {
			b = appendName(b, name)
			b = appendText(b, s, limit, encoded)
		}
	}
	instant := func(name string, t time.Time) {
		t = t.UTC()
		if t.IsZero() || t.Year() < 0 || t.Year() > 9999 {
			return
		}
		b = append(appendName(b, name), '"')
		b = append(t.AppendFormat(b, time.RFC3339Nano), '"')
	}
	text("reason", d.Reason, maxReason, maxReasonEncoded)
	text("error", d.Error, maxErrorText, maxErrorTextEncoded)
	if d.Attempts != 0 {
		b = strconv.AppendInt(appendName(b, "attempts"), int64(d.Attempts), 10)
	}
	text("source", d.Source, maxSource, maxSourceEncoded)
	text("message_id", d.MessageID, maxMessageID, maxMessageIDEncoded)
	instant("first", d.First)
	instant("last", d.Last)
	return string(append(b, '}'))
}

// ParseDeadLetter decodes what [DeadLetter.Encode] returned. Fields that it
// does not know are ignored: they are a later version's.
func ParseDeadLetter(s string) (DeadLetter, error) {
	var d DeadLetter
	if !strings.HasPrefix(strings.TrimLeft(s, " \t\r\n"), "{") {
		return DeadLetter{}, errors.New("retry: parse dead letter: not a JSON object")
	}
	if err := json.Unmarshal([]byte(s), &d); err != nil {
		return DeadLetter{}, fmt.Errorf("retry: parse dead letter: %w", err)
	}
	return d, nil
}

// appendName appends the name of an object's next field.
func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// appendText appends s as a JSON string of printable ASCII, cut where the text
// would have more than limit bytes or its encoding, without the quotes, more
// than encoded.
func appendText(b []byte, s string, limit, encoded int) []byte {
	b = append(b, '"')
	start := len(b)
	cut, size := start, 0 // cut: the last place where the mark still fits
	fits := func(text, code int) bool { return text <= limit && code <= encoded }
	for i := 0; i < len(s); {
		r, width := utf8.DecodeRuneInString(s[i:]) // an invalid byte is U+FFFD
		i += width
		if fits(size+utf8.RuneLen(cutMark), len(b)-start+len(`\u2026`)) {
			cut = len(b)
		}
		b, size = appendRune(b, r), size+utf8.RuneLen(r)
		if !fits(size, len(b)-start) {
			b = appendRune(b[:cut], cutMark)
			break
		}
	}
	return append(b, '"')
}

func appendRune(b []byte, r rune) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r >= ' ' && r <= '~':
		return append(b, byte(r))
	case r > 0xFFFF:
		high, low := utf16.EncodeRune(r)
		return appendEscape(appendEscape(b, high), low)
	}
	return appendEscape(b, r)
}

func appendEscape(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
