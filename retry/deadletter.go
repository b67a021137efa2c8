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

// Why a message was given up: the results of [Reason] for errors that don't
// have a more precise reason of their own.
const (
	ReasonPermanent   = "permanent"   // its handler reports that it will never succeed
	ReasonUndecodable = "undecodable" // its body could not be decoded
	ReasonExhausted   = "exhausted"   // it failed as often as the policy allows
)

// Reason returns in one word why err makes a message a dead letter: the first
// non-empty result of a method Reason() string in err's tree; else
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

// reasonIn walks err's tree in the order of errors.As, which would stop at an
// empty result.
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

// A DeadLetter records why a message was given up.
type DeadLetter struct {
	// Reason is one word; see [Reason].
	Reason string `json:"reason,omitempty"`
	// Error is the text of the last error.
	Error string `json:"error,omitempty"`
	// Attempts is how often the message was tried: its receives, unless its
	// handler keeps a better count. 0: unknown.
	Attempts int `json:"attempts,omitempty"`
	// Source names the queue that the message comes from.
	Source string `json:"source,omitempty"`
	// MessageID is the ID of the message in that queue.
	MessageID string `json:"message_id,omitempty"`
	// First and Last are when the message was first received and when it was
	// given up. Zero: unknown.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
}

// Limits for a record's texts: bytes of the text, and bytes of its encoding.
// The encodings, field names, times and the number of attempts add up to less
// than 4 KiB.
const (
	maxReason, maxReasonEncoded       = 128, 256
	maxErrorText, maxErrorTextEncoded = 1024, 2048
	maxSource, maxSourceEncoded       = 512, 768
	maxMessageID, maxMessageIDEncoded = 256, 512
)

// cutMark ends a text that was cut.
const cutMark = '…'

// Encode returns the record as the value of a message attribute, for
// [ParseDeadLetter]. It is JSON in printable ASCII, since queues differ in
// which other characters they refuse, and never more than 4 KiB. The error's
// text is cut to 1,024 bytes, fewer if it is mostly not ASCII (about 340 such
// characters); Reason, Source and MessageID are cut to 128, 512 and 256. A
// text that was cut ends in "…". Invalid UTF-8 is replaced, and a time whose
// year does not have four digits is left out.
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

// ParseDeadLetter decodes the result of [DeadLetter.Encode]. It ignores
// unknown fields, which a later version may have added.
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

// appendText appends s as a JSON string of printable ASCII. It cuts the text
// where it would exceed limit bytes, or its encoding, without the quotes,
// encoded bytes.
func appendText(b []byte, s string, limit, encoded int) []byte {
	b = append(b, '"')
	start := len(b)
	cut, size := start, 0 // cut: the last position where the mark still fits
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
