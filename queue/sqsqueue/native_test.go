package sqsqueue_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// A message that another program has sent keeps the types of its attributes on
// its way through the dead-letter queue, also those that no Message has.
func TestNativeIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		q := newQueue(t, server, false, nil)
		want := map[string]types.MessageAttributeValue{
			"text":    {DataType: aws.String("String"), StringValue: aws.String("text")},
			"id":      {DataType: aws.String("String.uuid"), StringValue: aws.String("af01")},
			"count":   {DataType: aws.String("Number"), StringValue: aws.String("42")},
			"ratio":   {DataType: aws.String("Number.float"), StringValue: aws.String("0.5")},
			"picture": {DataType: aws.String("Binary.gif"), BinaryValue: []byte("GIF89a")},
			"bytes":   {DataType: aws.String("Binary"), BinaryValue: []byte{0, 0xff}},
			"x7":      {DataType: aws.String("Number"), StringValue: aws.String("7")},
			"x8":      {DataType: aws.String("Number"), StringValue: aws.String("8")},
			"x9":      {DataType: aws.String("Number"), StringValue: aws.String("9")},
			"xA":      {DataType: aws.String("Binary.a"), BinaryValue: []byte("A")},
		}
		url := q.URL()
		_, err := server.Client().SendMessage(t.Context(), &sqs.SendMessageInput{
			QueueUrl: &url, MessageBody: aws.String("body"), MessageAttributes: want,
			MessageSystemAttributes: map[string]types.MessageSystemAttributeValue{
				"AWSTraceHeader": {DataType: aws.String("String"), StringValue: aws.String("Root=1-2-3")},
			},
		})
		require.NoError(t, err)
		m := receive(t, q, 1, time.Minute)[0]
		require.Equal(t, map[string]string{
			"text": "text", "id": "af01", "count": "42", "ratio": "0.5", "picture": "GIF89a", "bytes": "\x00\xff",
			"x7": "7", "x8": "8", "x9": "9", "xA": "A", sqsqueue.TraceHeader: "Root=1-2-3",
		}, m.Attributes)

		for range 2 {
			bury(t, q, m, retry.DeadLetter{Reason: "permanent"}.Encode())
			m = receive(t, q, 1, time.Minute)[0]
		}
		native := m.Native.(*types.Message)
		require.Equal(t, "Root=1-2-3", native.Attributes["AWSTraceHeader"])
		record := native.MessageAttributes[retry.DeadLetterAttribute]
		delete(native.MessageAttributes, retry.DeadLetterAttribute)
		require.Equal(t, want, native.MessageAttributes)
		require.JSONEq(t, `{"reason":"permanent"}`, *record.StringValue)

		// A value that the handler has changed is text, and only that.
		m.Attributes["count"] = "many"
		delete(m.Attributes, retry.DeadLetterAttribute)
		send(t, q, m)
		native = receive(t, q, 1, time.Minute)[0].Native.(*types.Message)
		require.Equal(t, types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String("many")}, native.MessageAttributes["count"])
		require.Equal(t, want["ratio"], native.MessageAttributes["ratio"])
	})
}

// An attribute that a program has named AWSTraceHeader itself is another one than
// the system attribute of that name: both stay where they are on their way through
// the dead-letter queue.
func TestUserAttributeNamedLikeTheTraceHeader(t *testing.T) {
	const name = "AWSTraceHeader"
	for label, system := range map[string]string{"alone": "", "with the system's": "Root=1-5759e988-bd862e3fe1be46a994272793"} {
		t.Run(label, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{}
				q := newQueue(t, server, false, nil)
				url := q.URL()
				in := &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("x"), MessageAttributes: map[string]types.MessageAttributeValue{
					name: {DataType: aws.String("String"), StringValue: aws.String("order 42")},
				}}
				if system != "" {
					in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{name: {DataType: aws.String("String"), StringValue: &system}}
				}
				_, err := server.Client().SendMessage(t.Context(), in)
				require.NoError(t, err)
				m := receive(t, q, 1, time.Minute)[0]
				bury(t, q, m, retry.DeadLetter{Reason: "permanent"}.Encode())
				m = receive(t, q, 1, time.Minute)[0]
				require.Equal(t, "order 42", m.Attributes[name])
				require.Equal(t, system, m.Attributes[sqsqueue.TraceHeader])
				native := m.Native.(*types.Message)
				require.Equal(t, "order 42", aws.ToString(native.MessageAttributes[name].StringValue))
				require.Equal(t, system, native.Attributes[name])

				// Nor does it become the system's on its way through another kind of queue.
				m.Native = nil
				send(t, q, m)
				require.Equal(t, m.Attributes, receive(t, q, 1, time.Minute)[0].Attributes)
			})
		})
	}
}

// A user attribute that is named like a system attribute, or like what the library's
// packages and examples give a meaning, is a user attribute on its way through the
// queue and the dead-letter queue, and gets no say in the fields of the message.
func TestUserAttributesNamedLikeOthers(t *testing.T) {
	names := []string{idempotent.KeyAttribute, deadletter.HistoryAttribute, "order-id", "ID", "Id", "Receipt", "displaced", "attempts"}
	for _, name := range types.MessageSystemAttributeName("").Values() {
		if name != types.MessageSystemAttributeNameAll {
			names = append(names, string(name))
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, &sqsfake.Server{}, false, nil)
				send(t, q, &queue.Message{Body: []byte("x"), Group: "g", Attributes: map[string]string{name: "order 42"}})
				m := receive(t, q, 1, time.Minute)[0]
				plain := func(m *queue.Message) {
					require.Equal(t, "order 42", m.Attributes[name])
					require.Equal(t, "g", m.Group)
					require.Empty(t, m.Dedup)
					require.Empty(t, m.Sequence)
					require.Equal(t, 1, m.Attempt)
					require.Equal(t, time.Now().Year(), m.SentAt.Year())
					require.NotContains(t, m.Attributes, sqsqueue.TraceHeader)
				}
				plain(m)
				bury(t, q, m, retry.DeadLetter{Reason: "permanent"}.Encode())
				plain(receive(t, q, 1, time.Minute)[0])
			})
		})
	}
}

// The attributes that a record says it has displaced are whoever's may send to the
// queue. Those that the service would not take are not restored, or the message
// could be sent nowhere any more.
func TestDisplacedAttributesThatNoQueueTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, false, nil)
		displaced := map[string]any{}
		add := func(name, kind, value string) {
			displaced[name] = map[string]any{"type": kind, "value": []byte(value)}
		}
		add("good", "String", "v")
		add("count", "Number.int", "42")
		add("bytes", "Binary", "\x00\xff")
		add("AWS.TraceHeader", "String", "no trace")
		add("Amazon.x", "String", "v")
		add("", "String", "v")
		add("a b", "String", "v")
		add(strings.Repeat("n", 257), "String", "v")
		add("empty", "String", "")
		add("control", "String", "\x00")
		add("no-number", "Number", "many")
		add("no-type", "", "v")
		add("other-type", "Blob", "v")
		add("other-label", "String.\x00", "v")
		add("infinity", "Number", "-inf")
		record, err := json.Marshal(map[string]any{"reason": "permanent", "displaced": displaced})
		require.NoError(t, err)
		send(t, q, &queue.Message{Body: []byte("x"), Attributes: map[string]string{retry.DeadLetterAttribute: string(record)}})
		m := receive(t, q, 1, time.Minute)[0]
		delete(m.Attributes, retry.DeadLetterAttribute)
		require.Equal(t, map[string]string{"good": "v", "count": "42", "bytes": "\x00\xff"}, m.Attributes)
		send(t, q, m)
	})
}
