package queue

import (
	"context"
	"time"
)

// A Source hands out messages under a lease (SQS: visibility timeout). The
// queuetest package has the suite that a Source must pass.
//
// Methods are called concurrently. They must not retain the slice or the messages
// passed to them. Only Receipt and ID of a message are sure to be passed back as
// the source returned them; everything else may be absent.
//
// Receive fills in a message's ID, Receipt, Body and Attributes; LeaseUntil if
// there are leases; Group and Sequence if it is to be kept in order; Attempt and
// the times as far as they are known. For messages whose Attempt is always 0,
// only the failed attempts that the consumer itself has seen count.
type Source interface {
	// Receive waits for the first message, then returns at once with what is
	// available: 1 to o.Max messages, each hidden from other receivers for
	// o.Lease. No messages and a nil error mean that the wait ended empty; the
	// caller calls again. io.EOF, returned as it is and not wrapped, means that
	// no message will ever come.
	//
	// The caller ends the wait in one of two ways. When ctx ends, Receive returns
	// soon, with context.Cause(ctx) or with messages. When o.Stop is closed,
	// Receive returns at once with no messages and a nil error if it can do so
	// without risk; otherwise it continues as if nothing had happened. In neither
	// case does it drop a message that it has taken from the queue.
	//
	// An error that matches limiter.ErrMisconfigured (errors.Is) means that
	// receiving can't work until someone acts. All other errors are treated as
	// temporary.
	Receive(ctx context.Context, o ReceiveOptions) ([]*Message, error)

	// Ack deletes messages: they are done. Acking a message that is already gone
	// succeeds. When only some could be acked, the error is a *[BatchError].
	Ack(ctx context.Context, msgs ...*Message) error

	// Nack returns messages to the queue, each to be delivered again after delay
	// (0: at once). A delay beyond what the queue allows becomes the longest that
	// it allows. Partial failures are reported as in Ack.
	Nack(ctx context.Context, delay time.Duration, msgs ...*Message) error

	// Extend makes the messages' leases end lease from now, or at the last moment
	// that the queue allows if that is sooner, and sets each message's LeaseUntil
	// to the result. A message whose lease was lost fails with [ErrLeaseLost]. A
	// source without leases returns nil. Partial failures are reported as in Ack.
	Extend(ctx context.Context, lease time.Duration, msgs ...*Message) error
}

// ReceiveOptions are the options of a receive.
type ReceiveOptions struct {
	// Max is the most messages to return, 1 or more. A source may return fewer,
	// and has its own upper limit (SQS: 10).
	Max int
	// Lease is how long the messages are to be hidden from others. Sources
	// that count in seconds round up.
	Lease time.Duration
	// Wait is how long the receive may wait for its first message, at most; 0: as
	// long as the source likes. A source that counts in seconds rounds down, but
	// not to 0. A source may ignore it if its wait ends without risk when ctx
	// ends or Stop is closed.
	Wait time.Duration
	// Stop is closed when the caller wants no more messages; it still accepts
	// those that the receive returns. A source whose wait can end without losing
	// a message (one in memory, a database) then returns at once, with no
	// messages and a nil error, so that a consumer with nothing to do drains at
	// once. A source that has asked a server to wait (SQS) ignores Stop, since
	// the server may just have handed out a message. A source that wraps another
	// one passes it on. Nil: never.
	Stop <-chan struct{}
}

// A Sink accepts messages. Send may be called concurrently and retains neither
// the slice nor the messages. Nil means that the queue has accepted all of them;
// when it accepted only some, the error is a *[BatchError]. After any other error
// nothing is known: messages may have been accepted.
type Sink interface {
	Send(ctx context.Context, msgs ...*Message) error
}
