// Package judge decides what a handler's result means for its message, for a
// Consumer and for a Lambda function alike. It has no state but [Comparison]'s,
// no clock and no lock.
package judge

import (
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// A Policy is what does not change from message to message.
type Policy struct {
	Retry       retry.Policy
	MaxHold     time.Duration // how long a message may be held, since it first was
	MaxOrdered  time.Duration // how long one of an ordered group may be in hand, since its receive; 0: MaxHold is for all
	GiveUp      time.Duration // after its first receive, a message that is always refused is exhausted
	DeadLetters bool          // there is a sink for them
}

// Facts are what is known when a handler has returned.
type Facts struct {
	Result
	Run      int           // runs of this delivery, this one included
	Took     time.Duration // by this run
	Failures int           // attempts that the message has failed in before
	Held     time.Duration // since this delivery was first held; 0: never
	InHand   time.Duration // since its receive
	Age      time.Duration // since the message's first receive by anyone

	Ordered     bool // it has a place in an ordered group
	LeaseLost   bool // while it ran
	Interrupted bool // the engine ended its context too soon for its error to say anything
	Draining    bool
	Outage      bool // a breaker among its limits is not closed, after the limits have heard of the result
	Guilt       Guilt
	Guarded     bool // no dead letter may go out now
}

// An Action is what becomes of a message. The zero value is none.
type Action uint8

// The actions.
const (
	Ack        Action = iota + 1 // it is done
	DeadLetter                   // a copy goes to the sink, for Verdict.Reason; then it is acked
	Hold                         // it stays in hand and runs again after Verdict.Delay
	Return                       // it is nacked, hidden for Verdict.Delay
	Drop                         // it is no longer ours: nothing is settled
)

// A Verdict is what a result means for its message.
type Verdict struct {
	Action Action
	Delay  time.Duration
	Reason string
	Failed bool // it counts as an attempt of the message
}

// ReasonNoComparison is the dead-letter reason of a message that was refused
// until Policy.GiveUp, with nothing to compare it with.
const ReasonNoComparison = retry.ReasonExhausted + ": nothing to compare with"

// GiveUp is how long after its first receive a message that was always refused is
// exhausted.
const GiveUp = 12 * time.Hour

// Longest bounds every delay, so that no sum of times overflows. No queue can hide
// a message for so long.
const Longest = 10 * 365 * 24 * time.Hour

// Judge is the table of results in package queue's documentation.
func Judge(p Policy, f Facts) Verdict {
	switch {
	case f.LeaseLost:
		return Verdict{Action: Drop}
	case f.Err == nil:
		return Verdict{Action: Ack}
	case f.Postponed:
		return Verdict{Action: Return, Delay: min(f.Delay, Longest)}
	case f.Permanent:
		return p.bury(f, f.Reason)
	case f.Interrupted:
		return Verdict{Action: Return} // we have ended it, so its error says nothing
	case f.Class != nil && f.Guilt != Guilty:
		if f.Class == limiter.ErrUnavailable && !f.Outage && p.Retry.Retryable != nil && !p.Retry.Retryable(f.Err) {
			return p.bury(f, f.Reason)
		}
		return p.keep(f)
	}
	attempts := f.attempts()
	delay, again := p.Retry.Next(attempts, f.Err)
	switch {
	case again:
		return p.again(f, delay)
	case p.Retry.Retryable != nil && !p.Retry.Retryable(f.Err):
		return p.bury(f, f.Reason)
	}
	return p.bury(f, retry.ReasonExhausted)
}

// attempts counts those that have failed, with this one.
func (f Facts) attempts() int {
	if f.Attempts > 0 {
		return f.Attempts
	}
	return f.Failures + 1
}

// keep holds a message that was refused for no fault of its own, for as long as
// one may be held.
func (p Policy) keep(f Facts) Verdict {
	if p.GiveUp > 0 && f.Age >= p.GiveUp {
		return p.bury(f, ReasonNoComparison)
	}
	patient := p.Retry
	patient.MaxAttempts, patient.Retryable = -1, nil
	delay, _ := patient.Next(f.Run, f.Err)
	v := Verdict{Action: Return, Delay: min(delay, Longest)}
	if p.Stays(f, v.Delay) {
		v.Action = Hold
	}
	return v
}

// Stays reports whether a message may stay in hand until it runs again after
// delay.
func (p Policy) Stays(f Facts, delay time.Duration) bool {
	switch {
	case f.Draining: // nobody is left to run it again
		return false
	case f.Ordered && p.MaxOrdered > 0:
		return delay < p.MaxOrdered-f.InHand
	}
	return delay < p.MaxHold-f.Held
}

// again has a message that failed tried again after delay, or its error's
// RetryAfter if that is longer. One of an ordered group stays in hand, at the head
// of its group, so that those behind it lose no receives.
func (p Policy) again(f Facts, delay time.Duration) Verdict {
	if after, ok := limiter.RetryAfter(f.Err); ok {
		delay = max(delay, after)
	}
	v := Verdict{Action: Return, Delay: min(delay, Longest), Failed: true}
	if f.Ordered && p.Stays(f, v.Delay) {
		v.Action = Hold
	}
	return v
}

// bury hands a message that has failed for good to the dead-letter sink, or has
// it tried again much later where none may go there.
func (p Policy) bury(f Facts, reason string) Verdict {
	if p.DeadLetters && !f.Guarded {
		return Verdict{Action: DeadLetter, Reason: reason, Failed: true}
	}
	policy := p.Retry.WithDefaults()
	if !p.DeadLetters { // the queue's own redrive is to have it
		return p.again(f, policy.MaxDelay)
	}
	// Each time costs a receive, and there are few: the delay doubles.
	again := f.attempts() - 1
	if !f.Permanent && policy.MaxAttempts > 0 {
		again -= policy.MaxAttempts - 1
	}
	delay := policy.MaxDelay
	for ; again > 0 && delay < longestRation; again-- {
		delay *= 2
	}
	return p.again(f, max(policy.MaxDelay, min(delay, longestRation)))
}

// longestRation is how long a message stays hidden, at most, that may not be
// dead-lettered: within the 12 hours that SQS can hide one.
const longestRation = 11 * time.Hour

// A Hearing is what limiters hear of a run.
type Hearing uint8

// What limiters hear.
const (
	Heard    Hearing = iota // the result's error
	Unjudged                // that it ran, and says nothing about the downstream
	NeverRan                // that it did not start
)

// Hears says what the limits hear of a run.
func (f Facts) Hears() Hearing {
	switch {
	case f.Postponed:
		return NeverRan
	case f.Panicked, f.Err != nil && f.Interrupted, f.Guilt != Innocent:
		return Unjudged
	}
	return Heard
}
