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

// Limits of the service.
const (
	maxBatch      = 10               // messages per request
	maxSize       = 1 << 20          // bytes of a message, and of all messages of a request
	maxAttributes = 10               // of a message
	maxDelay      = 15 * time.Minute // of a message that is sent
	maxVisibility = 12 * time.Hour   // from the receive on, however often it is extended
	maxToken      = 128              // characters of a group or deduplication id
	maxPoll       = 20 * time.Second
	mostReceives  = 1000 // the highest maxReceiveCount of a redrive policy
)

// TraceHeader is the name in [queue.Message.Attributes] of the trace header of
// AWS X-Ray: "AWS.TraceHeader". It travels as the service's system attribute
// AWSTraceHeader, and counts neither as one of the ten attributes nor towards the
// message's size. An attribute that a program itself named AWSTraceHeader is a
// different one, and keeps that name.
const TraceHeader = sqsmessage.TraceHeader

// API is the part of the SDK that a [Queue] calls. *sqs.Client implements it.
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

// Config configures the requests of a [Queue]. The zero Config suits almost
// everybody.
type Config struct {
	// Wait is how long a receive waits at the service for a first message, 1 s
	// to 20 s in whole seconds. A shorter wait costs more requests on an idle
	// queue. Receives wait for less in two cases: if the consumer's DrainTimeout is
	// less than Wait plus 2 s, so that no receive is open when a drain ends; and if
	// its Lease is less than 1.5 times Wait, then for two thirds of the lease. Logger
	// logs this once. Default 20 s.
	Wait time.Duration

	// Timeout is how long one request may take, in addition to the wait of a receive,
	// 1 s to 5 min. A request that times out is retried or reported like any failed
	// request. Default 10 s.
	Timeout time.Duration

	// Logger logs what Send shortened to fit a dead letter into the queue. It also
	// logs, once each, that receives wait for less than Wait and that the HTTP client
	// keeps too few connections. Default slog.Default().
	Logger *slog.Logger
}

// A Queue is an Amazon SQS queue: a [queue.Source] and a [queue.Sink]. Create one
// with [New]. Its methods may be called concurrently.
type Queue struct {
	client API
	url    string
	fifo   bool
	cfg    Config
	again  retry.Policy // within a call, after a temporary failure

	systemAttributes []types.MessageSystemAttributeName // requested by receives
	clientTimeout    time.Duration                      // of the client's HTTP client; 0: none, or unknown
	endpoints        endpoints
	conns            connections
	attempts         attempts  // used on FIFO queues only
	shorter          sync.Once // logs that receives wait for less than Config.Wait
}

var (
	_ queue.Source = (*Queue)(nil)
	_ queue.Sink   = (*Queue)(nil)
)

// New returns a Queue for queueURL, as returned by GetQueueUrl. It makes no request.
// It fails when client is nil, when queueURL is not the URL of a queue, and when a
// field of cfg is out of range; the error names it.
//
// The section The client in the package documentation lists what differs from the
// client's own settings.
func New(client API, queueURL string, cfg Config) (*Queue, error) {
	if nils.Is(client) {
		return nil, fmt.Errorf("sqsqueue: New: client is %s", nils.Describe(client))
	}
	u, err := url.Parse(queueURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "" {
		return nil, fmt.Errorf("sqsqueue: New: queueURL is %q: must be the URL of a queue, as GetQueueUrl returns it", queueURL)
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

// timeoutOf returns an HTTP client's limit for a request; 0: none, or unknown.
func timeoutOf(c sqs.HTTPClient) time.Duration {
	switch c := c.(type) {
	case *http.Client:
		return c.Timeout
	case interface{ GetTimeout() time.Duration }: // the SDK's own
		return c.GetTimeout()
	}
	return 0
}

// URL returns the queue's URL, as passed to [New].
func (q *Queue) URL() string { return q.url }

// seconds returns d in whole seconds, rounded up, as the service counts.
func seconds(d time.Duration) int32 {
	return int32((min(d, maxVisibility) + time.Second - 1) / time.Second)
}

// ended returns the error of a call whose ctx has ended.
func ended(ctx context.Context, op string) error {
	return fmt.Errorf("sqsqueue: %s: %w", op, context.Cause(ctx))
}
