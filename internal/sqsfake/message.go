package sqsfake

import (
	"container/heap"
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Limits of the service.
const (
	maxBatch      = 10      // messages of a request
	maxSize       = 1 << 20 // bytes of a message, and of a batch
	maxAttributes = 10      // of a message
	maxWait       = 20      // seconds of a long poll
	maxDelay      = 15 * time.Minute
	maxVisibility = 12 * time.Hour
	dedupWindow   = 5 * time.Minute
	fifoSuffix    = ".fifo"
)

// A message is a message in a queue. The fields above the line never change.
type message struct {
	id         string
	body       string
	attributes attributes
	trace      string // the AWSTraceHeader
	md5        string
	group      string
	// ---
	dedup         string
	seq           uint64    // the order in which messages came into the queue
	sent          time.Time // retention counts from here
	source        string    // ARN of the queue from which it was moved
	receives      int       // in all queues
	firstReceived time.Time
	received      time.Time // the last time
	receipt       string    // of the last receive
	until         time.Time // when it becomes visible, if it is hidden
	inFlight      bool      // hidden by a receive
	delayed       bool      // hidden since it was sent

	inReady          *list.Element // on standard queues, while it is visible
	inHidden, inAges int           // indexes in the heaps, -1 outside
}

func (m *message) hidden() bool { return m.inFlight || m.delayed }

// A byTime is a heap of messages.
type byTime struct {
	msgs  []*message
	key   func(*message) time.Time
	index func(*message) *int
}

var _ heap.Interface = (*byTime)(nil)

func (h *byTime) Len() int { return len(h.msgs) }

func (h *byTime) Less(i, j int) bool {
	a, b := h.msgs[i], h.msgs[j]
	if ta, tb := h.key(a), h.key(b); !ta.Equal(tb) {
		return ta.Before(tb)
	}
	return a.seq < b.seq
}

func (h *byTime) Swap(i, j int) {
	h.msgs[i], h.msgs[j] = h.msgs[j], h.msgs[i]
	*h.index(h.msgs[i]), *h.index(h.msgs[j]) = i, j
}

func (h *byTime) Push(x any) {
	m := x.(*message)
	*h.index(m) = len(h.msgs)
	h.msgs = append(h.msgs, m)
}

func (h *byTime) Pop() any {
	last := len(h.msgs) - 1
	m := h.msgs[last]
	h.msgs[last] = nil
	h.msgs = h.msgs[:last]
	*h.index(m) = -1
	return m
}

func (h *byTime) add(m *message) { heap.Push(h, m) }

func (h *byTime) remove(m *message) {
	if i := *h.index(m); i >= 0 {
		heap.Remove(h, i)
	}
}

// first returns the earliest message, nil if there is none.
func (h *byTime) first() *message {
	if len(h.msgs) == 0 {
		return nil
	}
	return h.msgs[0]
}

// checkMessage returns why the service would refuse a message that is sent.
func (q *queue) checkMessage(e *entry) error {
	if e.MessageBody == nil || *e.MessageBody == "" {
		return missing("MessageBody")
	}
	if !allowed(*e.MessageBody) {
		return badContents()
	}
	if n := len(e.MessageAttributes); n > maxAttributes {
		return badParameter(fmt.Sprintf("Number of message attributes [%d] exceeds the allowed maximum [%d].", n, maxAttributes))
	}
	for name, a := range e.MessageAttributes {
		if err := checkAttribute(name, a); err != nil {
			return err
		}
	}
	for name, a := range e.MessageSystemAttributes {
		if name != "AWSTraceHeader" {
			return badParameter("Message system attribute name '" + name + "' is invalid.")
		}
		if a.DataType != "String" || a.text() == "" {
			return badParameter("The message system attribute 'AWSTraceHeader' must have a value of type 'String'.")
		}
	}
	if e.size() > q.maxSize {
		return badParameter(fmt.Sprintf("One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", q.maxSize))
	}
	if s := e.DelaySeconds; s != nil && (*s < 0 || *s > int(maxDelay/time.Second)) {
		return badValue(*s, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")
	}
	for name, id := range map[string]*string{"MessageGroupId": e.MessageGroupID, "MessageDeduplicationId": e.MessageDeduplicationID} {
		if id != nil && !idPattern.MatchString(*id) {
			return badValue(*id, name, name+" can only include alphanumeric and punctuation characters. 1 to 128 in length.")
		}
	}
	const otherType = "The request include parameter that is not valid for this queue type."
	switch {
	case q.fifo && e.MessageGroupID == nil:
		return missing("MessageGroupId")
	case q.fifo && e.MessageDeduplicationID == nil && !q.contentDedup:
		return badParameter("The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly")
	case q.fifo && e.DelaySeconds != nil && *e.DelaySeconds > 0:
		return badValue(*e.DelaySeconds, "DelaySeconds", otherType)
	case !q.fifo && e.MessageDeduplicationID != nil:
		return badValue(*e.MessageDeduplicationID, "MessageDeduplicationId", otherType)
	}
	return nil
}

var (
	idPattern        = regexp.MustCompile(`^[!-~]{1,128}$`)
	namePattern      = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	numberPattern    = regexp.MustCompile(`^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$`)
	queueNamePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
	entryIDPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
)

func checkAttribute(name string, a attribute) error {
	lower := strings.ToLower(name)
	if len(name) > 256 || !namePattern.MatchString(name) || strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") {
		return badParameter("Message (user) attribute name '" + name + "' is invalid.")
	}
	if len(a.StringListValues)+len(a.BinaryListValues) > 0 {
		return Error{Code: "UnsupportedOperation", QueryCode: prefix + "UnsupportedOperation", Message: "Message attribute list values in SendMessage operation are not supported."}
	}
	kind := kindOf(a.DataType)
	if kind != "String" && kind != "Number" && kind != "Binary" || len(a.DataType) > 256 {
		return badParameter("The type of message (user) attribute '" + name + "' is invalid. You must use only the following supported type prefixes: Binary, Number, String.")
	}
	if (kind == "Binary") != (a.BinaryValue != nil) || (kind == "Binary") == (a.StringValue != nil) || a.text() == "" {
		return badParameter("Message (user) attribute '" + name + "' must contain a non-empty value of type '" + kind + "'.")
	}
	if kind != "Binary" && !allowed(a.text()) {
		return badContents()
	}
	if kind == "Number" {
		if _, err := strconv.ParseFloat(a.text(), 64); err != nil || !numberPattern.MatchString(a.text()) {
			return badParameter("Can't cast the value of message (user) attribute '" + name + "' to a number.")
		}
	}
	return nil
}

// allowed reports whether the service accepts all characters of s.
func allowed(s string) bool {
	for _, r := range s {
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
			return false
		}
	}
	return true
}

// size returns the size of body and attributes: names, types and values.
func (e *entry) size() int {
	var n int
	if e.MessageBody != nil {
		n = len(*e.MessageBody)
	}
	for name, a := range e.MessageAttributes {
		n += len(name) + len(a.DataType) + len(a.text())
	}
	return n
}

// dedupID returns the id by which a FIFO queue recognizes duplicates.
func (e *entry) dedupID() string {
	if e.MessageDeduplicationID != nil {
		return *e.MessageDeduplicationID
	}
	sum := sha256.Sum256([]byte(*e.MessageBody))
	return hex.EncodeToString(sum[:])
}
