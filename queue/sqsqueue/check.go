package sqsqueue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/outage"
)

// A CheckConfig describes how the queue is used.
type CheckConfig struct {
	// Consumer is the configuration of the consumer that receives from the queue.
	// Its DeadLetter is checked too, if it is a [Queue].
	Consumer queue.Config
	// HandlerTimeout is the longest time that a handler takes. Default: not checked.
	HandlerTimeout time.Duration
	// Outage is the longest outage, of the downstream or of the consumer, that
	// messages must survive in the queue. Default 24 h.
	Outage time.Duration
	// Lambda says that the queue feeds a Lambda function (package sqslambda), where
	// each delivery costs a receive. Check then also estimates how long an outage the
	// function's delays and maxReceiveCount can absorb.
	Lambda bool
}

// A Finding is a setting that will hurt.
type Finding struct {
	// Queue is the URL or ARN of the queue concerned.
	Queue string
	// Attribute names what to change: an attribute of the queue, "Config." and a field
	// of the consumer's or the queue's configuration, or "HTTPClient." and a field of
	// the transport that the client makes its requests with.
	Attribute string
	// Problem says what is wrong and what it leads to, Fix what to set.
	Problem, Fix string
}

// String returns the finding in one line.
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s: %s", f.Queue, f.Attribute, f.Problem, f.Fix)
}

// Check reads the attributes of the queue and of its dead-letter queue and
// reports settings that will hurt; no findings mean that all is well. It changes
// nothing. It needs the permission sqs:GetQueueAttributes, and sqs:GetQueueUrl if the
// queue has a redrive policy. A dead-letter queue that can't be read is a finding, not
// an error.
func (q *Queue) Check(ctx context.Context, cfg CheckConfig) ([]Finding, error) {
	switch {
	case cfg.HandlerTimeout < 0:
		return nil, fmt.Errorf("sqsqueue: check: CheckConfig.HandlerTimeout is %v: must not be negative", cfg.HandlerTimeout)
	case cfg.Outage < 0:
		return nil, fmt.Errorf("sqsqueue: check: CheckConfig.Outage is %v: must not be negative", cfg.Outage)
	case ctx.Err() != nil:
		return nil, ended(ctx, "check")
	}
	if cfg.Outage == 0 {
		cfg.Outage = 24 * time.Hour
	}
	a, err := q.attributes(ctx)
	if err != nil {
		return nil, err
	}
	c := checks{cfg: cfg, q: q}
	c.waits(a)
	c.leases(a)
	c.messages(a)
	c.redrive(ctx, a)
	c.connections()
	return c.found, nil
}

// attributes are a queue's, by name.
type attributes map[string]string

func (q *Queue) attributes(ctx context.Context) (attributes, error) {
	out, err := do(ctx, q, "check", q.limit(ctx), q.client.GetQueueAttributes, &sqs.GetQueueAttributesInput{
		QueueUrl: &q.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	if err != nil {
		return nil, err
	}
	return out.Attributes, nil
}

func (a attributes) text(name types.QueueAttributeName) string { return a[string(name)] }

// number returns the value of an attribute; false if the server does not report
// it.
func (a attributes) number(name types.QueueAttributeName) (int, bool) {
	n, err := strconv.Atoi(a[string(name)])
	return n, err == nil
}

func (a attributes) seconds(name types.QueueAttributeName) (time.Duration, bool) {
	n, ok := a.number(name)
	return time.Duration(n) * time.Second, ok
}

// checks collects findings.
type checks struct {
	cfg   CheckConfig
	q     *Queue
	found []Finding
}

func (c *checks) add(queue string, attribute types.QueueAttributeName, problem, fix string) {
	c.found = append(c.found, Finding{Queue: queue, Attribute: string(attribute), Problem: problem, Fix: fix})
}

// waits checks long polls.
func (c *checks) waits(a attributes) {
	if wait, ok := a.number(types.QueueAttributeNameReceiveMessageWaitTimeSeconds); ok && wait == 0 {
		c.add(c.q.url, types.QueueAttributeNameReceiveMessageWaitTimeSeconds,
			"is 0: whoever receives without a wait time of its own polls short, which costs a request each time and may miss messages",
			"set it to 20; receives of this package ask for their own wait anyway")
	}
	if c.cfg.Lambda {
		return // the service itself receives for a function
	}
	lease := c.cfg.Consumer.Lease
	if lease == 0 {
		lease = 30 * time.Second
	}
	if longest := max((lease * 2 / 3).Truncate(time.Second), time.Second); c.q.cfg.Wait > longest {
		c.add(c.q.url, "Config.Wait",
			fmt.Sprintf("is %v, and the consumer's Lease %v: receives wait for two thirds of it only, %v, and an idle consumer makes %d requests a minute",
				c.q.cfg.Wait, lease, longest, time.Minute/longest),
			fmt.Sprintf("set Lease to at least %v, or Config.Wait to %v if that is meant", (c.q.cfg.Wait*3/2).Round(time.Second), longest))
	}
	drain := c.cfg.Consumer.DrainTimeout
	if drain == 0 {
		drain = 30 * time.Second
	}
	if longest := max((drain - 2*time.Second).Truncate(time.Second), time.Second); c.q.cfg.Wait > longest {
		c.add(c.q.url, "Config.Wait",
			fmt.Sprintf("is %v, and the consumer's DrainTimeout %v: receives wait for %v only, so that none is open when a drain ends, and an idle consumer makes %d requests a minute",
				c.q.cfg.Wait, drain, longest, time.Minute/longest),
			fmt.Sprintf("set DrainTimeout to at least %v, or Config.Wait to %v if that is meant", c.q.cfg.Wait+2*time.Second, longest))
	}
	if drain < 2*time.Second {
		c.add(c.q.url, "Config.DrainTimeout",
			fmt.Sprintf("is %v, and the shortest wait of a receive 1 s: a drain may have to cut a receive off, and messages that come at that moment wait for the end of their lease", drain),
			"set DrainTimeout to at least 3s")
	}
}

// leases checks visibility timeouts.
func (c *checks) leases(a attributes) {
	visibility, ok := a.seconds(types.QueueAttributeNameVisibilityTimeout)
	switch takes := c.cfg.HandlerTimeout; {
	case !ok || takes > maxVisibility:
	case c.cfg.Lambda && visibility < min(6*takes, maxVisibility):
		c.add(c.q.url, types.QueueAttributeNameVisibilityTimeout,
			fmt.Sprintf("is %v, less than six times what the function takes, %v: batches that Lambda holds back, as it is throttled, come again meanwhile", visibility, takes),
			fmt.Sprintf("set it to %d", seconds(6*takes)))
	case visibility < takes:
		c.add(c.q.url, types.QueueAttributeNameVisibilityTimeout,
			fmt.Sprintf("is %v, shorter than a handler takes, %v: a consumer that does not extend it (a Lambda function, for one) gets messages twice", visibility, takes),
			fmt.Sprintf("set it to %d; six times as much for a Lambda function", seconds(takes)))
	}
	if c.cfg.HandlerTimeout > maxVisibility {
		c.add(c.q.url, types.QueueAttributeNameVisibilityTimeout,
			fmt.Sprintf("can't be above %v, which is shorter than a handler takes, %v", maxVisibility, c.cfg.HandlerTimeout),
			"split the work into messages that take less")
	}
}

// messages checks what the queue accepts, and how long it keeps messages.
func (c *checks) messages(a attributes) {
	retention, ok := a.seconds(types.QueueAttributeNameMessageRetentionPeriod)
	if ok && retention < c.cfg.Outage {
		c.add(c.q.url, types.QueueAttributeNameMessageRetentionPeriod,
			fmt.Sprintf("is %v: messages are deleted unread in an outage of %v", retention, c.cfg.Outage),
			fmt.Sprintf("set it to at least %d, better to 1209600 (14 days)", int(c.cfg.Outage/time.Second)))
	}
	if most, ok := a.number(types.QueueAttributeNameMaximumMessageSize); ok && most < maxSize {
		c.add(c.q.url, types.QueueAttributeNameMaximumMessageSize,
			fmt.Sprintf("is %d bytes: the service refuses longer messages, which Send takes for sendable up to %d", most, maxSize),
			fmt.Sprintf("set it to %d", maxSize))
	}
	if fifo := a.text(types.QueueAttributeNameFifoQueue) == "true"; fifo != c.q.fifo {
		c.add(c.q.url, types.QueueAttributeNameFifoQueue,
			fmt.Sprintf("is %v, and the queue's URL says otherwise: groups and deduplication ids are not sent as they must be", fifo),
			"give FIFO queues, and only those, a name that ends in .fifo")
	}
}

// redrive checks the dead-letter queues of the queue and of the consumer.
func (c *checks) redrive(ctx context.Context, a attributes) {
	consumers, _ := c.cfg.Consumer.DeadLetter.(*Queue)
	if consumers != nil && consumers.name() == c.q.name() {
		c.add(c.q.url, "Config.DeadLetter", "is this queue itself: what fails for good comes back, for ever",
			"give the consumer another queue for its dead letters")
		consumers = nil
	}
	text := a.text(types.QueueAttributeNameRedrivePolicy)
	attempts := c.cfg.Consumer.Retry.WithDefaults().MaxAttempts
	if text == "" {
		c.add(c.q.url, types.QueueAttributeNameRedrivePolicy,
			"is not set: a message that makes its consumer crash, or that the consumer can't hand to its dead-letter queue, comes back until it is deleted at the end of its retention",
			fmt.Sprintf("set it to a dead-letter queue of the same type, with a maxReceiveCount of %d or more", receivesFor(attempts)))
		if consumers != nil {
			c.deadLetters(ctx, consumers, a)
		}
		return
	}
	policy, err := parseRedrive(text)
	if err != nil {
		c.add(c.q.url, types.QueueAttributeNameRedrivePolicy, fmt.Sprintf("can't be read: %v", err), "set it anew")
		return
	}
	switch {
	case attempts < 0 || policy.max <= attempts:
		c.add(c.q.url, types.QueueAttributeNameRedrivePolicy,
			fmt.Sprintf("has a maxReceiveCount of %d, and the consumer makes %s: the service moves messages to the dead-letter queue first, and without a reason", policy.max, attemptsText(attempts)),
			fixAttempts(attempts, policy.max))
	case policy.max < min(attempts+spareReceives, mostReceives):
		c.add(c.q.url, types.QueueAttributeNameRedrivePolicy,
			fmt.Sprintf("has a maxReceiveCount of %d, and the consumer makes %s: receives without an attempt (a crash, a drain, a dead letter that is rationed) leave room for %d only, "+
				"and then the service moves messages to the dead-letter queue, and without a reason", policy.max, attemptsText(attempts), policy.max-attempts),
			fixAttempts(attempts, policy.max))
	}
	c.outlasts(policy.max)
	dead, err := c.open(ctx, policy.arn)
	if err != nil {
		c.add(policy.arn, types.QueueAttributeNameQueueArn,
			fmt.Sprintf("the dead-letter queue can't be found: %v", err),
			"create it, or allow sqs:GetQueueUrl and sqs:GetQueueAttributes on it")
	} else {
		c.deadLetters(ctx, dead, a)
	}
	if consumers != nil && (dead == nil || consumers.name() != dead.name()) {
		c.deadLetters(ctx, consumers, a)
	}
}

// outlasts checks how long an outage a Lambda function's messages survive.
func (c *checks) outlasts(maxReceives int) {
	span := outage.Span(maxReceives)
	if !c.cfg.Lambda || span >= c.cfg.Outage {
		return
	}
	enough := maxReceives
	for enough < mostReceives && outage.Span(enough) < c.cfg.Outage {
		enough++
	}
	fix := fmt.Sprintf("set maxReceiveCount to %d, or accept it", enough)
	if longest := outage.Span(enough); longest < c.cfg.Outage {
		fix = fmt.Sprintf("set maxReceiveCount to %d, the most that there is, which survives %v", enough, longest)
	}
	c.add(c.q.url, types.QueueAttributeNameRedrivePolicy,
		fmt.Sprintf("has a maxReceiveCount of %d: with its delays the function's messages survive an outage of %v, and CheckConfig.Outage is %v", maxReceives, span, c.cfg.Outage),
		fix)
}

// receivesFor returns a maxReceiveCount that leaves room for this many attempts.
func receivesFor(attempts int) int {
	return min(max(2*attempts, attempts+spareReceives, 20), mostReceives)
}

// spareReceives is how many receives of a message may cost no attempt.
const spareReceives = 10

// fixAttempts says what to set when the service allows fewer receives than the
// consumer makes attempts.
func fixAttempts(attempts, receives int) string {
	switch {
	case attempts < 0 || attempts >= mostReceives:
		return fmt.Sprintf("set Retry.MaxAttempts, and maxReceiveCount, which can be %d at most, to more than that", mostReceives)
	case receives <= 1:
		return fmt.Sprintf("set maxReceiveCount to at least %d", receivesFor(attempts))
	}
	fewer := fmt.Sprintf("less than %d", receives)
	if receives > spareReceives {
		fewer = fmt.Sprintf("at most %d", receives-spareReceives)
	}
	return fmt.Sprintf("set maxReceiveCount to at least %d, or Retry.MaxAttempts to %s", receivesFor(attempts), fewer)
}

func attemptsText(n int) string {
	if n < 0 {
		return "attempts without end"
	}
	return fmt.Sprintf("up to %d attempts", n)
}

// deadLetters checks a queue that dead letters go to.
func (c *checks) deadLetters(ctx context.Context, dead *Queue, source attributes) {
	a, err := dead.attributes(ctx)
	if err != nil {
		c.add(dead.url, types.QueueAttributeNameQueueArn, fmt.Sprintf("the dead-letter queue can't be read: %v", err),
			"create it, or allow sqs:GetQueueAttributes on it")
		return
	}
	keeps, ok := a.seconds(types.QueueAttributeNameMessageRetentionPeriod)
	kept, known := source.seconds(types.QueueAttributeNameMessageRetentionPeriod)
	if ok && known && keeps <= kept && !c.q.fifo { // on FIFO queues it starts again
		c.add(dead.url, types.QueueAttributeNameMessageRetentionPeriod,
			fmt.Sprintf("is %v, not longer than the source's, %v: it counts from when a message was first sent, so one that comes late is deleted at once", keeps, kept),
			"set it to 1209600 (14 days), and the source's to less")
	}
	if fifo := a.text(types.QueueAttributeNameFifoQueue) == "true"; fifo != c.q.fifo {
		c.add(dead.url, types.QueueAttributeNameFifoQueue,
			fmt.Sprintf("is %v, and the source's is %v: the service moves no messages between them, and copies lose their group or are refused", fifo, c.q.fifo),
			"use a dead-letter queue of the source's type")
	}
	most, ok := a.number(types.QueueAttributeNameMaximumMessageSize)
	if ok && most < maxSize {
		c.add(dead.url, types.QueueAttributeNameMaximumMessageSize,
			fmt.Sprintf("is %d bytes: a long message does not fit with its dead-letter record, which has up to 4 KiB", most),
			fmt.Sprintf("set it to %d", maxSize))
	}
}

// name returns the part of the URL that identifies the queue, whatever its host.
func (q *Queue) name() string {
	parts := strings.Split(strings.TrimRight(q.url, "/"), "/")
	return strings.Join(parts[max(len(parts)-2, 0):], "/")
}

// open returns the queue with that ARN.
func (c *checks) open(ctx context.Context, arn string) (*Queue, error) {
	parts := strings.Split(arn, ":")
	if len(parts) != 6 || parts[2] != "sqs" {
		return nil, fmt.Errorf("sqsqueue: check: %q is not the ARN of a queue", arn)
	}
	out, err := do(ctx, c.q, "check", c.q.limit(ctx), c.q.client.GetQueueUrl, &sqs.GetQueueUrlInput{
		QueueName: &parts[5], QueueOwnerAWSAccountId: &parts[4],
	})
	if err != nil {
		return nil, err
	}
	return New(c.q.client, aws.ToString(out.QueueUrl), c.q.cfg)
}

// A redrivePolicy is a queue's decoded RedrivePolicy.
type redrivePolicy struct {
	arn string
	max int
}

func parseRedrive(text string) (redrivePolicy, error) {
	var p struct {
		ARN string          `json:"deadLetterTargetArn"`
		Max json.RawMessage `json:"maxReceiveCount"` // a number, or a string of one
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return redrivePolicy{}, err
	}
	if p.Max == nil {
		p.Max = json.RawMessage("10") // the service's default
	}
	n, err := strconv.Atoi(strings.Trim(string(p.Max), `"`))
	if err != nil || p.ARN == "" {
		return redrivePolicy{}, errors.New("it has no deadLetterTargetArn, or its maxReceiveCount is no number")
	}
	return redrivePolicy{arn: p.ARN, max: n}, nil
}
