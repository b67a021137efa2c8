package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
)

// setAWS sets the SDK's environment for a server on this machine.
func setAWS(t *testing.T, endpoint string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_SQS": endpoint, "AWS_REGION": "us-east-1",
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_SESSION_TOKEN": "",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(name, value)
	}
}

// smallOn returns the settings of a small story on two new queues.
func smallOn(t *testing.T, server *sqsfake.Server, run string) Settings {
	t.Helper()
	s := small
	var err error
	s.DeadLetterURL, err = server.CreateQueue("orders-dead", map[string]string{"MessageRetentionPeriod": "1209600"})
	require.NoError(t, err)
	s.QueueURL, err = server.CreateQueue("orders", map[string]string{
		"ReceiveMessageWaitTimeSeconds": "20",
		"RedrivePolicy":                 `{"deadLetterTargetArn":"` + server.ARN("orders-dead") + `","maxReceiveCount":24}`,
	})
	require.NoError(t, err)
	s.Run = run
	return s
}

// listen serves the fake over loopback, where the SDK's environment points to.
func listen(t *testing.T, server *sqsfake.Server) {
	t.Helper()
	l := httptest.NewServer(server)
	t.Cleanup(l.Close)
	setAWS(t, l.URL)
}

// play runs the story and returns the report, which must be all of its output.
func play(t *testing.T, ctx context.Context, s Settings, progress io.Writer) Report {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, Run(ctx, s, &out, progress))
	var r Report
	d := json.NewDecoder(&out)
	require.NoError(t, d.Decode(&r))
	require.ErrorIs(t, d.Decode(&r), io.EOF, "one object and nothing else")
	return r
}

func TestRunOnSQS(t *testing.T) {
	var server sqsfake.Server
	s := smallOn(t, &server, "first-")
	listen(t, &server)
	var progress bytes.Buffer
	requireStory(t, s, play(t, t.Context(), s, &progress).Queued)
	require.NotContains(t, progress.String(), "check:", "nothing is wrong with these queues")
	require.Empty(t, server.Messages("orders"))
	require.Len(t, server.Messages("orders-dead"), 5, "dead letters stay, for people to look at")

	// Leftovers of another run: an order, and the dead letters from above.
	client := server.Client()
	before, err := order.NewMessage(order.Order{ID: "first-order-999999", SKU: skus[0], Quantity: 1, Customer: "c"})
	require.NoError(t, err)
	first, err := newSQSQueues(client, s, io.Discard)
	require.NoError(t, err)
	require.NoError(t, first.Send(t.Context(), before))
	s.Run = "second-"
	q := play(t, t.Context(), s, io.Discard).Queued
	require.Equal(t, 1, q.Earlier, "it is fulfilled now, and not counted as ours")
	requireStory(t, s, q)
	require.Empty(t, server.Messages("orders"))
	require.Equal(t, 10, server.Queue("orders-dead").Visible, "what was read is given back")
}

func TestInterruptedOnSQS(t *testing.T) {
	var server sqsfake.Server
	s := smallOn(t, &server, "run-")
	listen(t, &server)
	s.Orders = 900
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	r := play(t, ctx, s, trigger{"queued:", interrupt})
	require.True(t, r.Interrupted)
	q := r.Queued
	require.Positive(t, q.Left)
	require.Zero(t, q.Lost)
	require.Zero(t, q.Failed)
	require.Equal(t, q.Accepted, q.Stored+q.DeadLettered+q.Left)
	require.Equal(t, q.Left, server.Queue("orders").Visible, "the next run finds them at once: %+v", q)
	require.Zero(t, server.Queue("orders").InFlight)
}

func TestSQSFails(t *testing.T) {
	var server sqsfake.Server
	throttle := sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}
	lose := sqsfake.Fault{Mode: sqsfake.LoseReply}
	receives := sqsfake.Random(1, 0.05, throttle, sqsfake.Fault{Mode: sqsfake.Reset})
	settles := sqsfake.Random(2, 0.1, throttle, lose)
	sends := sqsfake.Random(3, 0.1, throttle, lose,
		sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.AccessDenied()}) // which is not tried again
	server.Plan = func(c sqsfake.Call) sqsfake.Fault {
		switch {
		case c.Op == sqsfake.SendMessageBatch && c.Queue == "orders":
			return sends(c)
		case c.Op == sqsfake.ReceiveMessage:
			return receives(c) // a lost reply delays its message for a lease
		case c.Op == sqsfake.GetQueueAttributes, c.Op == sqsfake.GetQueueURL:
			return sqsfake.Fault{} // a run that can't inspect its queues does not begin
		}
		return settles(c)
	}
	s := smallOn(t, &server, "run-")
	listen(t, &server)
	q := play(t, t.Context(), s, io.Discard).Queued
	require.Equal(t, s.Orders+5, q.Accepted+q.Failed)
	require.Positive(t, q.Failed, "no 200 for an order that is not in the queue")
	require.Zero(t, q.Lost)
	require.Zero(t, q.Left)
}

func TestFrontDoorWhenSQSFails(t *testing.T) {
	for name, c := range map[string]struct {
		fault  sqsfake.Fault
		status int
	}{
		"throttled":     {sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, 503},
		"away":          {sqsfake.Fault{Mode: sqsfake.Reset}, 503},
		"silent":        {sqsfake.Fault{Mode: sqsfake.Hang}, 503},
		"queue deleted": {sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.QueueDoesNotExist()}, 503},
		"denied":        {sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.AccessDenied()}, 503},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := sqsfake.Server{Plan: sqsfake.On(sqsfake.SendMessageBatch, c.fault)}
				q, err := newSQSQueues(server.Client(), smallOn(t, &server, ""), io.Discard)
				require.NoError(t, err)
				start := time.Now()
				res, p := post(t, FrontDoor{Submit: Enqueue(q)}, "POST", "/orders", "application/json", goodOrder)
				require.Equal(t, c.status, res.StatusCode)
				require.NotContains(t, p.Detail, "sqs")
				require.LessOrEqual(t, time.Since(start), 5*time.Second)
				require.Zero(t, q.Open())
			})
		})
	}
}

func TestRestOnSQS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		var progress strings.Builder
		q, err := newSQSQueues(server.Client(), smallOn(t, &server, "run-"), &progress)
		require.NoError(t, err)
		ids := make(map[string]bool)
		for _, id := range []string{"run-1", "run-2", "run-3", "run-4", "other-1"} {
			m, err := order.NewMessage(order.Order{ID: id})
			require.NoError(t, err)
			require.NoError(t, q.Send(t.Context(), m))
			ids[id] = true
		}
		delete(ids, "other-1")

		// Everything is there: no wait beyond the empty polls.
		start := time.Now()
		letters, left, err := q.Rest(t.Context(), ids)
		require.NoError(t, err)
		require.Empty(t, letters)
		require.Len(t, left, 4)
		require.LessOrEqual(t, time.Since(start), 2*poll)
		require.Equal(t, 5, server.Queue("orders").Visible)

		// One was received by a client that has gone, one is lost, one is a dead letter.
		msgs, err := q.Queue.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: lease})
		require.NoError(t, err)
		require.Len(t, msgs, 5)
		for _, m := range msgs {
			switch m.Attributes[order.IDAttribute] {
			case "run-1":
			case "run-2":
				require.NoError(t, q.Queue.Ack(t.Context(), m))
			case "run-3":
				require.NoError(t, q.dead.Send(t.Context(), m))
				require.NoError(t, q.Queue.Ack(t.Context(), m))
			default:
				require.NoError(t, q.Nack(t.Context(), 0, m))
			}
		}
		start = time.Now()
		letters, left, err = q.Rest(t.Context(), ids)
		require.NoError(t, err)
		require.Len(t, letters, 1)
		require.Equal(t, "run-3", letters[0].Attributes[order.IDAttribute])
		found := make(map[string]bool)
		for _, m := range left {
			found[m.Attributes[order.IDAttribute]] = true
		}
		require.Equal(t, map[string]bool{"run-1": true, "run-4": true}, found)
		require.GreaterOrEqual(t, time.Since(start), lease, "it may have been hidden for so long")
		require.LessOrEqual(t, time.Since(start), lease+10*time.Second)
		require.Contains(t, progress.String(), "looking for 2 orders until")

		// A deleted queue can't be inspected, and the error is immediate.
		server.Plan = sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.QueueDoesNotExist()})
		start = time.Now()
		_, _, err = q.Rest(t.Context(), ids)
		require.ErrorContains(t, err, "create the queue")
		require.LessOrEqual(t, time.Since(start), 2*poll)
	})
}

func TestEndOfRunOnSQS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		q, err := newSQSQueues(server.Client(), smallOn(t, &server, "run-"), io.Discard)
		require.NoError(t, err)
		receive := func() ([]*queue.Message, error) {
			return q.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: lease})
		}
		for _, id := range []string{"run-1", "other-1", "run-2"} {
			m, err := order.NewMessage(order.Order{ID: id})
			require.NoError(t, err)
			require.NoError(t, q.Send(t.Context(), m))
		}
		q.open = map[string]bool{"run-1": true, "run-2": true} // the other one was sent by the other run
		msgs, err := receive()
		require.NoError(t, err)
		require.Len(t, msgs, 3)
		q.Close()

		// A consumer may have only a message's ID and Receipt.
		bare := func(m *queue.Message) *queue.Message { return &queue.Message{ID: m.ID, Receipt: m.Receipt} }
		require.NoError(t, q.Ack(t.Context(), bare(msgs[0]), bare(msgs[1])))
		require.Equal(t, 1, q.Open())
		msgs, err = receive()
		require.NoError(t, err, "one is not settled yet")
		require.Empty(t, msgs)

		time.Sleep(lease)
		msgs, err = receive()
		require.NoError(t, err)
		require.Len(t, msgs, 1)
		server.Plan = sqsfake.On(sqsfake.DeleteMessageBatch, sqsfake.Fault{Mode: sqsfake.FailEntries, Err: sqsfake.AccessDenied()})
		require.Error(t, q.Ack(t.Context(), bare(msgs[0])))
		require.Equal(t, 1, q.Open(), "it will come again")

		// It never does: another client deleted it.
		server.Plan = nil
		require.NoError(t, q.Queue.Ack(t.Context(), bare(msgs[0])))
		start, polls := time.Now(), 0
		for err == nil && polls <= 2*settled {
			msgs, err = receive()
			require.Empty(t, msgs)
			polls++
		}
		require.ErrorIs(t, err, io.EOF)
		require.Greater(t, time.Since(start), lease)
		require.Equal(t, settled+1, polls)
	})
}

func TestQueuesThatCannotBeUsed(t *testing.T) {
	var server sqsfake.Server
	s := smallOn(t, &server, "run-")
	listen(t, &server)
	for name, c := range map[string]struct {
		change func(*Settings)
		says   string
	}{
		"no such queue":             {func(s *Settings) { s.QueueURL = server.URL("nothing") }, "-queue-url: sqsqueue: check: queue " + server.URL("nothing")},
		"no such dead-letter queue": {func(s *Settings) { s.DeadLetterURL = server.URL("nothing") }, "-dead-letter-url: sqsqueue: check: queue " + server.URL("nothing")},
		"no URL":                    {func(s *Settings) { s.QueueURL = "orders" }, "-queue-url"},
		"no URL of dead letters":    {func(s *Settings) { s.DeadLetterURL = "dead" }, "-dead-letter-url"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s
			c.change(&s)
			var out, progress bytes.Buffer
			require.ErrorContains(t, Run(t.Context(), s, &out, &progress), c.says)
			require.Empty(t, out.String())
			require.Empty(t, progress.String(), "it fails before the spike")
		})
	}

	// Findings do not stop it from running.
	s.Orders, s.Outage = 20, 0
	var err error
	s.QueueURL, err = server.CreateQueue("plain", nil)
	require.NoError(t, err)
	var progress bytes.Buffer
	requireStory(t, s, play(t, t.Context(), s, &progress).Queued)
	require.Contains(t, progress.String(), "check: "+s.QueueURL+": RedrivePolicy")
}

// The story on a third-party server, as a reader runs it.
func TestLiveRun(t *testing.T) {
	endpoint := os.Getenv("RAMPMETER_SQS_ENDPOINT")
	if endpoint == "" {
		t.Skip("needs an SQS server: set RAMPMETER_SQS_ENDPOINT=http://127.0.0.1:4566 for a local one (fauxqs, for example), " +
			"or to https://sqs.<region>.amazonaws.com with AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for AWS; queues are made and deleted")
	}
	if os.Getenv("AWS_ACCESS_KEY_ID") == "" {
		setAWS(t, endpoint)
	} else {
		t.Setenv("AWS_ENDPOINT_URL_SQS", endpoint)
	}
	aws, err := config.LoadDefaultConfig(t.Context())
	require.NoError(t, err)
	client := sqs.NewFromConfig(aws)
	queueURL := func(name string) string {
		name = "rampmeter-" + name + "-" + rand.Text()
		made, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
		require.NoError(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if _, err := client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl}); err != nil {
				t.Log(err)
			}
		})
		return *made.QueueUrl
	}
	s := small
	s.QueueURL, s.DeadLetterURL, s.Run = queueURL("orders"), queueURL("dead"), "first-"
	requireStory(t, s, play(t, t.Context(), s, t.Output()).Queued)

	// After an interrupt in the middle, the next run fulfils the remaining orders.
	s.Orders, s.Run = 900, "second-"
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	r := play(t, ctx, s, trigger{"queued:", interrupt})
	require.True(t, r.Interrupted)
	require.Zero(t, r.Queued.Lost)
	require.Equal(t, r.Queued.Accepted, r.Queued.Stored+r.Queued.DeadLettered+r.Queued.Left)
	require.Positive(t, r.Queued.Left)

	s.Orders, s.Run = small.Orders, "third-"
	q := play(t, t.Context(), s, t.Output()).Queued
	requireStory(t, s, q)
	require.Positive(t, q.Earlier)
}

// A queue that accepts nothing, for lack of permission for example, is a failure: the
// first error is written at once, and the run fails with it.
func TestNothingIsAccepted(t *testing.T) {
	for name, c := range map[string]struct {
		fault sqsfake.Fault
		says  string
	}{
		"denied":  {sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.AccessDenied()}, "sqs:SendMessage"},
		"entries": {sqsfake.Fault{Mode: sqsfake.FailEntries, Entries: []int{0}, Err: sqsfake.Error{Code: "KMS.DisabledException"}}, "KMS key"},
	} {
		t.Run(name, func(t *testing.T) {
			var server sqsfake.Server
			s := smallOn(t, &server, "run-")
			server.Plan = sqsfake.On(sqsfake.SendMessageBatch, c.fault)
			listen(t, &server)
			var out, progress bytes.Buffer
			err := Run(t.Context(), s, &out, &progress)
			require.ErrorContains(t, err, "none of ")
			require.ErrorContains(t, err, c.says)
			require.Equal(t, 1, strings.Count(progress.String(), "an order is not accepted: "), progress.String())
			require.Contains(t, progress.String(), c.says)
			var r Report
			require.NoError(t, json.Unmarshal(out.Bytes(), &r), "the report is written nevertheless")
			require.Zero(t, r.Queued.Accepted)
		})
	}
}
