// Package judge decides what a handler's result means for its message, for a
// Consumer and for a Lambda function alike. It has no state but [Comparison]'s,
// no clock and no lock.
package judge

import (
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// A Policy is the part of a decision that does not change from message to
// message.
type Policy struct {
	Retry       retry.Policy
	MaxHold     time.Duration // how long a message may be held, counted from when it first was
	MaxOrdered  time.Duration // how long one of an ordered group may be held, counted from its receive; 0: MaxHold applies to all
	GiveUp      time.Duration // a message that is always refused is exhausted this long after its first receive
	DeadLetters bool          // there is a sink for them
}

// Facts are what is known when a handler has returned.
type Facts struct {
	Result
	Run      int           // runs of this delivery, this one included
	Took     time.Duration // by this run
	Failures int           // failed attempts of the message before this run
	Held     time.Duration // since this delivery was first held; 0: never
	InHand   time.Duration // since its receive
	Age      time.Duration // since the message's first receive by anyone

	Ordered     bool // it is in an ordered group
	LeaseLost   bool // while it ran
	Interrupted bool // the engine ended its context too soon for its error to mean anything
	Draining    bool
	Outage      bool // a breaker among its limits is not closed, after the result was reported to the limits
	Guilt       Guilt
	Suspected   bool          // it was a suspect before
	Unlikely    bool          // its failures in a row are unlikely to be chance
	Typical     bool          // messages like it are refused each time, while others are not
	Alone       bool          // others succeed, and nobody waits until it may run again
	Repeated    bool          // it failed before, and others have succeeded since: it says nothing new about the downstream
	Streak      int           // failures in a row with the same class, over all deliveries
	Failing     time.Duration // since the first of them
	Guarded     bool          // no dead letter may go out now
}

// An Action is what happens to a message. The zero value is none.
type Action uint8

// The actions.
const (
	Ack        Action = iota + 1 // it is done
	DeadLetter                   // a copy goes to the sink, for Verdict.Reason; then it is acked
	Hold                         // it is held and runs again after Verdict.Delay
	Return                       // it is nacked, hidden for Verdict.Delay
	Drop                         // its lease is lost: nothing is settled
)

// A Verdict is the decision about a message.
type Verdict struct {
	Action Action
	Delay  time.Duration
	Reason string
	Failed bool // it counts as an attempt of the message
}

// ReasonNoComparison is the dead-letter reason of a message that was refused
// until Policy.GiveUp, with nothing to compare it with.
const ReasonNoComparison = retry.ReasonExhausted + ": nothing to compare with"

// GiveUp is how long after its first receive a message that was always refused
// counts as exhausted.
const GiveUp = 12 * time.Hour

// Longest bounds every delay, so that no sum of times overflows. No queue can
// hide a message for that long.
const Longest = 10 * 365 * 24 * time.Hour

// Judge implements "Results" in package queue's documentation.
func Judge(p *Policy, f *Facts) Verdict {
	switch {
	case f.LeaseLost:
		return Verdict{Action: Drop}
	case f.Err == nil:
		return Verdict{Action: Ack}
	}
	return p.failed(f)
}

// failed judges a run that has failed.
func (p *Policy) failed(f *Facts) Verdict {
	switch {
	case f.Postponed:
		return p.wait(f, Verdict{Delay: min(f.Delay, Longest)})
	case f.Permanent:
		return p.bury(f, f.Reason)
	case f.Interrupted:
		return Verdict{Action: Return} // we ended it, so its error means nothing
	case f.Class == limiter.ErrUnavailable && !f.Outage && f.Final:
		return p.bury(f, f.Reason)
	case f.Class != nil && f.Guilt != Guilty:
		return p.keep(f)
	case f.Final:
		return p.bury(f, f.Reason)
	}
	attempts, policy := f.attempts(), p.Retry.WithDefaults()
	if policy.MaxAttempts > 0 && attempts >= policy.MaxAttempts {
		return p.bury(f, retry.ReasonExhausted)
	}
	return p.wait(f, Verdict{Delay: f.backoff(&policy, attempts), Failed: true})
}

// backoff is how long the message waits after n failures.
func (f *Facts) backoff(p *retry.Policy, n int) time.Duration {
	return min(max(p.Backoff(n), f.Pause), Longest)
}

// attempts counts those that have failed, with this one.
func (f *Facts) attempts() int {
	if f.Attempts > 0 {
		return f.Attempts
	}
	return f.Failures + 1
}

// keep holds a message that was refused through no fault of its own, for as long
// as a message may be held.
func (p *Policy) keep(f *Facts) Verdict {
	if p.GiveUp > 0 && f.Age >= p.GiveUp && f.Failing >= leastFailing {
		return p.bury(f, ReasonNoComparison)
	}
	v := Verdict{Action: Return, Delay: f.backoff(&p.Retry, max(f.Run, f.Streak))}
	if p.Stays(f, v.Delay) && (!f.Alone || f.Ordered) {
		v.Action = Hold
	}
	return v
}

// leastFailing is how long a message must have failed before it is given up: a
// message that is old because it was hidden for long may meet a temporary
// refusal.
const leastFailing = time.Hour

// Stays reports whether a message may be held until it runs again after delay.
func (p *Policy) Stays(f *Facts, delay time.Duration) bool {
	switch {
	case f.Draining: // nobody is left to run it again
		return false
	case f.Ordered && p.MaxOrdered > 0:
		return delay < p.MaxOrdered-f.InHand
	}
	return delay < p.MaxHold-f.Held
}

// wait decides how a message waits for another run. One of an ordered group is
// held, at the head of its group, so that those behind it use up no receives.
func (p *Policy) wait(f *Facts, v Verdict) Verdict {
	v.Action = Return
	if f.Ordered && p.Stays(f, v.Delay) {
		v.Action = Hold
	}
	return v
}

// bury sends a message that has failed for good to the dead-letter sink, or has
// it tried again much later when no dead letter may go out.
func (p *Policy) bury(f *Facts, reason string) Verdict {
	if p.DeadLetters && !f.Guarded {
		return Verdict{Action: DeadLetter, Reason: reason, Failed: true}
	}
	policy := p.Retry.WithDefaults()
	if !p.DeadLetters { // left to the queue's own redrive
		return Verdict{Action: Return, Delay: min(max(policy.MaxDelay, f.Pause), Longest), Failed: true}
	}
	// Each return costs a receive, and there are few: the delay doubles.
	again := f.attempts() - 1
	if !f.Permanent && policy.MaxAttempts > 0 {
		again -= policy.MaxAttempts - 1
	}
	return p.wait(f, Verdict{Delay: min(max(Ration(policy, again), f.Pause), Longest), Failed: true})
}

// Ration is how long a message that is returned for lack of room stays hidden:
// MaxDelay, doubled for each earlier time (again), up to 11 hours.
func Ration(p retry.Policy, again int) time.Duration {
	delay := p.WithDefaults().MaxDelay
	for ; again > 0 && 0 < delay && delay < longestRation; again-- {
		delay *= 2
	}
	return max(p.WithDefaults().MaxDelay, min(delay, longestRation))
}

// longestRation is within the 12 hours that SQS can hide a message.
const longestRation = 11 * time.Hour

// A Hearing is what is reported to the limiters about a run.
type Hearing uint8

// The hearings.
const (
	Heard    Hearing = iota // the result's error
	Heeded                  // that it was refused for its own sake: they pause for its Retry-After, and it lowers nothing
	Unjudged                // that it ran, without a result
	NeverRan                // that it did not start
)

// Hears returns what is reported to the limits about a run.
func (f *Facts) Hears() Hearing {
	switch {
	case f.Postponed:
		return NeverRan
	case f.Panicked, f.Err != nil && f.Interrupted:
		return Unjudged
	case f.Typical && f.Pause == 0:
		return Heeded
	case f.Typical: // a pause would not change it
		return Unjudged
	case f.Class == limiter.ErrOverload && f.Pause > 0 && !f.Suspected: // until the message is a suspect, its Retry-After applies to all
		if f.Unlikely {
			return Heeded
		}
		return Heard
	case f.Guilt == Innocent && !f.Repeated:
		return Heard
	}
	return Unjudged
}
