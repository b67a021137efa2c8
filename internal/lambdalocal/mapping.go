package lambdalocal

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// API is what a [Mapping] calls of the SDK. An *sqs.Client is one.
type API interface {
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	DeleteMessageBatch(context.Context, *sqs.DeleteMessageBatchInput, ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error)
}

var _ API = (*sqs.Client)(nil)

// MappingConfig says what a [Mapping] maps, and how. Client, QueueURL and
// Function are required.
type MappingConfig struct {
	Client   API
	QueueURL string // as GetQueueUrl tells it; that of a FIFO queue ends in .fifo
	Function Invoker

	// BatchSize is the most messages of an invocation: 1 to 10; to 10,000 with a
	// Window of a second or more. Default 10.
	BatchSize int
	// Window is how long messages are gathered after the first one, in whole
	// seconds, 5 min at most. FIFO queues have none. Default 0: what one receive
	// brings is a batch.
	Window time.Duration
	// MaxConcurrency is the most invocations at a time, 2 to 1,000. Default 0:
	// not set, and there are at most 1,250.
	MaxConcurrency int
	// PartialResponses takes the function's response for a list of the messages
	// that failed (FunctionResponseTypes: ReportBatchItemFailures). Without it
	// the response means nothing.
	PartialResponses bool
	// SlowDown makes function errors and throttles halve the number of
	// invocations at a time; see the package documentation.
	SlowDown bool
}

// A Mapping is an event source mapping: it receives batches of messages from a
// queue, invokes a function with each, and deletes what did not fail. Make one
// with [NewMapping].
type Mapping struct {
	cfg  MappingConfig
	fifo bool

	mu    sync.Mutex // guards stats
	stats Stats
}

// NewMapping returns a mapping that does nothing until it runs. It fails when a
// field of cfg is missing or out of range; the error names it.
func NewMapping(cfg MappingConfig) (*Mapping, error) {
	bad := func(format string, args ...any) (*Mapping, error) {
		return nil, fmt.Errorf("lambdalocal: NewMapping: MappingConfig."+format, args...)
	}
	fifo := strings.HasSuffix(cfg.QueueURL, ".fifo")
	if cfg.BatchSize == 0 {
		cfg.BatchSize = 10
	}
	u, err := url.Parse(cfg.QueueURL)
	switch {
	case cfg.Client == nil:
		return bad("Client is nil: must be set")
	case err != nil || u.Host == "":
		return bad("QueueURL is %q: must be the URL of a queue", cfg.QueueURL)
	case cfg.Function == nil:
		return bad("Function is nil: must be set")
	case cfg.Window < 0 || cfg.Window > 5*time.Minute || cfg.Window%time.Second != 0:
		return bad("Window is %v: must be 0 to 5 min in whole seconds", cfg.Window)
	case fifo && cfg.Window != 0:
		return bad("Window is %v: must be 0 for a FIFO queue", cfg.Window)
	case cfg.BatchSize < 1 || cfg.BatchSize > 10_000:
		return bad("BatchSize is %d: must be 1 to 10,000", cfg.BatchSize)
	case cfg.BatchSize > maxReceive && fifo:
		return bad("BatchSize is %d: must be 1 to %d for a FIFO queue", cfg.BatchSize, maxReceive)
	case cfg.BatchSize > maxReceive && cfg.Window == 0:
		return bad("BatchSize is %d: must be 1 to %d without a Window", cfg.BatchSize, maxReceive)
	case cfg.MaxConcurrency != 0 && (cfg.MaxConcurrency < 2 || cfg.MaxConcurrency > 1000):
		return bad("MaxConcurrency is %d: must be 2 to 1,000, or 0 for none", cfg.MaxConcurrency)
	}
	return &Mapping{cfg: cfg, fifo: fifo}, nil
}

// Run maps until ctx is done: then open polls are cut off, throttled batches
// dropped, batches that are being gathered invoked as they are, and Run returns
// nil when the last invocation has ended and what is done has been deleted.
//
// Before that it returns an error only when it can't begin: the queue can't be
// asked for its attributes, or its visibility timeout is shorter than the
// function's timeout, which Lambda refuses. One Run at a time.
func (m *Mapping) Run(ctx context.Context) error {
	r := &run{m: m, ctx: ctx, most: mostPollers}
	if m.cfg.MaxConcurrency > 0 {
		r.most = m.cfg.MaxConcurrency
	}
	if err := r.describe(); err != nil {
		return fmt.Errorf("lambdalocal: mapping of %s: %w", m.cfg.QueueURL, err)
	}
	r.mu.Lock()
	r.want = min(firstPollers, r.most)
	r.start()
	r.mu.Unlock()
	<-ctx.Done()
	r.stop()
	r.all.Wait()
	return nil
}

// A run is one of a mapping's.
type run struct {
	m   *Mapping
	ctx context.Context // until which there are new batches
	all sync.WaitGroup  // pollers

	// What the queue says of itself.
	arn        string
	visibility time.Duration

	most   int // pollers
	groups groups

	mu      sync.Mutex  // guards what is below
	want    int         // pollers that there should be
	pollers int         // that there are
	rounds  int         // times that the mapping was slowed down
	slow    bool        // since the last of them nothing has succeeded
	growing *time.Timer // until one more poller is wanted; nil if none will be
	stopped bool
}

// describe asks for what the mapping has to know of the queue.
func (r *run) describe() error {
	out, err := r.m.cfg.Client.GetQueueAttributes(r.ctx, &sqs.GetQueueAttributesInput{
		QueueUrl:       &r.m.cfg.QueueURL,
		AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn, types.QueueAttributeNameVisibilityTimeout},
	}, plainBody)
	if err != nil {
		return fmt.Errorf("attributes: %w", err)
	}
	r.arn = out.Attributes[string(types.QueueAttributeNameQueueArn)]
	if regionOf(r.arn) == "" {
		return errors.New("attributes: no QueueArn with a region")
	}
	seconds, err := strconv.Atoi(out.Attributes[string(types.QueueAttributeNameVisibilityTimeout)])
	if err != nil {
		return fmt.Errorf("attributes: VisibilityTimeout: %w", err)
	}
	r.visibility = time.Duration(seconds) * time.Second
	if t := r.m.cfg.Function.Timeout(); r.visibility < t {
		return fmt.Errorf("the queue's visibility timeout is %v: must be the function's timeout of %v at least", r.visibility, t)
	}
	return nil
}
