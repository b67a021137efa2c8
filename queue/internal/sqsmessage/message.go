// Package sqsmessage converts between messages of Amazon SQS and [queue.Message].
// Receives and Lambda events share it, so that a message looks the same however
// it arrives.
package sqsmessage

import (
	"maps"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
)

// System attributes, as SQS names them.
const (
	receiveCount  = string(types.MessageSystemAttributeNameApproximateReceiveCount)
	firstReceived = string(types.MessageSystemAttributeNameApproximateFirstReceiveTimestamp)
	sent          = string(types.MessageSystemAttributeNameSentTimestamp)
	groupID       = string(types.MessageSystemAttributeNameMessageGroupId)
	dedupID       = string(types.MessageSystemAttributeNameMessageDeduplicationId)
	sequence      = string(types.MessageSystemAttributeNameSequenceNumber)
	traceHeader   = string(types.MessageSystemAttributeNameAWSTraceHeader)
)

// Decode sets every field of m that native determines, Native included.
// ReceivedAt and LeaseUntil are the caller's. A system attribute that is missing
// or unreadable leaves its field zero.
//
// Attributes that traveled in native's dead-letter record (see [Displace]) are
// moved back to native.MessageAttributes.
func Decode(m *queue.Message, native *types.Message) {
	restore(native)
	system := native.Attributes
	m.ID = aws.ToString(native.MessageId)
	m.Body = []byte(aws.ToString(native.Body))
	m.Attributes = attributesOf(native)
	m.Group = system[groupID]
	m.Dedup = system[dedupID]
	m.Sequence = system[sequence]
	m.Attempt = number(system[receiveCount])
	m.SentAt = milliseconds(system[sent])
	m.FirstReceivedAt = milliseconds(system[firstReceived])
	m.Receipt = aws.ToString(native.ReceiptHandle)
	m.Native = native
}

// SystemAttributes returns m's system attributes as SQS would deliver them: those
// of the message that m was decoded from, overridden by m's own fields.
func SystemAttributes(m *queue.Message) map[string]string {
	all := make(map[string]string)
	if native := Native(m); native != nil {
		maps.Copy(all, native.Attributes)
	}
	set := func(name, value string) {
		if value != "" {
			all[name] = value
		}
	}
	if m.Attempt > 0 {
		set(receiveCount, strconv.Itoa(m.Attempt))
	}
	set(sent, timestamp(m.SentAt))
	set(firstReceived, timestamp(m.FirstReceivedAt))
	set(groupID, m.Group)
	set(dedupID, m.Dedup)
	set(sequence, m.Sequence)
	set(traceHeader, m.Attributes[TraceHeader])
	return all
}

// Native returns the message that m was decoded from; nil if it came from
// elsewhere.
func Native(m *queue.Message) *types.Message {
	switch native := m.Native.(type) {
	case *types.Message:
		return native
	case types.Message:
		return &native
	}
	return nil
}

// number returns the count in s; 0 if there is none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// milliseconds returns the time in s; the zero time if there is none.
func milliseconds(s string) time.Time {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// timestamp returns t as SQS writes it; "" for the zero time.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}
