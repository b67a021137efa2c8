package lambdalocal

import (
	"context"
	"errors"
	"time"
)

// An Invoker is a function as its callers see it. [Function] and [Process] are
// invokers.
type Invoker interface {
	// Invoke runs the function on a JSON payload and returns its JSON response.
	// The error is [ErrThrottled] when the function runs as often as it may, and
	// nothing has run then; a *[FunctionError] when the invocation failed. It may
	// be called concurrently.
	Invoke(ctx context.Context, payload []byte) ([]byte, error)
	// Timeout is how long an invocation may take. It does not change.
	Timeout() time.Duration
}

// ErrThrottled is the error of an invocation that the function's concurrency
// leaves no room for.
var ErrThrottled = errors.New("lambdalocal: concurrency of the function reached")

// ErrClosed is the error of an invocation after Close.
var ErrClosed = errors.New("lambdalocal: function closed")

// Types of a [FunctionError] that are not the function's own.
const (
	TimedOut = "Sandbox.Timedout"  // ran longer than its timeout
	Exited   = "Runtime.ExitError" // its process ended in mid-invocation, or before it asked for one
)

// A FunctionError is what became of an invocation that failed.
type FunctionError struct {
	Type    string // as the function named it, or one of the constants
	Message string
}

func (e *FunctionError) Error() string {
	return "lambdalocal: function error: " + e.Type + ": " + e.Message
}
