package idempotent

import (
	"context"
	"sync"
	"time"
)

// A deadlineContext is like context.WithDeadline, but has no timer and is not
// registered with its parent until somebody calls Done: few handlers and stores that
// finish in a microsecond do.
type deadlineContext struct {
	parent   context.Context
	detached bool // does not end with its parent, as context.WithoutCancel
	deadline time.Time

	mu     sync.Mutex // guards real and ended
	real   context.Context
	cancel context.CancelFunc // of real
	ended  bool
}

func (c *deadlineContext) Deadline() (time.Time, bool) {
	if d, ok := c.parent.Deadline(); ok && !c.detached && d.Before(c.deadline) {
		return d, true
	}
	return c.deadline, true
}

func (c *deadlineContext) Done() <-chan struct{} { return c.materialize().Done() }

func (c *deadlineContext) Err() error {
	c.mu.Lock()
	real, ended := c.real, c.ended
	c.mu.Unlock()
	switch {
	case real != nil || ended || !time.Now().Before(c.deadline):
		return c.materialize().Err()
	case c.detached:
		return nil
	}
	return c.parent.Err()
}

// Value also finds the real context's own value, so that contexts derived from this
// one become its children without a goroutine between them.
func (c *deadlineContext) Value(key any) any {
	c.mu.Lock()
	real := c.real
	c.mu.Unlock()
	if real != nil {
		return real.Value(key)
	}
	return c.parent.Value(key)
}

func (c *deadlineContext) materialize() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		parent := c.parent
		if c.detached {
			parent = context.WithoutCancel(parent)
		}
		c.real, c.cancel = context.WithDeadline(parent, c.deadline)
		if c.ended {
			c.cancel()
		}
	}
	return c.real
}

// end ends the context, as the cancel function of context.WithDeadline does.
func (c *deadlineContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

// A runContext is the context of a handler's run.
type runContext struct {
	context.Context
	claim  Claim
	result []byte
	own    deadlineContext // the Context, if the handler's has no deadline
	tell   deadlineContext // for reporting to the store how the run ended
}

type runKey struct{}

func (c *runContext) Value(key any) any {
	if key == (runKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Current returns the claim of the run with this context; false outside of
// [Middleware.Wrap]. Pass its key to a downstream that honours idempotency keys, or
// the claim to a store that can record the success and the handler's own write in one
// transaction.
func Current(ctx context.Context) (Claim, bool) {
	r, ok := ctx.Value(runKey{}).(*runContext)
	if !ok {
		return Claim{}, false
	}
	return r.claim, true
}

// SetResult sets the result that is recorded with the run's success, for
// Config.OnDone. Call it before the handler returns, and not concurrently. It does
// nothing outside of [Middleware.Wrap].
func SetResult(ctx context.Context, result []byte) {
	if r, ok := ctx.Value(runKey{}).(*runContext); ok {
		r.result = result
	}
}
