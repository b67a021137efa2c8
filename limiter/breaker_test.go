package limiter_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// result runs one operation that ends at once with err.
func result(t testing.TB, b *limiter.Breaker, err error) {
	t.Helper()
	tryAcquire(t, b).Release(err)
}

func results(t testing.TB, b *limiter.Breaker, n int, err error) {
	t.Helper()
	for range n {
		result(t, b, err)
	}
}

// opened asserts that b is open, and returns for how long.
func opened(t testing.TB, b *limiter.Breaker) time.Duration {
	t.Helper()
	s := b.Stats()
	require.Equal(t, limiter.Open, s.State)
	require.Equal(t, limiter.Block{Reason: limiter.ByBreaker, Until: s.Until, Cause: s.Cause}, b.Blocked())
	return time.Until(s.Until)
}

// between asserts that an open time is d, but for the jitter.
func between(t testing.TB, d, got time.Duration) {
	t.Helper()
	require.LessOrEqual(t, got, d)
	require.GreaterOrEqual(t, got, d*8/10)
}

func TestBreakerRefusesBadConfig(t *testing.T) {
	for field, cfg := range map[string]limiter.BreakerConfig{
		"MinFailures is -1":   {MinFailures: -1},
		"Ratio is -0.1":       {Ratio: -0.1},
		"Ratio is 1.5":        {Ratio: 1.5},
		"Ratio is NaN":        {Ratio: math.NaN()},
		"Window is -1s":       {Window: -time.Second},
		"OpenFor is -1s":      {OpenFor: -time.Second},
		"MaxOpen is -1s":      {MaxOpen: -time.Second},
		"MaxOpen is 500ms":    {MaxOpen: 500 * ms},
		"MaxOpen is 1m0s":     {OpenFor: time.Hour, MaxOpen: time.Minute},
		"at least OpenFor, w": {OpenFor: time.Hour, MaxOpen: time.Minute},
	} {
		_, err := limiter.NewBreaker(cfg)
		require.ErrorContains(t, err, "limiter: NewBreaker: ")
		require.ErrorContains(t, err, field)
	}
	newBreaker(t, limiter.BreakerConfig{MinFailures: 1, Ratio: 1, OpenFor: time.Hour})
}

func TestBreakerOpensAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		exact time.Duration // 0: the open time
	}{
		"overload":                          {err: limiter.ErrOverload},
		"overload with Retry-After":         {err: overload(7 * time.Second), exact: 7 * time.Second},
		"overload with a short Retry-After": {err: overload(3 * ms), exact: 3 * ms},
		"overload with a long Retry-After":  {err: overload(time.Hour), exact: time.Hour},
		"overload with Retry-After 0":       {err: overload(0)},
		"wrapped overload":                  {err: fmt.Errorf("adjust: %w", overload(time.Minute)), exact: time.Minute},
		"misconfigured with a Retry-After":  {err: later{limiter.ErrMisconfigured, time.Hour}},
		"misconfigured":                     {err: fmt.Errorf("token: %w", limiter.ErrMisconfigured)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, limiter.BreakerConfig{})
				results(t, b, 1000, nil)
				require.Equal(t, limiter.BreakerStats{State: limiter.Closed}, b.Stats())
				require.Zero(t, b.Blocked())
				result(t, b, test.err)
				if test.exact > 0 {
					require.Equal(t, test.exact, opened(t, b))
				} else {
					between(t, time.Second, opened(t, b))
				}
				require.Equal(t, test.err, b.Stats().Cause)
				refused(t, b)
			})
		})
	}
}

func TestBreakerOpensOnFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Log("a row of failures opens it, however much went well before")
		b := newBreaker(t, limiter.BreakerConfig{})
		results(t, b, 10_000, nil)
		results(t, b, 9, limiter.ErrUnavailable)
		require.Equal(t, limiter.BreakerStats{State: limiter.Closed, Failures: 9}, b.Stats())
		result(t, b, nil)
		results(t, b, 9, context.DeadlineExceeded)
		require.Equal(t, limiter.Closed, b.State())
		result(t, b, limiter.ErrUnavailable)
		pass(opened(t, b))
		results(t, b, 4, nil)
		require.Equal(t, limiter.BreakerStats{State: limiter.Closed, Cause: limiter.ErrUnavailable}, b.Stats())
		results(t, b, 9, limiter.ErrUnavailable) // old failures are forgotten
		require.Equal(t, limiter.Closed, b.State())

		t.Log("or a share of the results")
		b = newBreaker(t, limiter.BreakerConfig{})
		for range 1000 { // a third fails
			results(t, b, 2, nil)
			result(t, b, limiter.ErrUnavailable)
			pass(10 * ms)
		}
		require.Equal(t, limiter.Closed, b.State())
		failures := 0
		for b.State() == limiter.Closed { // now two thirds do
			failures = b.Stats().Failures
			tryAcquire(t, b).Release(nil)
			for range 2 {
				if p, ok := b.TryAcquire(); ok {
					p.Release(limiter.ErrUnavailable)
				}
			}
			pass(10 * ms)
		}
		require.InDelta(t, 1500, failures, 100, "half of 300 a second for 10 s")

		t.Log("failures are forgotten")
		b = newBreaker(t, limiter.BreakerConfig{})
		for range 1000 {
			result(t, b, limiter.ErrUnavailable)
			pass(1300 * ms) // 8 in a window
		}
		require.Equal(t, limiter.Closed, b.State())

		t.Log("a far side that is slow to fail, few operations at a time")
		b = newBreaker(t, limiter.BreakerConfig{})
		for range 1000 {
			results(t, b, 1, nil)
		}
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					p, err := b.Acquire(ctx)
					if err != nil {
						return
					}
					time.Sleep(30 * time.Second)
					p.Release(context.DeadlineExceeded)
				}
			})
		}
		for b.State() == limiter.Closed {
			pass(time.Second)
		}
		require.LessOrEqual(t, time.Since(start), 5*time.Minute)
		cancel()
		wg.Wait()
	})
}

func TestBreakerIgnoresWhatIsNotTheFarSide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		for _, err := range []error{errPoison, context.Canceled} {
			results(t, b, 1000, err)
		}
		for range 1000 {
			require.Panics(t, func() {
				_ = limiter.Do(t.Context(), b, func(context.Context) error { panic("handler") })
			})
			tryAcquire(t, b).Abstain()
			tryAcquire(t, b).Cancel()
		}
		require.Equal(t, limiter.BreakerStats{State: limiter.Closed}, b.Stats())

		t.Log("a success neither: it is no success, so it ends no row of failures")
		for range 9 {
			result(t, b, limiter.ErrUnavailable)
			results(t, b, 100, errPoison)
			tryAcquire(t, b).Abstain()
		}
		result(t, b, limiter.ErrUnavailable)
		require.Equal(t, limiter.Open, b.State())
	})
}

// One message that always fails must not stop the others.
func TestBreakerStaysClosedForOneThatAlwaysFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		for _, took := range []time.Duration{0, 30 * time.Second} {
			backoff := time.Second / 2
			for range 100 {
				p := tryAcquire(t, b)
				pass(took)
				p.Release(limiter.ErrUnavailable)
				pass(backoff)
				backoff = min(2*backoff, 20*time.Minute)
			}
		}
		require.Equal(t, limiter.Closed, b.State())
	})
}

// trip opens b, which is closed, with n operations in flight, and waits until
// the open time is over.
func trip(t testing.TB, b *limiter.Breaker, n int) {
	t.Helper()
	held := make([]permit, n)
	for i := range held {
		held[i] = tryAcquire(t, b)
	}
	for _, p := range held {
		p.Release(limiter.ErrOverload)
	}
	pass(opened(t, b))
}

func TestBreakerRampsUp(t *testing.T) {
	for _, inFlight := range []int{1, 5, 8, 50} {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, limiter.BreakerConfig{})
			trip(t, b, inFlight)
			require.Zero(t, b.Blocked(), "a probe could start")
			for round := 1; round < max(5, inFlight); round *= 2 {
				var probes []permit
				for range round {
					probes = append(probes, tryAcquire(t, b))
				}
				refused(t, b)
				require.Equal(t, limiter.HalfOpen, b.State())
				require.Equal(t, round, b.Stats().Allowed)
				require.Equal(t, round, b.Stats().InFlight)
				require.Equal(t, limiter.Block{Reason: limiter.ByBreaker, Cause: b.Stats().Cause}, b.Blocked())
				for _, p := range probes {
					p.Release(nil)
				}
			}
			require.Equal(t, limiter.Closed, b.State())
			require.ErrorIs(t, b.Stats().Cause, limiter.ErrOverload)
			require.Equal(t, 1000, ready(t, b, 1000, 0))
		})
	}
}

func TestBreakerOpenTimeDoubles(t *testing.T) {
	for name, err := range map[string]error{
		"unavailable":   limiter.ErrUnavailable,
		"misconfigured": limiter.ErrMisconfigured,
		"overload":      limiter.ErrOverload,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, limiter.BreakerConfig{})
				for range 2 { // from the beginning when it has been closed
					results(t, b, 1, limiter.ErrMisconfigured)
					var jittered time.Duration
					for _, s := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
						d := opened(t, b)
						between(t, s*time.Second, d)
						jittered += s*time.Second - d
						pass(d - 1)
						refused(t, b)
						pass(1)
						result(t, b, err)
					}
					require.Positive(t, jittered, "a fleet must not probe in step")
					pass(opened(t, b))
					results(t, b, 4, nil)
					require.Equal(t, limiter.Closed, b.State())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{OpenFor: 10 * ms, MaxOpen: 15 * ms})
		result(t, b, limiter.ErrMisconfigured)
		for range 5 {
			pass(opened(t, b))
			result(t, b, overload(time.Minute))
			require.Equal(t, time.Minute, opened(t, b), "told by the far side, whatever the open time")
		}
		pass(time.Minute)
		result(t, b, limiter.ErrUnavailable)
		between(t, 15*ms, opened(t, b))
	})
}

func TestBreakerProbeWithoutVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		trip(t, b, 1)
		for range 100 {
			p := tryAcquire(t, b)
			refused(t, b)
			p.Release(errPoison)
			p = tryAcquire(t, b)
			refused(t, b)
			p.Cancel()
		}
		require.Equal(t, 1, b.Stats().Allowed)

		c := newCrowd() // it is the same for those who wait
		p := tryAcquire(t, b)
		c.joinAll(t.Context(), b, 3)
		require.Equal(t, 3, b.Stats().Waiting)
		a := ask(t.Context(), b, 10, 0)
		p.Cancel()
		synctest.Wait()
		require.Equal(t, []int{0}, c.order)
		c.permits[0].Release(errPoison)
		synctest.Wait()
		require.Equal(t, []int{0, 1}, c.order)
		c.permits[1].Release(nil) // two may be in flight
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2}, c.order)
		require.True(t, a().done)
		require.Equal(t, 1, a().n)
	})
}

func TestBreakerOldOperationsHaveNoSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		var old []permit
		for range 20 {
			old = append(old, tryAcquire(t, b))
		}
		result(t, b, overload(time.Second))
		old[0].Release(nil)
		old[1].Release(limiter.ErrUnavailable)
		old[2].Release(limiter.ErrOverload)
		old[3].Cancel()
		old[16].Release(later{errPoison, time.Hour})
		old[17].Release(later{limiter.ErrUnavailable, time.Hour})
		require.Equal(t, time.Second, opened(t, b))

		t.Log("but what the far side asked for holds")
		old[4].Release(overload(10 * time.Second))
		require.Equal(t, 10*time.Second, opened(t, b))
		old[5].Release(overload(5 * time.Second))
		require.Equal(t, 10*time.Second, opened(t, b))
		require.Equal(t, overload(10*time.Second), b.Stats().Cause)
		c := newCrowd()
		c.join(t.Context(), b, 0)
		pass(9 * time.Second)
		old[6].Release(overload(3 * time.Second)) // for who waits too
		c.wg.Wait()
		require.Equal(t, 12*time.Second, c.at[0])
		require.Equal(t, limiter.HalfOpen, b.State())

		t.Log("half-open: they are no probes")
		for _, i := range []int{7, 8, 9, 10} {
			old[i].Release(nil)
		}
		old[11].Release(limiter.ErrUnavailable)
		old[12].Release(limiter.ErrOverload)
		require.Equal(t, 1, b.Stats().Allowed)
		require.Equal(t, 1, b.Stats().InFlight)
		refused(t, b)
		old[13].Release(overload(time.Minute))
		require.Equal(t, time.Minute, opened(t, b))
		c.permits[0].Release(nil) // an old one itself now
		require.Equal(t, limiter.Open, b.State())
		pass(time.Minute)

		t.Log("closed again")
		results(t, b, 20, nil) // 21 were in flight
		require.Equal(t, limiter.Closed, b.State())
		old[14].Release(limiter.ErrUnavailable)
		require.Zero(t, b.Stats().Failures)
		old[15].Release(overload(time.Minute))
		require.Equal(t, time.Minute, opened(t, b))
		require.Zero(t, b.Stats().InFlight)
	})
}

func TestBreakerWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		result(t, b, overload(10*time.Second))
		c := newCrowd()
		c.each = func(_ int, p permit) {
			time.Sleep(time.Second)
			p.Release(nil)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		c.join(ctx, b, -1)
		c.joinAll(t.Context(), b, 20)
		pass(time.Second)
		cancel(errGaveUp) // the head that sleeps
		c.wg.Wait()
		require.Equal(t, map[int]error{-1: errGaveUp}, c.errs)
		require.Equal(t, []time.Duration{ // 1, 2, and all the others: with 4 successes it closes
			10 * time.Second, 11 * time.Second, 11 * time.Second, 12 * time.Second,
		}, c.at[:4])
		for i, at := range c.at {
			require.LessOrEqual(t, at, 13*time.Second)
			if i > 0 {
				require.LessOrEqual(t, c.at[i-1], at)
			}
		}
		require.Equal(t, limiter.Closed, b.State())
		require.Zero(t, b.Stats().InFlight)
	})
}

func TestBreakerReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{Name: "inventory"})
		require.Equal(t, 100, ready(t, b, 100, 0))
		result(t, b, overload(10*time.Second))
		require.Equal(t, "inventory", b.Blocked().Name)
		soon, now := ask(t.Context(), b, 100, 40*ms), ask(t.Context(), b, 100, 0)
		ctx, cancel := context.WithCancelCause(t.Context())
		never := ask(ctx, b, 100, 0)
		pass(time.Second)
		cancel(errGaveUp)
		synctest.Wait()
		require.Equal(t, errGaveUp, never().err)
		pass(9 * time.Second)
		require.Equal(t, answer{n: 1, after: 9960 * ms, done: true}, soon())
		require.Equal(t, answer{n: 1, after: 10 * time.Second, done: true}, now())

		probe := tryAcquire(t, b)
		a := ask(t.Context(), b, 100, time.Hour)
		require.False(t, a().done, "the probe is in flight")
		probe.Release(nil)
		synctest.Wait()
		require.Equal(t, 2, a().n)
		probe = tryAcquire(t, b)
		require.Equal(t, 1, ready(t, b, 100, 0))
		probe.Release(limiter.ErrUnavailable)

		c := newCrowd() // who waits will be the probe
		c.join(t.Context(), b, 0)
		a = ask(t.Context(), b, 100, 0)
		c.wg.Wait()
		require.False(t, a().done)
		c.permits[0].Release(nil)
		synctest.Wait()
		require.Equal(t, 2, a().n)
	})
}

func TestBreakerOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type change struct {
			from limiter.State
			now  limiter.BreakerStats
		}
		var changes []change // without a lock: calls come one at a time
		var b *limiter.Breaker
		b = newBreaker(t, limiter.BreakerConfig{OnChange: func(from limiter.State, now limiter.BreakerStats) {
			_ = b.Stats() // it may use the breaker
			if len(changes)%3 == 0 {
				time.Sleep(ms) // others must not tell meanwhile
			}
			changes = append(changes, change{from, now})
		}})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for k := range 50 {
					p, err := b.Acquire(t.Context())
					if err != nil {
						return
					}
					time.Sleep(time.Duration(k) * ms)
					if (i+k)%10 == 0 {
						p.Release(overload(10 * ms))
					} else {
						p.Release(nil)
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		require.Greater(t, len(changes), 50)
		state := limiter.Closed
		for _, c := range changes {
			require.Equal(t, state, c.from, "in order, none left out")
			require.NotEqual(t, state, c.now.State)
			state = c.now.State
			require.Equal(t, state == limiter.Open, !c.now.Until.IsZero())
			require.Equal(t, overload(10*ms), c.now.Cause)
		}
		require.Equal(t, b.State(), state)
	})
}

func TestBreakerReleasedTwice(t *testing.T) {
	b := newBreaker(t, limiter.BreakerConfig{})
	p := acquire(t, b)
	p.Release(nil)
	require.Panics(t, func() { p.Release(nil) })
	require.Zero(t, b.Stats().InFlight)
	acquire(t, b).Release(nil)
}

func TestStateString(t *testing.T) {
	require.Equal(t, "closed open half-open State(7)",
		fmt.Sprint(limiter.Closed, " ", limiter.Open, " ", limiter.HalfOpen, " ", limiter.State(7)))
}

func TestBreakerOpenTimeOfCenturies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const centuries = math.MaxInt64/2 + time.Hour // twice that is an overflow
		b := newBreaker(t, limiter.BreakerConfig{OpenFor: centuries})
		result(t, b, overload(time.Second))
		time.Sleep(time.Second)
		result(t, b, limiter.ErrUnavailable) // the probe
		require.Greater(t, time.Until(b.Stats().Until), centuries/2)
		refused(t, b)
	})
}
