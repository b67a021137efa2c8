package sqslambda

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// Handler returns a Lambda function, to be passed to lambda.Start, that runs h
// for each message of its events. Call Handler once, at the start of the process:
// the function's invocations share the limits, and may run concurrently.
//
// The function responds with the messages that are to be delivered again. It fails
// only as [Error] says, and when one of those messages has no id to name it by. The
// event source mapping needs ReportBatchItemFailures; without it Lambda does not
// read the response, and returned messages are lost.
//
// Handler fails when h is nil or a field of cfg is invalid; the error names each.
func Handler(h queue.Handler, cfg Config) (func(context.Context, events.SQSEvent) (events.SQSEventResponse, error), error) {
	cfg, err := cfg.withDefaults()
	f := &function{handler: h, cfg: cfg, limits: cfg.Limiter}
	// The consumer checks the rest, its handler too.
	_, consumerErr := queue.NewConsumer(&source{}, h, f.consumerConfig("lambda", 1))
	err = errors.Join(err, consumerErr)
	if err == nil && cfg.Gate != nil {
		f.limits, err = limiter.All(cfg.Limiter, cfg.Gate)
	}
	if err != nil {
		return nil, fmt.Errorf("sqslambda: Handler: %w", err)
	}
	return f.invoke, nil
}

// A function is what the invocations of a process share.
type function struct {
	handler queue.Handler
	cfg     Config          // with defaults
	limits  limiter.Limiter // Limiter and Gate
	health  health
	guard   judge.Guard
	tooBig  sync.Once // logs that a batch is too big for the timeout
	empty   sync.Once // logs that an event is not one of SQS
}

// consumerConfig returns the configuration of an invocation's consumer.
func (f *function) consumerConfig(name string, messages int) queue.Config {
	return queue.Config{
		Name:              name,
		Concurrency:       f.cfg.Concurrency,
		Limiter:           f.cfg.Limiter,
		NoBreaker:         true, // withDefaults has put both into it
		NoPace:            true,
		Gate:              f.cfg.Gate,
		Retry:             f.cfg.Retry,
		DeadLetter:        f.cfg.DeadLetter,
		NoDeadLetterGuard: f.cfg.NoDeadLetterGuard,
		Lease:             time.Second, // there is no lease, and results must not wait for one
		MaxHold:           longestOutage,
		MaxHeld:           max(messages, 1),       // holding a message costs nothing, and the others may succeed
		NoLookAhead:       f.cfg.Concurrency == 1, // one slot gains nothing from it; several would wait for one another without it
		Logger:            f.cfg.Logger,
		Trace:             f.cfg.Trace,
	}
}

// invoke is the Lambda function.
func (f *function) invoke(ctx context.Context, event events.SQSEvent) (events.SQSEventResponse, error) {
	if len(event.Records) == 0 {
		f.empty.Do(func() {
			f.cfg.Logger.Warn("sqslambda: an event has no Records, so nothing is handled: have an event source mapping of an SQS queue call the function, or a test event that is one of SQS")
		})
		return events.SQSEventResponse{BatchItemFailures: []events.SQSBatchItemFailure{}}, nil
	}
	inv := newInvocation(ctx, f, event)
	if ctx.Err() == nil && (inv.end.IsZero() || inv.began.Before(inv.end)) {
		inv.run(ctx)
	}
	return inv.answer()
}
