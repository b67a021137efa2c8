package sqslambda

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/limits"
	"github.com/rampmeter/rampmeter/queue/internal/outage"
	"github.com/rampmeter/rampmeter/retry"
)

// Config configures [Handler]. The zero Config works, but set Queue and DeadLetter
// in production.
type Config struct {
	// Name names the function in logs and dead-letter records (where it is the
	// source). Defaults to the name of the queue, as the event's ARN has it.
	Name string

	// Concurrency is how many messages of one batch are handled at once, 1 to
	// 100,000. The number of concurrent batches is the event source mapping's
	// MaximumConcurrency. Defaults to 1.
	Concurrency int

	// Limiter is what you know of the downstream: it is acquired for each message. It
	// lives as long as the process: all invocations share it, concurrent ones too. A
	// [limiter.Breaker] and a pace, a [limiter.AdaptiveRate], are added, both with
	// their own defaults, unless one of that kind is in Limiter or in Gate; a
	// [limiter.Adaptive] is a pace, too. Defaults to the two alone. A process has a
	// limiter of its own; [FleetLimit] shares a rate out among them.
	Limiter limiter.Limiter
	// NoBreaker leaves out the breaker, and NoPace the pace: for a Limiter or Gate of
	// your own kind that does its work.
	NoBreaker, NoPace bool

	// Gate is only asked before a message is started: the limiter that the
	// handler's own client acquires (a [limiter.Transport], say). The same
	// limiter must not stand in both fields. Defaults to none.
	Gate limiter.Limiter

	// Retry says how long a message that failed stays hidden, by its number of
	// receives, and when its attempts are used up. Every receive is an attempt,
	// also one after which the message was returned untried, so MaxAttempts must
	// be high, and far below the queue's maxReceiveCount: 20 with 50, say. The
	// zero Policy has the defaults of [retry.Policy].
	Retry retry.Policy

	// DeadLetter gets a copy of each message that failed for good, with a
	// [retry.DeadLetter] record among its attributes; the message is then done.
	// Without one such a message is returned, again and again, until the queue's
	// own redrive takes it.
	DeadLetter queue.Sink
	// NoDeadLetterGuard turns off the guard that rations dead letters when hardly
	// any message succeeds.
	NoDeadLetterGuard bool

	// Queue is the queue that the event source mapping reads, usually a
	// *sqsqueue.Queue. Only its Nack is called, to hide returned messages for as
	// long as they should stay away. Without it every returned message stays away
	// until its visibility timeout ends; the package documentation says what is
	// lost then.
	Queue queue.Source

	// OpenBreaker selects how an invocation ends whose batch is returned because
	// of an outage downstream. Defaults to [Return].
	OpenBreaker OpenBreaker

	// Logger gets what an operator must know. Defaults to slog.Default().
	Logger *slog.Logger
	// Trace gets every step of every invocation. Defaults to none.
	Trace *queue.Trace
}

// OpenBreaker selects how an invocation ends that an outage downstream has cut
// short.
type OpenBreaker int

const (
	// Return returns the messages, and the invocation succeeds. Lambda goes on
	// polling at full speed: a message costs a receive for each of its delays.
	Return OpenBreaker = iota
	// Error fails the invocation, if no message of its batch is done, after the
	// delays are set. Lambda polls more slowly after errors, which it does not do
	// after partial responses. An alarm on the function's errors will ring.
	Error
)

// longestOutage is how long an invocation waits for an outage to end, and for a
// message to succeed after all, before it returns what is not done: a message
// that waits in a running function is billed, and takes a slot.
const longestOutage = 2 * time.Second

// OutageSpan returns how long an outage downstream may last without a message
// ending in the dead-letter queue because of it, if Config.Queue is set and the
// queue has that maxReceiveCount: the sum of the delays, without their jitter. It
// is 15.5 min for 5 receives, 4 h for 20, and 11.5 h for 50.
func OutageSpan(maxReceiveCount int) time.Duration { return outage.Span(maxReceiveCount) }

// withDefaults returns c with its defaults filled in, or an error that names
// every field that can't be right. What the consumer checks is left to it.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Concurrency == 0 {
		c.Concurrency = 1
	}
	if !nils.Is(c.Limiter) || c.Limiter == nil {
		limit, err := limits.Complete(c.Limiter, c.Gate, limits.Defaults{Breaker: !c.NoBreaker, Pace: !c.NoPace})
		if err != nil {
			errs = append(errs, fmt.Errorf("Config.Limiter: %w", err))
		}
		c.Limiter = limit
	}
	if c.OpenBreaker != Return && c.OpenBreaker != Error {
		errs = append(errs, fmt.Errorf("Config.OpenBreaker is %d: must be Return or Error", c.OpenBreaker))
	}
	switch {
	case c.Queue == nil:
	case nils.Is(c.Queue):
		errs = append(errs, fmt.Errorf("Config.Queue is %s: leave the field out, or check the error of what makes it", nils.Describe(c.Queue)))
	case reflect.ValueOf(c.Queue).Comparable() && any(c.Queue) == any(c.DeadLetter):
		errs = append(errs, errors.New("Config.DeadLetter is Config.Queue: must be another queue, or dead letters come back"))
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Trace == nil {
		c.Trace = &queue.Trace{}
	}
	return c, errors.Join(errs...)
}
