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

// API is the part of the SDK that a [Mapping] calls. *sqs.Client implements it.
type API interface {
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	DeleteMessageBatch(context.Context, *sqs.DeleteMessageBatchInput, ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error)
}

var _ API = (*sqs.Client)(nil)

// MappingConfig configures a [Mapping]. Client, QueueURL and Function are required.
type MappingConfig struct {
	Client   API
	QueueURL string // as returned by GetQueueUrl; for a FIFO queue it ends in .fifo
	Function Invoker

	// BatchSize is the maximum number of messages of an invocation: 1 to 10, or to
	// 10,000 with a Window of a second or more. Default 10.
	BatchSize int
	// Window is how long messages are collected after the first one, in whole
	// seconds, 5 min at most. FIFO queues have none. Default 0: the messages of one
	// receive are a batch.
	Window time.Duration
	// MaxConcurrency is the maximum number of concurrent invocations, 2 to 1,000.
	// Default 0: not set, and there are at most 1,250.
	MaxConcurrency int
	// PartialResponses makes the mapping read the function's response as a list of the
	// messages that failed (FunctionResponseTypes: ReportBatchItemFailures). Without
	// it the response is ignored.
	PartialResponses bool
	// SlowDown makes function errors and throttles halve the number of concurrent
	// invocations; see the package documentation.
	SlowDown bool
}

// A Mapping is an event source mapping: it receives batches of messages from a
// queue, invokes a function with each, and deletes the messages that did not fail.
// Create one with [NewMapping].
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

// Run runs the mapping until ctx is done. Then it aborts open polls, drops throttled
// batches, and invokes the function with incomplete batches as they are. It returns nil
// when the last invocation has ended and done messages are deleted.
//
// It returns an error only if it can't start: the queue's attributes can't be read, or
// its visibility timeout is shorter than the function's timeout, which Lambda refuses.
// A Mapping has one Run at a time.
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

// A run is one Run of a mapping.
type run struct {
	m   *Mapping
	ctx context.Context // new batches are started until it ends
	all sync.WaitGroup  // pollers

	// Attributes of the queue.
	arn        string
	visibility time.Duration

	most   int // maximum number of pollers
	groups groups

	mu      sync.Mutex  // guards what is below
	want    int         // wanted number of pollers
	pollers int         // current number
	rounds  int         // times that the mapping was slowed down
	slow    bool        // no success since the last of them
	growing *time.Timer // adds a poller; nil if none is to be added
	stopped bool
}

// describe reads the queue's attributes that the mapping needs.
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
