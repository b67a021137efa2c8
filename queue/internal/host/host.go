// Package host is how what runs a consumer for a part of its own life, a Lambda
// function for one invocation, takes part in the consumer's decisions.
package host

import (
	"context"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// A Host outlives the runs of its consumers, and knows what they can't. Its
// methods are called concurrently, and not under the consumer's lock.
type Host interface {
	// DrainUntil is when a drain ends the contexts of handlers that still run,
	// in place of Config.DrainTimeout; false leaves that to the timeout.
	DrainUntil() (time.Time, bool)

	// Guard rations dead letters over all runs.
	Guard() *judge.Guard

	// Guilt says how guilty a message is that was received so often and failed
	// with class, a result that other processes may have seen before.
	Guilt(receives int, class error) judge.Guilt

	// Judged hears of each result before its message is settled: the message's
	// id, what was known, and what becomes of the message.
	Judged(id string, f judge.Facts, v judge.Verdict)

	// Blocked hears what keeps the consumer from starting messages.
	Blocked(b limiter.Block)
}

type key struct{}

// NewContext returns a context whose Run has that host.
func NewContext(ctx context.Context, h Host) context.Context { return context.WithValue(ctx, key{}, h) }

// FromContext returns the host of a Run's context; nil if it has none.
func FromContext(ctx context.Context) Host {
	h, _ := ctx.Value(key{}).(Host)
	return h
}
