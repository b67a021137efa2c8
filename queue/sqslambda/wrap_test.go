package sqslambda_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A legacy function is an existing Lambda function, with one of two signatures.
type legacy struct {
	mu   sync.Mutex
	seen []events.SQSMessage
}

func (l *legacy) note(e events.SQSEvent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, e.Records...)
	for _, r := range e.Records {
		if r.Body == "bad" {
			return errors.New("bad order")
		}
	}
	return nil
}

func (l *legacy) whole(_ context.Context, e events.SQSEvent) error { return l.note(e) }

func (l *legacy) partial(_ context.Context, e events.SQSEvent) (events.SQSEventResponse, error) {
	var answer events.SQSEventResponse
	for _, r := range e.Records {
		if l.note(events.SQSEvent{Records: []events.SQSMessage{r}}) != nil {
			answer.BatchItemFailures = append(answer.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: r.MessageId})
		}
	}
	return answer, nil
}

func (l *legacy) shapes() map[string]queue.Handler {
	return map[string]queue.Handler{"whole": sqslambda.Wrap(l.whole), "partial": sqslambda.Wrap(l.partial)}
}

// realEvent is as Lambda sends it.
func realEvent(t *testing.T) events.SQSEvent {
	t.Helper()
	text, err := os.ReadFile("testdata/event.json")
	require.NoError(t, err)
	var e events.SQSEvent
	require.NoError(t, json.Unmarshal(text, &e))
	return e
}

func TestWrapUnderHandler(t *testing.T) {
	for name := range (&legacy{}).shapes() {
		bubble(t, name, func(t *testing.T) {
			l := &legacy{}
			f, err := sqslambda.Handler(l.shapes()[name], sqslambda.Config{Logger: quiet})
			require.NoError(t, err)
			e := realEvent(t)
			require.Equal(t, []string{e.Records[2].MessageId}, returned(t, f, time.Minute, e))
			require.Equal(t, e.Records, l.seen, "what it gets is what Lambda has sent")
		})
	}
}

func TestWrapUnderAConsumer(t *testing.T) {
	for name := range (&legacy{}).shapes() {
		bubble(t, name+" with memqueue", func(t *testing.T) {
			q, err := memqueue.New(memqueue.Config{})
			require.NoError(t, err)
			require.NoError(t, q.Send(t.Context(),
				&queue.Message{Body: []byte("good"), Group: "tenant", Attributes: map[string]string{"tenant": "7", "raw": "\xff", "nul": "\x00", sqsqueue.TraceHeader: "Root=1"}},
				&queue.Message{Body: []byte("bad")}))
			dead, err := memqueue.New(memqueue.Config{})
			require.NoError(t, err)
			q.Close()
			l := &legacy{}
			c, err := queue.NewConsumer(q, l.shapes()[name], queue.Config{Concurrency: 1, DeadLetter: dead, Logger: quiet})
			require.NoError(t, err)
			require.NoError(t, c.Run(t.Context()))
			require.EqualValues(t, 1, c.Stats().Done)
			require.EqualValues(t, 1, c.Stats().DeadLettered)
			require.Len(t, l.seen, 13)

			r := l.seen[0]
			require.Equal(t, "good", r.Body)
			require.Equal(t, "755f85c2723bb39381c7379a604160d8", r.Md5OfBody)
			require.Equal(t, "aws:sqs", r.EventSource)
			require.Equal(t, "1", r.Attributes["ApproximateReceiveCount"])
			require.Equal(t, "tenant", r.Attributes["MessageGroupId"])
			require.Equal(t, "Root=1", r.Attributes["AWSTraceHeader"])
			require.NotEmpty(t, r.Attributes["SentTimestamp"])
			require.NotEmpty(t, r.ReceiptHandle)
			seven := "7"
			require.Equal(t, map[string]events.SQSMessageAttribute{
				"tenant": {DataType: "String", StringValue: &seven, StringListValues: []string{}, BinaryListValues: [][]byte{}},
				"nul":    {DataType: "Binary", BinaryValue: []byte{0}, StringListValues: []string{}, BinaryListValues: [][]byte{}},
				"raw":    {DataType: "Binary", BinaryValue: []byte{0xff}, StringListValues: []string{}, BinaryListValues: [][]byte{}},
			}, r.MessageAttributes)
		})
		bubble(t, name+" with sqsqueue", func(t *testing.T) {
			var server sqsfake.Server
			url, err := server.CreateQueue("orders", nil)
			require.NoError(t, err)
			q, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Wait: time.Second})
			require.NoError(t, err)
			require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("good"), Attributes: map[string]string{"tenant": "7"}}))
			msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.NoError(t, err)
			l := &legacy{}
			require.NoError(t, l.shapes()[name].Handle(t.Context(), msgs[0]))
			r := l.seen[0]
			require.Equal(t, msgs[0].ID, r.MessageId)
			require.NotContains(t, r.ReceiptHandle, "@", "as the service knows it")
			require.NotEmpty(t, r.Attributes["ApproximateFirstReceiveTimestamp"])
			require.Equal(t, "String", r.MessageAttributes["tenant"].DataType)
			require.NotEmpty(t, r.Md5OfMessageAttributes)
		})
	}
}

// A dead letter keeps the types of its attributes.
func TestADeadLetterKeepsItsAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		url, err := server.CreateQueue("dead", nil)
		require.NoError(t, err)
		dead, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		l := &legacy{}
		f, err := sqslambda.Handler(l.shapes()["partial"], sqslambda.Config{DeadLetter: dead, Logger: quiet})
		require.NoError(t, err)
		e := realEvent(t)
		e.Records[2].Attributes["ApproximateReceiveCount"] = "12"
		require.Empty(t, returned(t, f, time.Minute, e))

		msgs, err := dead.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.NoError(t, err)
		again := &legacy{}
		require.NoError(t, sqslambda.Wrap(again.whole).Handle(t.Context(), &queue.Message{
			Body: []byte("copy"), Attributes: msgs[0].Attributes, Native: msgs[0].Native,
		}))
		for name, a := range e.Records[2].MessageAttributes {
			require.Equal(t, a.DataType, again.seen[0].MessageAttributes[name].DataType, name)
			require.Equal(t, a.BinaryValue, again.seen[0].MessageAttributes[name].BinaryValue, name)
		}
		require.Equal(t, e.Records[2].Attributes["AWSTraceHeader"], msgs[0].Attributes[sqsqueue.TraceHeader])
	})
}
