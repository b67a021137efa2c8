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
// for each message of its events. Make it once, at the start of the process: its
// invocations share the limits, and may run concurrently.
//
// The function answers with the messages that are to be delivered again, and
// fails only as [Error] says, and when one of them has no id by which to name
// it. The event source mapping needs ReportBatchItemFailures, or the answer is
// not read and all that was returned is lost.
//
// Handler fails when h is nil, and when a field of cfg can't be right; the error
// names each.
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
	tooBig  sync.Once // the batch, for the timeout: said once
	empty   sync.Once // an event that is none of SQS: said once
}

// consumerConfig is how an invocation's consumer works.
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
		Lease:             time.Second, // there is none, and results are not to wait for it
		MaxHold:           longestOutage,
		MaxHeld:           max(messages, 1),       // what is held is none the worse, and the others may succeed
		NoLookAhead:       f.cfg.Concurrency == 1, // it gains nothing, but without it several slots would wait for one another
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
