package sqsqueue

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/sqsmessage"
	"github.com/rampmeter/rampmeter/retry"
)

// What the service allows.
const (
	maxBatch      = 10               // messages per request
	maxSize       = 1 << 20          // bytes of a message, and of all messages of a request
	maxAttributes = 10               // of a message
	maxDelay      = 15 * time.Minute // of a message that is sent
	maxVisibility = 12 * time.Hour   // from the receive on, however often it is changed
	maxToken      = 128              // characters of a group or deduplication id
	maxPoll       = 20 * time.Second
	mostReceives  = 1000 // that a redrive policy can allow
)

// TraceHeader is the name in [queue.Message.Attributes] of the trace header of
// AWS X-Ray: "AWS.TraceHeader". It travels as the service's system attribute
// AWSTraceHeader, and counts neither among the ten attributes nor in the message's
// size. An attribute that a program has named AWSTraceHeader itself is another one,
// and keeps that name.
const TraceHeader = sqsmessage.TraceHeader

// API is what a [Queue] calls of the SDK. An *sqs.Client is one.
type API interface {
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	DeleteMessageBatch(context.Context, *sqs.DeleteMessageBatchInput, ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error)
	ChangeMessageVisibilityBatch(context.Context, *sqs.ChangeMessageVisibilityBatchInput, ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityBatchOutput, error)
	SendMessageBatch(context.Context, *sqs.SendMessageBatchInput, ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error)

	// The last two are called by [Queue.Check] only.
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
	GetQueueUrl(context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error)
}

var _ API = (*sqs.Client)(nil)

// Config says how a [Queue] talks to the service. The zero Config is right for
// almost everybody.
type Config struct {
	// Wait is how long a receive waits at the service for a first message, 1 s
	// to 20 s in whole seconds. A shorter one costs more requests on an idle
	// queue. Receives wait for less when the consumer's DrainTimeout is less than
	// Wait and 2 s, so that none is open when a drain ends, or its Lease less than
	// 1.5 times Wait, and then for two thirds of the lease; Logger is told once.
	// Default 20 s.
	Wait time.Duration

	// Timeout is how long one request may take, a receive that much longer than
	// its wait, 1 s to 5 min. A request that is cut off so is tried again, or
	// reported, as one that failed. Default 10 s.
	Timeout time.Duration

	// Logger gets what Send shortened to fit a dead letter into the queue, and, once
	// each, that receives wait for less than Wait and that the HTTP client keeps too
	// few connections. Default slog.Default().
	Logger *slog.Logger
}

// A Queue is a queue of Amazon SQS: a [queue.Source] and a [queue.Sink]. Make
// one with [New]. Its methods may be called concurrently.
type Queue struct {
	client API
	url    string
	fifo   bool
	cfg    Config
	again  retry.Policy // within a call, after a passing failure

	systemAttributes []types.MessageSystemAttributeName // that receives ask for
	clientTimeout    time.Duration                      // of the client's HTTP client, as far as that is known; 0: none
	endpoints        endpoints
	conns            connections
	attempts         attempts  // used on FIFO queues only
	shorter          sync.Once // tells Logger that receives wait for less than Config.Wait
}

var (
	_ queue.Source = (*Queue)(nil)
	_ queue.Sink   = (*Queue)(nil)
)

// New returns the queue at queueURL, which is as GetQueueUrl tells it. It makes
// no request. It fails when client is nil, when queueURL is no URL of a queue,
// and when a field of cfg is out of range; the error names it.
//
// The client is used as it is, with five exceptions, made for each request and
// for these only: the SDK does not retry on its own, since its delays would keep
// a consumer from receiving; a request has a time limit; the HTTP client gets
// a copy of its body, without which the SDK and net/http together can lose the
// reply of a fast server; what the SDK's own resolver of endpoints has
// answered is remembered; and the SDK's own HTTP client keeps more connections
// (see Connections in the package documentation). A client whose HTTP client has a
// Timeout that is not longer than a receive's wait can send, but its receives are
// refused.
func New(client API, queueURL string, cfg Config) (*Queue, error) {
	if nils.Is(client) {
		return nil, fmt.Errorf("sqsqueue: New: client is %s", nils.Describe(client))
	}
	u, err := url.Parse(queueURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return nil, fmt.Errorf("sqsqueue: New: queueURL is %q: must be the URL of a queue, as GetQueueUrl tells it", queueURL)
	}
	if cfg.Wait == 0 {
		cfg.Wait = maxPoll
	}
	if cfg.Wait < time.Second || cfg.Wait > maxPoll || cfg.Wait%time.Second != 0 {
		return nil, fmt.Errorf("sqsqueue: New: Config.Wait is %v: must be 1 s to %v in whole seconds, or 0 for the default", cfg.Wait, maxPoll)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Timeout < time.Second || cfg.Timeout > 5*time.Minute {
		return nil, fmt.Errorf("sqsqueue: New: Config.Timeout is %v: must be from 1 s to 5 min, or 0 for the default", cfg.Timeout)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	q := &Queue{
		client: client,
		url:    queueURL,
		fifo:   strings.HasSuffix(queueURL, ".fifo"),
		cfg:    cfg,
		again:  retry.Policy{MaxAttempts: 6, BaseDelay: 50 * time.Millisecond, MaxDelay: 2 * time.Second},
		systemAttributes: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameApproximateReceiveCount,
			types.MessageSystemAttributeNameApproximateFirstReceiveTimestamp,
			types.MessageSystemAttributeNameSentTimestamp,
			types.MessageSystemAttributeNameMessageGroupId,
			types.MessageSystemAttributeNameAWSTraceHeader,
		},
	}
	if c, ok := client.(*sqs.Client); ok {
		q.clientTimeout = timeoutOf(c.Options().HTTPClient)
	}
	if q.fifo {
		q.systemAttributes = append(q.systemAttributes,
			types.MessageSystemAttributeNameMessageDeduplicationId,
			types.MessageSystemAttributeNameSequenceNumber)
	}
	return q, nil
}

// timeoutOf returns how long an HTTP client lets a request take; 0: as long as it
// takes, or nobody knows.
func timeoutOf(c sqs.HTTPClient) time.Duration {
	switch c := c.(type) {
	case *http.Client:
		return c.Timeout
	case interface{ GetTimeout() time.Duration }: // the SDK's own
		return c.GetTimeout()
	}
	return 0
}

// URL is the queue's URL, as it was given to [New].
func (q *Queue) URL() string { return q.url }

// seconds returns d in the whole seconds that the service counts in, rounded up.
func seconds(d time.Duration) int32 {
	return int32((min(d, maxVisibility) + time.Second - 1) / time.Second)
}

// ended returns the error of a call whose ctx has ended.
func ended(ctx context.Context, op string) error {
	return fmt.Errorf("sqsqueue: %s: %w", op, context.Cause(ctx))
}
