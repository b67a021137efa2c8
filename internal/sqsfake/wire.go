package sqsfake

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// A request is the union of the requests of all operations. Absent fields are nil,
// because zero is a value for some of them.
type request struct {
	QueueName       *string
	QueueURL        *string `json:"QueueUrl"`
	QueueNamePrefix *string

	Attributes                  map[string]string
	AttributeNames              []string
	MessageSystemAttributeNames []string
	MessageAttributeNames       []string

	MaxNumberOfMessages     *int
	WaitTimeSeconds         *int
	ReceiveRequestAttemptID *string `json:"ReceiveRequestAttemptId"`

	SourceARN                    *string `json:"SourceArn"`
	DestinationARN               *string `json:"DestinationArn"`
	MaxNumberOfMessagesPerSecond *int
	MaxResults                   *int
	TaskHandle                   *string

	Entries []entry
	entry   // of an operation on a single message
}

// An entry is an entry of a batch, of any operation.
type entry struct {
	ID                      string `json:"Id"`
	MessageBody             *string
	DelaySeconds            *int
	MessageAttributes       attributes
	MessageSystemAttributes attributes
	MessageGroupID          *string `json:"MessageGroupId"`
	MessageDeduplicationID  *string `json:"MessageDeduplicationId"`
	ReceiptHandle           *string
	VisibilityTimeout       *int
}

type attributes map[string]attribute

type attribute struct {
	DataType         string   `json:",omitempty"`
	StringValue      *string  `json:",omitempty"`
	BinaryValue      []byte   `json:",omitempty"`
	StringListValues []string `json:",omitempty"`
	BinaryListValues [][]byte `json:",omitempty"`
}

// text returns the value as a string of bytes.
func (a attribute) text() string {
	if a.StringValue != nil {
		return *a.StringValue
	}
	return string(a.BinaryValue)
}

type batchReply struct {
	Successful []any
	Failed     []failedEntry
}

type failedEntry struct {
	ID          string `json:"Id"`
	SenderFault bool
	Code        string
	Message     string `json:",omitempty"`
}

type doneEntry struct {
	ID string `json:"Id"`
}

type sentEntry struct {
	ID                           string `json:"Id,omitempty"`
	MessageID                    string `json:"MessageId"`
	MD5OfMessageBody             string
	MD5OfMessageAttributes       string `json:",omitempty"`
	MD5OfMessageSystemAttributes string `json:",omitempty"`
	SequenceNumber               string `json:",omitempty"`
}

type receiveReply struct {
	Messages []receivedMessage `json:",omitempty"`
}

type receivedMessage struct {
	MessageID              string `json:"MessageId"`
	ReceiptHandle          string
	MD5OfBody              string
	Body                   string
	Attributes             map[string]string `json:",omitempty"`
	MD5OfMessageAttributes string            `json:",omitempty"`
	MessageAttributes      attributes        `json:",omitempty"`
}

func md5OfBody(body string) string {
	sum := md5.Sum([]byte(body))
	return hex.EncodeToString(sum[:])
}

// md5OfAttributes returns the service's digest of name, type, kind of value and value
// of each attribute, with their lengths, sorted by name. Without attributes there is
// none.
func md5OfAttributes(as attributes) string {
	if len(as) == 0 {
		return ""
	}
	var b []byte
	put := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	for _, name := range slices.Sorted(maps.Keys(as)) {
		a := as[name]
		put(name)
		put(a.DataType)
		if kindOf(a.DataType) == "Binary" {
			b = append(b, 2)
		} else {
			b = append(b, 1)
		}
		put(a.text())
	}
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// kindOf returns a data type without its custom label.
func kindOf(dataType string) string {
	kind, _, _ := strings.Cut(dataType, ".")
	return kind
}
