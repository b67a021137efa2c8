package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
)

// Do calls f until it succeeds, until p allows no further attempt for its
// error, or until ctx ends.
//
// An error that is not worth another attempt (it is permanent, or
// Policy.Retryable reports false) is returned unchanged. When the attempts are
// used up, or ctx ends, the error is an [*Error] that contains both the reason
// and f's last error. Do does not call f when ctx is done already. Instead of
// starting a wait that would outlast ctx's deadline, it returns at once. An
// invalid policy is an error without any call.
func Do(ctx context.Context, p Policy, f func(ctx context.Context) error) error {
	if f == nil {
		return errors.New("retry: Do: f is nil")
	}
	_, err := Value(ctx, p, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// Value is [Do] for a function that returns a value. If it fails, the value
// is the zero value.
func Value[T any](ctx context.Context, p Policy, f func(ctx context.Context) (T, error)) (T, error) {
	var zero T
	if f == nil {
		return zero, errors.New("retry: Value: f is nil")
	}
	if err := p.Validate(); err != nil {
		return zero, err
	}
	var err error // of the last attempt
	for attempt := 0; ; {
		if ctx.Err() != nil {
			return zero, &Error{Attempts: attempt, Cause: context.Cause(ctx), Err: err}
		}
		var v T
		v, err = f(ctx)
		if err == nil {
			return v, nil
		}
		attempt++
		if !p.retries(err) {
			return zero, err
		}
		if ctx.Err() != nil {
			return zero, &Error{Attempts: attempt, Cause: context.Cause(ctx), Err: err}
		}
		if p.exhausted(attempt) {
			return zero, &Error{Attempts: attempt, Cause: ErrExhausted, Err: err}
		}
		delay := p.delay(attempt, err)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < delay {
			return zero, &Error{
				Attempts: attempt,
				Cause:    fmt.Errorf("the next attempt is due in %v, after the deadline: %w", delay, context.DeadlineExceeded),
				Err:      err,
			}
		}
		sleep.For(ctx, delay)
	}
}
