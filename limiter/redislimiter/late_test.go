package redislimiter_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

// A post carries a process's calls. It can lose them, and it delivers any of
// them once more, lost or not, after later ones. Connections do so that are
// abandoned with a call on its way, and clients that retry unanswered calls.
type post struct {
	to *redis.Client

	mu    sync.Mutex // guards all below
	lossy bool
	sent  [][]any
}

func (p *post) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *post) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (p *post) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "evalsha" {
			return next(ctx, cmd)
		}
		p.mu.Lock()
		p.sent = append(p.sent, cmd.Args())
		lossy := p.lossy
		p.mu.Unlock()
		if lossy {
			return errDown
		}
		return next(ctx, cmd)
	}
}

func (p *post) lose(lossy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lossy = lossy
}

// last returns the call that was sent last, and how many there were.
func (p *post) last() (call []any, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n = len(p.sent); n > 0 {
		call = p.sent[n-1]
	}
	return call, n
}

// next waits until that many more calls were sent, and returns the last of
// them.
func (p *post) next(t *testing.T, more int) []any {
	t.Helper()
	_, before := p.last()
	require.Eventually(t, func() bool {
		_, n := p.last()
		return n >= before+more
	}, 10*time.Second, ms)
	call, _ := p.last()
	return call
}

// answered waits until a call made from now on has succeeded. Another may be in
// flight at the beginning and at the end.
func answered(t *testing.T, calls func() (all, failed uint64)) {
	t.Helper()
	all, failed := calls()
	want := all - failed + 2
	require.Eventually(t, func() bool {
		all, failed := calls()
		return all-failed >= want
	}, 10*time.Second, ms)
}

func callsOf(s *redislimiter.Semaphore) func() (all, failed uint64) {
	return func() (all, failed uint64) { st := s.Stats(); return st.Calls, st.Failures }
}

func callsOfBucket(b *redislimiter.TokenBucket) func() (all, failed uint64) {
	return func() (all, failed uint64) { st := b.Stats(); return st.Calls, st.Failures }
}

// hears has s ask for a slot until it has an answer.
func hears(t *testing.T, s *redislimiter.Semaphore) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.TryAcquire()
		return s.Stats().State == redislimiter.Connected
	}, 10*time.Second, ms)
}

func (p *post) first(t *testing.T) []any {
	t.Helper()
	require.Eventually(t, func() bool { _, n := p.last(); return n > 0 }, 10*time.Second, ms)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent[0]
}

func (p *post) deliver(t *testing.T, call []any) {
	t.Helper()
	require.NoError(t, p.to.Do(t.Context(), call...).Err())
}

// newPost returns a client of m, and the post that it uses.
func newPost(t *testing.T, m *miniredis.Miniredis) (*redis.Client, *post) {
	client := redis.NewClient(&redis.Options{Addr: m.Addr(), ContextTimeoutEnabled: true})
	p := &post{to: redis.NewClient(&redis.Options{Addr: m.Addr()})}
	client.AddHook(p)
	t.Cleanup(func() {
		_ = client.Close()
		_ = p.to.Close()
	})
	return client, p
}

func postedSemaphore(t *testing.T, m *miniredis.Miniredis, n int) (*redislimiter.Semaphore, *post) {
	client, p := newPost(t, m)
	s, err := redislimiter.NewSemaphore(client, "late", n, redislimiter.Config{})
	require.NoError(t, err)
	return s, p
}

func postedBucket(t *testing.T, m *miniredis.Miniredis, rate float64, burst int) (*redislimiter.TokenBucket, *post) {
	client, p := newPost(t, m)
	b, err := redislimiter.NewTokenBucket(client, "late", rate, burst, redislimiter.Config{OnOutage: redislimiter.Closed})
	require.NoError(t, err)
	return b, p
}

// A late report of what a process held, from before it was given more, takes
// none of that away.
func TestLateCallFreesNoPlaces(t *testing.T) {
	t.Parallel()
	const limit = 4
	for name, stale := range map[string]func(t *testing.T, a *redislimiter.Semaphore, p *post) []any{
		"it holds one": func(t *testing.T, a *redislimiter.Semaphore, p *post) []any {
			permit, err := a.Acquire(t.Context())
			require.NoError(t, err)
			p.lose(true)
			call := p.next(t, 1)
			p.lose(false)
			permit.Release(nil)
			return call
		},
		"it is at rest": func(t *testing.T, a *redislimiter.Semaphore, p *post) []any {
			warm(t, a)
			require.Eventually(t, a.Idle, 10*time.Second, ms)
			call, _ := p.last()
			return call
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := miniredis.RunT(t)
			a, p := postedSemaphore(t, m, limit)
			call := stale(t, a, p)
			m.SetTime(time.Now()) // no lease runs out, however slow this is
			for range limit {
				permit, err := a.Acquire(t.Context())
				require.NoError(t, err)
				defer permit.Release(nil)
			}
			p.lose(true) // it does not report it again
			p.deliver(t, call)

			b, _ := postedSemaphore(t, m, limit)
			hears(t, b)
			require.LessOrEqual(t, a.Stats().InUse+b.Stats().Share, limit)
		})
	}
}

// A slot that was returned is leased to another process once, however often its
// return arrives.
func TestLateCallFreesNoSlots(t *testing.T) {
	t.Parallel()
	const rate, burst = 0.01, 2 // the next slot is a minute and more away
	m := miniredis.RunT(t)
	a, p := postedBucket(t, m, rate, burst)
	_, ok := a.TryAcquire() // it asks for one
	require.False(t, ok)
	first := p.first(t)
	require.Eventually(t, a.Idle, 10*time.Second, ms)
	back, _ := p.last()
	m.SetTime(time.Now().Add(cold + 101*time.Second)) // that slot has come, the next one does not

	b, _ := postedBucket(t, m, rate, burst)
	var far downstream
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	work(ctx, &wg, a, &far, 0, 1, nil)
	work(ctx, &wg, b, &far, 1, 1, nil)
	for range burst + 1 {
		answered(t, callsOfBucket(a)) // so it is there again
		p.deliver(t, first)
		p.deliver(t, back)
		answered(t, callsOfBucket(b)) // so it has got what came free
	}
	cancel()
	wg.Wait()
	require.NotEmpty(t, far.starts)
	require.LessOrEqual(t, len(far.starts), burst)
	closing(t, a)
	closing(t, b)
}

// A change that was lost does not undo a later one that succeeded.
func TestLateCallChangesNoLimit(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	a, p := postedSemaphore(t, m, 10)
	permit, err := a.Acquire(t.Context()) // it is in use
	require.NoError(t, err)
	p.lose(true)
	require.ErrorIs(t, a.SetLimit(t.Context(), 50), errDown)
	call, _ := p.last()
	p.lose(false)
	require.Eventually(t, func() bool { return a.SetLimit(t.Context(), 5) == nil }, 10*time.Second, ms)
	p.deliver(t, call)
	b, _ := postedSemaphore(t, m, 10)
	warm(t, b)
	require.Equal(t, 5, b.Stats().Limit)
	permit.Release(nil)
	closing(t, a)
	closing(t, b)
}

// Nor does a Resume end a later Pause.
func TestLateCallEndsNoPause(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	a, p := postedSemaphore(t, m, 10)
	permit, err := a.Acquire(t.Context()) // it is in use
	require.NoError(t, err)
	p.lose(true)
	a.Resume()
	call := p.next(t, 2) // the first of them may have been on its way
	a.Pause(time.Now().Add(time.Hour))
	p.lose(false)
	answered(t, callsOf(a))
	p.deliver(t, call)
	b, _ := postedSemaphore(t, m, 10)
	hears(t, b)
	require.Equal(t, limiter.ByPause, b.Blocked().Reason)
	permit.Release(nil)
	closing(t, a)
	closing(t, b)
}
