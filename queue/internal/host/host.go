// Package host lets code that runs a consumer for a part of its own life, as a
// Lambda function does for one invocation, take part in the consumer's decisions.
package host

import (
	"context"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// A Host outlives the runs of its consumers, and has information that they lack.
// Its methods are called concurrently. They must be quick and must not call the
// consumer, which may hold its lock.
type Host interface {
	// Deadline returns when the contexts of handlers end, and when Run must have
	// returned; both zero if there is no deadline. It overrides
	// Config.DrainTimeout. A handler that the deadline ends has failed as by any
	// timeout, unless it had less than half of the time since Run began: then its
	// error is ignored.
	Deadline() (handlers, run time.Time)

	// Guard returns the guard that rations dead letters over all runs.
	Guard() *judge.Guard

	// Guilt returns how guilty a message is that was received that often and
	// whose result has a class, since other processes saw its earlier results;
	// alone, whether others succeed, so that the host does not wait for it alone;
	// and typical, whether messages like it are refused each time that they run.
	Guilt(id string, receives int, f judge.Facts) (g judge.Guilt, alone, typical bool)

	// Judged reports each result before its message is settled: the message's id,
	// how often it was received, the facts, and the verdict.
	Judged(id string, receives int, f judge.Facts, v judge.Verdict)

	// Blocked reports what keeps the consumer from starting messages.
	Blocked(b limiter.Block)
}

type key struct{}

// NewContext returns a context whose Run has the host h; nil: none.
func NewContext(ctx context.Context, h Host) context.Context { return context.WithValue(ctx, key{}, h) }

// FromContext returns the host of a Run's context; nil if it has none.
func FromContext(ctx context.Context) Host {
	h, _ := ctx.Value(key{}).(Host)
	return h
}
