package sqslambda

import (
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/sqsmessage"
)

// A record is one message of an event, and what became of it. The fields below
// the line are guarded by source.mu.
type record struct {
	raw      *events.SQSMessage
	msg      queue.Message
	native   types.Message
	nameless bool // the event has no id for it; the one in msg is made up
	group    *group

	// -----

	state     state
	fate      fate
	throttled bool // refused, by a 429, while others succeeded
}

type state uint8

const (
	pending  state = iota // not received by the engine
	out                   // with the engine
	done                  // handled, or dead-lettered
	returned              // to be delivered again
)

// A fate is the result of a message's last run.
type fate uint8

const (
	untried fate = iota // it has not run, or its handler has not returned
	decided             // nothing to add to what the engine decided
	refused             // by the downstream, and not for the message's own fault
	cut                 // it had too little time for its result to say anything
)

// A group is an ordered group of the event. Guarded by source.mu.
type group struct {
	out    bool // one of its messages is with the engine
	failed bool // one of its messages was returned, so the later ones are, too
}

// fill sets the message from the event's record.
func (r *record) fill(raw *events.SQSMessage, now time.Time) {
	r.raw = raw
	r.native = types.Message{
		MessageId:              present(&raw.MessageId),
		ReceiptHandle:          present(&raw.ReceiptHandle),
		Body:                   present(&raw.Body),
		MD5OfBody:              present(&raw.Md5OfBody),
		MD5OfMessageAttributes: present(&raw.Md5OfMessageAttributes),
		Attributes:             raw.Attributes,
	}
	if len(raw.MessageAttributes) > 0 {
		r.native.MessageAttributes = make(map[string]types.MessageAttributeValue, len(raw.MessageAttributes))
		for name, a := range raw.MessageAttributes { // SQS has no lists; Lambda writes them as empty ones
			r.native.MessageAttributes[name] = types.MessageAttributeValue{
				DataType: &a.DataType, StringValue: a.StringValue, BinaryValue: a.BinaryValue,
			}
		}
	}
	sqsmessage.Decode(&r.msg, &r.native)
	r.msg.ReceivedAt = now
}

// present returns s, or nil for the empty string: where an event has an empty
// string, a receive has nil.
func present(s *string) *string {
	if *s == "" {
		return nil
	}
	return s
}

// ordered reports whether the message must stay in order within its group.
func (r *record) ordered() bool {
	return r.msg.Group != "" && (r.msg.Sequence != "" || strings.HasSuffix(r.raw.EventSourceARN, ".fifo"))
}
