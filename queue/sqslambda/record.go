package sqslambda

import (
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
)

// System attributes of a message, as the service names them.
const (
	receiveCount  = string(types.MessageSystemAttributeNameApproximateReceiveCount)
	firstReceived = string(types.MessageSystemAttributeNameApproximateFirstReceiveTimestamp)
	sent          = string(types.MessageSystemAttributeNameSentTimestamp)
	groupID       = string(types.MessageSystemAttributeNameMessageGroupId)
	dedupID       = string(types.MessageSystemAttributeNameMessageDeduplicationId)
	sequence      = string(types.MessageSystemAttributeNameSequenceNumber)
	traceHeader   = string(types.MessageSystemAttributeNameAWSTraceHeader)
)

// A record is one message of an event, and what became of it. The fields below
// the line are guarded by source.mu.
type record struct {
	raw      *events.SQSMessage
	msg      queue.Message
	native   types.Message
	nameless bool // the event has no id for it; that in msg is made up
	group    *group

	// -----

	state   state
	judged  bool // its handler has returned
	outage  bool // and failed because of the far side
	overran bool // and was cut off by the deadline
}

type state uint8

const (
	pending  state = iota // not handed out
	out                   // with the engine
	done                  // handled, or dead-lettered
	returned              // to be delivered again
)

// A group is an ordered group of the event. Guarded by source.mu.
type group struct {
	out    bool // one of its messages is with the engine
	failed bool // one of its messages was returned, so those behind it are, too
}

// fill makes the message of what the event says.
func (r *record) fill(raw *events.SQSMessage, now time.Time) {
	r.raw = raw
	r.native = types.Message{
		MessageId:              &raw.MessageId,
		ReceiptHandle:          &raw.ReceiptHandle,
		Body:                   &raw.Body,
		MD5OfBody:              &raw.Md5OfBody,
		MD5OfMessageAttributes: &raw.Md5OfMessageAttributes,
		Attributes:             raw.Attributes,
	}
	r.msg = queue.Message{
		ID:              raw.MessageId,
		Body:            []byte(raw.Body),
		Group:           raw.Attributes[groupID],
		Dedup:           raw.Attributes[dedupID],
		Sequence:        raw.Attributes[sequence],
		Attempt:         number(raw.Attributes[receiveCount]),
		SentAt:          milliseconds(raw.Attributes[sent]),
		FirstReceivedAt: milliseconds(raw.Attributes[firstReceived]),
		ReceivedAt:      now,
		Receipt:         raw.ReceiptHandle,
		Native:          &r.native,
	}
	trace, traced := raw.Attributes[traceHeader]
	if len(raw.MessageAttributes) == 0 && !traced {
		return
	}
	r.msg.Attributes = make(map[string]string, len(raw.MessageAttributes)+1)
	if traced {
		r.msg.Attributes[traceHeader] = trace
	}
	if len(raw.MessageAttributes) == 0 {
		return
	}
	r.native.MessageAttributes = make(map[string]types.MessageAttributeValue, len(raw.MessageAttributes))
	for name, a := range raw.MessageAttributes {
		r.msg.Attributes[name] = valueOf(a.StringValue, a.BinaryValue)
		r.native.MessageAttributes[name] = types.MessageAttributeValue{
			DataType: &a.DataType, StringValue: a.StringValue, BinaryValue: a.BinaryValue,
			StringListValues: a.StringListValues, BinaryListValues: a.BinaryListValues,
		}
	}
}

func valueOf(text *string, binary []byte) string {
	if text != nil {
		return *text
	}
	return string(binary)
}

// ordered reports whether the message must stay in order within its group.
func (r *record) ordered() bool {
	return r.msg.Group != "" && (r.msg.Sequence != "" || strings.HasSuffix(r.raw.EventSourceARN, ".fifo"))
}

// number returns what s says; 0 if that is no number from 0 on.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// milliseconds returns the time that s says; zero if it says none.
func milliseconds(s string) time.Time {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
