//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// play runs the whole flow on the servers that the environment names, and
// fails when a promise is broken.
func play(t *testing.T, s Settings) Report {
	t.Helper()
	s.SQS, s.DynamoDB = os.Getenv("RAMPMETER_SQS_ENDPOINT"), os.Getenv("RAMPMETER_DYNAMODB_ENDPOINT")
	if s.SQS == "" {
		t.Skip("needs an SQS server: set RAMPMETER_SQS_ENDPOINT=http://127.0.0.1:4566 for a local one (fauxqs, for example); queues are made and deleted")
	}
	if s.DynamoDB == "" {
		t.Skip("needs a DynamoDB server: set RAMPMETER_DYNAMODB_ENDPOINT=http://127.0.0.1:8000 for a local one (dynalite or DynamoDB Local, for example); " +
			"tables are made and deleted")
	}
	s.Seed, s.JSON, s.Logs = 1, true, testing.Verbose()
	require.NoError(t, s.validate())
	var out bytes.Buffer
	require.NoError(t, Run(t.Context(), s, &out, &logWriter{t: t}))

	var r Report
	require.NoError(t, json.Unmarshal(out.Bytes(), &r))
	t.Logf("%s", out.Bytes())
	// Check again, independently of the program's report.
	require.Equal(t, s.Orders, r.Stored)
	require.Zero(t, r.StoredWrong)
	require.Zero(t, r.Lost)
	require.Equal(t, s.Orders, r.AppliedOnce)
	require.Zero(t, r.AppliedTwice)
	require.True(t, r.StockRight)
	require.Zero(t, r.Left)
	require.Zero(t, r.Rejected429)
	require.Zero(t, r.OverRate)
	require.LessOrEqual(t, r.InFlight, s.Functions)
	require.LessOrEqual(t, r.Functions, s.Functions)
	reasons := make(map[string]string)
	for _, d := range r.DeadLetters {
		reasons[d.ID] = d.Reason
		require.Positive(t, d.Attempts)
		require.NotEmpty(t, d.Error)
	}
	require.Equal(t, map[string]string{
		"poison-cut": "undecodable", "poison-empty": "invalid", "poison-nameless": "invalid",
		"poison-unknown": "not_found", "poison-sold-out": "out_of_stock",
	}, reasons)
	return r
}

// logWriter writes lines to a test's log.
type logWriter struct{ t *testing.T }

func (w *logWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// requireReceivedOnce allows for a few lost replies: the SDK may drop the connection
// of a reply that comes within a fraction of a millisecond.
func requireReceivedOnce(t *testing.T, r Report) {
	t.Helper()
	require.LessOrEqual(t, r.Receives, r.Messages+r.Messages/100)
}

func TestLive_Orders(t *testing.T) {
	for name, functions := range map[string]int{"1 process": 1, "2 processes": 2, "10 processes": 10} {
		t.Run(name, func(t *testing.T) {
			s := Settings{Orders: 500, Functions: functions, Rate: 150, Latency: 10 * time.Millisecond}
			r := play(t, s)
			require.Equal(t, functions, r.Functions)
			requireReceivedOnce(t, r)
			require.Zero(t, r.Failed)
		})
	}
}

// A thousand orders at the template's batch size, concurrency, timeouts and
// attempts: they are received once, so none can be dead-lettered untried.
func TestLive_TemplateValues(t *testing.T) {
	r := play(t, Settings{Orders: 1000, Functions: 10, Rate: 250, Latency: 20 * time.Millisecond})
	requireReceivedOnce(t, r)
}

func TestTemplateValues(t *testing.T) {
	template, err := os.ReadFile("../template.yaml")
	require.NoError(t, err)
	for _, line := range []string{
		fmt.Sprintf("      BatchSize: %d\n", batchSize),
		fmt.Sprintf("      Timeout: %d ", functionTimeout/time.Second),
		fmt.Sprintf("      VisibilityTimeout: %d ", visibility/time.Second),
		fmt.Sprintf("        maxReceiveCount: %d ", maxReceiveCount),
		fmt.Sprintf("          MAX_ATTEMPTS: '%d'\n", maxAttempts),
		"      ScalingConfig: {MaximumConcurrency: 10} ", // as many as TestLive_TemplateValues has
	} {
		require.Contains(t, string(template), "\n"+line)
	}
}

// Processes are killed while the API works on their requests.
func TestLive_Crash(t *testing.T) {
	r := play(t, Settings{Orders: 620, Functions: 5, Rate: 150, Latency: 10 * time.Millisecond, Kills: 30})
	require.Equal(t, 30, r.Kills)
	require.GreaterOrEqual(t, r.Failed, 25, "a process that had just answered is killed for nothing")
	require.Greater(t, r.Receives, r.Messages)
}

func TestNewLoad(t *testing.T) {
	l, err := NewLoad(Settings{Orders: 100, Seed: 1})
	require.NoError(t, err)
	require.Len(t, l.Valid, 100)
	require.Len(t, l.Poison, 5)
	require.Len(t, l.Messages, 100+5+5)
	again, err := NewLoad(Settings{Orders: 100, Seed: 1})
	require.NoError(t, err)
	require.Equal(t, l, again)
	ordered := 0
	for _, o := range l.Valid {
		require.NoError(t, o.Validate())
		ordered += o.Quantity
	}
	sum := func(stock map[string]int) (n int) {
		for _, v := range stock {
			n += v
		}
		return n
	}
	require.Equal(t, ordered, sum(l.Stock)-sum(l.Left()))
}

func TestReport_Broken(t *testing.T) {
	kept := Report{
		Orders: 500, Stored: 500, Poison: 1, DeadLetters: []DeadLetter{{ID: "poison"}},
		InFlight: 10, AppliedOnce: 500, StockRight: true, limits: Settings{Functions: 10},
	}
	require.Empty(t, kept.Broken())
	for name, harm := range map[string]func(*Report){
		"lost":           func(r *Report) { r.Lost = 1 },
		"not stored":     func(r *Report) { r.Stored = 499 },
		"stored wrong":   func(r *Report) { r.StoredWrong = 1 },
		"applied twice":  func(r *Report) { r.AppliedTwice = 1 },
		"applied less":   func(r *Report) { r.AppliedOnce = 499 },
		"stock":          func(r *Report) { r.StockRight = false },
		"dead letter":    func(r *Report) { r.GivenUpWrong = 1 },
		"no dead letter": func(r *Report) { r.DeadLetters = nil },
		"left":           func(r *Report) { r.Left = 1 },
		"429":            func(r *Report) { r.Rejected429 = 1 },
		"rate":           func(r *Report) { r.OverRate = 1 },
		"in flight":      func(r *Report) { r.InFlight = 11 },
	} {
		r := kept
		harm(&r)
		require.Len(t, r.Broken(), 1, name)
	}
	cut := kept
	cut.Interrupted, cut.Stored, cut.AppliedOnce, cut.Left, cut.DeadLetters = true, 100, 101, 400, nil
	require.Empty(t, cut.Broken(), "an interrupt breaks nothing")
	cut.Lost = 1
	require.Len(t, cut.Broken(), 1)
}

func TestReport_WriteTable(t *testing.T) {
	var out strings.Builder
	require.NoError(t, Report{
		Orders: 500, Stored: 499, Lost: 1, DeadLetters: []DeadLetter{{ID: "poison-cut", Reason: "undecodable", Attempts: 2}},
		limits: Settings{Rate: 150, Functions: 10},
	}.WriteTable(&out))
	require.Contains(t, out.String(), "499 of 500, 1 lost")
	require.Contains(t, out.String(), "poison-cut: undecodable, after 2 receives")
	require.Contains(t, out.String(), "above 150/s, burst 20")
}

func TestParseFlags(t *testing.T) {
	t.Setenv("RAMPMETER_SQS_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("RAMPMETER_DYNAMODB_ENDPOINT", "")
	s, err := ParseFlags(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, Settings{
		Orders: 500, Functions: 10, Rate: 150, Latency: 10 * time.Millisecond, Seed: 1, SQS: "http://127.0.0.1:1",
	}, s)

	for _, args := range [][]string{
		{"-orders", "19"},
		{"-orders", "100001"},
		{"-functions", "0"},
		{"-functions", "101"},
		{"-rate", "0.5"},
		{"-rate", "NaN"},
		{"-latency", "-1ms"},
		{"-latency", "2s"},
		{"-kills", "-1"},
		{"-kills", "26"},
		{"-sqs", "127.0.0.1:4566"},
		{"-dynamodb", "file:///dev/null"},
		{"-seed", "x"},
	} {
		_, err := ParseFlags(args, io.Discard)
		require.ErrorContains(t, err, args[0], "%v", args)
	}
	_, err = ParseFlags([]string{"orders"}, io.Discard)
	require.ErrorContains(t, err, "there are only flags")
	var usage bytes.Buffer
	_, err = ParseFlags([]string{"-help"}, &usage)
	require.ErrorIs(t, err, flag.ErrHelp)
	for _, name := range []string{"orders", "functions", "rate", "latency", "kills", "seed", "sqs", "dynamodb", "json", "logs"} {
		require.Contains(t, usage.String(), "-"+name)
	}
	require.Equal(t, 2, run([]string{"-kills", "many"}))
}

// Untrusted text can neither control a terminal nor imitate a line of the
// report.
func TestNothingForTheTerminal(t *testing.T) {
	const text = "boom \x1b[31mred\x1b]0;title\x07 \u009b2J \x7f\r \u202etxt.exe \x9b\xff\nlost  0"
	var b strings.Builder
	r := Report{DeadLetters: []DeadLetter{{ID: text, Reason: text, Error: text}}}
	require.NoError(t, r.WriteTable(&b))
	require.NoError(t, r.WriteJSON(&b))
	_, err := (&Progress{w: &b}).Write([]byte(text))
	require.NoError(t, err)
	require.Contains(t, b.String(), `\x1b[31mred`)
	requireTame(t, b.String())
}

// requireTame fails if the text can control a terminal, or hide or reorder itself.
func requireTame(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "%q", text)
	for _, r := range text {
		require.False(t, unicode.IsControl(r) && r != '\n' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), "%q in %q", r, text)
	}
}
