package limiter_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func TestAllOfFew(t *testing.T) {
	s := newSemaphore(t, 1)
	require.Same(t, s, all(t, s))
	require.Same(t, s, all(t, all(t, s), s, all(t)))
	two := all(t, s, newSemaphore(t, 1))
	require.Same(t, two, all(t, two))

	none := all(t)
	require.Equal(t, none, all(t, none))
	n, err := none.Ready(t.Context(), 7, 0)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	acquire(t, none).Release(nil)
	tryAcquire(t, none).Cancel()
	require.Zero(t, none.Blocked())
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGaveUp)
	_, err = none.Acquire(ctx)
	require.Equal(t, errGaveUp, err)
	_, err = none.Ready(ctx, 1, 0)
	require.Equal(t, errGaveUp, err)
}

func TestAllTakesEachMemberOnce(t *testing.T) {
	a, b, c := newSemaphore(t, 1), newSemaphore(t, 1), newSemaphore(t, 1)
	l := all(t, a, all(t, b, a, all(t, c, b)), b)
	p := acquire(t, l)
	for _, s := range []*limiter.Semaphore{a, b, c} {
		require.Equal(t, 1, s.Stats().InUse)
	}
	refused(t, l)
	p.Release(nil)
	for _, s := range []*limiter.Semaphore{a, b, c} {
		require.Equal(t, 0, s.Stats().InUse)
	}
}

// Tokens taken while a semaphore is busy would all start together when it is
// free.
func TestAllHoardsNoTokens(t *testing.T) {
	for name, order := range map[string]func(s, b limiter.Limiter) limiter.Limiter{
		"semaphore first": func(s, b limiter.Limiter) limiter.Limiter { return all(t, s, b) },
		"bucket first":    func(s, b limiter.Limiter) limiter.Limiter { return all(t, b, s) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, b := newSemaphore(t, 1), newBucket(t, 10, 1)
				l := order(s, b)
				busy := acquire(t, s)
				c := newCrowd()
				c.joinAll(t.Context(), l, 100)
				pass(time.Minute)
				require.Equal(t, 1.0, b.Stats().Tokens, "nobody holds a token")
				require.NoError(t, s.Resize(1000))
				busy.Release(nil)
				c.wg.Wait()
				for i, at := range c.at {
					require.Equal(t, time.Minute+time.Duration(i)*100*ms, at)
					require.Equal(t, i, c.order[i], "first come, first served")
				}
			})
		})
	}
}

// Slots of a semaphore that wait for tokens would be missing elsewhere.
func TestAllHoardsNoPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSemaphore(t, 3), newBucket(t, 1, 1)
		l := all(t, s, b)
		acquire(t, l).Release(nil)
		c := newCrowd()
		c.joinAll(t.Context(), l, 10)
		require.Equal(t, limiter.SemaphoreStats{Limit: 3}, s.Stats())
		require.Equal(t, 3, ready(t, s, 10, 0))
		pass(3500 * ms)
		require.Len(t, c.order, 3)
		require.Equal(t, limiter.SemaphoreStats{Limit: 3, InUse: 3}, s.Stats())
		pass(time.Second) // a token is available, but no slot: it is returned
		require.Equal(t, 1.0, b.Stats().Tokens)
		require.Equal(t, limiter.SemaphoreStats{Limit: 3, InUse: 3, Waiting: 1}, s.Stats())
		c.permits[0].Release(nil)
		synctest.Wait()
		require.Len(t, c.order, 4)
	})
}

func TestAllInOppositeOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newSemaphore(t, 1), newSemaphore(t, 1), newSemaphore(t, 1)
		orders := []limiter.Limiter{all(t, a, b, c), all(t, c, b, a), all(t, b, a), all(t, c, a)}
		done := make([]int, len(orders))
		var wg sync.WaitGroup
		stop := time.Now().Add(time.Minute)
		for i, l := range orders {
			for w := range 4 {
				wg.Go(func() {
					for k := 0; time.Now().Before(stop); k++ {
						p, err := l.Acquire(t.Context())
						if err != nil {
							return
						}
						done[i]++ // guarded by a
						time.Sleep(time.Duration(1+(k+w)%3) * ms)
						p.Release(nil)
					}
				})
			}
		}
		wg.Wait()
		for i := range orders {
			require.Greater(t, done[i], 1000, "nobody starves: %v", done)
		}
		for _, s := range []*limiter.Semaphore{a, b, c} {
			require.Equal(t, limiter.SemaphoreStats{Limit: 1}, s.Stats())
		}
	})
}

// Without virtual time and without a pause: whether all make progress.
func TestAllInOppositeOrdersAtFullSpeed(t *testing.T) {
	a, b := newSemaphore(t, 1), newSemaphore(t, 1)
	var wg sync.WaitGroup
	for _, l := range []limiter.Limiter{all(t, a, b), all(t, b, a)} {
		for range 4 {
			wg.Go(func() {
				for range 2000 {
					if p, err := l.Acquire(t.Context()); err == nil {
						p.Release(nil)
					}
				}
			})
		}
	}
	wg.Wait()
	require.Equal(t, limiter.SemaphoreStats{Limit: 1}, a.Stats())
	require.Equal(t, limiter.SemaphoreStats{Limit: 1}, b.Stats())
}

func TestAllTryAcquireNeverOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSemaphore(t, 10), newBucket(t, 10, 1)
		l := all(t, s, b)
		tryAcquire(t, l)
		refused(t, l)
		c := newCrowd()
		c.joinAll(t.Context(), l, 3)
		for range 30 {
			pass(10 * ms)
			refused(t, l)
		}
		c.wg.Wait()
		require.Equal(t, []int{0, 1, 2}, c.order)
		require.Equal(t, []time.Duration{100 * ms, 200 * ms, 300 * ms}, c.at)
	})
}

func TestAllWaitersGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSemaphore(t, 10), newBucket(t, 1, 1)
		l := all(t, b, s)
		p := tryAcquire(t, l)
		c := newCrowd()
		ctx, cancel := context.WithCancelCause(t.Context())
		c.join(ctx, l, 0)
		c.join(ctx, l, 1)
		c.join(t.Context(), l, 2)
		cancel(errGaveUp)
		c.wg.Wait()
		require.Equal(t, map[int]error{0: errGaveUp, 1: errGaveUp}, c.errs)
		require.Equal(t, []time.Duration{time.Second}, c.at)
		_, err := l.Acquire(ctx)
		require.Equal(t, errGaveUp, err)
		_, err = l.Ready(ctx, 1, 0)
		require.Equal(t, errGaveUp, err)

		p.Release(nil)
		c.permits[0].Cancel() // returns its token
		require.Equal(t, 1.0, b.Stats().Tokens)
		require.Zero(t, s.Stats().InUse)
	})
}

func TestAllReleaseTellsEveryMember(t *testing.T) {
	s, x, y := newSemaphore(t, 10), newBreaker(t, limiter.BreakerConfig{}), newBreaker(t, limiter.BreakerConfig{Name: "y"})
	l := all(t, s, x, y)
	for range 9 {
		acquire(t, l).Release(limiter.ErrUnavailable)
	}
	p := acquire(t, l)
	p.Release(limiter.ErrUnavailable)
	require.Equal(t, limiter.Open, x.State())
	require.Equal(t, limiter.Open, y.State())
	require.Zero(t, s.Stats().InUse)
	require.Panics(t, func() { p.Release(nil) })
	require.Panics(t, func() { p.Cancel() })
}

func TestAllReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSemaphore(t, 8), newBucket(t, 200, 4)
		l := all(t, s, b)
		require.Equal(t, 4, ready(t, l, 100, 0))
		require.Equal(t, 3, ready(t, l, 3, 0))
		require.Equal(t, 8, ready(t, l, 100, 40*ms))
		for range 4 {
			tryAcquire(t, l)
		}
		a := ask(t.Context(), l, 100, 0)
		pass(ms)
		require.False(t, a().done)
		pass(time.Second)
		require.Equal(t, answer{n: 1, after: 5 * ms, done: true}, a())

		c := newCrowd() // 4 start, 6 wait, one of them in the semaphore
		c.joinAll(t.Context(), l, 10)
		require.Len(t, c.order, 4)
		require.Equal(t, 1, s.Stats().Waiting)
		require.NoError(t, s.Resize(100))
		synctest.Wait() // it waits in the bucket now
		require.Equal(t, 2, ready(t, l, 100, 40*ms), "8 tokens will come, and six in line are first")
	})
}

// The first member's answer is stale when the second has kept us waiting.
func TestAllReadyLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSemaphore(t, 1), newBucket(t, 1, 1)
		l := all(t, s, b)
		tryAcquire(t, b)
		a := ask(t.Context(), l, 10, 0) // waits for the token
		p := tryAcquire(t, s)           // meanwhile the slot is taken
		pass(time.Hour)
		require.False(t, a().done)
		tryAcquire(t, b)
		p.Release(nil) // now the token is gone
		pass(time.Hour)
		require.True(t, a().done)
		require.Equal(t, time.Hour+time.Second, a().after)
	})
}

func TestAllReadyCountsItsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSemaphore(t, 100), newBucket(t, 200, 1)
		l := all(t, s, b)
		c := newCrowd()
		c.joinAll(t.Context(), l, 6)
		require.Equal(t, 9-1-5, ready(t, l, 100, 40*ms), "one has started, five wait")
		a := ask(t.Context(), l, 100, 10*ms)
		require.False(t, a().done)
		c.wg.Wait()
		synctest.Wait()
		require.True(t, a().done)
		require.Less(t, a().after, 30*ms)
	})
}

func TestAllBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b, x := newSemaphore(t, 1), newBucket(t, 1, 1), newBreaker(t, limiter.BreakerConfig{Name: "x"})
		l := all(t, s, b, x)
		require.Zero(t, l.Blocked())
		tryAcquire(t, s)
		require.Equal(t, limiter.Block{Reason: limiter.ByConcurrency}, l.Blocked())
		b.Pause(time.Now().Add(time.Hour))
		require.Equal(t, limiter.Block{Reason: limiter.ByPause, Until: time.Now().Add(time.Hour)}, l.Blocked())
		results(t, x, 10, limiter.ErrUnavailable)
		for _, l := range []limiter.Limiter{l, all(t, x, b, s), all(t, b, x, s)} {
			require.Equal(t, limiter.Block{
				Reason: limiter.ByBreaker, Name: "x", Until: x.Stats().NextProbe, Cause: limiter.ErrUnavailable,
			}, l.Blocked())
		}
	})
}

// A member of another kind, of a type that can't be compared.
type foreign struct {
	limiter.Limiter
	_ []int
}

func TestAllOfForeignMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 2)
		f := foreign{Limiter: newSemaphore(t, 1)}
		l := all(t, f, s, s)
		p := tryAcquire(t, l)
		refused(t, l)
		require.Equal(t, 1, s.Stats().InUse)
		p.Release(nil)
		require.Equal(t, 1, ready(t, l, 10, 0))
	})
}

type labelled struct {
	limiter.Limiter
	labels []string
}

type wrapped struct{ limiter.Limiter }

// The type of wrapped can be compared, but not what is in it.
func TestAllOfWhatCannotBeCompared(t *testing.T) {
	l := wrapped{labelled{newSemaphore(t, 2), []string{"a"}}}
	tryAcquire(t, all(t, l, l)).Release(nil)
}
