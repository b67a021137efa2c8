package sqslambda_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// An outage is an outage of the API that ten processes of a function call, each with
// its own breaker. Messages are sent from before the outage until shortly after it.
type outage struct {
	lasts       time.Duration
	maxReceives int
	slowDown    bool // the mapping does, and the function fails when it should
	function    string
	messages    int
}

// The result of an outage.
type outcome struct {
	dead     int // messages in the dead-letter queue
	byUs     int // of these, those that we sent there
	calls    int // of the API while it was down
	receives int // of messages while it was down
	clear    time.Duration
}

// The functions of the table.
const (
	byHand      = "by hand"
	withBackoff = "by hand, 1 s to 5 min"
	noBreaker   = "Handler, no breaker"
	withBreaker = "Handler"
)

const (
	functionTimeout = 5 * time.Second
	visibility      = 6 * functionTimeout // as Lambda's guide wants it
	warmUp          = 30 * time.Second
)

var errDown = fmt.Errorf("connection refused: %w", limiter.ErrUnavailable)

func (o outage) run(t *testing.T) (out outcome) {
	t.Helper()
	var server sqsfake.Server
	deadURL, err := server.CreateQueue("dead", nil)
	require.NoError(t, err)
	url, err := server.CreateQueue("orders", map[string]string{
		"VisibilityTimeout": strconv.Itoa(int(visibility / time.Second)),
		"RedrivePolicy":     fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":%d}`, server.ARN("dead"), o.maxReceives),
	})
	require.NoError(t, err)
	client := server.Client()

	began := time.Now()
	down := func() bool { d := time.Since(began); return d >= warmUp && d < warmUp+o.lasts }
	var mu sync.Mutex // guards out, and what is stored
	stored := make(map[string]bool)
	call := func(_ context.Context, id string) error {
		time.Sleep(20 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if down() {
			out.calls++
			return errDown
		}
		stored[id] = true
		return nil
	}

	f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{
		Start: func() lambdalocal.Handler { return o.start(t, client, url, deadURL, call) }, Timeout: functionTimeout, Concurrency: 10,
	})
	require.NoError(t, err)
	mapping, err := lambdalocal.NewMapping(lambdalocal.MappingConfig{
		Client: client, QueueURL: url, Function: f, BatchSize: 5, MaxConcurrency: 10, PartialResponses: true, SlowDown: o.slowDown,
	})
	require.NoError(t, err)

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { require.NoError(t, mapping.Run(ctx)) })
	wg.Go(func() { // processes come and go
		for sleep.For(ctx, time.Minute) {
			f.Recycle(3)
		}
	})
	before := 0
	for i := range o.messages {
		body := strconv.Itoa(i)
		_, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body})
		require.NoError(t, err)
		if pause := (warmUp + o.lasts) / time.Duration(o.messages); i%10 == 9 {
			time.Sleep(10 * pause)
		}
		if !down() && time.Since(began) < warmUp {
			before = mapping.Stats().Received
		}
	}
	if over := warmUp + o.lasts - time.Since(began); over > 0 {
		time.Sleep(over)
	}
	out.receives = mapping.Stats().Received - before
	end := time.Now()
	for {
		q := server.Queue("orders")
		if q.Visible+q.InFlight == 0 {
			break
		}
		require.Less(t, time.Since(end), 2*time.Hour, "%+v", q)
		time.Sleep(time.Second)
	}
	out.clear = time.Since(end).Round(time.Second)
	stop()
	wg.Wait()
	f.Wait()
	for _, m := range server.Messages("dead") {
		out.dead++
		if _, ok := m.Attributes[retry.DeadLetterAttribute]; ok {
			out.byUs++
		}
	}
	require.Equal(t, o.messages, len(stored)+out.dead, "none is lost, and none both stored and dead")
	return out
}

// start starts a process.
func (o outage) start(t *testing.T, client *sqs.Client, url, deadURL string, call func(context.Context, string) error) lambdalocal.Handler {
	if o.function == byHand || o.function == withBackoff {
		return func(ctx context.Context, e events.SQSEvent) (answer events.SQSEventResponse, err error) {
			for _, r := range e.Records {
				if call(ctx, r.Body) == nil {
					continue
				}
				answer.BatchItemFailures = append(answer.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: r.MessageId})
				if o.function == withBackoff {
					n, err := strconv.Atoi(r.Attributes["ApproximateReceiveCount"])
					require.NoError(t, err)
					_, err = client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
						QueueUrl: &url, ReceiptHandle: &r.ReceiptHandle, VisibilityTimeout: int32(rand.N(min(time.Second<<min(n-1, 20), 5*time.Minute)+1) / time.Second),
					})
					require.NoError(t, err)
				}
			}
			if o.slowDown && len(answer.BatchItemFailures) == len(e.Records) {
				return answer, errors.New("nothing is done")
			}
			return answer, nil
		}
	}
	q, err := sqsqueue.New(client, url, sqsqueue.Config{})
	require.NoError(t, err)
	dead, err := sqsqueue.New(client, deadURL, sqsqueue.Config{})
	require.NoError(t, err)
	cfg := sqslambda.Config{Queue: q, DeadLetter: dead, Logger: quiet, Retry: retry.Policy{MaxAttempts: 20}}
	if o.maxReceives < 20 {
		cfg.Retry.MaxAttempts = o.maxReceives - 1
	}
	if o.slowDown {
		cfg.OpenBreaker = sqslambda.Error
	}
	if o.function == noBreaker {
		cfg.Limiter = all(t)
	}
	f, err := sqslambda.Handler(queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error { return call(ctx, string(m.Body)) }), cfg)
	require.NoError(t, err)
	return f
}

// With Handler and a queue, an outage that is shorter than OutageSpan dead-letters
// nothing.
func TestAnOutageDeadLettersNothing(t *testing.T) {
	messages, functions := 200, []string{byHand, withBackoff, noBreaker, withBreaker}
	if testing.Short() {
		messages, functions = 30, functions[3:]
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%d messages, function timeout %v, visibility %v, batch 5, 10 processes, 3 a minute respawned\n", messages, functionTimeout, visibility)
	fmt.Fprintf(&table, "%-22s %-8s %-11s %-9s | %5s %5s %7s %9s %9s\n",
		"function", "outage", "maxReceive", "slow down", "dead", "by us", "calls", "receives", "all after")
	for _, function := range functions {
		for _, lasts := range []time.Duration{5 * time.Minute, time.Hour} {
			for _, maxReceives := range []int{5, 50} {
				for _, slowDown := range []bool{false, true} {
					o := outage{lasts: lasts, maxReceives: maxReceives, slowDown: slowDown, function: function, messages: messages}
					synctest.Test(t, func(t *testing.T) {
						out := o.run(t)
						fmt.Fprintf(&table, "%-22s %-8v %-11d %-9v | %5d %5d %7d %9d %9v\n",
							function, lasts, maxReceives, slowDown, out.dead, out.byUs, out.calls, out.receives, out.clear)
						switch {
						case function != withBreaker:
						case lasts < sqslambda.OutageSpan(maxReceives):
							require.Zero(t, out.dead, "%+v", o)
						default:
							require.Positive(t, out.dead, "an outage of %v can't be survived with %d receives: %+v", lasts, maxReceives, o)
						}
					})
				}
			}
		}
	}
	t.Log("\n" + table.String())
}
