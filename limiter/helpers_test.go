package limiter_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func newSemaphore(t testing.TB, n int) *limiter.Semaphore {
	t.Helper()
	s, err := limiter.NewSemaphore(n)
	require.NoError(t, err)
	return s
}

func newBucket(t testing.TB, ratePerSecond float64, burst int) *limiter.TokenBucket {
	t.Helper()
	b, err := limiter.NewTokenBucket(ratePerSecond, burst)
	require.NoError(t, err)
	return b
}

func newBreaker(t testing.TB, cfg limiter.BreakerConfig) *limiter.Breaker {
	t.Helper()
	b, err := limiter.NewBreaker(cfg)
	require.NoError(t, err)
	return b
}

func newAdaptive(t testing.TB, cfg limiter.AdaptiveConfig) *limiter.Adaptive {
	t.Helper()
	a, err := limiter.NewAdaptive(cfg)
	require.NoError(t, err)
	return a
}

func newAdaptiveRate(t testing.TB, cfg limiter.AdaptiveRateConfig) *limiter.AdaptiveRate {
	t.Helper()
	a, err := limiter.NewAdaptiveRate(cfg)
	require.NoError(t, err)
	return a
}

func all(t testing.TB, limiters ...limiter.Limiter) limiter.Limiter {
	t.Helper()
	l, err := limiter.All(limiters...)
	require.NoError(t, err)
	return l
}

func transport(t testing.TB, l limiter.Limiter, base http.RoundTripper) *limiter.Transport {
	t.Helper()
	rt, err := limiter.NewTransport(l, base)
	require.NoError(t, err)
	return rt
}

func acquire(t testing.TB, l limiter.Limiter) limiter.Permit {
	t.Helper()
	p, err := l.Acquire(t.Context())
	require.NoError(t, err)
	return p
}

func tryAcquire(t testing.TB, l limiter.Limiter) limiter.Permit {
	t.Helper()
	p, ok := l.TryAcquire()
	require.True(t, ok, "TryAcquire")
	return p
}

func refused(t testing.TB, l limiter.Limiter) {
	t.Helper()
	_, ok := l.TryAcquire()
	require.False(t, ok, "TryAcquire")
}

// An answer is the result of Ready, and whether it has returned.
type answer struct {
	n     int
	err   error
	after time.Duration // how long it waited
	done  bool
}

// ask calls Ready in a goroutine. It returns a function that returns the
// state of the call.
func ask(ctx context.Context, l limiter.Limiter, max int, within time.Duration) func() answer {
	var mu sync.Mutex
	var a answer
	start := time.Now()
	go func() {
		n, err := l.Ready(ctx, max, within)
		mu.Lock()
		defer mu.Unlock()
		a = answer{n: n, err: err, after: time.Since(start), done: true}
	}()
	synctest.Wait()
	return func() answer {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return a
	}
}

// ready calls Ready where it must not wait.
func ready(t testing.TB, l limiter.Limiter, max int, within time.Duration) int {
	t.Helper()
	a := ask(t.Context(), l, max, within)()
	require.True(t, a.done, "Ready waits")
	require.NoError(t, a.err)
	return a.n
}

// pass lets time pass, and then everything happen that is due.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// A crowd is operations that acquire a limiter, each in its own goroutine.
type crowd struct {
	wg      sync.WaitGroup
	mu      sync.Mutex
	order   []int                 // who has started
	at      []time.Duration       // and when, since begin
	permits []limiter.Permit      // of those who started, in that order
	errs    map[int]error         // of those who did not
	begin   time.Time             // when the crowd was made
	each    func(i int, p permit) // runs after each start, if set
}

type permit = limiter.Permit

func newCrowd() *crowd { return &crowd{begin: time.Now(), errs: map[int]error{}} }

// join makes number i acquire l, and returns when it waits in line, or has
// started.
func (c *crowd) join(ctx context.Context, l limiter.Limiter, i int) {
	c.wg.Go(func() {
		p, err := l.Acquire(ctx)
		c.mu.Lock()
		if err != nil {
			c.errs[i] = err
			c.mu.Unlock()
			return
		}
		c.order = append(c.order, i)
		c.at = append(c.at, time.Since(c.begin))
		c.permits = append(c.permits, p)
		c.mu.Unlock()
		if c.each != nil {
			c.each(i, p)
		}
	})
	synctest.Wait()
}

func (c *crowd) joinAll(ctx context.Context, l limiter.Limiter, n int) {
	for i := range n {
		c.join(ctx, l, i)
	}
}

// flagged is a context that is done without waking anybody: a way to be
// cancelled at exactly the moment of a grant.
type flagged struct {
	context.Context
	mu  sync.Mutex
	err error
}

func (f *flagged) Done() <-chan struct{} { return nil }

func (f *flagged) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *flagged) cancel() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = context.Canceled
}

// overload is what a client returns for a 429.
type overload time.Duration

func (o overload) Error() string             { return "slow down" }
func (o overload) Is(target error) bool      { return target == limiter.ErrOverload }
func (o overload) RetryAfter() time.Duration { return time.Duration(o) }

// later delays one request, whatever its class.
type later struct {
	error
	after time.Duration
}

func (l later) Unwrap() error             { return l.error }
func (l later) RetryAfter() time.Duration { return l.after }

var (
	errGaveUp = errors.New("gave up")
	errPoison = errors.New("no such item") // says nothing about the downstream
)
