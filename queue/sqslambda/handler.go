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
	f := &function{
		handler: h,
		cfg:     cfg,
		limits:  cfg.Limiter,
		guard:   guard{off: cfg.NoDeadLetterGuard || cfg.DeadLetter == nil},
	}
	// The engine checks the rest, its handler too.
	_, engineErr := queue.NewConsumer(&source{}, h, f.engineConfig("lambda", 1))
	err = errors.Join(err, engineErr)
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
	lately  lately
	health  health
	guard   guard
	tooBig  sync.Once // the batch, for the timeout: said once
}

// engineConfig is how the engine works in a function.
func (f *function) engineConfig(name string, messages int) queue.Config {
	retry := f.cfg.Retry
	retry.MaxAttempts = -1 // when they are used up is for judge to say
	return queue.Config{
		Name:        name,
		Concurrency: f.cfg.Concurrency,
		Limiter:     f.cfg.Limiter,
		Gate:        f.cfg.Gate,
		Retry:       retry,
		DeadLetter:  f.cfg.DeadLetter,
		Lease:       time.Second, // there is none, and results are not to wait for it
		MaxHold:     maxTrouble,
		MaxHeld:     max(messages, 1), // what is held is none the worse, and the others may succeed
		// Nothing is received any sooner, and what waits in hand may be given back
		// by itself; but several slots would wait for one another.
		NoLookAhead: f.cfg.Concurrency == 1,
		// The engine lives as long as an invocation, and the guard must not.
		NoDeadLetterGuard: true,
		Logger:            f.cfg.Logger,
	}
}

// invoke is the Lambda function.
func (f *function) invoke(ctx context.Context, event events.SQSEvent) (events.SQSEventResponse, error) {
	if len(event.Records) == 0 {
		return events.SQSEventResponse{BatchItemFailures: []events.SQSBatchItemFailure{}}, nil
	}
	inv := newInvocation(ctx, f, event)
	if ctx.Err() == nil && (inv.end.IsZero() || inv.began.Before(inv.end)) {
		inv.run(ctx)
	}
	return inv.answer()
}
