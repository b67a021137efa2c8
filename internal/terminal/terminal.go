// Package terminal makes untrusted text, such as messages and the errors of third
// parties, safe for a terminal: nothing in it is executed, hidden or reordered.
// It escapes, as in a Go string (\x1b for the escape character), every character that
// [strconv.IsPrint] does not consider printable: control characters, characters that
// change the direction of text, other invisible ones, and invalid UTF-8.
package terminal

import (
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Line returns s in one line: line feeds and tabs are escaped, too.
func Line(s string) string { return escape(s, "", quoted) }

// Text returns s with its line feeds and tabs. Print it where its lines can't be
// mistaken for the program's own: below all of those.
func Text(s string) string { return escape(s, "\n\t", quoted) }

// Error returns the text of err as [Line] would, but with a line for each joined error.
func Error(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var raw, lines []string
		for _, e := range joined.Unwrap() {
			raw, lines = append(raw, e.Error()), append(lines, Error(e))
		}
		if strings.Join(raw, "\n") == err.Error() {
			return strings.Join(lines, "\n")
		}
	}
	return Line(err.Error())
}

// JSON returns JSON text with such characters in JSON's own escapes. encoding/json
// leaves some of them unescaped.
func JSON(text []byte) []byte {
	return []byte(escape(string(text), "\n\r\t", func(r rune, _ string) string {
		if r > 0xffff {
			a, b := utf16.EncodeRune(r)
			return unicodeEscape(a) + unicodeEscape(b)
		}
		return unicodeEscape(r)
	}))
}

// Writer returns a writer that writes [Text] to w. A write must not split a character.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ w io.Writer }

func (w writer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.w, Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// escape returns s with every character that is neither printable nor in kept replaced
// by how.
func escape(s, kept string, how func(r rune, raw string) string) string {
	bad := func(r rune, width int) bool {
		return !strconv.IsPrint(r) && !strings.ContainsRune(kept, r) || r == utf8.RuneError && width == 1
	}
	var b strings.Builder
	done := 0
	for i := 0; i < len(s); {
		r, width := utf8.DecodeRuneInString(s[i:])
		if bad(r, width) {
			b.WriteString(s[done:i])
			b.WriteString(how(r, s[i:i+width]))
			done = i + width
		}
		i += width
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

func quoted(_ rune, raw string) string {
	q := strconv.Quote(raw)
	return q[1 : len(q)-1]
}

func unicodeEscape(r rune) string {
	const digits = "0123456789abcdef"
	return string([]byte{'\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15]})
}
