package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// A Trace is a set of optional functions that are told of the consumer's
// steps, for metrics and spans. They are called on the consumer's own
// goroutines, concurrently, and must return quickly; they must not change the
// messages, nor call the consumer's Run. The messages are as they were
// received and may be read until the function returns.
type Trace struct {
	Received     func(ReceivedInfo)     // a receive has ended
	Started      func(StartedInfo)      // a handler starts
	Finished     func(FinishedInfo)     // a handler has returned
	Held         func(HeldInfo)         // a message stays in hand because of trouble at the downstream
	DeadLettered func(DeadLetteredInfo) // the dead-letter sink has accepted a copy
	Settled      func(SettledInfo)      // a call of Ack or Nack has ended
	Extended     func(ExtendedInfo)     // a call of Extend has ended
	Ended        func(EndedInfo)        // a delivery has come to its outcome
	Blocked      func(BlockedInfo)      // the consumer stops receiving; under a rate limit, dozens of times a second
	Unblocked    func(UnblockedInfo)    // the consumer receives again
	Error        func(ErrorInfo)        // a call failed, and will be tried again unless it ends the Run
}

// ReceivedInfo tells of one call of Receive.
type ReceivedInfo struct {
	Asked    int // for how many messages
	Messages []*Message
	Took     time.Duration
	Err      error
}

// StartedInfo tells of the start of a handler.
type StartedInfo struct {
	Message *Message
	Run     int           // 1 for the first run of this delivery
	Waited  time.Duration // since the message was received, became the first of its group, or last ran
}

// FinishedInfo tells of the end of a handler.
type FinishedInfo struct {
	Message *Message
	Run     int
	Took    time.Duration
	Err     error
	// Outcome is what the result leads to, if all goes well; "" when the
	// message is held and will run again.
	Outcome Outcome
}

// HeldInfo tells of a message that stays in hand.
type HeldInfo struct {
	Message *Message
	Err     error
	Until   time.Time // it runs again not before
}

// DeadLetteredInfo tells of a message handed to the dead-letter sink.
type DeadLetteredInfo struct {
	Message *Message
	Record  retry.DeadLetter
}

// SettledInfo tells of one call of Ack or Nack.
type SettledInfo struct {
	Op       string        // "ack" or "nack"
	Delay    time.Duration // of a nack
	Messages []*Message
	Took     time.Duration
	Err      error
}

// ExtendedInfo tells of one call of Extend.
type ExtendedInfo struct {
	Messages []*Message
	Took     time.Duration
	Err      error
}

// EndedInfo tells of the end of a delivery.
type EndedInfo struct {
	Message *Message
	Outcome Outcome
	Err     error // the handler's last error; nil if it succeeded or never ran
}

// BlockedInfo says what keeps the consumer from receiving.
type BlockedInfo struct {
	Block limiter.Block // see [Stats].Blocked
}

// UnblockedInfo says that the consumer may receive again.
type UnblockedInfo struct {
	Block limiter.Block // what had blocked it
	After time.Duration // how long it was blocked
}

// ErrorInfo tells of a failed call to the source, the dead-letter sink or a
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
