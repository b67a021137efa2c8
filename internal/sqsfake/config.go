package sqsfake

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A config is a queue's configuration, decoded from its attributes.
type config struct {
	attributes map[string]string // all settable ones, with defaults

	visibility, delay, wait, retention time.Duration
	maxSize                            int
	contentDedup, dedupByGroup         bool
	deadLetter                         string // name of the dead-letter queue, "" for none
	maxReceives                        int
}

// ranges returns the range of an attribute that is a whole number.
func ranges(name string) (least, most int, ok bool) {
	switch name {
	case "VisibilityTimeout":
		return 0, int(maxVisibility / time.Second), true
	case "DelaySeconds":
		return 0, int(maxDelay / time.Second), true
	case "ReceiveMessageWaitTimeSeconds":
		return 0, maxWait, true
	case "MessageRetentionPeriod":
		return 60, 14 * 24 * 3600, true
	case "MaximumMessageSize":
		return 1024, maxSize, true
	case "KmsDataKeyReusePeriodSeconds":
		return 60, 24 * 3600, true
	}
	return 0, 0, false
}

// choices returns the values of an attribute that is an enumeration.
func choices(name string) []string {
	switch name {
	case "FifoQueue", "ContentBasedDeduplication", "SqsManagedSseEnabled":
		return []string{"true", "false"}
	case "DeduplicationScope":
		return []string{"queue", "messageGroup"}
	case "FifoThroughputLimit":
		return []string{"perQueue", "perMessageGroupId"}
	}
	return nil
}

// fifoOnly reports whether only FIFO queues have the attribute.
func fifoOnly(name string) bool {
	switch name {
	case "FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit":
		return true
	}
	return false
}

func defaults(fifo bool) map[string]string {
	as := map[string]string{
		"VisibilityTimeout":             "30",
		"DelaySeconds":                  "0",
		"ReceiveMessageWaitTimeSeconds": "0",
		"MessageRetentionPeriod":        "345600",
		"MaximumMessageSize":            strconv.Itoa(maxSize),
		"SqsManagedSseEnabled":          "true",
	}
	if fifo {
		as["FifoQueue"] = "true"
		as["ContentBasedDeduplication"] = "false"
		as["DeduplicationScope"] = "queue"
		as["FifoThroughputLimit"] = "perQueue"
	}
	return as
}

// configure applies changed attributes to those before. The caller holds s.mu.
func (s *Server) configure(name string, before, changed map[string]string) (config, error) {
	fifo := strings.HasSuffix(name, fifoSuffix)
	c := config{attributes: maps.Clone(before)}
	for _, attribute := range slices.Sorted(maps.Keys(changed)) {
		value := changed[attribute]
		if fifoOnly(attribute) && !fifo {
			return c, unknownAttribute(attribute)
		}
		least, most, isNumber := ranges(attribute)
		switch {
		case isNumber:
			if n, err := strconv.Atoi(value); err != nil || n < least || n > most {
				return c, badAttribute(attribute, value)
			}
		case choices(attribute) != nil:
			if !slices.Contains(choices(attribute), value) || attribute == "FifoQueue" && value != before[attribute] {
				return c, badAttribute(attribute, value)
			}
		case attribute == "RedrivePolicy", attribute == "RedriveAllowPolicy", attribute == "Policy", attribute == "KmsMasterKeyId":
			if value == "" {
				delete(c.attributes, attribute)
				continue
			}
		default:
			return c, unknownAttribute(attribute)
		}
		c.attributes[attribute] = value
	}
	if c.attributes["FifoThroughputLimit"] == "perMessageGroupId" && c.attributes["DeduplicationScope"] != "messageGroup" {
		return c, badParameter("The perMessageGroupId value of FifoThroughputLimit is allowed only when DeduplicationScope is messageGroup.")
	}
	c.visibility = c.seconds("VisibilityTimeout")
	c.delay = c.seconds("DelaySeconds")
	c.wait = c.seconds("ReceiveMessageWaitTimeSeconds")
	c.retention = c.seconds("MessageRetentionPeriod")
	c.maxSize, _ = strconv.Atoi(c.attributes["MaximumMessageSize"]) // checked above
	c.contentDedup = c.attributes["ContentBasedDeduplication"] == "true"
	c.dedupByGroup = c.attributes["DeduplicationScope"] == "messageGroup"
	return c, s.redrive(name, &c)
}

func (c config) seconds(attribute string) time.Duration {
	n, _ := strconv.Atoi(c.attributes[attribute]) // checked in configure
	return time.Duration(n) * time.Second
}

// redrive reads the redrive policy of a queue, and checks it against the queues that it
// concerns.
func (s *Server) redrive(name string, c *config) error {
	if text := c.attributes["RedriveAllowPolicy"]; text != "" {
		if _, err := parseAllow(text); err != nil {
			return err
		}
	}
	text := c.attributes["RedrivePolicy"]
	if text == "" {
		return nil
	}
	var policy struct {
		DeadLetterTargetARN string          `json:"deadLetterTargetArn"`
		MaxReceiveCount     json.RawMessage `json:"maxReceiveCount"`
	}
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		return badAttribute("RedrivePolicy", text)
	}
	// The service accepts a number and a string.
	count := 10
	if policy.MaxReceiveCount != nil {
		var err error
		if count, err = strconv.Atoi(strings.Trim(string(policy.MaxReceiveCount), `"`)); err != nil {
			return badAttribute("RedrivePolicy", text)
		}
	}
	if count < 1 || count > 1000 {
		return badValue(text, "RedrivePolicy", "Invalid value for maxReceiveCount: "+strconv.Itoa(count)+", valid values are from 1 to 1000 both inclusive.")
	}
	target, isHere := strings.CutPrefix(policy.DeadLetterTargetARN, s.ARN(""))
	dead := s.queues[target]
	if !isHere || dead == nil {
		return badValue(text, "RedrivePolicy", "Dead letter target does not exist.")
	}
	if dead.fifo != strings.HasSuffix(name, fifoSuffix) {
		return badValue(text, "RedrivePolicy", "Dead-letter queue must be same type of queue as the source.")
	}
	allow, err := parseAllow(dead.attributes["RedriveAllowPolicy"])
	if err != nil {
		return err
	}
	if !allow(s.ARN(name)) {
		return badValue(text, "RedrivePolicy", "Queue does not have permission to use the dead-letter target.")
	}
	// The service would move messages around a cycle forever.
	for q := dead; q != nil; q = s.queues[q.deadLetter] {
		if q.name == name {
			return badValue(text, "RedrivePolicy", "The dead-letter target leads back to the queue.")
		}
	}
	c.deadLetter, c.maxReceives = target, count
	c.attributes["RedrivePolicy"] = fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":%d}`, policy.DeadLetterTargetARN, count)
	return nil
}

// parseAllow returns a function that reports whether a RedriveAllowPolicy allows a
// source queue.
func parseAllow(text string) (func(arn string) bool, error) {
	var policy struct {
		RedrivePermission string   `json:"redrivePermission"`
		SourceQueueARNs   []string `json:"sourceQueueArns"`
	}
	if text == "" {
		policy.RedrivePermission = "allowAll"
	} else if json.Unmarshal([]byte(text), &policy) != nil {
		return nil, badAttribute("RedriveAllowPolicy", text)
	}
	byQueue := policy.RedrivePermission == "byQueue"
	switch n := len(policy.SourceQueueARNs); {
	case byQueue && (n == 0 || n > 10), !byQueue && n > 0:
		return nil, badValue(text, "RedriveAllowPolicy", "sourceQueueArns must have 1 to 10 entries with byQueue, and none without.")
	case byQueue:
		return func(arn string) bool { return slices.Contains(policy.SourceQueueARNs, arn) }, nil
	case policy.RedrivePermission == "allowAll":
		return func(string) bool { return true }, nil
	case policy.RedrivePermission == "denyAll":
		return func(string) bool { return false }, nil
	}
	return nil, badAttribute("RedriveAllowPolicy", text)
}
