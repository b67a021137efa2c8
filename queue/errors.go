package queue

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrLeaseLost means that a delivery is no longer ours: its lease ran out,
	// and the queue has delivered the message to another receiver or is about to.
	// It is then the cause of the handler's context, and the error of single
	// messages in a [BatchError].
	ErrLeaseLost = errors.New("queue: lease lost")

	// ErrDrainTimeout is the cause of a handler's context when the handler still
	// runs after the consumer's DrainTimeout.
	ErrDrainTimeout = errors.New("queue: drain timeout is over")
)

// A BatchError is the error of a call for several messages that failed for some
// of them. For messages that it does not name, the call succeeded.
type BatchError struct {
	// Op names the call, for example "ack".
	Op string
	// Failed has an entry for each message that failed, by its index in the
	// call's arguments.
	Failed map[int]error
}

// Error names the call, how many messages failed, and one of the reasons.
func (e *BatchError) Error() string {
	first := -1
	for i := range e.Failed {
		if first < 0 || i < first {
			first = i
		}
	}
	if first < 0 {
		return fmt.Sprintf("queue: %s: no message failed", e.Op)
	}
	return fmt.Sprintf("queue: %s: %d of the messages failed, message %d: %v", e.Op, len(e.Failed), first, e.Failed[first])
}

// Unwrap returns the messages' errors, for errors.Is and errors.As.
func (e *BatchError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed))
	for _, err := range e.Failed {
		errs = append(errs, err)
	}
	return errs
}

// errorOf returns the error that a batch call's error has for the message at
// index i. A BatchError counts only if it is the whole error: joined with another
// one, it leaves unknown what happened to the messages that it does not name.
func errorOf(err error, i int) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if batch, ok := e.(*BatchError); ok {
			if batch == nil {
				return nil // a nil *BatchError in an error
			}
			return batch.Failed[i]
		}
	}
	return err
}

// A PanicError is a handler's recovered panic. It counts as an ordinary failure:
// the message is tried again with backoff. It does not unwrap to the panic's
// value, since the handler did not return that value as its result.
type PanicError struct {
	Value any    // the argument of panic
	Stack []byte // from runtime/debug.Stack
}

// Error gives the panic's value; the stack is in the log.
func (e *PanicError) Error() string { return fmt.Sprintf("queue: handler panicked: %v", e.Value) }

// An AbandonedError is what [Consumer.Run] returns when handlers ignored the end
// of their context: they still run, their messages' leases are left to run out,
// and their permits stay taken until they return.
type AbandonedError struct {
	IDs   []string      // the messages' ids
	After time.Duration // how long the drain had waited
}

// Error names the messages, at most ten of them.
func (e *AbandonedError) Error() string {
	ids, more := e.IDs, ""
	if len(ids) > 10 {
		ids, more = ids[:10], fmt.Sprintf(" and %d more", len(e.IDs)-10)
	}
	return fmt.Sprintf("queue: drain: %d handlers still ran %v after the drain began, ignoring their context: messages %s%s",
		len(e.IDs), e.After, strings.Join(ids, ", "), more)
}
