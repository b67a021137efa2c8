// Package host is how code that runs a consumer for a part of its own life, a
// Lambda function for one invocation, takes part in the consumer's decisions.
package host

import (
	"context"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// A Host outlives the runs of its consumers, and knows what they can't. Its
// methods are called concurrently. They must be quick and must not call the
// consumer, which may hold its lock.
type Host interface {
	// Deadline is when the contexts of handlers end, and when Run must have
	// returned; both zero if there is no deadline. It takes the place of
	// Config.DrainTimeout. A handler that the deadline ends has failed as by any
	// timeout, unless it had less than half of the time since Run began: then its
	// error says nothing.
	Deadline() (handlers, run time.Time)

	// Guard rations dead letters over all runs.
	Guard() *judge.Guard

	// Guilt says how guilty a message is that was received so often and whose result
	// names a class, since other processes saw its earlier results; whether others
	// succeed, so that the host does not wait for it alone; and whether the like of it
	// are refused each time that they run.
	Guilt(id string, receives int, f judge.Facts) (g judge.Guilt, alone, typical bool)

	// Judged reports each result before its message is settled: the message's id, how
	// often it was received, what was known, and what becomes of the message.
	Judged(id string, receives int, f judge.Facts, v judge.Verdict)

	// Blocked reports what keeps the consumer from starting messages.
	Blocked(b limiter.Block)
}

type key struct{}

// NewContext returns a context whose Run has that host; nil: none.
func NewContext(ctx context.Context, h Host) context.Context { return context.WithValue(ctx, key{}, h) }

// FromContext returns the host of a Run's context; nil if it has none.
func FromContext(ctx context.Context) Host {
	h, _ := ctx.Value(key{}).(Host)
	return h
}
