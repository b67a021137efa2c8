package limiter_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func TestSemaphoreRefusesBadSizes(t *testing.T) {
	for _, n := range []int{0, -1} {
		_, err := limiter.NewSemaphore(n)
		require.ErrorContains(t, err, "limiter: NewSemaphore: n is")
	}
	s := newSemaphore(t, 3)
	require.EqualError(t, s.Resize(0), "limiter: Semaphore.Resize: n is 0: must be at least 1")
	require.Equal(t, limiter.SemaphoreStats{Limit: 3}, s.Stats())
}

func TestSemaphoreIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 1)
		p := acquire(t, s)
		c := newCrowd()
		c.each = func(_ int, p permit) {
			time.Sleep(time.Millisecond)
			p.Release(nil)
		}
		c.joinAll(t.Context(), s, 20)
		require.Equal(t, limiter.SemaphoreStats{Limit: 1, InUse: 1, Waiting: 20}, s.Stats())
		require.Equal(t, limiter.Block{Reason: limiter.ByConcurrency}, s.Blocked())
		p.Release(nil)
		c.wg.Wait()
		require.IsIncreasing(t, c.order)
		require.Len(t, c.order, 20)
		require.Equal(t, limiter.SemaphoreStats{Limit: 1}, s.Stats())
		require.Zero(t, s.Blocked())
	})
}

func TestSemaphoreTryAcquireNeverOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 1)
		p := tryAcquire(t, s)
		refused(t, s)
		c := newCrowd()
		c.join(t.Context(), s, 0)
		p.Release(nil)
		refused(t, s) // the slot is the waiter's though it may not have run yet
		synctest.Wait()
		require.Equal(t, []int{0}, c.order)
	})
}

func TestSemaphoreResize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 3)
		held := []permit{acquire(t, s), acquire(t, s), acquire(t, s)}
		c := newCrowd()
		c.joinAll(t.Context(), s, 4)

		require.NoError(t, s.Resize(1))
		held[0].Release(nil)
		held[1].Release(nil)
		synctest.Wait()
		require.Empty(t, c.order, "nothing starts before fewer than the limit are in use")
		require.Equal(t, limiter.SemaphoreStats{Limit: 1, InUse: 1, Waiting: 4}, s.Stats())
		held[2].Release(nil)
		synctest.Wait()
		require.Equal(t, []int{0}, c.order)

		require.NoError(t, s.Resize(3))
		synctest.Wait()
		require.ElementsMatch(t, []int{0, 1, 2}, c.order, "raising the limit starts those who wait")
		require.Equal(t, limiter.SemaphoreStats{Limit: 3, InUse: 3, Waiting: 1}, s.Stats())
		c.permits[0].Release(nil)
		synctest.Wait()
		require.Len(t, c.order, 4)
	})
}

func TestSemaphoreWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 1)
		p := acquire(t, s)
		ctx, cancel := context.WithCancelCause(t.Context())
		c := newCrowd()
		c.join(ctx, s, 0)
		c.join(t.Context(), s, 1)
		cancel(errGaveUp)
		synctest.Wait()
		require.Equal(t, map[int]error{0: errGaveUp}, c.errs)
		require.Equal(t, limiter.SemaphoreStats{Limit: 1, InUse: 1, Waiting: 1}, s.Stats())
		p.Release(nil)
		synctest.Wait()
		require.Equal(t, []int{1}, c.order)

		_, err := s.Acquire(ctx)
		require.Equal(t, errGaveUp, err, "a context that is done never acquires")
		_, err = s.Ready(ctx, 1, 0)
		require.Equal(t, errGaveUp, err)
	})
}

func TestSemaphoreWaiterGivesUpAsItIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 1)
		p := acquire(t, s)
		ctx := &flagged{Context: t.Context()}
		c := newCrowd()
		c.join(ctx, s, 0)
		c.join(t.Context(), s, 1)
		ctx.cancel()
		p.Release(nil)
		synctest.Wait()
		require.Equal(t, map[int]error{0: context.Canceled}, c.errs)
		require.Equal(t, []int{1}, c.order, "the place goes on to the next")
		c.permits[0].Release(nil)
		require.Equal(t, limiter.SemaphoreStats{Limit: 1}, s.Stats())
	})
}

func TestSemaphoreReadyIsExactForNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 3)
		require.Equal(t, 3, ready(t, s, 10, 0))
		require.Equal(t, 2, ready(t, s, 2, -time.Second))
		require.Equal(t, 1, ready(t, s, -1, 0), "a max below 1 counts as 1")
		held := []permit{acquire(t, s), acquire(t, s), acquire(t, s)}

		a := ask(t.Context(), s, 10, 0)
		c := newCrowd()
		c.join(t.Context(), s, 0)
		held[0].Release(nil)
		synctest.Wait()
		require.False(t, a().done, "the place went to the waiter")
		held[1].Release(nil)
		synctest.Wait()
		require.True(t, a().done)
		require.Equal(t, 1, a().n)

		tryAcquire(t, s)
		a = ask(t.Context(), s, 10, 0)
		require.False(t, a().done)
		require.NoError(t, s.Resize(5))
		synctest.Wait()
		require.Equal(t, 2, a().n)

		require.NoError(t, s.Resize(1))
		ctx, cancel := context.WithCancelCause(t.Context())
		a = ask(ctx, s, 10, 0)
		cancel(errGaveUp)
		synctest.Wait()
		require.Equal(t, errGaveUp, a().err)
	})
}

// Ready with a horizon looks ahead: a consumer that waits for a free slot
// before it receives leaves that slot idle for a whole round trip.
func TestSemaphoreReadyExpectsReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const places, hold = 10, 10 * time.Millisecond // 1000 releases a second
		s := newSemaphore(t, places)
		stop := make(chan struct{})
		for range places {
			go func() {
				for {
					p, err := s.Acquire(t.Context())
					if err != nil {
						return
					}
					time.Sleep(hold)
					select {
					case <-stop:
						return // with its permit
					default:
						p.Release(nil)
					}
				}
			}()
		}
		for range 50 { // a second of asking
			ask(t.Context(), s, 1, 40*time.Millisecond)
			pass(20 * time.Millisecond)
		}
		require.Equal(t, places, s.Stats().InUse)
		require.InDelta(t, 40, ready(t, s, 1000, 40*time.Millisecond), 10)
		require.Equal(t, 7, ready(t, s, 7, 40*time.Millisecond))

		c := newCrowd()
		before := ready(t, s, 1000, 40*time.Millisecond)
		c.joinAll(t.Context(), s, 5)
		require.InDelta(t, before-5, ready(t, s, 1000, 40*time.Millisecond), 1, "who waits is counted off")

		close(stop) // everything hangs, and the expectation fades
		pass(hold)
		ready(t, s, 1000, 40*time.Millisecond) // not at once
		pass(2 * time.Second)
		a := ask(t.Context(), s, 1000, 40*time.Millisecond)
		pass(time.Hour)
		require.False(t, a().done, "nothing is given back any more")
		require.NoError(t, s.Resize(places+6))
		synctest.Wait()
		require.Equal(t, 1, a().n, "six places, five waiters")
	})
}

// A release that goes to a waiter frees no slot, but shows Ready that slots
// are being returned.
func TestSemaphoreReadyWakesOnAnyRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSemaphore(t, 1)
		p := acquire(t, s)
		c := newCrowd()
		c.joinAll(t.Context(), s, 2)
		a := ask(t.Context(), s, 100, time.Second)
		require.False(t, a().done)
		p.Release(nil)
		synctest.Wait()
		require.True(t, a().done, "4 releases a second are now expected, less the waiter")
		require.Greater(t, a().n, 0)
	})
}

func TestSemaphoreReleasedTwice(t *testing.T) {
	s := newSemaphore(t, 2)
	p := acquire(t, s)
	p.Release(nil)
	require.Panics(t, func() { p.Release(nil) })
	require.Panics(t, func() { p.Abstain() })
	require.Panics(t, func() { p.Cancel() })
	require.Equal(t, limiter.SemaphoreStats{Limit: 2}, s.Stats())
	tryAcquire(t, s)
	tryAcquire(t, s)
	refused(t, s)
}

// A limit that limits nothing must not overflow when releases are expected.
func TestReadyOfALimitThatIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, l := range []limiter.Limiter{
			newSemaphore(t, math.MaxInt),
			newAdaptive(t, limiter.AdaptiveConfig{Max: math.MaxInt, Initial: math.MaxInt}),
		} {
			for range 10 {
				p := tryAcquire(t, l)
				time.Sleep(ms)
				p.Release(nil)
			}
			a := ask(t.Context(), l, 10, time.Hour)
			synctest.Wait()
			require.True(t, a().done, "%T", l)
			require.Equal(t, 10, a().n)
		}
	})
}
