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
	// Name names the function in logs, and is the source in dead-letter records.
	// Defaults to the queue's name, from the event's ARN.
	Name string

	// Concurrency is how many messages of one batch are handled at once, 1 to
	// 100,000. The number of concurrent batches is the event source mapping's
	// MaximumConcurrency. Defaults to 1.
	Concurrency int

	// Limiter limits the calls to the downstream: it is acquired for each message. It
	// lives as long as the process, and all invocations share it, concurrent ones
	// too. A [limiter.Breaker] and a pace, a [limiter.AdaptiveRate], are added with
	// their defaults, unless Limiter or Gate contains one of that kind; a
	// [limiter.Adaptive] is also a pace. Defaults to these two alone. Each process
	// has its own limiter; [FleetLimit] divides a rate among them.
	Limiter limiter.Limiter
	// NoBreaker leaves out the breaker, and NoPace the pace. Set them if a Limiter or
	// Gate of your own type does that work.
	NoBreaker, NoPace bool

	// Gate is consulted before a message is started, but not acquired. Set it to the
	// limiter that the handler's own client acquires (in a [limiter.Transport], for
	// example). Limiter and Gate must not contain the same limiter. Defaults to none.
	Gate limiter.Limiter

	// Retry determines how long a failed message stays hidden, by its number of
	// receives, and when its attempts are used up. Every receive is an attempt, even
	// one after which the message was returned untried. So set MaxAttempts high, and
	// far below the queue's maxReceiveCount: 20 and 50, for example. The zero Policy
	// has the defaults of [retry.Policy].
	Retry retry.Policy

	// DeadLetter gets a copy of each message that failed for good, with a
	// [retry.DeadLetter] record among its attributes; the message is then done.
	// Without DeadLetter such a message is returned again and again, until the
	// queue's redrive policy moves it.
	DeadLetter queue.Sink
	// NoDeadLetterGuard turns off the guard that rations dead letters when almost
	// every message fails.
	NoDeadLetterGuard bool

	// Queue is the queue that the event source mapping reads, usually a
	// *sqsqueue.Queue. Only its Nack is called, to hide returned messages for their
	// delays. Without Queue every returned message stays hidden until its visibility
	// timeout ends; the package documentation describes what is lost then.
	Queue queue.Source

	// OpenBreaker selects how an invocation ends when its batch is returned because
	// of an outage downstream. Defaults to [Return].
	OpenBreaker OpenBreaker

	// Logger logs what an operator must know. Defaults to slog.Default().
	Logger *slog.Logger
	// Trace is called for every step of every invocation. Defaults to none.
	Trace *queue.Trace
}

// OpenBreaker selects how an invocation ends when an outage downstream cuts it
// short.
type OpenBreaker int

const (
	// Return returns the messages, and the invocation succeeds. Lambda continues to
	// poll at full speed, and a message costs a receive for each of its delays.
	Return OpenBreaker = iota
	// Error fails the invocation if no message of its batch is done, after the
	// delays are set. Lambda polls more slowly after errors, but not after partial
	// responses. Expect alarms on the function's errors.
	Error
)

// longestOutage is how long an invocation waits for an outage to end, and for a
// message to succeed after all, before it returns what is not done: a message
// that waits in a running function is billed and occupies a slot.
const longestOutage = 2 * time.Second

// OutageSpan returns how long an outage downstream may last before it sends
// messages to the dead-letter queue, if Config.Queue is set and the queue has that
// maxReceiveCount. It is the sum of the delays, without their jitter: 15.5 min for 5
// receives, 4 h for 20, and 11.5 h for 50.
func OutageSpan(maxReceiveCount int) time.Duration { return outage.Span(maxReceiveCount) }

// withDefaults returns c with its defaults filled in, or an error that names
// every invalid field. It leaves what the consumer checks to the consumer.
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
