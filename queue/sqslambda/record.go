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
	nameless bool // the event has no id for it; that in msg is made up
	group    *group

	// -----

	state     state
	fate      fate
	throttled bool // refused, by a 429, while others succeeded
}

type state uint8

const (
	pending  state = iota // not handed out
	out                   // with the engine
	done                  // handled, or dead-lettered
	returned              // to be delivered again
)

// A fate is what the last run of a message has come to.
type fate uint8

const (
	untried fate = iota // it has not run, or its handler has not returned
	decided             // what was decided about it is all
	refused             // by the downstream, and not for its own fault
	cut                 // it had too little time to say anything
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

// present returns s, or nil for the empty string: a receive has nil where an event
// has that.
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
