package sqsmessage

import (
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
)

// TraceHeader is the name in [queue.Message.Attributes] of the system attribute
// AWSTraceHeader. SQS lets a producer name an attribute of their own
// AWSTraceHeader, but reserves what begins with "AWS.", so this name cannot clash.
const TraceHeader = "AWS.TraceHeader"

const (
	typeString = "String"
	typeBinary = "Binary"
	typeNumber = "Number"
)

// attributesOf returns native's attributes, nil if it has none.
func attributesOf(native *types.Message) map[string]string {
	trace, traced := native.Attributes[traceHeader]
	if len(native.MessageAttributes) == 0 && !traced {
		return nil
	}
	all := make(map[string]string, len(native.MessageAttributes)+1)
	for name, v := range native.MessageAttributes {
		all[name] = Value(v)
	}
	if traced {
		all[TraceHeader] = trace
	}
	return all
}

// Attributes yields m's attributes as SQS accepts them, in no order, without
// [TraceHeader], which SQS accepts as a system attribute. An attribute that still
// has the value it was received with keeps its type; others are String, or Binary
// if they are not text.
func Attributes(m *queue.Message) iter.Seq2[string, types.MessageAttributeValue] {
	var was map[string]types.MessageAttributeValue
	if native := Native(m); native != nil {
		was = native.MessageAttributes
	}
	return func(yield func(string, types.MessageAttributeValue) bool) {
		for name, value := range m.Attributes {
			if name == TraceHeader {
				continue
			}
			v := was[name]
			if v.DataType != nil && Value(v) == value {
				v = types.MessageAttributeValue{DataType: v.DataType, StringValue: v.StringValue, BinaryValue: v.BinaryValue}
			} else {
				v = attribute("", value)
			}
			if !yield(name, v) {
				return
			}
		}
	}
}

// Value returns an attribute's value: a String or a Number as it is written, a
// Binary as its bytes.
func Value(v types.MessageAttributeValue) string {
	if v.StringValue != nil {
		return *v.StringValue
	}
	return string(v.BinaryValue)
}

// Size returns what an attribute adds to the size of a message, in bytes.
func Size(name string, v types.MessageAttributeValue) int {
	return len(name) + len(aws.ToString(v.DataType)) + len(aws.ToString(v.StringValue)) + len(v.BinaryValue)
}

// attribute returns an attribute of the data type kind; "" means the one that
// fits.
func attribute(kind, value string) types.MessageAttributeValue {
	if kind == "" {
		kind = typeString
		if Unsendable(value) >= 0 {
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

// GoodName reports whether SQS accepts attributes of that name, up to its length:
// letters, digits, "_", "-" and single inner dots.
func GoodName(name string) bool {
	good := name != "" && name[0] != '.' && name[len(name)-1] != '.' && !strings.Contains(name, "..")
	for i := 0; i < len(name) && good; i++ {
		c := name[i]
		good = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
	}
	return good
}

// Reserved reports whether the name is one that SQS keeps for itself.
func Reserved(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(name, "aws.") || strings.HasPrefix(name, "amazon.")
}

// MaxName is how many characters the name of an attribute may have.
const MaxName = 256

// Unsendable returns the index of the first character of s that SQS does not
// accept in text, -1 if there is none: anything that is not UTF-8, and the
// characters that XML 1.0 excludes, namely control characters other than tab,
// line feed and carriage return, U+FFFE and U+FFFF.
func Unsendable[S string | []byte](s S) int {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
				return i
			}
			i++
			continue
		}
		end := min(i+utf8.UTFMax, len(s))
		r, width := utf8.DecodeRuneInString(string(s[i:end]))
		if r == utf8.RuneError && width == 1 || r == 0xFFFE || r == 0xFFFF {
			return i
		}
		i += width
	}
	return -1
}
