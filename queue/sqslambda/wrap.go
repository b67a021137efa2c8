package sqslambda

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"

	"github.com/aws/aws-lambda-go/events"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/sqsmessage"
)

var errReturned = errors.New("sqslambda: Wrap: the function returned the message as failed")

// Wrap turns a Lambda function for SQS events into a [queue.Handler], so that it
// gains limits, retries and dead letters with a reason, and also runs under a
// [queue.Consumer]. Wrap calls f with events of one record. The message fails if f
// returns an error or reports the record as failed.
//
// Under [Handler] the record is the one that Lambda sent, except that attributes
// which traveled in the record of a dead letter are attributes again. Elsewhere it is
// made from the message, with the attributes' own types if the message came from
// SQS; what a message does not contain, like the ARN of its queue, is empty.
//
// If f is nil, [Handler] and [queue.NewConsumer] refuse the handler.
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

// sourceKey is the context key of the source that the message comes from.
type sourceKey struct{}

// event returns an event with the message as its only record.
func event(ctx context.Context, m *queue.Message) events.SQSEvent {
	raw := events.SQSMessage{
		MessageId:         m.ID,
		ReceiptHandle:     m.Receipt,
		Body:              string(m.Body),
		Attributes:        sqsmessage.SystemAttributes(m),
		MessageAttributes: make(map[string]events.SQSMessageAttribute, len(m.Attributes)),
		EventSource:       "aws:sqs",
	}
	for name, v := range sqsmessage.Attributes(m) {
		raw.MessageAttributes[name] = events.SQSMessageAttribute{
			DataType: *v.DataType, StringValue: v.StringValue, BinaryValue: v.BinaryValue,
			StringListValues: []string{}, BinaryListValues: [][]byte{},
		}
	}
	if native := sqsmessage.Native(m); native != nil {
		if native.ReceiptHandle != nil {
			raw.ReceiptHandle = *native.ReceiptHandle
		}
		if native.MD5OfMessageAttributes != nil && len(raw.MessageAttributes) > 0 {
			raw.Md5OfMessageAttributes = *native.MD5OfMessageAttributes
		}
	}
	sum := md5.Sum(m.Body)
	raw.Md5OfBody = hex.EncodeToString(sum[:])
	if s, ok := ctx.Value(sourceKey{}).(*source); ok {
		r := s.index[m.ID]
		if r == nil {
			r = &s.records[0] // the message has no id; all records are from one queue
		}
		raw.EventSource, raw.EventSourceARN, raw.AWSRegion = r.raw.EventSource, r.raw.EventSourceARN, r.raw.AWSRegion
	}
	return events.SQSEvent{Records: []events.SQSMessage{raw}}
}
