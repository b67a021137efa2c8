package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// environment is the SDK's environment for a server on this machine.
func environment(endpoint string) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL_SQS": endpoint, "AWS_REGION": "us-east-1",
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_SESSION_TOKEN": "",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
		"QUEUE_URL": "", "DEAD_LETTER_URL": "",
	}
}

// record is the record of the i-th letter.
func record(i int) retry.DeadLetter {
	return retry.DeadLetter{
		Reason: []string{retry.ReasonPermanent, retry.ReasonExhausted}[i%2], Error: fmt.Sprint("no stock for ", i), Attempts: i%12 + 1,
		Source: "orders", MessageID: fmt.Sprint("orig-", i), First: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Last: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
	}
}

// fill puts n letters into a queue.
func fill(t *testing.T, q queue.Sink, n int) {
	t.Helper()
	var msgs []*queue.Message
	for i := range n {
		msgs = append(msgs, &queue.Message{
			Body:       []byte(fmt.Sprint("m", i)),
			Attributes: map[string]string{"color": fmt.Sprint(i), retry.DeadLetterAttribute: record(i).Encode()},
		})
	}
	require.NoError(t, q.Send(t.Context(), msgs...))
}

// A stage is a server with a queue and its dead-letter queue, which has letters.
type stage struct {
	*testing.T
	server       *sqsfake.Server
	orders, dead string
}

// onStage runs a test with that many letters, in virtual time.
func onStage(t *testing.T, letters int, play func(s stage)) {
	t.Helper()
	for name, value := range environment("") {
		t.Setenv(name, value)
	}
	synctest.Test(t, func(t *testing.T) {
		s := stage{T: t, server: &sqsfake.Server{}}
		var err error
		s.dead, err = s.server.CreateQueue("dead", nil)
		require.NoError(t, err)
		s.orders, err = s.server.CreateQueue("orders", map[string]string{"RedrivePolicy": fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":1}`, s.server.ARN("dead"))})
		require.NoError(t, err)
		q, err := sqsqueue.New(s.server.Client(), s.dead, sqsqueue.Config{})
		require.NoError(t, err)
		fill(t, q, letters)
		time.Sleep(time.Second)
		play(s)
	})
}

// run runs the program.
func (s stage) run(args ...string) (code int, out, progress string) {
	s.Helper()
	return s.runUntil(s.Context(), args...)
}

func (s stage) runUntil(ctx context.Context, args ...string) (code int, out, progress string) {
	s.Helper()
	var o, e bytes.Buffer
	p := program{connect: func(context.Context) (*sqs.Client, error) { return s.server.Client(), nil }, out: &o, progress: &e}
	code = p.run(ctx, args)
	return code, o.String(), e.String()
}

func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }

func TestList(t *testing.T) {
	onStage(t, 25, func(s stage) {
		code, out, progress := s.run("list", "-dead-letter-url", s.dead)
		require.Zero(s, code, progress)
		require.Len(s, lines(out), 27)
		require.Contains(s, lines(out)[1], "no stock for 0")
		require.Equal(s, "25 letters: 12 exhausted, 13 permanent", lines(out)[26])
		require.Equal(s, 25, s.server.Queue("dead").Visible)

		code, out, progress = s.run("list", "-dead-letter-url", s.dead, "-json", "-reason", "exhausted", "-error", "for (3|4|5)$")
		require.Zero(s, code, progress)
		require.Len(s, lines(out), 2)
		var l letterJSON
		require.NoError(s, json.Unmarshal([]byte(lines(out)[0]), &l))
		require.Equal(s, record(3).Error, l.Error)
		require.Equal(s, record(3).MessageID, l.OriginalID)
		require.Equal(s, record(3).Attempts, l.Attempts)
		require.True(s, record(3).First.Equal(l.First))
	})
}

func TestShow(t *testing.T) {
	onStage(t, 25, func(s stage) {
		id := s.server.Messages("dead")[7].ID
		code, out, progress := s.run("show", id, "-dead-letter-url", s.dead)
		require.Zero(s, code, progress)
		require.Contains(s, out, "no stock for 7")
		require.Contains(s, out, "color = 7")
		require.True(s, strings.HasSuffix(out, "\n\nm7\n"), out)

		code, out, progress = s.run("show", "-dead-letter-url", s.dead, "-json", "orig-9")
		require.Zero(s, code, progress)
		var l letterJSON
		require.NoError(s, json.Unmarshal([]byte(out), &l))
		require.Equal(s, "m9", *l.Body)
		require.Equal(s, map[string]string{"color": "9"}, l.Attributes)

		code, _, progress = s.run("show", "-dead-letter-url", s.dead, "nobody")
		require.Equal(s, 1, code)
		require.Contains(s, progress, "no letter has that id")
		require.Equal(s, 25, s.server.Queue("dead").Visible)
	})
}

func TestRedrive(t *testing.T) {
	onStage(t, 25, func(s stage) {
		code, out, progress := s.run("redrive", "-dead-letter-url", s.dead, "-dry-run", "-reason", "permanent")
		require.Zero(s, code, progress)
		require.Equal(s, "25 letters examined: 13 would be redriven, 12 kept\n", out)
		require.Zero(s, s.server.Queue("orders").Sent)

		code, out, progress = s.run("redrive", "-dead-letter-url", s.dead, "orig-3", "orig-4")
		require.Zero(s, code, progress)
		require.Contains(s, out, "2 redriven")
		require.Equal(s, 2, s.server.Queue("orders").Visible)
		require.Equal(s, 23, s.server.Queue("dead").Visible)

		code, out, progress = s.run("redrive", "-dead-letter-url", s.dead, "-queue-url", s.orders, "-rate", "1000", "-json", "-reason", "permanent")
		require.Zero(s, code, progress)
		var summary map[string]any
		require.NoError(s, json.Unmarshal([]byte(out), &summary))
		require.EqualValues(s, 12, summary["redriven"])
		require.EqualValues(s, 11, summary["kept"])
		require.EqualValues(s, 23, summary["examined"])
		require.Equal(s, 14, s.server.Queue("orders").Visible)
		for _, m := range s.server.Messages("orders") {
			require.NotContains(s, m.Attributes, retry.DeadLetterAttribute)
			h, err := deadletter.ParseHistory(m.Attributes[deadletter.HistoryAttribute])
			require.NoError(s, err)
			require.Equal(s, 1, h.Redrives)
		}
	})
}

// The program names a refused letter, and exits with 1.
func TestRedrive_Refused(t *testing.T) {
	onStage(t, 5, func(s stage) {
		s.server.Plan = func(c sqsfake.Call) sqsfake.Fault {
			if c.Op != sqsfake.SendMessageBatch {
				return sqsfake.Fault{}
			}
			return sqsfake.Fault{Mode: sqsfake.FailEntries, Err: sqsfake.Error{Code: "InvalidMessageContents", Message: "no"}}
		}
		code, out, progress := s.run("redrive", "-dead-letter-url", s.dead, "-queue-url", s.orders)
		require.Equal(s, 1, code)
		require.Contains(s, out, "5 letters examined: 3 redriven, 2 refused, 0 in doubt, 0 kept")
		require.Contains(s, progress, s.server.Messages("dead")[0].ID+": failed: ")
		require.Contains(s, progress, "2 letters could not be redriven")
		require.Equal(s, 2, s.server.Queue("dead").Visible)
	})
}

// Ctrl-C returns the messages in flight, and the summary is printed.
func TestRedrive_Interrupted(t *testing.T) {
	onStage(t, 200, func(s stage) {
		ctx, interrupt := context.WithCancel(s.Context())
		defer interrupt()
		s.server.Plan = func(c sqsfake.Call) sqsfake.Fault {
			if c.Op == sqsfake.SendMessageBatch && c.N == 25 { // twenty have brought the letters
				interrupt()
			}
			return sqsfake.Fault{}
		}
		code, out, progress := s.runUntil(ctx, "redrive", "-dead-letter-url", s.dead, "-queue-url", s.orders)
		require.Equal(s, 1, code)
		require.Contains(s, out, "50 redriven, 0 refused, 0 in doubt, ")
		require.Contains(s, progress, "interrupted: waiting up to 30s for each call under way, and returning the letters in flight; press Ctrl-C again to stop now\n")
		require.Contains(s, progress, "context canceled")
		require.Equal(s, 50, s.server.Queue("orders").Visible)
		require.Equal(s, 150, s.server.Queue("dead").Visible)
		require.Zero(s, s.server.Queue("dead").InFlight)
	})
}

func TestNative(t *testing.T) {
	onStage(t, 3, func(s stage) {
		code, _, progress := s.run("redrive", "-dead-letter-url", s.dead, "-native")
		require.Equal(s, 1, code)
		require.Contains(s, progress, "CouldNotDetermineMessageSource")
		require.Contains(s, progress, "set MoveConfig.To")
		code, out, progress := s.run("redrive", "-dead-letter-url", s.dead, "-native", "-queue-url", s.orders, "-rate", "500")
		require.Zero(s, code, progress)
		require.Equal(s, "3 messages moved by the service\n", out)
		require.Equal(s, 3, s.server.Queue("orders").Visible)
	})
}

// On a server without move tasks the program says what to use instead.
func TestNative_NotThere(t *testing.T) {
	for name, refusal := range map[string]sqsfake.Error{
		"unknown operation": {Code: "UnknownOperationException"},
		"invalid action":    {Code: "InvalidAction"},
		"unsupported":       {Code: "UnsupportedOperation"},
		"not implemented":   {Status: 501, Code: "InternalFailure"},
	} {
		for _, op := range []sqsfake.Op{sqsfake.ListDeadLetterSourceQueues, sqsfake.ListMessageMoveTasks, sqsfake.StartMessageMoveTask} {
			t.Run(name+" "+string(op), func(t *testing.T) {
				onStage(t, 3, func(s stage) {
					s.server.Plan = sqsfake.On(op, sqsfake.Fault{Mode: sqsfake.Refuse, Err: refusal})
					code, _, progress := s.run("redrive", "-dead-letter-url", s.dead, "-native", "-queue-url", s.orders)
					require.Equal(s, 1, code)
					require.Contains(s, progress, "the server has no message move tasks")
					require.Contains(s, progress, "leave out -native")
					code, _, progress = s.run("redrive", "-dead-letter-url", s.dead, "-queue-url", s.orders)
					require.Zero(s, code, progress)
				})
			})
		}
	}
}

// The program reports letters that it skips because this machine's clock is slow.
func TestListSaysWhatItLeavesOut(t *testing.T) {
	onStage(t, 0, func(s stage) {
		q, err := sqsqueue.New(s.server.Client(), s.dead, sqsqueue.Config{})
		require.NoError(s, err)
		var out, progress bytes.Buffer
		p := program{out: &out, progress: &progress}
		fill(s.T, q, 3)
		require.NoError(s, p.listOf(s.Context(), queues{dead: ahead{q}}, Settings{}))
		require.Equal(s, "no letters\n", out.String())
		require.Contains(s, progress.String(), "letters=3 newer_by=")

		out.Reset()
		to := queues{dead: ahead{q}, to: q, size: func(context.Context) int { return 3 }}
		require.NoError(s, p.redriveOf(s.Context(), to, Settings{DryRun: true}))
		require.Equal(s, "3 letters examined: 0 would be redriven, 3 kept (3 came after the start)\n", out.String())
	})
}

// ahead is a queue whose clock is ten minutes fast.
type ahead struct{ queue.Source }

func (a ahead) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	msgs, err := a.Source.Receive(ctx, o)
	for _, m := range msgs {
		m.SentAt = m.SentAt.Add(10 * time.Minute)
	}
	return msgs, err
}

// An interrupt makes the service cancel its move.
func TestNative_Interrupted(t *testing.T) {
	onStage(t, 50, func(s stage) {
		ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
		defer cancel()
		code, _, progress := s.runUntil(ctx, "redrive", "-dead-letter-url", s.dead, "-native", "-queue-url", s.orders, "-rate", "1")
		require.Equal(s, 1, code)
		require.Contains(s, progress, "interrupted: waiting up to 20s for the service to cancel the move, which goes on otherwise; press Ctrl-C again to stop now\n")
		time.Sleep(time.Minute)
		require.NotZero(s, s.server.Queue("dead").Visible)
	})
}

func TestParseFlags(t *testing.T) {
	for name, value := range environment("") {
		t.Setenv(name, value)
	}
	for line, want := range map[string]string{
		"":                                     "no command",
		"-json":                                "no command",
		"frob -dead-letter-url http://x/y":     `"frob" is no command`,
		"list":                                 "-dead-letter-url is missing",
		"list -demo":                           "-demo stands alone",
		"-demo -json":                          "-demo stands alone",
		"show -dead-letter-url http://x/y":     "show needs one ID",
		"show -dead-letter-url http://x/y a b": "show needs one ID",
		"redrive -dead-letter-url a -queue-url a":        "-queue-url is the same",
		"list -dead-letter-url a -rate 5":                "-rate is for redrive",
		"redrive -dead-letter-url a -rate 0":             "-rate is 0",
		"redrive -dead-letter-url a -rate NaN":           "-rate is NaN",
		"redrive -dead-letter-url a -lease 5s":           "-lease is 5s",
		"redrive -dead-letter-url a -max -1":             "-max is -1",
		"redrive -dead-letter-url a -min-age -1s":        "-min-age",
		"redrive -dead-letter-url a -error (":            "missing closing",
		"redrive -dead-letter-url a -reason a,,b":        "must be words",
		"redrive -dead-letter-url a -native -reason b":   "-native and -reason exclude each other",
		"redrive -dead-letter-url a -native x":           "-native takes no IDs",
		"redrive -dead-letter-url a -native -rate 0.5":   "whole numbers",
		"redrive -dead-letter-url a -native -dry-run":    "-native and -dry-run",
		"redrive -dead-letter-url a -unknown":            "-unknown",
		"redrive -dead-letter-url a -native -rate 501.0": "from 1 to 500",
	} {
		_, err := ParseFlags(strings.Fields(line))
		require.ErrorContains(t, err, want, line)
	}
	s, err := ParseFlags(strings.Fields("redrive x -dead-letter-url a y -reason exhausted,none -max 3 z"))
	require.NoError(t, err)
	require.Equal(t, []string{"x", "y", "z"}, s.IDs)
	require.Equal(t, []string{"exhausted", ""}, s.Reasons)
	var out, progress bytes.Buffer
	p := program{out: &out, progress: &progress}
	require.Zero(t, p.run(t.Context(), []string{"-help"}))
	require.Contains(t, out.String(), "-dry-run")
	require.Equal(t, 2, p.run(t.Context(), nil))
	require.Contains(t, progress.String(), "go run ./examples/redrive -demo")
}

func TestDemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, progress bytes.Buffer
		p := program{out: &out, progress: &progress}
		require.Zero(t, p.run(t.Context(), []string{"-demo"}), progress.String())
		require.Contains(t, out.String(), "24 letters: 20 exhausted, 3 permanent, 1 undecodable")
		require.Contains(t, out.String(), "24 letters examined: 20 would be redriven, 4 kept")
		require.Contains(t, out.String(), "24 letters examined: 20 redriven, 0 refused, 0 in doubt, 4 kept")
		require.Contains(t, out.String(), "20 orders are stored")
		require.Contains(t, out.String(), "4 letters: 3 permanent, 1 undecodable")
	})
}
