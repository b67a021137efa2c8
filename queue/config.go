package queue

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/limits"
	"github.com/rampmeter/rampmeter/retry"
)

// Config configures a [Consumer]. The zero Config is a good start.
type Config struct {
	// Name identifies the consumer in logs, errors and dead-letter records (as
	// their source). Defaults to "queue".
	Name string

	// Concurrency is how many handlers may run at once, 1 to 100,000.
	// Defaults to 10.
	Concurrency int

	// Limiter holds the limits that you know of: it is checked before a receive
	// and acquired for each handler. It may be shared with other consumers. The
	// consumer adds a [limiter.Breaker], so that an outage costs no message its
	// attempts, and a pace, a [limiter.AdaptiveRate], so that work continues as
	// fast as the downstream accepts it even where Limiter is set too high. Both
	// have their own defaults. A limiter of either kind in Limiter or in Gate, by
	// itself or in a [limiter.All], replaces the consumer's; a [limiter.Adaptive]
	// is a pace, too. Defaults to the two alone.
	Limiter limiter.Limiter
	// NoBreaker leaves out the breaker, and NoPace the pace: for a Limiter or
	// Gate of your own kind that does the same, such as an Adaptive in a Keyed.
	// They are left out for the keys of LimiterFor as well.
	NoBreaker, NoPace bool

	// LimiterFor returns a message's own limiter, acquired in addition to
	// Limiter: that of its tenant, its product, or the host that it calls; nil
	// for none. (A nil *limiter.Semaphore, say, is not nil: its message is
	// returned with an error.) For the same key it must return the same limiter
	// each time: the result of [limiter.Keyed].For, unwrapped. A new
	// All(keyed.For(tenant), shared) would be a new key each time: put the limits
	// that keys share in Limiter, and all limits of one key into the limiters
	// that the Keyed makes. LimiterFor is called when a message is received,
	// concurrently, and must not change the message. Defaults to none.
	//
	// With LimiterFor, Retry.MaxAttempts must be at least 8, or negative. "Limits
	// per key" in the package documentation says why, and how keys are paced and
	// held.
	LimiterFor func(*Message) limiter.Limiter

	// Gate is only checked before a receive: the limiter that the handler's own
	// client acquires (a [limiter.Transport], say). Do not set the same limiter
	// in both fields, or each handler would hold the permit that its own call
	// waits for. Defaults to none.
	Gate limiter.Limiter

	// Retry sets how long a failed message stays hidden, by its number of
	// receives, and when it has failed for good. MaxAttempts must stay below the
	// queue's own maximum of receives, or the queue dead-letters first and
	// without a reason. The zero Policy has the defaults of [retry.Policy].
	Retry retry.Policy

	// DeadLetter takes a copy of each message that failed for good, with a
	// [retry.DeadLetter] record among its attributes, before the message is
	// acked. Without one such a message is returned for Retry.MaxDelay, again and
	// again, until the queue's own redrive moves it.
	DeadLetter Sink
	// NoDeadLetterGuard turns off the rationing of dead letters: see "Dead
	// letters" in the package documentation.
	NoDeadLetterGuard bool

	// Lease is how long a received message is hidden from others (SQS: visibility
	// timeout), 1 s to 12 h. It is extended at half time for as long as the
	// message is in flight, so it need not cover the handler's time; it is how
	// long a message waits after a crash. Defaults to 30 s.
	Lease time.Duration

	// DrainTimeout is how long a drain waits for running handlers, and for a
	// receive that is under way, before it cancels them. The drain of an idle
	// consumer waits for its long poll, unless the source can end it without risk
	// ([ReceiveOptions].Stop). Receives ask to wait for no longer than
	// DrainTimeout less 2 s, but at least 1 s, so that the poll ends in time.
	// Below 3 s a poll may be cut off, and below 22 s an idle consumer of SQS
	// makes more requests. It may be 0 to 24 h; 0 means the default of 30 s. Set
	// it some seconds below the time after which the host kills the process: the
	// default of Kubernetes is 30 s as well.
	DrainTimeout time.Duration

	// MaxHold is how long a message that the downstream failed is held before it
	// is returned, 1 s to 11 h. Each return costs the message a receive. Messages
	// of ordered groups are held for 11 h. Defaults to 11 h.
	MaxHold time.Duration
	// MaxHeld is how many messages may be held at once because the downstream
	// fails. When that many are held, or while any are and the breaker is open,
	// the consumer receives one fresh message now and then, to see whether it
	// succeeds: after a second, and then after a tenth of the time since the
	// first was held. In an outage it defaults to the larger of Concurrency and
	// the number of messages received and not finished when the outage began;
	// while one of the last 20 fresh messages has succeeded, to 100 for each
	// slot.
	MaxHeld int

	// NoLookAhead turns off the look-ahead: nothing is received for which there
	// is no free slot. Fast handlers then idle for a round-trip between
	// messages, and where no limit stops them, messages that fail again and
	// again can take most of the slots, since a slot that one of them is due for
	// is not free.
	NoLookAhead bool

	// Logger gets what an operator must know: nothing while all is well, except
	// for a line when a drain begins and one when it ends. Defaults to
	// slog.Default().
	Logger *slog.Logger
	// Trace gets every step. Defaults to none.
	Trace *Trace
}

const (
	maxConcurrency = 100_000
	maxLease       = 12 * time.Hour // SQS's own limit
	maxMaxHold     = 11 * time.Hour // leaves an hour of the lease's maximum for a last run
	maxDrain       = 24 * time.Hour

	landing = 2 * time.Second // for the reply of a receive that a drain waits for, and to return its messages
	minWait = time.Second     // the shortest long poll of SQS
)

// pollWait is how long a receive may wait for a message, so that one that begins
// just before the drain still ends within DrainTimeout.
func (c Config) pollWait() time.Duration { return max(c.DrainTimeout-landing, minWait) }

func (c Config) defaults() limits.Defaults {
	return limits.Defaults{Breaker: !c.NoBreaker, Pace: !c.NoPace}
}

// withDefaults returns c with its defaults filled in, or an error that names
// every invalid field.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf("Config."+format, args...)) }
	between := func(field string, d, least, most time.Duration) {
		if d < least || d > most {
			refuse("%s is %v: must be from %v to %v, or 0 for the default", field, d, least, most)
		}
	}

	if c.Name == "" {
		c.Name = "queue"
	}
	if c.Concurrency == 0 {
		c.Concurrency = 10
	}
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		refuse("Concurrency is %d: must be from 1 to %d, or 0 for the default", c.Concurrency, maxConcurrency)
	}
	for _, field := range []struct {
		name  string
		value any
	}{{"Limiter", c.Limiter}, {"Gate", c.Gate}, {"DeadLetter", c.DeadLetter}} {
		if field.value != nil && nils.Is(field.value) {
			refuse("%s is %s: leave the field out, or check the error of what makes it", field.name, nils.Describe(field.value))
		}
	}
	if !nils.Is(c.Limiter) && !nils.Is(c.Gate) && limiter.Share(c.Limiter, c.Gate) {
		refuse("Limiter and Config.Gate have a limiter in common: one that the handler's client acquires belongs in Gate only")
	}
	if !nils.Is(c.Limiter) || c.Limiter == nil {
		limit, err := limits.Complete(c.Limiter, c.Gate, c.defaults())
		if err != nil {
			refuse("Limiter: %w", err)
		}
		c.Limiter = limit
	}
	if err := c.Retry.Validate(); err != nil {
		refuse("Retry: %w", err)
	} else if most := c.Retry.WithDefaults().MaxAttempts; c.LimiterFor != nil && most >= 0 && most < minAttempts {
		refuse("Retry.MaxAttempts is %d: must be at least %d, or negative for no limit, with Config.LimiterFor: "+
			"a message that its own limiter keeps waiting is received up to half as many times without being tried", most, minAttempts)
	}
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	between("Lease", c.Lease, time.Second, maxLease)
	if c.DrainTimeout == 0 {
		c.DrainTimeout = 30 * time.Second
	}
	between("DrainTimeout", c.DrainTimeout, 0, maxDrain)
	if c.MaxHold == 0 {
		c.MaxHold = maxMaxHold
	}
	between("MaxHold", c.MaxHold, time.Second, maxMaxHold)
	if c.MaxHeld < 0 {
		refuse("MaxHeld is %d: must be 1 or more, or 0 for the default", c.MaxHeld)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Trace == nil {
		c.Trace = &Trace{}
	}
	return c, errors.Join(errs...)
}
