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

// Config says how a [Consumer] works. The zero Config is a good start.
type Config struct {
	// Name names the consumer in logs, errors and dead-letter records (where it
	// is the source). Defaults to "queue".
	Name string

	// Concurrency is how many handlers may run at once, 1 to 100,000.
	// Defaults to 10.
	Concurrency int

	// Limiter is what you know of the downstream: it is asked before a receive and
	// acquired for each handler. It may be shared with other consumers. The consumer
	// adds a [limiter.Breaker], so that an outage costs no message its attempts, and
	// a pace, a [limiter.AdaptiveRate], so that work goes on as fast as the
	// downstream accepts it, also where Limiter is set too high. Both have their own
	// defaults. One of that kind in Limiter or in Gate, as itself or in a
	// [limiter.All], takes the place of the consumer's; a [limiter.Adaptive] is a
	// pace, too. Defaults to the two alone.
	Limiter limiter.Limiter
	// NoBreaker leaves out the breaker, and NoPace the pace: for a Limiter or Gate of
	// your own kind that does its work, such as an Adaptive in a Keyed. They are left
	// out for the keys of LimiterFor as well.
	NoBreaker, NoPace bool

	// LimiterFor returns the limiter of a message's own that is acquired beside
	// Limiter: of its tenant, its product, the host that it calls; nil for none.
	// (A nil *limiter.Semaphore, say, is not nil: its message is given back with
	// an error.) For the same key it must be the same one each time: what
	// [limiter.Keyed].For returns, as it is. A new All(keyed.For(tenant), shared)
	// would be a new key each time: what keys share belongs in Limiter, and what
	// else each of them needs into the limiters that the Keyed makes. LimiterFor
	// is called when a message is received, concurrently, and must not change the
	// message. Defaults to none.
	//
	// What the own limiter refuses stays in hand and does not keep the others
	// waiting. When there is too much of it, or of what is held for trouble of its
	// key (more than 100 and ten times Concurrency in all), what came last for the
	// key that has most is given back until its turn may come. That costs the
	// message a receive. Up to half of Retry.MaxAttempts go into it, which must
	// therefore be at least 8, or negative; and the queue's own maximum of
	// receives should be well above it. When as many messages have used theirs up,
	// nothing is received until there is room ([ByParked]).
	//
	// Each of these limiters gets a breaker and a pace of its own, as Limiter does,
	// unless one of that kind is in it; they are forgotten when the key has been idle
	// for ten minutes. A failure downstream is its key's: the key's messages are
	// held, the others go on, and all that Limiter hears is that the operation has
	// ended. Limiter hears of the failure, too, when half of the keys that were active
	// in the last minute, and three at least, failed last time. With NoBreaker and
	// NoPace a Semaphore or a TokenBucket learns nothing: then each message that fails
	// just waits for its own backoff or Retry-After.
	LimiterFor func(*Message) limiter.Limiter

	// Gate is only asked before a receive: the limiter that the handler's own
	// client acquires (a [limiter.Transport], say). The same limiter must not
	// stand in both fields, or each handler would hold the permit that its own
	// call waits for. Defaults to none.
	Gate limiter.Limiter

	// Retry says how long a message that failed stays hidden, by its number of
	// receives, and when it has failed for good. MaxAttempts must stay below
	// the queue's own maximum of receives, or the queue dead-letters first and
	// without a reason. The zero Policy has the defaults of [retry.Policy].
	Retry retry.Policy

	// DeadLetter takes a copy of each message that failed for good, with a
	// [retry.DeadLetter] record among its attributes, before the message is
	// acked. Without one such a message is given back for Retry.MaxDelay, again
	// and again, until the queue's own redrive takes it.
	DeadLetter Sink
	// NoDeadLetterGuard turns off the rationing of dead letters: see "Dead
	// letters" in the package documentation.
	NoDeadLetterGuard bool

	// Lease is for how long a received message is hidden from others (SQS:
	// visibility timeout), 1 s to 12 h. It is extended at half time as long as
	// the message is in hand, so it need not cover the handler's time; it is
	// how long a message waits after a crash. Defaults to 30 s.
	Lease time.Duration

	// DrainTimeout is how long a drain lets handlers run on, and waits for a
	// receive that is under way, before it cancels them. The drain of an idle
	// consumer waits for its long poll, unless the source can end it without risk
	// ([ReceiveOptions].Stop). Receives ask to wait for no longer than DrainTimeout
	// less 2 s, but at least 1 s, so that the poll lands in time. Below 3 s one may
	// be cut off, and below 22 s an idle consumer of SQS makes more requests. 0 to
	// 24 h is allowed; 0 means the default of 30 s. Set it some seconds below what
	// the host allows before it kills: Kubernetes' own default is 30 s as well.
	DrainTimeout time.Duration

	// MaxHold is how long a message that the downstream failed may stay in hand
	// before it is returned, 1 s to 11 h. Each return costs the message a receive.
	// Messages of ordered groups stay for 11 h. Defaults to 11 h.
	MaxHold time.Duration
	// MaxHeld is how many messages may be held at once because the downstream
	// fails. When so many are, and while the breaker is open, one fresh message is
	// received now and then, to see whether it succeeds: after a second, and then
	// after a tenth of the time since the first was held. Defaults to the larger of
	// Concurrency and what was in hand when that began, in an outage; while one of
	// the last 20 fresh messages has succeeded, to 100 for each slot.
	MaxHeld int

	// NoLookAhead turns off the look-ahead: nothing is received for which there
	// is no free slot. Fast handlers then idle for a round-trip between
	// messages.
	NoLookAhead bool

	// Logger gets what an operator must know: nothing while all is well, but for
	// a line when a drain begins and one when it ends. Defaults to slog.Default().
	Logger *slog.Logger
	// Trace gets every step. Defaults to none.
	Trace *Trace
}

const (
	maxConcurrency = 100_000
	maxLease       = 12 * time.Hour // SQS's own limit
	maxMaxHold     = 11 * time.Hour // leaves an hour of the lease's maximum for a last run
	maxDrain       = 24 * time.Hour

	landing = 2 * time.Second // for the reply of a receive that a drain waits for, and to give back what it brings
	minWait = time.Second     // the shortest long poll of SQS
)

// pollWait is how long a receive may wait for a message, so that one which has
// just begun when the drain does still lands in its time.
func (c Config) pollWait() time.Duration { return max(c.DrainTimeout-landing, minWait) }

func (c Config) defaults() limits.Defaults {
	return limits.Defaults{Breaker: !c.NoBreaker, Pace: !c.NoPace}
}

// withDefaults returns c with its defaults filled in, or an error that names
// every field that can't be right.
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
