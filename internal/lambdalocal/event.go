package lambdalocal

import (
	"encoding/json"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// maxPayload is the maximum size of an event, in bytes.
const maxPayload = 6 << 20

// A record is a received message.
type record struct {
	message types.Message
	json    []byte // as in the event
}

// newRecord returns the record of a message received from the queue with that ARN.
func newRecord(arn string, m types.Message) (record, error) {
	event := events.SQSMessage{
		MessageId:              aws.ToString(m.MessageId),
		ReceiptHandle:          aws.ToString(m.ReceiptHandle),
		Body:                   aws.ToString(m.Body),
		Md5OfBody:              aws.ToString(m.MD5OfBody),
		Md5OfMessageAttributes: aws.ToString(m.MD5OfMessageAttributes),
		Attributes:             m.Attributes,
		MessageAttributes:      make(map[string]events.SQSMessageAttribute, len(m.MessageAttributes)),
		EventSourceARN:         arn,
		EventSource:            "aws:sqs",
		AWSRegion:              regionOf(arn),
	}
	for name, a := range m.MessageAttributes {
		event.MessageAttributes[name] = events.SQSMessageAttribute{
			StringValue: a.StringValue,
			BinaryValue: a.BinaryValue, // JSON has it in base64
			// SQS has no lists; Lambda writes them as empty ones.
			StringListValues: []string{},
			BinaryListValues: [][]byte{},
			DataType:         aws.ToString(a.DataType),
		}
	}
	text, err := json.Marshal(event)
	return record{message: m, json: text}, err
}

// regionOf returns the region in an ARN.
func regionOf(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 {
		return ""
	}
	return parts[3]
}

const (
	eventHead = `{"Records":[`
	eventTail = `]}`
)

// eventOf returns an event with as many of the first records as fit into one, but at
// least one, and the rest.
func eventOf(batch []record) (payload []byte, in, rest []record) {
	payload = append(payload, eventHead...)
	for i, r := range batch {
		if i > 0 {
			if len(payload)+1+len(r.json)+len(eventTail) > maxPayload {
				return append(payload, eventTail...), batch[:i], batch[i:]
			}
			payload = append(payload, ',')
		}
		payload = append(payload, r.json...)
	}
	return append(payload, eventTail...), batch, nil
}
