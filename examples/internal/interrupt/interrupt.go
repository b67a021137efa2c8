// Package interrupt ends the example programs: gracefully on the first SIGINT or
// SIGTERM, at once on the second.
package interrupt

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Context returns a context that ends with the first SIGINT or SIGTERM. When it
// has ended, the signals have their default effect again: a second one ends the
// program at once. stop ends it too.
func Context() (ctx context.Context, stop context.CancelFunc) {
	signaled, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, end := context.WithCancelCause(context.Background())
	context.AfterFunc(signaled, func() {
		restore()
		end(context.Cause(signaled))
	})
	return ctx, restore
}

// Say writes a line to w when ctx ends: what the program then waits for, and how to
// end it at once. Call done once the wait is over; nothing is written after it, nor
// if ctx ended before Say.
func Say(ctx context.Context, w io.Writer, what func() string) (done func()) {
	if ctx.Err() != nil {
		return func() {}
	}
	said := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(said)
		_, _ = fmt.Fprintf(w, "%s; press Ctrl-C again to stop now\n", what())
	})
	return func() {
		if !stop() {
			<-said
		}
	}
}
