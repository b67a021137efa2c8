package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// A Trace is a set of optional functions that the consumer calls at each of its
// steps, for metrics and spans. They are called on the consumer's own goroutines,
// concurrently, and must return quickly; they must not change the messages, nor
// call the consumer's Run. The messages are as they were received and may be read
// until the function returns.
type Trace struct {
	Received     func(ReceivedInfo)     // a receive has ended
	Started      func(StartedInfo)      // a handler starts
	Finished     func(FinishedInfo)     // a handler has returned
	Held         func(HeldInfo)         // a message is held because the downstream fails
	DeadLettered func(DeadLetteredInfo) // the dead-letter sink has accepted a copy
	Settled      func(SettledInfo)      // a call to Ack or Nack has ended
	Extended     func(ExtendedInfo)     // a call to Extend has ended
	Ended        func(EndedInfo)        // a delivery has come to its outcome
	Blocked      func(BlockedInfo)      // the consumer stops receiving; under a rate limit, dozens of times a second
	Unblocked    func(UnblockedInfo)    // the consumer receives again
	Error        func(ErrorInfo)        // a call failed, and will be tried again unless it ends the Run
}

// ReceivedInfo describes one call to Receive.
type ReceivedInfo struct {
	Asked    int // how many messages were asked for
	Messages []*Message
	Took     time.Duration
	Err      error
}

// StartedInfo describes the start of a handler.
type StartedInfo struct {
	Message *Message
	Run     int           // 1 for the first run of this delivery
	Waited  time.Duration // since the message was received, became the first of its group, or last ran
}

// FinishedInfo describes the end of a handler.
type FinishedInfo struct {
	Message *Message
	Run     int
	Took    time.Duration
	Err     error
	// Outcome is what the result leads to, if all goes well; "" when the
	// message is held and will run again.
	Outcome Outcome
}

// HeldInfo describes a message that is held.
type HeldInfo struct {
	Message *Message
	Err     error
	Until   time.Time // it does not run again before
}

// DeadLetteredInfo describes a message that the dead-letter sink has accepted.
type DeadLetteredInfo struct {
	Message *Message
	Record  retry.DeadLetter
}

// SettledInfo describes one call to Ack or Nack.
type SettledInfo struct {
	Op       string        // "ack" or "nack"
	Delay    time.Duration // of a nack
	Messages []*Message
	Took     time.Duration
	Err      error
}

// ExtendedInfo describes one call to Extend.
type ExtendedInfo struct {
	Messages []*Message
	Took     time.Duration
	Err      error
}

// EndedInfo describes the end of a delivery.
type EndedInfo struct {
	Message *Message
	Outcome Outcome
	Err     error // the handler's last error; nil if it succeeded or never ran
}

// BlockedInfo says what keeps the consumer from receiving.
type BlockedInfo struct {
	Block limiter.Block // see [Stats].Blocked
}

// UnblockedInfo reports that the consumer may receive again.
type UnblockedInfo struct {
	Block limiter.Block // what had blocked it
	After time.Duration // how long it was blocked
}

// ErrorInfo describes a failed call to the source, the dead-letter sink or a
// limiter.
type ErrorInfo struct {
	Op      string // "receive", "ack", "nack", "extend", "dead-letter", "acquire", "ready"
	Err     error
	RetryIn time.Duration // when it is tried again; 0: at once, or not known
}

func call[T any](f func(T), info T) {
	if f != nil {
		f(info)
	}
}
