package sqsmessage

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/retry"
)

// displacedField of a dead letter's record holds the attributes that the record
// displaced. Readers of the record ignore it as an unknown field.
const displacedField = "displaced"

// A displacedAttribute is an attribute that travels in a dead letter's record.
type displacedAttribute struct {
	Type  string `json:"type"`
	Value []byte `json:"value"`
}

// Displace returns a dead letter's attributes, at most most of them: when there
// are more, it moves the shortest ones into the record. [Decode] undoes it.
func Displace(attributes map[string]types.MessageAttributeValue, most int) map[string]types.MessageAttributeValue {
	if len(attributes) <= most {
		return attributes
	}
	names := slices.SortedFunc(maps.Keys(attributes), func(a, b string) int {
		return cmp.Or(cmp.Compare(Size(a, attributes[a]), Size(b, attributes[b])), cmp.Compare(a, b))
	})
	names = slices.DeleteFunc(names, func(name string) bool { return name == retry.DeadLetterAttribute })
	rest := maps.Clone(attributes)
	displaced := make(map[string]displacedAttribute)
	for _, name := range names[:len(attributes)-most] {
		displaced[name] = displacedAttribute{Type: aws.ToString(attributes[name].DataType), Value: []byte(Value(attributes[name]))}
		delete(rest, name)
	}
	fields := fieldsOf(attributes)
	fields[displacedField] = encoded(displaced)
	rest[retry.DeadLetterAttribute] = attribute(typeString, string(encoded(fields)))
	return rest
}

// sendable reports whether SQS accepts the attribute. Anyone who may send to a
// queue can put anything into a record, and a message must not become one that no
// queue accepts.
func (a displacedAttribute) sendable(name string) bool {
	if len(name) > MaxName || !GoodName(name) || Reserved(name) || len(a.Value) == 0 {
		return false
	}
	kind, label, _ := strings.Cut(a.Type, ".")
	if Unsendable(label) >= 0 {
		return false
	}
	switch kind {
	case typeBinary:
		return true
	case typeString:
		return Unsendable(a.Value) < 0
	case typeNumber:
		_, err := strconv.ParseFloat(string(a.Value), 64)
		return err == nil && strings.Trim(string(a.Value), "0123456789+-.eE") == "" // no infinity
	}
	return false
}

// restore undoes [Displace].
func restore(native *types.Message) {
	if _, dead := native.MessageAttributes[retry.DeadLetterAttribute]; !dead {
		return
	}
	fields := fieldsOf(native.MessageAttributes)
	var displaced map[string]displacedAttribute
	if json.Unmarshal(fields[displacedField], &displaced) != nil {
		return
	}
	delete(fields, displacedField)
	native.MD5OfMessageAttributes = nil // it is the digest of the attributes as they traveled
	native.MessageAttributes[retry.DeadLetterAttribute] = attribute(typeString, string(encoded(fields)))
	for name, a := range displaced {
		if _, taken := native.MessageAttributes[name]; !taken && a.sendable(name) {
			native.MessageAttributes[name] = attribute(a.Type, string(a.Value))
		}
	}
}

// Shorten returns the attributes of a dead letter with the texts of its record
// left out.
func Shorten(attributes map[string]types.MessageAttributeValue) map[string]types.MessageAttributeValue {
	fields := fieldsOf(attributes)
	delete(fields, "error")
	delete(fields, "source")
	short := maps.Clone(attributes)
	short[retry.DeadLetterAttribute] = attribute(typeString, string(encoded(fields)))
	return short
}

// fieldsOf returns the fields of a dead letter's record; none if the record can't
// be read.
func fieldsOf(attributes map[string]types.MessageAttributeValue) map[string]json.RawMessage {
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal([]byte(Value(attributes[retry.DeadLetterAttribute])), &fields); err != nil || fields == nil {
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
