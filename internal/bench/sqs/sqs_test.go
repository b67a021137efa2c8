//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain makes the test binary the program that is started again for the server
// and for the consumers.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == partServe || os.Args[1] == partConsume) {
		main()
	}
	os.Exit(m.Run())
}

// Each consumer handles every message, once, deletes it, and ends with its
// context.
func TestConsumers(t *testing.T) {
	for _, l := range libraries() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			const n = 300
			all := newQueues()
			service, control := httptest.NewServer(&all.service), httptest.NewServer(&all.control)
			t.Cleanup(service.Close)
			t.Cleanup(control.Close)
			q, err := remote{Service: service.URL, Control: control.URL}.create(t.Context(), queueSpec{
				Messages: n, Size: messageSize, Latency: time.Millisecond, Visibility: 30 * time.Second,
			})
			require.NoError(t, err)
			tally := newTally(n, time.Millisecond)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- l.run(ctx, task{
					endpoint: q.endpoint(), queueURL: q.endpoint() + queueName,
					concurrency: 5, visibility: 30 * time.Second, wait: time.Second,
					handle: tally.handle,
				})
			}()

			state := func() queueState {
				s, err := q.state(t.Context())
				require.NoError(t, err)
				return s
			}
			require.Eventually(t, func() bool { return state().Left == 0 }, time.Minute, 10*time.Millisecond)
			s := state()
			cancel() // which ends long polls, and the server counts them as failed
			if err := <-ended; err != nil {
				require.ErrorIs(t, err, context.Canceled)
			}

			require.NoError(t, tally.err())
			require.Equal(t, consumed{Runs: n}, tally.consumed())
			require.Equal(t, n, s.Deleted)
			require.Equal(t, n, s.Received)
			require.Positive(t, s.Calls)
			require.Zero(t, s.Failed)
			require.Positive(t, tally.window().Rate)
			require.Positive(t, tally.window().CPU)
			require.Greater(t, tally.window().Busy, 0.0)
		})
	}
}

// A run detects a consumer that loses a message: it fails, and says how many are
// missing.
func TestLossIsReported(t *testing.T) {
	server, r, err := startServer(t.Context(), false)
	require.NoError(t, err)
	defer func() { require.NoError(t, server.stop(nil)) }()
	s := scenario{Name: "loss", Concurrency: 5, Messages: 20, Visibility: 30 * time.Second}

	_, err = runConsumer(t.Context(), r, s, "no such library", 0, "")
	require.ErrorContains(t, err, `-library is "no such library"`)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	s.Handler = time.Hour
	_, err = runConsumer(ctx, r, s, rampmeter, 0, "")
	require.ErrorContains(t, err, "messages were lost: not all 20 were handled")
	require.ErrorContains(t, err, "stopped after 0 of 20 messages")
}

func TestCompare(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a dozen processes")
	}
	var out, progress bytes.Buffer
	args := []string{"-quick", "-json", "-scenario", "^no-op-10$", "-pairs", "2", "-tls", "-idle", "50"}
	require.Zero(t, run(args, strings.NewReader(""), &out, &progress), progress.String())
	var rep report
	require.NoError(t, json.Unmarshal(out.Bytes(), &rep))
	require.Len(t, rep.Results, 1)
	require.Len(t, rep.Results[0].Libraries, 5)
	require.NotNil(t, rep.Results[0].Noise)
	require.Equal(t, "the SDK's own, set to keep 50 idle connections, over TLS", rep.Client)
	for _, l := range rep.Results[0].Libraries {
		require.Len(t, l.Runs, 2, l.Name)
		for _, f := range l.Runs {
			require.Positive(t, f.Rate, l.Name)
			require.Positive(t, f.CPU, l.Name)
			require.GreaterOrEqual(t, f.Calls, 0.2, l.Name) // a receive and a delete for ten
			require.Positive(t, f.MaxInFlight, l.Name)
			require.Positive(t, f.MaxReceives, l.Name)
			require.Positive(t, f.Memory, l.Name)
			require.Positive(t, f.Allocs, l.Name)
		}
		require.Equal(t, l.Name == rampmeter, l.RateRatio == nil, l.Name)
	}
	require.Contains(t, progress.String(), "scenario 1 of 1, no-op-10")
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"-pairs 0", "-pairs is 0: must be at least 1"},
		{"-scenario [", "-scenario: "},
		{"-loop -scenario over-pull", "matches none of no-op-10"},
		{"-idle -1", "-idle is -1: must not be negative"},
		{"-scenario none", "matches none of no-op-10, no-op-100, latency-10"},
		{"more", `argument "more" is not expected`},
		{"-speed", "-speed"},
	} {
		var out, progress bytes.Buffer
		require.Equal(t, 2, run(strings.Fields(c.args), strings.NewReader(""), &out, &progress), c.args)
		require.Contains(t, progress.String(), c.says)
		require.Empty(t, out.String())
	}
	var out bytes.Buffer
	require.Zero(t, run([]string{"-help"}, strings.NewReader(""), &out, io.Discard))
	require.Contains(t, out.String(), "-quick")
}

// The steady state is what lies between a tenth and nine tenths of the
// messages, each counted once.
func TestTally(t *testing.T) {
	tally := newTally(100, 0)
	begun, over := 0, 0
	tally.onBegin = func() { begun++ }
	tally.onEnd = func() { over++ }
	for i := range 100 {
		body := []byte(bodyOf(i, messageSize))
		require.Len(t, body, messageSize)
		require.NoError(t, tally.handle(t.Context(), body))
		require.Equal(t, i+1 >= 10, begun == 1, "after %d", i+1)
		require.Equal(t, i+1 >= 90, over == 1, "after %d", i+1)
		if i%2 == 0 {
			require.NoError(t, tally.handle(t.Context(), body))
		}
	}
	select {
	case <-tally.all:
	default:
		require.Fail(t, "all were handled, and it does not say so")
	}
	require.Equal(t, consumed{Runs: 150, Twice: 50}, tally.consumed())
	require.NoError(t, tally.err())
	for _, body := range []string{"", "x", "00000100", "-0000001", "abcdefgh"} {
		require.NoError(t, tally.handle(t.Context(), []byte(body)))
	}
	require.ErrorContains(t, tally.err(), "5 messages had a body that was never sent")
}

func TestReport(t *testing.T) {
	require.Nil(t, spreadOf(nil))
	require.Equal(t, &spread{Median: 3, Min: 1, Max: 9}, spreadOf([]float64{9, 1, 3}))
	require.Equal(t, &spread{Median: 2.5, Min: 1, Max: 4}, spreadOf([]float64{4, 2, 1, 3}))

	s := scenario{
		Name: "s", Title: "T", Handler: 10 * time.Millisecond, Concurrency: 10, Messages: 5,
		Libraries: []string{rampmeter, handWritten, loopAgain},
		LeastRate: 0.95, Noise: true, MostCPU: 1.15, LeastBusy: 0.95, MostOpened: 5, MostReceives: 2,
	}
	r := newResult(s)
	opened := 6.0
	// The ratios compare runs of the same pair, in either order.
	r.add(rampmeter, figures{Rate: 900, CPU: 30, Calls: 0.2, Busy: 9.6, MaxReceives: 9, Connections: &opened})
	r.add(handWritten, figures{Rate: 1000, CPU: 20, Busy: 9, MaxReceives: 4})
	r.add(loopAgain, figures{Rate: 800, CPU: 20})
	r.add(loopAgain, figures{Rate: 500, CPU: 10})
	r.add(handWritten, figures{Rate: 500, CPU: 10, Busy: 7, MaxReceives: 4})
	r.add(rampmeter, figures{Rate: 1000, CPU: 10, Busy: 9.8, MaxReceives: 7})
	require.Equal(t, &spread{Median: 1.45, Min: 0.9, Max: 2}, r.of(handWritten).RateRatio)
	require.Equal(t, &spread{Median: 1.25, Min: 1, Max: 1.5}, r.of(handWritten).CPURatio)
	require.Equal(t, &noise{Rate: &spread{Median: 0.9, Min: 0.8, Max: 1}, CPU: &spread{Median: 1, Min: 1, Max: 1}}, r.Noise)
	require.Equal(t, []string{
		"- rate beside the hand-written loop (0.95 less the 0.10 by which the loop differs from itself) at least 0.85: 1.45, met",
		"- CPU beside the hand-written loop at most 1.15: 1.25, missed",
		"- handlers busy at least 0.95: 0.97, met",
		"- new connections per 1,000 messages at most 5.00: 6.00, missed",
		"- receives in flight at the peak at most 8.00: 8.00, met",
	}, r.bars())
	text := (&report{Pairs: 2, Client: clientName(0, false), Results: []result{r}}).markdown()
	require.Contains(t, text, "### T\n\n5 messages. HTTP client of all: the SDK's own with its defaults, which keeps 10 idle connections, without TLS. Ideal: 1000 a second.\n"+
		"The hand-written loop by itself, run again: rate 0.90 (0.80...1.00), CPU 1.00 (1.00...1.00).\n\n| consumer |")
	require.Contains(t, text, "| hand-written loop | 750 (500...1000) | 75 % | 80 % |")
	require.Contains(t, text, "| 1.45 (0.90...2.00) | 1.25 (1.00...1.50) |\n")
	require.NotContains(t, text, "again |", "it is in the noise")
}
