package queue

import "github.com/rampmeter/rampmeter/limiter"

// An Outcome is how a delivery ended. Each delivery has exactly one.
type Outcome string

// The outcomes.
const (
	// Done: the handler succeeded and the message was acked.
	Done Outcome = "done"
	// DeadLettered: the dead-letter sink accepted a copy and the message was acked.
	DeadLettered Outcome = "dead-lettered"
	// Retried: the message failed and was returned with a delay.
	Retried Outcome = "retried"
	// Released: the message was returned without a verdict, mostly by a drain.
	Released Outcome = "released"
	// Abandoned: the handler outlived the drain.
	Abandoned Outcome = "abandoned"
	// LostLease: the lease ended before the result could be settled, or the
	// drain did; the queue delivers the message again.
	LostLease Outcome = "lost lease"
	// Superseded: the queue delivered the message again while it was in flight,
	// and the newer delivery took over.
	Superseded Outcome = "superseded"
)

// Stats is a snapshot of a [Consumer]: its counts since it was made, and its
// present state. Received is the sum of the outcomes, InHand and Unsettled.
type Stats struct {
	Received int64 // deliveries

	Done, DeadLettered, Retried, Released, Abandoned, LostLease, Superseded int64

	Reruns int64 // runs of held messages, beyond the first run of a delivery
	Panics int64 // handlers that panicked

	InHand    int // received and not finished: waiting, running and held
	Waiting   int // of these, received and not yet started
	Running   int // of these, handlers that run
	Held      int // of these, waiting until the downstream may accept them
	Parked    int // of the waiting and the held, those that only their own limiter keeps from running
	Unsettled int // finished, with the ack, the nack or the hand-off to the dead-letter sink still to be confirmed

	Receiving int // receives under way

	// Blocked says why no receive is under way, and until when where that is
	// known. It is zero while one is, or is about to be. Otherwise it is what
	// [limiter.Limiter].Blocked reports, or its Reason is one of the By constants
	// of this package.
	Blocked limiter.Block

	// Pace is how many operations may start a second, as learned by the pace in
	// Config.Limiter or Gate; 0: unlimited, or there is no pace.
	Pace float64

	ReceiveCalls, EmptyReceives, AckCalls, NackCalls, ExtendCalls, DeadLetterCalls int64
	Errors                                                                         int64 // calls that failed, in whole or in part
}

// What keeps a consumer from receiving, in addition to the reasons of its
// limiters.
const (
	BySlots     limiter.Reason = "handler slots"     // Config.Concurrency handlers run
	ByHeld      limiter.Reason = "held messages"     // too many messages wait for the end of an outage or a pause
	ByParked    limiter.Reason = "parked messages"   // too many messages wait for limiters of their own
	ByUnsettled limiter.Reason = "unsettled results" // the source does not confirm acks and nacks
	ByErrors    limiter.Reason = "receive errors"    // the source fails, or returns nothing new without waiting
	ByDrain     limiter.Reason = "drain"             // the consumer is stopping, or its source has ended
	ByIdle      limiter.Reason = "not running"       // Run has not been called, or has returned
)

func (s *Stats) add(o Outcome) {
	switch o {
	case Done:
		s.Done++
	case DeadLettered:
		s.DeadLettered++
	case Retried:
		s.Retried++
	case Released:
		s.Released++
	case Abandoned:
		s.Abandoned++
	case LostLease:
		s.LostLease++
	case Superseded:
		s.Superseded++
	}
}
