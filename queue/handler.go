package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/retry"
)

// A Handler does the work for one message. Its result decides what happens to the
// message; see "Results" in the package documentation. It may be called
// concurrently, and more than once for the same message, so it must be
// idempotent.
//
// The context ends with the message's lease ([ErrLeaseLost]) and at the end of a
// drain ([ErrDrainTimeout]), not when the drain begins; context.Cause returns
// which.
type Handler interface {
	Handle(ctx context.Context, m *Message) error
}

// HandlerFunc makes a function a [Handler].
type HandlerFunc func(ctx context.Context, m *Message) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, m *Message) error { return f(ctx, m) }

// A Middleware wraps a handler in another one, for work common to all messages:
// spans, logs, deadlines, idempotency. Limits, retries and leases are not
// middleware: they need the source, and belong to the [Consumer].
type Middleware func(Handler) Handler

// Chain wraps h in the given middlewares; the first is the outermost. When h or a
// middleware is nil, or one returns nil, Chain returns nil, which [NewConsumer]
// rejects.
func Chain(h Handler, with ...Middleware) Handler {
	for i := len(with) - 1; i >= 0; i-- {
		if nils.Is(h) || with[i] == nil {
			return nil
		}
		h = with[i](h)
	}
	return h
}

// Timeout returns a middleware that ends the handler's context d after the
// handler was started. It panics if d is not positive. The handler's error is
// passed on unchanged, so a handler that returns its context's error after a
// timeout counts as unavailable; see [limiter.Classify]. With a nil handler the
// middleware returns nil, which [NewConsumer] rejects.
func Timeout(d time.Duration) Middleware {
	if d <= 0 {
		panic(fmt.Sprintf("queue: Timeout(%v): must be positive", d))
	}
	return func(next Handler) Handler {
		if nils.Is(next) {
			return nil
		}
		return HandlerFunc(func(ctx context.Context, m *Message) error {
			ctx, cancel := context.WithTimeout(ctx, d)
			defer cancel()
			return next.Handle(ctx, m)
		})
	}
}

// Decode makes a [Handler] of a typed function: unmarshal (json.Unmarshal,
// xml.Unmarshal, anything of that shape) fills a T from the body. A body that
// does not decode, or a panic of unmarshal, is a permanent error: the message
// goes to the dead-letter queue with the reason "undecodable". When unmarshal or
// f is nil, Decode returns nil, which [NewConsumer] rejects.
func Decode[T any](unmarshal func(data []byte, v any) error, f func(ctx context.Context, m *Message, v T) error) Handler {
	if unmarshal == nil || f == nil {
		return nil
	}
	return HandlerFunc(func(ctx context.Context, m *Message) error {
		var v T
		if err := decode(unmarshal, m.Body, &v); err != nil {
			return &DecodeError{Err: err}
		}
		return f(ctx, m, v)
	})
}

func decode(unmarshal func([]byte, any) error, body []byte, v any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("unmarshal panicked: %v", p)
		}
	}()
	return unmarshal(body, v)
}

// A DecodeError reports a message body that could not be decoded. It is
// permanent: errors.Is(err, retry.ErrPermanent).
type DecodeError struct{ Err error }

// Error gives the reason.
func (e *DecodeError) Error() string { return fmt.Sprintf("queue: decode body: %v", e.Err) }

// Unwrap returns the reason.
func (e *DecodeError) Unwrap() error { return e.Err }

// Is reports whether target is [retry.ErrPermanent].
func (e *DecodeError) Is(target error) bool { return errors.Is(target, retry.ErrPermanent) }

// Reason returns the reason for the dead-letter record.
func (e *DecodeError) Reason() string { return retry.ReasonUndecodable }
