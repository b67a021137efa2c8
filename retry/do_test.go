package retry_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/retry"
)

// plain has delays of exactly 1 s, 2 s, 4 s...
var plain = retry.Policy{Jitter: -1}

func TestDoRetriesUntilSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		v, err := retry.Value(t.Context(), plain, func(context.Context) (int, error) {
			if calls++; calls < 4 {
				return -1, errFlaky
			}
			return calls, nil
		})
		require.NoError(t, err)
		require.Equal(t, 4, v)
		require.Equal(t, 7*time.Second, time.Since(start))
	})
}

// The schedule outlives the quarter of an hour after which backoff stops by
// default.
func TestDoGoesOnForDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := retry.Policy{MaxAttempts: 1000, Jitter: -1}
		start, calls := time.Now(), 0
		err := retry.Do(t.Context(), p, func(context.Context) error { calls++; return errFlaky })
		require.ErrorIs(t, err, retry.ErrExhausted)
		require.Equal(t, 1000, calls)
		require.Greater(t, time.Since(start), 3*24*time.Hour)
	})
}

func TestDoExhausted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := plain
		p.MaxAttempts = 3
		v, err := retry.Value(t.Context(), p, func(context.Context) (string, error) { return "left over", errFlaky })
		require.Empty(t, v)
		require.ErrorIs(t, err, retry.ErrExhausted)
		require.ErrorIs(t, err, errFlaky)
		require.NotErrorIs(t, err, retry.ErrPermanent)
		var e *retry.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, retry.Error{Attempts: 3, Cause: retry.ErrExhausted, Err: errFlaky}, *e)
		require.EqualError(t, err, "retry: 3 attempts used up: flaky")
	})
}

func TestDoReturnsWhatIsNotRetriedAsItIs(t *testing.T) {
	permanent := fmt.Errorf("order 7: %w", retry.Permanent(errFlaky))
	err := retry.Do(t.Context(), plain, func(context.Context) error { return permanent })
	require.Equal(t, permanent, err)

	asked := 0
	p := retry.Policy{Retryable: func(error) bool { asked++; return false }}
	err = retry.Do(t.Context(), p, func(context.Context) error { return errFlaky })
	require.Equal(t, errFlaky, err)
	require.Equal(t, 1, asked)
}

func TestDoEndsWithItsContext(t *testing.T) {
	errStop := errors.New("stop")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		start := time.Now()
		time.AfterFunc(5*time.Second, func() { cancel(errStop) }) // within the third wait, from 3 s to 7 s
		err := retry.Do(ctx, plain, func(context.Context) error { return errFlaky })
		require.Equal(t, 5*time.Second, time.Since(start))
		var e *retry.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, retry.Error{Attempts: 3, Cause: errStop, Err: errFlaky}, *e)
		require.ErrorIs(t, err, errStop)
		require.ErrorIs(t, err, errFlaky)
		require.NotErrorIs(t, err, retry.ErrExhausted)
		require.EqualError(t, err, "retry: after 3 attempts: stop; last error: flaky")

		err = retry.Do(ctx, plain, func(context.Context) error { t.Error("called"); return nil })
		require.ErrorIs(t, err, errStop)
		require.ErrorAs(t, err, &e)
		require.Zero(t, e.Attempts)
		require.EqualError(t, err, "retry: after 0 attempts: stop")
	})
}

// A cancellation during the last attempt is why it failed, so it is the cause.
func TestDoCancelledInsideTheCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := retry.Do(ctx, retry.Policy{MaxAttempts: 1}, func(ctx context.Context) error { cancel(); return ctx.Err() })
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, retry.ErrExhausted)

	ctx, cancel = context.WithCancel(t.Context())
	err = retry.Do(ctx, plain, func(context.Context) error { cancel(); return nil })
	require.NoError(t, err, "it succeeded all the same")
}

func TestDoDoesNotBeginAWaitThatOutlastsTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start, calls := time.Now(), 0
		err := retry.Do(ctx, plain, func(context.Context) error { calls++; return errFlaky })
		require.Equal(t, 3*time.Second, time.Since(start), "not until the deadline")
		require.Equal(t, 3, calls)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errFlaky)
		require.NoError(t, ctx.Err())

		err = retry.Do(ctx, plain, func(context.Context) error { return retry.After(time.Hour, errFlaky) })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestDoWaitsAsLongAsTheErrorAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, calls := time.Now(), 0
		err := retry.Do(t.Context(), plain, func(context.Context) error {
			if calls++; calls == 1 {
				return retry.After(time.Hour, errFlaky)
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, time.Hour, time.Since(start))
	})
}

func TestDoRefusesBadArguments(t *testing.T) {
	called := func(context.Context) error { t.Error("called"); return nil }
	require.ErrorContains(t, retry.Do(t.Context(), retry.Policy{Jitter: 2}, called), "Jitter")
	require.ErrorContains(t, retry.Do(t.Context(), plain, nil), "f is nil")
	_, err := retry.Value[int](t.Context(), plain, nil)
	require.ErrorContains(t, err, "f is nil")
}

func TestOnePolicyForManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p retry.Policy
		var calls atomic.Int64
		done := make(chan error)
		const n = 100
		for range n {
			go func() {
				done <- retry.Do(t.Context(), p, func(context.Context) error { calls.Add(1); return errFlaky })
			}()
		}
		for range n {
			require.ErrorIs(t, <-done, retry.ErrExhausted)
		}
		require.EqualValues(t, 12*n, calls.Load())
	})
}
