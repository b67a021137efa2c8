package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/retry"
)

// requireTame fails if the text can control a terminal, or hide or reorder itself.
func requireTame(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "%q", text)
	for _, r := range text {
		require.False(t, unicode.IsControl(r) && r != '\n' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), "%q in %q", r, text)
	}
}

// hostile is a letter with the text in every field that others control.
func hostile(text string) deadletter.Letter {
	record := retry.DeadLetter{Reason: text, Error: text, Source: text, MessageID: text, Attempts: 1}
	history := deadletter.History{Redrives: 1, Last: record}
	return deadletter.Letter{
		Message: &queue.Message{ID: text, Group: text, Body: []byte(text), Attributes: map[string]string{"a": text, text: "v"}},
		Record:  record, History: history,
	}
}

// Untrusted text can neither control a terminal nor imitate a line of the
// program.
func TestNothingForTheTerminal(t *testing.T) {
	const text = "boom \x1b[31mred\x1b]0;title\x07 \u009b2J \x7f\r \u202etxt.exe\u2066 \x9b\xff\u2028\nreason       permanent"
	var b strings.Builder
	p := newPrinter(&b, false)
	require.NoError(t, p.line(hostile(text)))
	require.NoError(t, p.end())
	require.Equal(t, 3, strings.Count(b.String(), "\n"), "a heading, the letter and the end: %s", b.String())
	require.Contains(t, b.String(), `boom \x1b[31mred\x1b]0;title\a \u009b2J`)
	requireTame(t, b.String())

	b.Reset()
	require.NoError(t, p.whole(hostile(text)))
	requireTame(t, b.String())
	fields, _, _ := strings.Cut(b.String(), "\n\n")
	require.Equal(t, 1, strings.Count("\n"+fields, "\nreason"), fields)

	b.Reset()
	q := newPrinter(&b, true)
	require.NoError(t, q.line(hostile(text)))
	require.NoError(t, q.whole(hostile(text)))
	require.NoError(t, q.summary(deadletter.Summary{}, false, errors.New(text)))
	requireTame(t, b.String())
	require.Len(t, lines(b.String()), 3)
	var l letterJSON
	require.NoError(t, json.Unmarshal([]byte(lines(b.String())[0]), &l))
	require.Equal(t, strings.ToValidUTF8(text, "\ufffd\ufffd"), l.Error, "JSON says what was there")

	b.Reset()
	progress := NewProgress(&b, 0)
	progress.Line(text)
	progress.Logger().Warn(text, "error", text)
	requireTame(t, b.String())
	require.Len(t, lines(b.String()), 2)

	b.Reset()
	require.Equal(t, 2, program{progress: &b}.run(t.Context(), []string{"\x1b[2J", "-dead-letter-url", "d"}))
	requireTame(t, b.String())
}

func FuzzPrinter(f *testing.F) {
	f.Add("boom \x1b[31mred\x1b]0;title\x07 \u009b2J\n\nid  forged", false)
	f.Add("\u202e\x9b\u2028\U000e0041", true)
	f.Fuzz(func(t *testing.T, text string, asJSON bool) {
		var b strings.Builder
		p := newPrinter(&b, asJSON)
		l := hostile(text)
		require.NoError(t, p.line(l))
		require.NoError(t, p.end())
		n := 3 // heading, letter, end
		if asJSON {
			n = 1
		}
		require.Len(t, lines(b.String()), n, "%q", b.String())
		require.NoError(t, p.whole(l))
		if asJSON {
			for _, line := range lines(b.String()) {
				require.True(t, json.Valid([]byte(line)), "%q", line)
			}
		}
		requireTame(t, strings.ReplaceAll(b.String(), "\t", ""))
	})
}
