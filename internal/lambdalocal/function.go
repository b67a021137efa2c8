package lambdalocal

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// A Handler is a function for events of SQS.
type Handler func(context.Context, events.SQSEvent) (events.SQSEventResponse, error)

// FunctionConfig configures a [Function]. Start is required.
type FunctionConfig struct {
	// Start creates the handler of a new execution environment, as the start of a
	// process does. An environment has one invocation at a time.
	Start func() Handler
	// Timeout is how long an invocation may take, up to 15 min. Default 3 s.
	Timeout time.Duration
	// Concurrency is the maximum number of environments, 1 to 1,000. Invocations
	// beyond it are throttled. Default 1,000.
	Concurrency int
}

// A Function is a function that runs in this process, in a bubble of
// testing/synctest for example. Event and response are encoded in JSON as on the
// wire. Create one with [NewFunction].
type Function struct {
	cfg   FunctionConfig
	pool  pool[*Handler]
	cold  atomic.Int64
	count atomic.Int64 // invocations, for their ids
	all   sync.WaitGroup
}

var _ Invoker = (*Function)(nil)

// NewFunction returns a function without an environment. It fails when a field
// of cfg is missing or out of range; the error names it.
func NewFunction(cfg FunctionConfig) (*Function, error) {
	if cfg.Start == nil {
		return nil, fmt.Errorf("lambdalocal: NewFunction: FunctionConfig.Start is nil: must be set")
	}
	var err error
	if cfg.Timeout, cfg.Concurrency, err = limits("NewFunction: FunctionConfig", cfg.Timeout, cfg.Concurrency); err != nil {
		return nil, err
	}
	return &Function{cfg: cfg, pool: pool[*Handler]{max: cfg.Concurrency}}, nil
}

// limits checks the settings that all functions have, and returns them with defaults.
func limits(what string, timeout time.Duration, concurrency int) (time.Duration, int, error) {
	if timeout == 0 {
		timeout = 3 * time.Second
	}
	if timeout < time.Millisecond || timeout > 15*time.Minute {
		return 0, 0, fmt.Errorf("lambdalocal: %s.Timeout is %v: must be 1 ms to 15 min, or 0 for the default", what, timeout)
	}
	if concurrency == 0 {
		concurrency = 1000
	}
	if concurrency < 1 || concurrency > 1000 {
		return 0, 0, fmt.Errorf("lambdalocal: %s.Concurrency is %d: must be 1 to 1,000, or 0 for the default", what, concurrency)
	}
	return timeout, concurrency, nil
}

// Timeout returns the configured timeout.
func (f *Function) Timeout() time.Duration { return f.cfg.Timeout }

// ColdStarts returns how many environments were started.
func (f *Function) ColdStarts() int { return int(f.cold.Load()) }

// Recycle ends up to n idle environments, the least recently used first, and
// returns how many. As many later invocations are cold starts.
func (f *Function) Recycle(n int) int {
	idle := f.pool.shed(n)
	for range idle {
		f.pool.free()
	}
	return len(idle)
}

// RecycleAll ends all idle environments.
func (f *Function) RecycleAll() int { return f.Recycle(math.MaxInt) }

// Wait waits for handlers that still run after their timeout. Call it when there are no
// more invocations.
func (f *Function) Wait() { f.all.Wait() }

// Invoke runs the handler of an environment. Its context ends at the timeout. If the
// handler has not returned by then, or panics, its environment ends, as a process would
// be killed, but the handler may continue to run.
func (f *Function) Invoke(_ context.Context, payload []byte) ([]byte, error) {
	env, warm, err := f.pool.take()
	if err != nil {
		return nil, err
	}
	if !warm {
		h := f.cfg.Start()
		env = &h
		f.cold.Add(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.cfg.Timeout)
	defer cancel()
	type result struct {
		response []byte
		err      error
		crashed  bool
	}
	results := make(chan result, 1)
	f.all.Go(func() {
		var r result
		defer func() {
			if v := recover(); v != nil {
				r = result{err: &FunctionError{Type: Exited, Message: fmt.Sprintf("panic: %v", v)}, crashed: true}
			}
			results <- r
		}()
		r.response, r.err = f.call(ctx, *env, payload)
	})
	r := result{err: &FunctionError{Type: TimedOut, Message: fmt.Sprintf("Task timed out after %.2f seconds", f.cfg.Timeout.Seconds())}, crashed: true}
	select {
	case r = <-results:
	case <-ctx.Done():
	}
	if r.crashed {
		f.pool.free()
	} else {
		f.pool.put(env)
	}
	return r.response, r.err
}

// call calls a handler as the Lambda runtime of Go does.
func (f *Function) call(ctx context.Context, h Handler, payload []byte) ([]byte, error) {
	ctx = lambdacontext.NewContext(ctx, &lambdacontext.LambdaContext{
		AwsRequestID:       "local-" + strconv.FormatInt(f.count.Add(1), 10),
		InvokedFunctionArn: functionARN("us-east-1", "local"),
	})
	var event events.SQSEvent
	if err := json.Unmarshal(payload, &event); err != nil {
		return nil, &FunctionError{Type: fmt.Sprintf("%T", err), Message: err.Error()}
	}
	out, err := h(ctx, event)
	if err != nil {
		return nil, &FunctionError{Type: fmt.Sprintf("%T", err), Message: err.Error()}
	}
	response, err := json.Marshal(out)
	if err != nil {
		return nil, &FunctionError{Type: fmt.Sprintf("%T", err), Message: err.Error()}
	}
	return response, nil
}

func functionARN(region, name string) string {
	return "arn:aws:lambda:" + region + ":000000000000:function:" + name
}
