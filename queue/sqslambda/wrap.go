package sqslambda

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"maps"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
)

var errReturned = errors.New("sqslambda: Wrap: the function returned the message as failed")

// Wrap makes a Lambda function for SQS events a [queue.Handler], so that it gains
// limits, retries and dead letters with a reason, and can be run by a
// [queue.Consumer] too. It is called with events of one record. A record that it
// returns as failed has failed, as one for which it returns an error.
//
// Under [Handler] the record is the one that Lambda has sent. Otherwise it is
// made of the message: with the types of its attributes where it came from SQS;
// what a message does not know, as the ARN of its queue, is empty.
//
// A nil f is refused where the handler is used.
func Wrap[F func(context.Context, events.SQSEvent) error | func(context.Context, events.SQSEvent) (events.SQSEventResponse, error)](f F) queue.Handler {
	if f == nil {
		return queue.HandlerFunc(nil)
	}
	if f, ok := any(f).(func(context.Context, events.SQSEvent) error); ok {
		return queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error { return f(ctx, event(ctx, m)) })
	}
	g := any(f).(func(context.Context, events.SQSEvent) (events.SQSEventResponse, error))
	return queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
		answer, err := g(ctx, event(ctx, m))
		if err == nil && len(answer.BatchItemFailures) > 0 {
			err = errReturned
		}
		return err
	})
}

// sourceKey is the context's key of the source that its message comes from.
type sourceKey struct{}

// event returns an event with the message as its only record.
func event(ctx context.Context, m *queue.Message) events.SQSEvent {
	raw := events.SQSMessage{
		MessageId:         m.ID,
		ReceiptHandle:     m.Receipt,
		Body:              string(m.Body),
		Attributes:        make(map[string]string),
		MessageAttributes: make(map[string]events.SQSMessageAttribute, len(m.Attributes)),
		EventSource:       "aws:sqs",
	}
	native, _ := m.Native.(*types.Message)
	if native == nil {
		native = &types.Message{}
	}
	if native.ReceiptHandle != nil {
		raw.ReceiptHandle = *native.ReceiptHandle
	}
	maps.Copy(raw.Attributes, native.Attributes)
	system := func(name, value string) {
		if value != "" {
			raw.Attributes[name] = value
		}
	}
	if m.Attempt > 0 {
		system(receiveCount, strconv.Itoa(m.Attempt))
	}
	system(sent, since(m.SentAt))
	system(firstReceived, since(m.FirstReceivedAt))
	system(groupID, m.Group)
	system(dedupID, m.Dedup)
	system(sequence, m.Sequence)
	for name, value := range m.Attributes {
		if name == traceHeader {
			system(name, value)
			continue
		}
		raw.MessageAttributes[name] = attribute(native.MessageAttributes[name], value)
	}
	if native.MD5OfMessageAttributes != nil && len(raw.MessageAttributes) > 0 {
		raw.Md5OfMessageAttributes = *native.MD5OfMessageAttributes
	}
	sum := md5.Sum(m.Body)
	raw.Md5OfBody = hex.EncodeToString(sum[:])
	if s, ok := ctx.Value(sourceKey{}).(*source); ok {
		r := s.index[m.ID]
		if r == nil {
			r = &s.records[0] // one without an id; they are all from one queue
		}
		raw.EventSource, raw.EventSourceARN, raw.AWSRegion = r.raw.EventSource, r.raw.EventSourceARN, r.raw.AWSRegion
	}
	return events.SQSEvent{Records: []events.SQSMessage{raw}}
}

// attribute returns an attribute as it was, if it has still that value.
func attribute(was types.MessageAttributeValue, value string) events.SQSMessageAttribute {
	a := events.SQSMessageAttribute{StringListValues: []string{}, BinaryListValues: [][]byte{}}
	switch {
	case was.DataType != nil && valueOf(was.StringValue, was.BinaryValue) == value:
		a.DataType, a.StringValue, a.BinaryValue = *was.DataType, was.StringValue, was.BinaryValue
		if was.StringListValues != nil {
			a.StringListValues = was.StringListValues
		}
		if was.BinaryListValues != nil {
			a.BinaryListValues = was.BinaryListValues
		}
	case utf8.ValidString(value):
		a.DataType, a.StringValue = "String", &value
	default:
		a.DataType, a.BinaryValue = "Binary", []byte(value)
	}
	return a
}

// since returns a time as the service writes it; "" for none.
func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}
