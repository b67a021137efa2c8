package lambdalocal

import (
	"context"
	"errors"
	"time"
)

// An Invoker is a function as its callers see it. [Function] and [Process] are
// invokers.
type Invoker interface {
	// Invoke runs the function on a JSON payload and returns its JSON response. The
	// error is [ErrThrottled] if the function did not run because its concurrency is
	// used up, and a *[FunctionError] if the invocation failed. It may be called
	// concurrently.
	Invoke(ctx context.Context, payload []byte) ([]byte, error)
	// Timeout returns how long an invocation may take. It does not change.
	Timeout() time.Duration
}

// ErrThrottled is the error of an invocation beyond the function's concurrency.
var ErrThrottled = errors.New("lambdalocal: concurrency of the function reached")

// ErrClosed is the error of an invocation after Close.
var ErrClosed = errors.New("lambdalocal: function closed")

// Types of a [FunctionError] that are not the function's own.
const (
	TimedOut = "Sandbox.Timedout"  // ran longer than its timeout
	Exited   = "Runtime.ExitError" // its process ended during the invocation, or before it asked for one
)

// A FunctionError is the error of an invocation that failed.
type FunctionError struct {
	Type    string // as the function named it, or one of the constants
	Message string
}

func (e *FunctionError) Error() string {
	return "lambdalocal: function error: " + e.Type + ": " + e.Message
}
