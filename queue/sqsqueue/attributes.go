package sqsqueue

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

// TraceHeader is the name in [queue.Message.Attributes] of the trace header of
// AWS X-Ray. It travels as a system attribute of the service, and does not count
// among the ten attributes nor in the message's size.
const TraceHeader = "AWSTraceHeader"

const (
	typeString = "String"
	typeBinary = "Binary"
)

// decode returns a message's attributes, those of type Number as they are
// written and those of type Binary as their bytes.
func decode(native *types.Message) map[string]string {
	trace, traced := native.Attributes[TraceHeader]
	if len(native.MessageAttributes) == 0 && !traced {
		return nil
	}
	all := make(map[string]string, len(native.MessageAttributes)+1)
	for name, v := range native.MessageAttributes {
		all[name] = valueOf(v)
	}
	if traced {
		all[TraceHeader] = trace
	}
	return all
}

func valueOf(v types.MessageAttributeValue) string {
	if v.StringValue != nil {
		return *v.StringValue
	}
	return string(v.BinaryValue)
}

// encode returns a message's attributes as they are sent. What is no text that
// the service takes goes as Binary.
func encode(m *queue.Message) (user map[string]types.MessageAttributeValue, system map[string]types.MessageSystemAttributeValue, err error) {
	var was map[string]types.MessageAttributeValue
	switch native := m.Native.(type) {
	case *types.Message:
		if native != nil {
			was = native.MessageAttributes
		}
	case types.Message:
		was = native.MessageAttributes
	}
	for name, value := range m.Attributes {
		if value == "" {
			return nil, nil, fmt.Errorf("sqsqueue: attribute %q is empty: the service needs at least one character", name)
		}
		if name == TraceHeader {
			kind := typeString
			system = map[string]types.MessageSystemAttributeValue{name: {DataType: &kind, StringValue: &value}}
			continue
		}
		if err := checkName(name); err != nil {
			return nil, nil, err
		}
		if user == nil {
			user = make(map[string]types.MessageAttributeValue, len(m.Attributes))
		}
		if v, ok := was[name]; ok && v.DataType != nil && valueOf(v) == value {
			user[name] = types.MessageAttributeValue{DataType: v.DataType, StringValue: v.StringValue, BinaryValue: v.BinaryValue}
		} else {
			user[name] = attribute("", value)
		}
	}
	return user, system, nil
}

// attribute returns an attribute of the given type, or of that which fits if
// that is "".
func attribute(kind, value string) types.MessageAttributeValue {
	if kind == "" {
		kind = typeString
		if unsendable(value) >= 0 {
			kind = typeBinary
		}
	}
	v := types.MessageAttributeValue{DataType: &kind}
	if strings.HasPrefix(kind, typeBinary) {
		v.BinaryValue = []byte(value)
	} else {
		v.StringValue = &value
	}
	return v
}

// sizeOf returns what attributes count for in the size of a message.
func sizeOf(user map[string]types.MessageAttributeValue) int {
	size := 0
	for name, v := range user {
		size += sizeOfOne(name, v)
	}
	return size
}

func sizeOfOne(name string, v types.MessageAttributeValue) int {
	return len(name) + len(deref(v.DataType)) + len(deref(v.StringValue)) + len(v.BinaryValue)
}

// fit returns the attributes such that the service takes them with the message,
// or why it takes none. A dead letter, which would be lost or tried for ever if
// it were refused, gives way: first attributes for which there is no place go
// into its record, then the record loses its texts, and at last it stays behind.
func (q *Queue) fit(m *queue.Message, user map[string]types.MessageAttributeValue) (map[string]types.MessageAttributeValue, error) {
	size := len(m.Body) + sizeOf(user)
	if len(user) <= maxAttributes && size <= maxSize {
		return user, nil
	}
	if v, dead := user[retry.DeadLetterAttribute]; dead {
		short := maps.Clone(user)
		short[retry.DeadLetterAttribute] = attribute(typeString, shorten(valueOf(v)))
		bare := maps.Clone(user)
		delete(bare, retry.DeadLetterAttribute)
		for _, try := range []map[string]types.MessageAttributeValue{displace(user), displace(short), bare} {
			if len(try) <= maxAttributes && len(m.Body)+sizeOf(try) <= maxSize {
				q.cfg.Logger.Warn("sqsqueue: dead letter has too many attributes or is too long with its record, and is sent with less",
					"queue", q.url, "message", m.ID, "attributes", len(user), "bytes", size,
					"sent_record", valueOf(try[retry.DeadLetterAttribute]), "record", valueOf(v))
				return try, nil
			}
		}
	}
	if len(user) > maxAttributes {
		return nil, fmt.Errorf("sqsqueue: %d attributes: must be at most %d, which is %d less", len(user), maxAttributes, len(user)-maxAttributes)
	}
	return nil, fmt.Errorf("sqsqueue: body and attributes have %d bytes: must be at most %d, which is %d less", size, maxSize, size-maxSize)
}

// displacedField of a record has the attributes for which there was no place. Who
// reads only the record ignores it, as a field that it does not know.
const displacedField = "displaced"

// A displacedAttribute is one that travels in a dead letter's record.
type displacedAttribute struct {
	Type  string `json:"type"`
	Value []byte `json:"value"`
}

// displace moves as many attributes into the record as have no place beside it,
// the shortest first.
func displace(user map[string]types.MessageAttributeValue) map[string]types.MessageAttributeValue {
	if len(user) <= maxAttributes {
		return user
	}
	names := slices.SortedFunc(maps.Keys(user), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizeOfOne(a, user[a]), sizeOfOne(b, user[b])), cmp.Compare(a, b))
	})
	names = slices.DeleteFunc(names, func(name string) bool { return name == retry.DeadLetterAttribute })
	rest := maps.Clone(user)
	gone := make(map[string]displacedAttribute)
	for _, name := range names[:len(user)-maxAttributes] {
		gone[name] = displacedAttribute{Type: deref(user[name].DataType), Value: []byte(valueOf(user[name]))}
		delete(rest, name)
	}
	fields := fieldsOf(valueOf(user[retry.DeadLetterAttribute]))
	fields[displacedField] = encoded(gone)
	rest[retry.DeadLetterAttribute] = attribute(typeString, string(encoded(fields)))
	return rest
}

// restore puts attributes that travelled in a dead letter's record back to their
// place.
func restore(native *types.Message) {
	record, dead := native.MessageAttributes[retry.DeadLetterAttribute]
	if !dead {
		return
	}
	fields := fieldsOf(valueOf(record))
	var gone map[string]displacedAttribute
	if json.Unmarshal(fields[displacedField], &gone) != nil {
		return
	}
	delete(fields, displacedField)
	native.MessageAttributes[retry.DeadLetterAttribute] = attribute(typeString, string(encoded(fields)))
	for name, a := range gone {
		if _, taken := native.MessageAttributes[name]; !taken && a.Type != "" {
			native.MessageAttributes[name] = attribute(a.Type, string(a.Value))
		}
	}
}

// shorten returns a record without its texts.
func shorten(record string) string {
	fields := fieldsOf(record)
	delete(fields, "error")
	delete(fields, "source")
	return string(encoded(fields))
}

// fieldsOf returns the fields of a record; none if it is not one.
func fieldsOf(record string) map[string]json.RawMessage {
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal([]byte(record), &fields); err != nil || fields == nil {
		return make(map[string]json.RawMessage)
	}
	return fields
}

// encoded returns v, which can be encoded, as JSON.
func encoded(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return []byte("{}")
	}
	return text
}

// lighten takes from a dead letter that the service refuses, for being too long
// for this queue say, the texts of its record, and then the record. It reports
// whether it had something to take.
func (q *Queue) lighten(m *queue.Message, e *types.SendMessageBatchRequestEntry) bool {
	v, dead := e.MessageAttributes[retry.DeadLetterAttribute]
	if !dead {
		return false
	}
	record := valueOf(v)
	e.MessageAttributes = maps.Clone(e.MessageAttributes)
	if short := shorten(record); len(short) < len(record) {
		e.MessageAttributes[retry.DeadLetterAttribute] = attribute(typeString, short)
	} else if user, _, err := encode(m); err == nil {
		e.MessageAttributes = user // with what the record had displaced
		delete(e.MessageAttributes, retry.DeadLetterAttribute)
	}
	q.cfg.Logger.Warn("sqsqueue: dead letter is refused with its record, and is sent with less", "queue", q.url, "message", m.ID,
		"sent_record", valueOf(e.MessageAttributes[retry.DeadLetterAttribute]), "record", record)
	return true
}
