package redislimiter_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

// both returns one of each, on a Redis in this process.
func both(t *testing.T, cfg redislimiter.Config) (*miniredis.Miniredis, *redislimiter.TokenBucket, *redislimiter.Semaphore) {
	m := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	t.Cleanup(func() { _ = client.Close() })
	b, err := redislimiter.NewTokenBucket(client, "x", 1000, 10, cfg)
	require.NoError(t, err)
	s, err := redislimiter.NewSemaphore(client, "x", 10, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		closing(t, b)
		closing(t, s)
	})
	var wg sync.WaitGroup // both have their cold start at once
	wg.Go(func() { warmUp(t, b.Acquire) })
	wg.Go(func() { warmUp(t, s.Acquire) })
	wg.Wait()
	time.Sleep(300 * ms) // and have called once more since
	starts(t, b, s)
	return m, b, s
}

func warmUp[P interface{ Release(error) }](t *testing.T, acquire func(context.Context) (P, error)) {
	p, err := acquire(t.Context())
	if err == nil {
		p.Release(nil)
	} else {
		t.Error(err)
	}
}

func starts(t *testing.T, b *redislimiter.TokenBucket, s *redislimiter.Semaphore) {
	t.Helper()
	for range 20 {
		warmUp(t, b.Acquire)
		warmUp(t, s.Acquire)
	}
}

// All keys of a limiter are in one slot of a cluster, and go away in the end.
func TestKeys(t *testing.T) {
	t.Parallel()
	m, _, _ := both(t, redislimiter.Config{})
	keys := m.Keys()
	require.NotEmpty(t, keys)
	for _, k := range keys {
		require.Regexp(t, `^rampmeter:\{x\}:(rate|places)(:(processes|seen|waiting))?$`, k)
		require.NotZero(t, m.TTL(k), k)
	}
}

// A server that has lost its scripts gets them again, and nobody notices.
func TestScriptCacheEmptied(t *testing.T) {
	t.Parallel()
	m, b, s := both(t, redislimiter.Config{})
	client := redis.NewClient(&redis.Options{Addr: m.Addr()})
	defer func() { _ = client.Close() }()
	for range 5 {
		require.NoError(t, client.ScriptFlush(t.Context()).Err())
		starts(t, b, s)
		for _, err := range []error{b.Stats().Err, s.Stats().Err} { // a slow reply may time out on a busy machine
			require.NotContains(t, fmt.Sprint(err), "NOSCRIPT")
		}
	}
}

// Any error of a server that can't serve is an outage like any other.
func TestServerRefuses(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		"READONLY You can't write against a read only replica.",
		"LOADING Redis is loading the dataset in memory",
		"OOM command not allowed when used memory > 'maxmemory'.",
	} {
		t.Run(answer[:4], func(t *testing.T) {
			t.Parallel()
			m, b, s := both(t, redislimiter.Config{})
			m.SetError(answer)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var far downstream
			var in crowd
			work(ctx, &wg, b, &far, 0, 2, nil)
			in.work(ctx, &wg, s, 0, 20, func() time.Duration { return ms })
			require.Eventually(t, func() bool {
				return b.Stats().State == redislimiter.Away && s.Stats().State == redislimiter.Away
			}, 10*time.Second, ms)
			require.Error(t, b.Stats().Err) // the server's answer, unless the client hides that behind its retries
			require.Equal(t, 10, s.Stats().Share, "it is alone, so its share is all of it")
			require.InDelta(t, 1000, b.Stats().Share, 0.001)
			m.SetError("")
			require.Eventually(t, func() bool {
				return b.Stats().State == redislimiter.Connected && s.Stats().State == redislimiter.Connected
			}, 10*time.Second, ms)
			cancel()
			wg.Wait()
			require.NotEmpty(t, far.starts)
		})
	}
}

// Nobody can be served without a server; Closing needs none either.
func TestNoServerAtAll(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer func() { _ = client.Close() }()
	b, err := redislimiter.NewTokenBucket(client, "x", 10, 1, redislimiter.Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errGaveUp)
	defer cancel()
	_, err = b.Acquire(ctx)
	require.Equal(t, errGaveUp, err)
	require.Equal(t, redislimiter.Away, b.Stats().State)
	require.Equal(t, redislimiter.ByOutage, b.Blocked().Reason)
	closing(t, b)
}

// A hook counts the commands that pass it.
type hook struct{ n *atomic.Int32 }

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.n.Add(1)
		return next(ctx, cmd)
	}
}

func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Whatever watches a client's calls sees this package's calls, too.
func TestHooksAreCalled(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	var calls atomic.Int32
	client.AddHook(hook{&calls})
	b, err := redislimiter.NewTokenBucket(client, "hooks", 100, 10, redislimiter.Config{})
	require.NoError(t, err)
	p, err := b.Acquire(t.Context())
	require.NoError(t, err)
	p.Release(nil)
	require.NoError(t, b.Close(t.Context()))
	require.GreaterOrEqual(t, calls.Load(), int32(b.Stats().Calls))
}
