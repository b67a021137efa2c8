package limiter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// An abstention frees the slot in every limiter. It returns no token, since the
// operation did start.
func TestAbstainFreesTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, s := newAdaptive(t, limiter.AdaptiveConfig{Max: 1}), newBreaker(t, limiter.BreakerConfig{}), newSemaphore(t, 1)
		keyed, err := limiter.NewKeyed(func(string) (limiter.Limiter, error) { return limiter.NewSemaphore(1) })
		require.NoError(t, err)
		trip(t, b, 1) // one probe at a time
		for _, l := range []limiter.Limiter{s, a, b, keyed.For("a"), all(t, s, a, b)} {
			for range 10 {
				p := tryAcquire(t, l)
				refused(t, l)
				c := newCrowd()
				c.join(t.Context(), l, 0)
				p.Abstain()
				synctest.Wait()
				require.Equal(t, []int{0}, c.order, "%T: the slot goes to who waits", l)
				c.permits[0].Abstain()
			}
		}

		bucket := newBucket(t, 1, 2)
		tryAcquire(t, bucket).Abstain()
		tryAcquire(t, all(t, bucket, s)).Abstain()
		refused(t, bucket)
		rate := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1})
		tryAcquire(t, rate).Abstain()
		refused(t, rate)
	})
}

// Ready expects slots to be returned as it does after releases.
func TestAbstainIsARelease(t *testing.T) {
	for _, create := range []func() limiter.Limiter{
		func() limiter.Limiter { return newSemaphore(t, 1) },
		func() limiter.Limiter { return newAdaptive(t, limiter.AdaptiveConfig{Max: 1}) },
	} {
		synctest.Test(t, func(t *testing.T) {
			l := create()
			for range 1000 {
				p := tryAcquire(t, l)
				time.Sleep(ms)
				p.Abstain()
			}
			tryAcquire(t, l)
			require.InDelta(t, 100, ready(t, l, 1000, 100*ms), 10, "%T", l)
		})
	}
}

// A probe that abstains neither closes the breaker nor opens it again, and
// operations in flight when it opened have no effect.
func TestAbstainDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		before := tryAcquire(t, b)
		trip(t, b, 1)
		for range 1000 {
			tryAcquire(t, b).Abstain()
			require.Equal(t, limiter.HalfOpen, b.State())
			require.Equal(t, 1, b.Stats().Allowed)
		}
		probe := tryAcquire(t, b)
		before.Abstain()
		require.Equal(t, 1, b.Stats().InFlight)
		refused(t, b)
		probe.Release(nil)
		require.Equal(t, 2, b.Stats().Allowed)
	})
}

// Operations that abstain take no part in what an Adaptive learns about latency.
func TestAbstainSaysNothingAboutLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 10, Initial: 5})
		for range 100 {
			permits := fill(a)
			time.Sleep(time.Second)
			for _, p := range permits {
				p.Abstain()
			}
		}
		require.Equal(t, limiter.AdaptiveStats{Limit: 5}, a.Stats())
		for range 1000 {
			permits := fill(a)
			time.Sleep(10 * ms)
			permits[0].Release(nil)
			for _, p := range permits[1:] {
				p.Abstain()
			}
		}
		require.InDelta(t, 10*ms, a.Stats().Latency, float64(ms))
	})
}

func TestAbstainReturnsTheBundleOfAnAllOnce(t *testing.T) {
	s := newSemaphore(t, 2)
	l := all(t, s, newBreaker(t, limiter.BreakerConfig{}))
	p := tryAcquire(t, l)
	p.Abstain()
	for _, again := range []func(){p.Abstain, p.Cancel, func() { p.Release(nil) }} {
		require.Panics(t, again)
	}
	require.Zero(t, s.Stats().InUse)
}
