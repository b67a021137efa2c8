package sqslambda_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
)

var quiet = slog.New(slog.DiscardHandler)

const (
	arn     = "arn:aws:sqs:eu-central-1:123456789012:orders"
	fifoARN = arn + ".fifo"
)

// A function is what Handler returns.
type function = func(context.Context, events.SQSEvent) (events.SQSEventResponse, error)

func newFunction(t testing.TB, h queue.HandlerFunc, cfg sqslambda.Config) function {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	f, err := sqslambda.Handler(h, cfg)
	require.NoError(t, err)
	return f
}

// newEvent returns an event with records that have the ids and bodies "0",
// "1"..., each received for the first time.
func newEvent(n int) events.SQSEvent {
	e := events.SQSEvent{Records: make([]events.SQSMessage, n)}
	for i := range e.Records {
		e.Records[i] = newRecord(strconv.Itoa(i))
	}
	return e
}

func newRecord(id string) events.SQSMessage {
	return events.SQSMessage{
		MessageId: id, ReceiptHandle: "receipt-" + id, Body: id, EventSource: "aws:sqs", EventSourceARN: arn, AWSRegion: "eu-central-1",
		Attributes: map[string]string{
			"ApproximateReceiveCount": "1", "SentTimestamp": "1790000000000", "ApproximateFirstReceiveTimestamp": "1790000000001", "SenderId": "AIDA",
		},
	}
}

// received sets how often the records were received.
func received(e events.SQSEvent, times int) events.SQSEvent {
	for i := range e.Records {
		e.Records[i].Attributes["ApproximateReceiveCount"] = strconv.Itoa(times)
	}
	return e
}

// returned invokes the function and returns the ids that it answers with.
func returned(t *testing.T, f function, timeout time.Duration, e events.SQSEvent) []string {
	t.Helper()
	answer, err := invoke(t, f, timeout, e)
	require.NoError(t, err)
	return ids(t, answer)
}

// invoke invokes the function with that timeout; 0: none.
func invoke(t *testing.T, f function, timeout time.Duration, e events.SQSEvent) (events.SQSEventResponse, error) {
	t.Helper()
	ctx := t.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	answer, err := f(ctx, e)
	require.NoError(t, ctx.Err(), "the function has answered too late")
	return answer, err
}

func ids(t *testing.T, answer events.SQSEventResponse) []string {
	t.Helper()
	require.NotNil(t, answer.BatchItemFailures)
	all := make([]string, 0, len(answer.BatchItemFailures))
	seen := make(map[string]bool)
	for _, f := range answer.BatchItemFailures {
		require.False(t, seen[f.ItemIdentifier], "%s is returned twice", f.ItemIdentifier)
		seen[f.ItemIdentifier] = true
		all = append(all, f.ItemIdentifier)
	}
	return all
}

// numbers returns "from" to "to".
func numbers(from, to int) []string {
	all := []string{}
	for i := from; i <= to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// A sourceQueue is the queue behind the mapping, as far as it is called.
type sourceQueue struct {
	queue.Source
	took time.Duration // by each call
	err  error         // of each call

	mu    sync.Mutex // guards all below
	calls []nack
	cut   int // calls whose context ended before they did
}

type nack struct {
	at    time.Time
	delay time.Duration
	ids   []string
}

func (q *sourceQueue) Nack(ctx context.Context, delay time.Duration, msgs ...*queue.Message) error {
	n := nack{at: time.Now(), delay: delay}
	for _, m := range msgs {
		if m.Receipt != "receipt-"+m.ID {
			return fmt.Errorf("message %s has the receipt %q", m.ID, m.Receipt)
		}
		n.ids = append(n.ids, m.ID)
	}
	cut := !sleep.For(ctx, q.took)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls = append(q.calls, n)
	if cut {
		q.cut++
	}
	return q.err
}

// delays returns the delay of each message.
func (q *sourceQueue) delays(t *testing.T) map[string]time.Duration {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make(map[string]time.Duration)
	for _, c := range q.calls {
		for _, id := range c.ids {
			_, twice := all[id]
			require.False(t, twice, "%s is hidden twice", id)
			all[id] = c.delay
		}
	}
	return all
}

// A sink is a dead-letter queue.
type sink struct {
	took time.Duration
	err  error

	mu   sync.Mutex // guards all below
	msgs []*queue.Message
}

func (s *sink) Send(ctx context.Context, msgs ...*queue.Message) error {
	if !sleep.For(ctx, s.took) {
		return context.Cause(ctx)
	}
	if s.err != nil {
		return s.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		s.msgs = append(s.msgs, m.Clone())
	}
	return nil
}

func (s *sink) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []string{}
	for _, m := range s.msgs {
		all = append(all, m.ID)
	}
	slices.Sort(all)
	return all
}

func all(t testing.TB, limiters ...limiter.Limiter) limiter.Limiter {
	t.Helper()
	l, err := limiter.All(limiters...)
	require.NoError(t, err)
	return l
}
