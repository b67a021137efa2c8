package lambdalocal_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
)

// sleeping is a handler that takes so long, or as long as it may.
func sleeping(d time.Duration) lambdalocal.Handler {
	return func(ctx context.Context, _ events.SQSEvent) (out events.SQSEventResponse, err error) {
		select {
		case <-time.After(d):
			return out, nil
		case <-ctx.Done():
			return out, context.Cause(ctx)
		}
	}
}

func TestFunctionConfig(t *testing.T) {
	start := func() lambdalocal.Handler { return sleeping(0) }
	for field, cfg := range map[string]lambdalocal.FunctionConfig{
		"Start is nil":        {},
		"Timeout is -1s":      {Start: start, Timeout: -time.Second},
		"Timeout is 15m1s":    {Start: start, Timeout: 15*time.Minute + time.Second},
		"Concurrency is -1":   {Start: start, Concurrency: -1},
		"Concurrency is 1001": {Start: start, Concurrency: 1001},
	} {
		_, err := lambdalocal.NewFunction(cfg)
		require.ErrorContains(t, err, "lambdalocal: NewFunction: FunctionConfig."+field)
	}
	f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{Start: start})
	require.NoError(t, err)
	require.Equal(t, 3*time.Second, f.Timeout())
}

func TestFunctionEnvironments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts atomic.Int64
		var used [4]atomic.Int64 // by environment
		f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{
			Concurrency: 3,
			Start: func() lambdalocal.Handler {
				env := starts.Add(1)
				return func(ctx context.Context, _ events.SQSEvent) (out events.SQSEventResponse, err error) {
					used[env-1].Add(1)
					lc, ok := lambdacontext.FromContext(ctx)
					if !ok || lc.AwsRequestID == "" || lc.InvokedFunctionArn == "" {
						return out, errors.New("no context")
					}
					return sleeping(time.Second)(ctx, events.SQSEvent{})
				}
			},
		})
		require.NoError(t, err)
		errs := make(chan error, 4)
		invoke := func() {
			response, err := f.Invoke(t.Context(), []byte(`{}`))
			if err == nil && string(response) != `{"batchItemFailures":null}` {
				err = errors.New(string(response))
			}
			errs <- err
		}
		for range 3 {
			go invoke()
			time.Sleep(100 * time.Millisecond)
		}
		invoke()
		require.ErrorIs(t, <-errs, lambdalocal.ErrThrottled)
		for range 3 {
			require.NoError(t, <-errs)
		}
		for range 5 {
			invoke()
			require.NoError(t, <-errs)
		}
		require.EqualValues(t, 1, used[0].Load())
		require.EqualValues(t, 1, used[1].Load())
		require.EqualValues(t, 6, used[2].Load(), "the one used last is used next")
		require.Equal(t, 2, f.Recycle(2), "the least recently used go first")
		invoke()
		require.NoError(t, <-errs)
		require.EqualValues(t, 7, used[2].Load())
		require.Equal(t, 3, f.ColdStarts())
		require.Equal(t, 1, f.RecycleAll())
		invoke()
		require.NoError(t, <-errs)
		require.Equal(t, 4, f.ColdStarts())
	})
}

func TestFunctionFailures(t *testing.T) {
	for name, c := range map[string]struct {
		handler lambdalocal.Handler
		kind    string
		message string
		cold    int // starts after two invocations
	}{
		"error": {
			handler: func(context.Context, events.SQSEvent) (out events.SQSEventResponse, err error) {
				return out, errors.New("no")
			},
			kind: "*errors.errorString", message: "no", cold: 1,
		},
		"panic": {
			handler: func(context.Context, events.SQSEvent) (events.SQSEventResponse, error) { panic("ouch") },
			kind:    lambdalocal.Exited, message: "panic: ouch", cold: 2,
		},
		"timeout": {
			handler: func(context.Context, events.SQSEvent) (out events.SQSEventResponse, err error) {
				time.Sleep(time.Minute)
				return out, nil
			},
			kind: lambdalocal.TimedOut, message: "Task timed out after 3.00 seconds", cold: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{Concurrency: 1, Start: func() lambdalocal.Handler { return c.handler }})
				require.NoError(t, err)
				for range 2 {
					start := time.Now()
					_, err = f.Invoke(t.Context(), []byte(`{"Records":[]}`))
					var failure *lambdalocal.FunctionError
					require.ErrorAs(t, err, &failure)
					require.Equal(t, c.kind, failure.Type)
					require.Equal(t, c.message, failure.Message)
					require.LessOrEqual(t, time.Since(start), 3*time.Second)
				}
				require.Equal(t, c.cold, f.ColdStarts())
				_, err = f.Invoke(t.Context(), []byte(`{`))
				require.Error(t, err)
				f.Wait()
			})
		})
	}
}
