package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// small is a story of two seconds. A tenth of its rate is above its
// concurrency, so even if a busy machine bunches the requests on their way,
// the API never receives more than it allows.
var small = Settings{Orders: 200, Rate: 200, Burst: 5, Concurrency: 8, Outage: 200 * time.Millisecond, Seed: 1, JSON: true}

func TestRun(t *testing.T) {
	s := small
	s.SVG = filepath.Join(t.TempDir(), "orders.svg")
	var out, progress bytes.Buffer
	require.NoError(t, Run(t.Context(), s, &out, &progress))

	var r Report
	d := json.NewDecoder(bytes.NewReader(out.Bytes()))
	require.NoError(t, d.Decode(&r))
	require.ErrorIs(t, d.Decode(&r), io.EOF, "one object and nothing else")
	require.False(t, r.Interrupted)

	require.Equal(t, 202, r.Direct.Accepted) // two poison ones look valid
	require.Equal(t, 3, r.Direct.Refused)
	require.Equal(t, r.Direct.Accepted, r.Direct.Stored+r.Direct.Failed)
	require.Greater(t, r.Direct.Failed, 20)
	require.Positive(t, r.Direct.Outage)

	requireStory(t, s, r.Queued)

	var keys map[string]map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(out.Bytes(), &keys))
	require.Equal(t, []string{"direct", "queued"}, slices.Sorted(maps.Keys(keys)))
	require.Equal(t, []string{
		"accepted", "failed", "failed_503", "max_over_rate", "peak_in_flight", "peak_open",
		"refused", "rejected_429", "requests", "seconds", "stored",
	}, slices.Sorted(maps.Keys(keys["direct"])))
	require.Equal(t, []string{
		"accepted", "dead_lettered", "dead_letters", "failed", "failed_503", "left_in_queue", "lost", "max_over_rate",
		"peak_in_flight", "peak_open", "rejected_429", "requests", "seconds", "stored", "stored_twice",
	}, slices.Sorted(maps.Keys(keys["queued"])))
	var letters []map[string]any
	require.NoError(t, json.Unmarshal(keys["queued"]["dead_letters"], &letters))
	require.Equal(t, []string{"attempts", "error", "id", "reason"}, slices.Sorted(maps.Keys(letters[0])))

	require.Contains(t, progress.String(), "direct: 205 of 205 orders")
	require.Contains(t, progress.String(), "queued: 205 of 205 orders")

	svg, err := os.ReadFile(s.SVG)
	require.NoError(t, err)
	requireXML(t, svg)
	for _, text := range []string{"API down", "429, over a limit", "limit: 200/s, bursts of 25", "200 stored, 5 dead-lettered, 0 lost"} {
		require.Contains(t, string(svg), text)
	}
}

// requireStory checks the result of an uninterrupted run of [small].
func requireStory(t *testing.T, s Settings, q QueuedReport) {
	t.Helper()
	require.Equal(t, s.Orders+5, q.Accepted)
	require.Equal(t, s.Orders, q.Stored)
	require.Equal(t, 5, q.DeadLettered)
	require.Zero(t, q.Lost)
	require.Zero(t, q.Left)
	require.Zero(t, q.Failed)
	require.Zero(t, q.StoredTwice)
	require.Zero(t, q.Rejected429)
	require.Zero(t, q.OverRate)
	require.LessOrEqual(t, q.Open, s.Concurrency)
	require.LessOrEqual(t, q.InFlight, s.Concurrency)
	var poison, reasons []string
	for _, l := range q.DeadLetters {
		poison, reasons = append(poison, strings.TrimPrefix(l.ID, s.Run)), append(reasons, l.Reason)
		require.Positive(t, l.Attempts)
		require.NotEmpty(t, l.Error)
	}
	require.Equal(t, []string{"poison-1", "poison-2", "poison-3", "poison-4", "poison-5"}, poison)
	require.Equal(t, []string{"undecodable", "not_found", "undecodable", "not_found", "undecodable"}, reasons)
}

func requireXML(t *testing.T, b []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(b))
	var root string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok && root == "" {
			root = e.Name.Local
		}
	}
	require.Equal(t, "svg", root)
}

// A trigger calls a function when a text is written to it.
type trigger struct {
	text string
	call func()
}

func (w trigger) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.call()
	}
	return len(b), nil
}

func TestInterrupted(t *testing.T) {
	for pass, c := range map[string]struct {
		orders int // enough that the pass is far from its end after a second
		says   string
	}{
		"direct": {6000, `interrupted: waiting up to 15s for the requests under way; press Ctrl-C again to stop now`},
		"queued": {1800, `draining: waiting up to 30s for what is under way \(handlers: \d+, receives: \d+\); press Ctrl-C again to stop now`},
	} {
		t.Run(pass, func(t *testing.T) {
			s := small
			s.Orders = c.orders
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			var out, progress bytes.Buffer
			require.NoError(t, Run(ctx, s, &out, io.MultiWriter(trigger{pass + ":", interrupt}, &progress)))
			require.Regexp(t, `(?m)^`+c.says+`$`, progress.String())
			var r Report
			require.NoError(t, json.Unmarshal(out.Bytes(), &r))
			require.True(t, r.Interrupted)
			q := r.Queued
			require.Zero(t, q.Lost)
			require.Equal(t, q.Accepted, q.Stored+q.DeadLettered+q.Left)
		})
	}
}

func TestTable(t *testing.T) {
	r := Report{Queued: QueuedReport{Left: 7, DeadLetters: []DeadLetter{{"poison-1", "undecodable", "it is cut off", 1}}}, Interrupted: true}
	var out bytes.Buffer
	require.NoError(t, r.WriteTable(&out, small))
	for _, text := range []string{"left in the queue", "poison-1", "undecodable", "it is cut off", "interrupted", "(allowed: 8)", "200/s and a burst of 25"} {
		require.Contains(t, out.String(), text)
	}
	require.Error(t, r.WriteTable(brokenWriter{}, small))
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestParseFlags(t *testing.T) {
	s, err := ParseFlags(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, Settings{Orders: 1500, Rate: 150, Burst: 15, Concurrency: 10, Outage: time.Second, Seed: 1}, s)
	require.Equal(t, 30, s.APIBurst())

	for _, bad := range []string{
		"-orders=0", "-orders=1000001", "-orders=x", "-rate=0", "-rate=NaN", "-rate=Inf", "-rate=-1", "-burst=0", "-burst=100001",
		"-concurrency=0", "-concurrency=10001", "-outage=-1s", "-outage=2h", "-outage=5", "-seed=-1", "-json=perhaps", "-colour=red",
		"-queue-url=http://sqs/1/orders", "-dead-letter-url=http://sqs/1/dead",
	} {
		_, err := ParseFlags([]string{bad}, io.Discard)
		name, _, _ := strings.Cut(bad, "=")
		require.ErrorContains(t, err, name, bad)
	}
	_, err = ParseFlags([]string{"-json", "more"}, io.Discard)
	require.ErrorContains(t, err, `"more"`)

	urls := func(orders, dead string) []string { return []string{"-queue-url", orders, "-dead-letter-url", dead} }
	a, err := ParseFlags(urls("http://sqs/1/orders", "http://sqs/1/dead"), io.Discard)
	require.NoError(t, err)
	b, err := ParseFlags(urls("http://sqs/1/orders", "http://sqs/1/dead"), io.Discard)
	require.NoError(t, err)
	require.NotEqual(t, a.Run, b.Run, "no two runs on the same queues have orders in common")
	_, err = ParseFlags(urls("http://sqs/1/orders", "http://sqs/1/orders"), io.Discard)
	require.ErrorContains(t, err, "-dead-letter-url is the same")
	_, err = ParseFlags(urls("http://sqs/1/orders.fifo", "http://sqs/1/dead.fifo"), io.Discard)
	require.ErrorContains(t, err, "standard")

	var usage bytes.Buffer
	_, err = ParseFlags([]string{"-help"}, &usage)
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, usage.String(), "-concurrency")

	s = small
	s.SVG = filepath.Join(t.TempDir(), "no such folder", "orders.svg")
	require.ErrorContains(t, Run(t.Context(), s, io.Discard, io.Discard), "-svg")
}

// Untrusted text can neither control a terminal nor imitate a line of the
// report.
func TestNothingForTheTerminal(t *testing.T) {
	const text = "boom \x1b[31mred\x1b]0;title\x07 \u009b2J \x7f\r \u202etxt.exe \x9b\xff\nlost  0"
	r := Report{Queued: QueuedReport{DeadLetters: []DeadLetter{{ID: text, Reason: text, Error: text}}}}
	var table, object strings.Builder
	require.NoError(t, r.WriteTable(&table, small))
	requireTame(t, table.String())
	require.Contains(t, table.String(), `\x1b[31mred`)
	var before strings.Builder
	require.NoError(t, Report{}.WriteTable(&before, small))
	require.Equal(t, strings.Count(before.String(), "\n")+3, strings.Count(table.String(), "\n"), "an empty line, a heading, the letter")
	require.NoError(t, r.WriteJSON(&object))
	requireTame(t, object.String())
}

// requireTame fails if the text can control a terminal, or hide or reorder itself.
func requireTame(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "%q", text)
	for _, r := range text {
		require.False(t, unicode.IsControl(r) && r != '\n' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), "%q in %q", r, text)
	}
}
