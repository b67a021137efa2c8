package sqslambda_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

const trace = "Root=1-5759e988-bd862e3fe1be46a994272793"

// one answers every receive with its message.
type one struct {
	*sqs.Client
	m types.Message
}

func (c one) ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	return &sqs.ReceiveMessageOutput{Messages: []types.Message{c.m}}, nil
}

// recordOf returns the message as Lambda has it in an event.
func recordOf(t *testing.T, m types.Message) events.SQSMessage {
	t.Helper()
	r := events.SQSMessage{
		MessageId: aws.ToString(m.MessageId), ReceiptHandle: aws.ToString(m.ReceiptHandle), Body: aws.ToString(m.Body),
		Md5OfBody: aws.ToString(m.MD5OfBody), Md5OfMessageAttributes: aws.ToString(m.MD5OfMessageAttributes),
		Attributes: m.Attributes, MessageAttributes: make(map[string]events.SQSMessageAttribute),
		EventSource: "aws:sqs", EventSourceARN: arn, AWSRegion: "eu-central-1",
	}
	for name, a := range m.MessageAttributes {
		r.MessageAttributes[name] = events.SQSMessageAttribute{
			DataType: *a.DataType, StringValue: a.StringValue, BinaryValue: a.BinaryValue,
			StringListValues: []string{}, BinaryListValues: [][]byte{},
		}
	}
	text, err := json.Marshal(r)
	require.NoError(t, err)
	r = events.SQSMessage{}
	require.NoError(t, json.Unmarshal(text, &r))
	return r
}

// requireSame fails unless a receive and a Lambda function see the same message.
func requireSame(t *testing.T, m types.Message) {
	t.Helper()
	r := recordOf(t, m)
	var invoked *queue.Message
	f := newFunction(t, func(_ context.Context, m *queue.Message) error {
		invoked = m
		return nil
	}, sqslambda.Config{})
	require.Empty(t, returned(t, f, time.Minute, events.SQSEvent{Records: []events.SQSMessage{r}}))

	q, err := sqsqueue.New(one{m: m}, "https://sqs.test/0/orders", sqsqueue.Config{})
	require.NoError(t, err)
	msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
	require.NoError(t, err)
	received := msgs[0]
	require.Equal(t, invoked.ReceivedAt, received.ReceivedAt)
	require.Contains(t, received.Receipt, invoked.Receipt, "and since when it is hidden")
	received.Receipt, received.LeaseUntil = invoked.Receipt, invoked.LeaseUntil
	require.Equal(t, received, invoked)
}

func text(s string) types.MessageAttributeValue {
	return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &s}
}

func TestAReceiveAndAnEventAreTheSame(t *testing.T) {
	full := func() types.Message {
		return types.Message{
			MessageId: aws.String("059f36b4"), ReceiptHandle: aws.String("AQEB+/="), Body: aws.String("größe 🚦"),
			MD5OfMessageAttributes: aws.String("00484c68c2dc7b6ee5a7e5a4dd1a2d3e"),
			Attributes: map[string]string{
				"ApproximateReceiveCount": "3", "SentTimestamp": "1790000000123", "ApproximateFirstReceiveTimestamp": "1790000000456",
				"MessageGroupId": "customer-7", "MessageDeduplicationId": "42", "SequenceNumber": "18849496460467696128",
				"AWSTraceHeader": trace, "SenderId": "AIDAIENQZJOLO23YVJ4VO", "DeadLetterQueueSourceArn": arn,
			},
			MessageAttributes: map[string]types.MessageAttributeValue{
				"text":  text("text"),
				"count": {DataType: aws.String("Number.int"), StringValue: aws.String("100")},
				"image": {DataType: aws.String("Binary.png"), BinaryValue: []byte{0, 0xff}},
			},
		}
	}
	for name, change := range map[string]func(m *types.Message){
		"full":                 func(*types.Message) {},
		"bare":                 func(m *types.Message) { *m = types.Message{Body: aws.String("x")} },
		"trace only":           func(m *types.Message) { m.MessageAttributes = nil },
		"no trace":             func(m *types.Message) { delete(m.Attributes, "AWSTraceHeader") },
		"user's trace":         func(m *types.Message) { m.MessageAttributes["AWSTraceHeader"] = text("order 42") },
		"negative count":       func(m *types.Message) { m.Attributes["ApproximateReceiveCount"] = "-3" },
		"count beyond an int":  func(m *types.Message) { m.Attributes["ApproximateReceiveCount"] = "99999999999999999999" },
		"count is none":        func(m *types.Message) { m.Attributes["ApproximateReceiveCount"] = "many" },
		"times are none":       func(m *types.Message) { m.Attributes["SentTimestamp"] = "now" },
		"time before the time": func(m *types.Message) { m.Attributes["ApproximateFirstReceiveTimestamp"] = "-1" },
		"empty binary": func(m *types.Message) {
			m.MessageAttributes["image"] = types.MessageAttributeValue{DataType: aws.String("Binary")}
		},
		"dead letter": func(m *types.Message) {
			m.MessageAttributes[retry.DeadLetterAttribute] = text(`{"reason":"permanent"}`)
		},
		"displaced attributes": func(m *types.Message) {
			m.MessageAttributes[retry.DeadLetterAttribute] = text(`{"reason":"permanent","displaced":{"a":{"type":"Number","value":"Nw=="},"text":{"type":"String","value":"eA=="}}}`)
		},
		"displaced is odd": func(m *types.Message) {
			m.MessageAttributes[retry.DeadLetterAttribute] = text(`{"displaced":7}`)
		},
	} {
		bubble(t, name, func(t *testing.T) {
			m := full()
			change(&m)
			requireSame(t, m)
		})
	}
}

func TestAReceiveAndAnEventAreTheSameAtRandom(t *testing.T) {
	const seed = 11
	random := rand.New(rand.NewPCG(seed, seed))
	often := func() bool { return random.IntN(3) > 0 }
	word := func() string {
		all := make([]rune, 1+random.IntN(8))
		for i := range all {
			all[i] = []rune("a9 .-_\"<&\n\tü€😀")[random.IntN(14)]
		}
		return string(all)
	}
	synctest.Test(t, func(t *testing.T) {
		for range 2000 {
			m := types.Message{Body: aws.String(word()), Attributes: make(map[string]string)}
			for _, field := range []**string{&m.MessageId, &m.ReceiptHandle, &m.MD5OfMessageAttributes} {
				if often() {
					*field = aws.String(word())
				}
			}
			for _, name := range []string{
				"ApproximateReceiveCount", "SentTimestamp", "ApproximateFirstReceiveTimestamp", "MessageGroupId",
				"MessageDeduplicationId", "SequenceNumber", "AWSTraceHeader", "SenderId",
			} {
				switch random.IntN(4) {
				case 0:
				case 1:
					m.Attributes[name] = word()
				default:
					m.Attributes[name] = strconv.FormatInt(random.Int64N(2e12)-1e6, 10)
				}
			}
			for range random.IntN(4) {
				if m.MessageAttributes == nil {
					m.MessageAttributes = make(map[string]types.MessageAttributeValue)
				}
				name := []string{"a", "b.c", "AWSTraceHeader", "AWS.TraceHeader", retry.DeadLetterAttribute}[random.IntN(5)]
				v := types.MessageAttributeValue{DataType: aws.String([]string{"String", "Number.float", "String.uuid"}[random.IntN(3)]), StringValue: aws.String(word())}
				if random.IntN(3) == 0 {
					v = types.MessageAttributeValue{DataType: aws.String("Binary.gif"), BinaryValue: []byte{byte(random.Uint32()), 0xff}}
				}
				if name == retry.DeadLetterAttribute && often() {
					v = text(fmt.Sprintf(`{"attempts":%d,"displaced":{"b.c":{"type":"Binary","value":"AP8="},"d":{"type":"String","value":"Nw=="}}}`, random.IntN(9)))
				}
				m.MessageAttributes[name] = v
			}
			requireSame(t, m)
		}
	})
}

// An attribute that a program has named AWSTraceHeader itself, with the system
// attribute of that name or without it, is where it was: in the handler, in the
// record that Wrap makes, and in the dead letter.
func TestAUsersAWSTraceHeader(t *testing.T) {
	for name, system := range map[string]string{"alone": "", "with the system's": trace} {
		bubble(t, name, func(t *testing.T) {
			var server sqsfake.Server
			url, err := server.CreateQueue("dead", nil)
			require.NoError(t, err)
			dead, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Logger: quiet})
			require.NoError(t, err)
			r := recordOf(t, types.Message{
				MessageId: aws.String("1"), Body: aws.String("bad"), Attributes: map[string]string{"ApproximateReceiveCount": "12"},
				MessageAttributes: map[string]types.MessageAttributeValue{"AWSTraceHeader": text("order 42")},
			})
			if system != "" {
				r.Attributes["AWSTraceHeader"] = system
			}
			want := r.MessageAttributes
			l := &legacy{}
			f, err := sqslambda.Handler(queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
				require.Equal(t, "order 42", m.Attributes["AWSTraceHeader"])
				require.Equal(t, system, m.Attributes[sqsqueue.TraceHeader])
				return sqslambda.Wrap(l.whole).Handle(ctx, m)
			}), sqslambda.Config{DeadLetter: dead, Logger: quiet})
			require.NoError(t, err)
			require.Empty(t, returned(t, f, time.Minute, events.SQSEvent{Records: []events.SQSMessage{r}}))
			require.Equal(t, want, l.seen[0].MessageAttributes)
			require.Equal(t, r.Attributes, l.seen[0].Attributes)

			msgs, err := dead.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.NoError(t, err)
			require.Equal(t, "order 42", msgs[0].Attributes["AWSTraceHeader"])
			require.Equal(t, system, msgs[0].Attributes[sqsqueue.TraceHeader])
			native := msgs[0].Native.(*types.Message)
			require.Equal(t, "order 42", aws.ToString(native.MessageAttributes["AWSTraceHeader"].StringValue))
			require.Equal(t, system, native.Attributes["AWSTraceHeader"])
		})
	}
}

// What had to make room for a dead letter's record is back in a function that
// reads the dead-letter queue, and in the record that Wrap makes.
func TestDisplacedAttributesAreRestored(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var server sqsfake.Server
		url, err := server.CreateQueue("dead", nil)
		require.NoError(t, err)
		dead, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Logger: quiet})
		require.NoError(t, err)
		ten := make(map[string]string)
		for i := range 10 {
			ten[fmt.Sprint("a", i)] = strconv.Itoa(i)
		}
		all := maps.Clone(ten)
		all[retry.DeadLetterAttribute] = retry.DeadLetter{Reason: "permanent"}.Encode()
		require.NoError(t, dead.Send(t.Context(), &queue.Message{Body: []byte("order"), Attributes: all}))
		out, err := server.Client().ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &url, MessageAttributeNames: []string{"All"}, MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"},
		})
		require.NoError(t, err)
		r := recordOf(t, out.Messages[0])
		require.Len(t, r.MessageAttributes, 10)

		l := &legacy{}
		f, err := sqslambda.Handler(queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
			require.JSONEq(t, `{"reason":"permanent"}`, m.Attributes[retry.DeadLetterAttribute])
			delete(m.Attributes, retry.DeadLetterAttribute)
			require.Equal(t, ten, m.Attributes)
			return sqslambda.Wrap(l.whole).Handle(ctx, m)
		}), sqslambda.Config{Logger: quiet})
		require.NoError(t, err)
		require.Empty(t, returned(t, f, time.Minute, events.SQSEvent{Records: []events.SQSMessage{r}}))
		require.Len(t, l.seen[0].MessageAttributes, 10)
		require.Equal(t, "String", l.seen[0].MessageAttributes["a0"].DataType)
		require.Empty(t, l.seen[0].Md5OfMessageAttributes, "that of the record is of other attributes")
	})
}
