package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/sqsmessage"
)

var (
	errEmptyBody = errors.New("sqsqueue: body is empty: the service needs at least one character")
	errOvertakes = errors.New("sqsqueue: an earlier message of its group was not accepted")
)

// Send sends any number of messages, in requests of at most ten messages and 1 MiB,
// one after the other. It sends a message's Body, Attributes, Group, Delay and, on a
// FIFO queue, Dedup. For a message received from a queue of this package it also
// takes, from Native, the types of attributes that have kept their values.
//
// A message that the service would not accept is not sent, and fails alone in a
// [queue.BatchError]; the package documentation lists the limits under Sending. A
// dead letter that exceeds them is sent with less of its record.
//
// With a Delay of 0 the service applies the queue's own delay; other delays are
// rounded up to whole seconds. A standard queue may get a message twice, because Send
// retries requests. On a FIFO queue messages are not sent after an earlier one of
// their group was not accepted.
func (q *Queue) Send(ctx context.Context, msgs ...*queue.Message) error {
	if ctx.Err() != nil {
		return ended(ctx, "send")
	}
	entries := make([]types.SendMessageBatchRequestEntry, len(msgs))
	b := &batch{q: q, op: "send"}
	b.verdict = func(i int, e *requestError, _ bool) (error, bool) {
		return e, e.passing() || e.class == nil && q.lighten(msgs[i], &entries[i])
	}
	b.request = func(ctx context.Context, limit time.Duration, some []int, ids []string) (reply, error) {
		in := &sqs.SendMessageBatchInput{QueueUrl: &q.url}
		for k, i := range some {
			entries[i].Id = &ids[k]
			in.Entries = append(in.Entries, entries[i])
		}
		out, err := do(ctx, q, b.op, limit, q.client.SendMessageBatch, in)
		if err != nil {
			return reply{}, err
		}
		return replyOf(out.Successful, func(e types.SendMessageBatchResultEntry) *string { return e.Id }, out.Failed), nil
	}

	stuck := make(map[string]bool) // groups of which a message was not accepted
	var some []int
	total := 0
	flush := func() {
		b.run(ctx, some)
		for _, i := range some {
			if q.fifo && b.failed[i] != nil {
				stuck[msgs[i].Group] = true
			}
		}
		some, total = some[:0], 0
	}
	for i, m := range msgs {
		entry, size, err := q.entry(m)
		if err != nil {
			b.fail(i, err)
			if q.fifo && m != nil {
				stuck[m.Group] = true
			}
			continue
		}
		if len(some) == maxBatch || total+size > maxSize {
			flush()
		}
		if stuck[m.Group] {
			b.fail(i, errOvertakes)
			continue
		}
		entries[i] = entry
		some, total = append(some, i), total+size
	}
	flush()
	return b.result()
}

// entry returns the message as it is sent, and its size as the service counts
// it, or why the service would not accept it.
func (q *Queue) entry(m *queue.Message) (e types.SendMessageBatchRequestEntry, size int, err error) {
	switch {
	case m == nil:
		return e, 0, errNil
	case len(m.Body) == 0:
		return e, 0, errEmptyBody
	case m.Delay < 0:
		return e, 0, fmt.Errorf("sqsqueue: Delay is %v: must be from 0 to %v", m.Delay, maxDelay)
	case m.Delay > maxDelay:
		return e, 0, fmt.Errorf("sqsqueue: Delay is %v: must be from 0 to %v, which is %v less", m.Delay, maxDelay, m.Delay-maxDelay)
	case q.fifo && m.Group == "":
		return e, 0, errors.New("sqsqueue: Group is empty: a FIFO queue needs one")
	case q.fifo && m.Delay != 0:
		return e, 0, fmt.Errorf("sqsqueue: Delay is %v: a message of a FIFO queue can have none", m.Delay)
	}
	if err := checkToken("Group", m.Group); err != nil {
		return e, 0, err
	}
	if err := checkToken("Dedup", m.Dedup); q.fifo && err != nil {
		return e, 0, err
	}
	if at := sqsmessage.Unsendable(m.Body); at >= 0 {
		return e, 0, fmt.Errorf("sqsqueue: body has a character at byte %d that the service does not take: encode it, as Base64 for example", at)
	}
	for name, value := range m.Attributes {
		if err := checkAttribute(name, value); err != nil {
			return e, 0, err
		}
	}
	all, err := q.fit(m, attributesOf(m))
	if err != nil {
		return e, 0, err
	}
	body := string(m.Body)
	e.MessageBody, e.MessageAttributes, e.DelaySeconds = &body, all, seconds(m.Delay)
	if _, ok := m.Attributes[TraceHeader]; ok {
		kind, trace := "String", m.Attributes[TraceHeader]
		e.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{
			string(types.MessageSystemAttributeNameForSendsAWSTraceHeader): {DataType: &kind, StringValue: &trace},
		}
	}
	if m.Group != "" {
		group := m.Group
		e.MessageGroupId = &group
	}
	if q.fifo && m.Dedup != "" {
		dedup := m.Dedup
		e.MessageDeduplicationId = &dedup
	}
	return e, len(m.Body) + sizeOf(all), nil
}

// attributesOf returns the message's attributes as they are sent, nil if there are
// none.
func attributesOf(m *queue.Message) map[string]types.MessageAttributeValue {
	if len(m.Attributes) == 0 {
		return nil
	}
	all := make(map[string]types.MessageAttributeValue, len(m.Attributes))
	for name, v := range sqsmessage.Attributes(m) {
		all[name] = v
	}
	return all
}

// sizeOf returns what attributes add to the size of a message, in bytes.
func sizeOf(all map[string]types.MessageAttributeValue) int {
	size := 0
	for name, v := range all {
		size += sqsmessage.Size(name, v)
	}
	return size
}

// checkAttribute returns why the service would not accept the attribute.
func checkAttribute(name, value string) error {
	if value == "" {
		return fmt.Errorf("sqsqueue: attribute %q is empty: the service needs at least one character", name)
	}
	if name == TraceHeader {
		return nil
	}
	switch n := len(name); {
	case n > sqsmessage.MaxName:
		return fmt.Errorf("sqsqueue: attribute name %.20q... has %d characters: must be at most %d, which is %d less", name, n, sqsmessage.MaxName, n-sqsmessage.MaxName)
	case !sqsmessage.GoodName(name):
		return fmt.Errorf("sqsqueue: attribute name %q: must be 1 to %d letters, digits, _, - and single inner dots", name, sqsmessage.MaxName)
	case sqsmessage.Reserved(name):
		return fmt.Errorf("sqsqueue: attribute name %q: what begins with AWS. or Amazon. is reserved", name)
	}
	return nil
}

// checkToken returns why the service would not accept a group or deduplication id;
// an empty one is valid.
func checkToken(field, s string) error {
	if n := len(s); n > maxToken {
		return fmt.Errorf("sqsqueue: %s has %d characters: must be at most %d, which is %d less", field, n, maxToken, n-maxToken)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("sqsqueue: %s is %q: must be printable ASCII characters without spaces", field, s)
		}
	}
	return nil
}
