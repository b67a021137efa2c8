package queue

import (
	"context"
	"time"
)

// A Source hands out messages under a lease (SQS: visibility timeout). The
// queuetest package has the suite that a Source must pass.
//
// Methods are called concurrently. They may keep neither the slice nor the
// messages they are given after they return, and the messages are passed back
// as the source returned them. What they get back of a message is its Receipt
// and ID; everything else may be absent.
//
// Of a message, Receive fills in ID, Receipt, Body and Attributes; LeaseUntil if
// there are leases; Group and Sequence if it is to be kept in order; Attempt and
// the times as far as they are known. A message whose Attempt is always 0 is
// never exhausted, and its backoff does not grow.
type Source interface {
	// Receive waits for the first message, then returns at once with what is
	// there: 1 to o.Max messages, each hidden from other receivers for o.Lease.
	// No messages and a nil error mean that a long poll ended empty; the caller
	// calls again. io.EOF, as it is and not wrapped, means that no message will
	// ever come. When ctx ends,
	// Receive returns soon, with context.Cause(ctx) or with messages: what was
	// taken from the queue is never dropped.
	//
	// An error that answers errors.Is(err, limiter.ErrMisconfigured) says that
	// receiving can't work until someone acts. All other errors are taken to be
	// passing ones.
	Receive(ctx context.Context, o ReceiveOptions) ([]*Message, error)

	// Ack deletes messages: they are done. Acking what is gone already is
	// success. When only some could be acked, the error is a *[BatchError].
	Ack(ctx context.Context, msgs ...*Message) error

	// Nack gives messages back, each to be delivered again after delay (0: at
	// once). A delay beyond what the queue allows becomes the longest that it
	// allows. Partial failures as in Ack.
	Nack(ctx context.Context, delay time.Duration, msgs ...*Message) error

	// Extend makes the messages' leases end lease from now, or at the last
	// moment that the queue allows if that is sooner, and sets each message's
	// LeaseUntil to what it got. A message that is no longer ours fails with
	// [ErrLeaseLost]. A source without leases returns nil. Partial failures as
	// in Ack.
	Extend(ctx context.Context, lease time.Duration, msgs ...*Message) error
}

// ReceiveOptions say what to receive.
type ReceiveOptions struct {
	// Max is how many messages at most, 1 or more. A source may return fewer,
	// and has its own upper limit (SQS: 10).
	Max int
	// Lease is how long the messages are to be hidden from others. Sources
	// that count in seconds round up.
	Lease time.Duration
	// Wait is how long the receive may wait for its first message, at most; 0: as
	// long as the source likes. A source that counts in seconds rounds down, but
	// not to 0. One whose waits end without risk when ctx ends may ignore it.
	Wait time.Duration
}

// A Sink accepts messages. Send may be called concurrently and keeps neither
// the slice nor the messages. Nil means that the queue has accepted all of
// them; when it accepted only some, the error is a *[BatchError]. After any
// other error nothing is known: messages may have been accepted.
type Sink interface {
	Send(ctx context.Context, msgs ...*Message) error
}
