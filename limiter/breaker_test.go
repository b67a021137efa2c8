package limiter_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
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
	require.Equal(t, limiter.Block{Reason: limiter.ByBreaker, Until: s.NextProbe, Cause: s.Cause}, b.Blocked())
	return time.Until(s.NextProbe)
}

// trip opens b, which is closed, with n operations in flight, and waits until
// a probe is due.
func trip(t testing.TB, b *limiter.Breaker, n int) {
	t.Helper()
	held := make([]permit, n)
	for i := range held {
		held[i] = tryAcquire(t, b)
	}
	results(t, b, 9, limiter.ErrUnavailable)
	held[0].Release(limiter.ErrUnavailable)
	for _, p := range held[1:] {
		p.Abstain()
	}
	pass(opened(t, b))
}

func TestBreakerRefusesBadConfig(t *testing.T) {
	for field, cfg := range map[string]limiter.BreakerConfig{
		"MinFailures is -1":   {MinFailures: -1},
		"Ratio is -0.1":       {Ratio: -0.1},
		"Ratio is 1.5":        {Ratio: 1.5},
		"Ratio is NaN":        {Ratio: math.NaN()},
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

func TestBreakerOpensOnFailures(t *testing.T) {
	for _, failure := range []error{
		limiter.ErrUnavailable, context.DeadlineExceeded,
		fmt.Errorf("token: %w", limiter.ErrMisconfigured),
		later{limiter.ErrMisconfigured, time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			t.Log("a row of failures opens it, however much went well before")
			b := newBreaker(t, limiter.BreakerConfig{})
			results(t, b, 10_000, nil)
			results(t, b, 9, failure)
			require.Equal(t, limiter.BreakerStats{State: limiter.Closed, Failures: 9}, b.Stats())
			require.Zero(t, b.Blocked())
			result(t, b, nil)
			results(t, b, 9, failure)
			require.Equal(t, limiter.Closed, b.State())
			began := time.Now()
			result(t, b, failure)
			d := opened(t, b)
			require.GreaterOrEqual(t, d, time.Second)
			require.LessOrEqual(t, d, 1200*ms)
			require.Equal(t, limiter.BreakerStats{State: limiter.Open, Cause: failure, Since: began, NextProbe: began.Add(d)}, b.Stats())
			refused(t, b)
			pass(d)
			results(t, b, 4, nil)
			require.Equal(t, limiter.BreakerStats{State: limiter.Closed, Cause: failure, Since: began, Probes: 1}, b.Stats())
			results(t, b, 9, failure) // old failures are forgotten
			require.Equal(t, limiter.Closed, b.State())

			t.Log("failures are forgotten")
			b = newBreaker(t, limiter.BreakerConfig{})
			for range 1000 {
				result(t, b, failure)
				pass(1300 * ms) // 8 in a window
			}
			require.Equal(t, limiter.Closed, b.State())
		})
	}
}

func TestBreakerOpensOnARatio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
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
	})
}

// While some operations succeed, a 403 is about single requests.
func TestBreakerStaysClosedForForbiddenObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		for range 1000 {
			results(t, b, 4, limiter.ErrMisconfigured)
			result(t, b, nil)
			pass(10 * ms)
		}
		require.Equal(t, limiter.Closed, b.State())
	})
}

// One backend of several is down: rows of failures come by chance.
func TestBreakerStaysClosedForAPartialOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 0))
		b := newBreaker(t, limiter.BreakerConfig{})
		row, longest := 0, 0
		for range 300_000 {
			if r.Float64() < 0.3 {
				result(t, b, limiter.ErrUnavailable)
				row++
			} else {
				result(t, b, nil)
				row = 0
			}
			longest = max(longest, row)
			time.Sleep(2 * ms)
		}
		require.GreaterOrEqual(t, longest, 10)
		require.Equal(t, limiter.Closed, b.State())

		t.Log("and a real outage is still noticed")
		for n := 0; b.State() == limiter.Closed; n++ {
			require.Less(t, n, 25)
			result(t, b, limiter.ErrUnavailable)
		}
	})
}

// A downstream that is slow to fail, few operations at a time.
func TestBreakerAddsUpSlowTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
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

func TestBreakerIgnoresWhatIsNotTheDownstream(t *testing.T) {
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

		t.Log("it is no success either, so it ends no row of failures")
		for range 9 {
			result(t, b, limiter.ErrUnavailable)
			results(t, b, 100, errPoison)
			tryAcquire(t, b).Abstain()
		}
		result(t, b, limiter.ErrUnavailable)
		require.Equal(t, limiter.Open, b.State())
	})
}

// Refusals are left to limiters of the pace.
func TestBreakerLeavesRefusalsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		refusals := []error{limiter.ErrOverload, overload(0), overload(time.Hour), fmt.Errorf("adjust: %w", overload(time.Minute))}
		for range 1000 {
			for _, err := range refusals {
				result(t, b, err)
			}
		}
		require.Equal(t, limiter.BreakerStats{State: limiter.Closed}, b.Stats())

		t.Log("they end no row of failures")
		for range 10 {
			results(t, b, 100, limiter.ErrOverload)
			result(t, b, limiter.ErrUnavailable)
		}
		d := opened(t, b)
		pass(d)

		t.Log("nor do they end an outage or make it longer")
		for _, err := range refusals {
			p := tryAcquire(t, b)
			refused(t, b)
			p.Release(err)
			require.Equal(t, limiter.HalfOpen, b.State())
			require.Equal(t, 1, b.Stats().Allowed)
		}
		results(t, b, 3, nil)
		results(t, b, 100, overload(time.Hour))
		require.Equal(t, 4, b.Stats().Allowed)
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

		t.Log("nor make a short outage look old")
		results(t, b, 10, limiter.ErrUnavailable)
		require.LessOrEqual(t, opened(t, b), 30*time.Second)
	})
}

func TestBreakerRampsUp(t *testing.T) {
	for _, inFlight := range []int{1, 5, 8, 50, 100_000} {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, limiter.BreakerConfig{})
			trip(t, b, inFlight)
			require.Zero(t, b.Blocked(), "a probe could start")
			began := time.Now()
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
				time.Sleep(100 * ms)
				for _, p := range probes {
					p.Release(nil)
				}
			}
			require.LessOrEqual(t, time.Since(began), 2*time.Second)
			require.Equal(t, limiter.Closed, b.State())
			require.ErrorIs(t, b.Stats().Cause, limiter.ErrUnavailable)
			require.Equal(t, 1000, ready(t, b, 1000, 0))
		})
	}
}

// The ramp also ends if there is too little work to reach the load of before
// the outage.
func TestBreakerClosesForATrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		trip(t, b, 1000)
		began := time.Now()
		for b.State() != limiter.Closed {
			tryAcquire(t, b).Release(nil)
			pass(500 * ms)
		}
		require.Equal(t, 2500*ms, time.Since(began))

		t.Log("but not before something that started late has succeeded")
		trip(t, b, 1000)
		result(t, b, nil)
		p := tryAcquire(t, b)
		pass(5 * time.Second)
		p.Release(nil)
		require.Equal(t, limiter.HalfOpen, b.State())
	})
}

// A ramp fails by the same rules as those that open a closed breaker, and the
// outage's age keeps growing.
func TestBreakerReopensFromTheRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		trip(t, b, 100)
		since := b.Stats().Since
		for range 30 {
			result(t, b, limiter.ErrUnavailable)
			pass(opened(t, b))
		}
		results(t, b, 20, nil)
		results(t, b, 9, limiter.ErrMisconfigured)
		require.Equal(t, limiter.HalfOpen, b.State())
		require.Equal(t, 21, b.Stats().Allowed)
		result(t, b, limiter.ErrUnavailable)
		d := opened(t, b)
		require.Equal(t, since, b.Stats().Since, "it is the same outage")
		require.Equal(t, 31, b.Stats().Probes)
		require.GreaterOrEqual(t, d, time.Since(since)/12)
	})
}

// Operations in flight when it opened may show that not everything fails:
// fast failures come before slow successes that started with them.
func TestBreakerIsPutRightByLateSuccesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		before := tryAcquire(t, b)
		pass(ms)
		var permits []permit
		for range 100 {
			permits = append(permits, tryAcquire(t, b))
		}
		pass(ms)
		for _, p := range permits[:30] {
			p.Release(limiter.ErrUnavailable)
		}
		opened(t, b)
		pass(20 * ms)
		before.Release(nil)
		opened(t, b)
		permits[30].Release(nil)
		require.Equal(t, limiter.HalfOpen, b.State())
		require.Equal(t, 2, ready(t, b, 100, 0))
		for _, p := range permits[31:60] {
			p.Release(nil)
		}
		require.Equal(t, 31, ready(t, b, 100, 0))
		permits[60].Release(limiter.ErrUnavailable)
		require.Equal(t, 31, ready(t, b, 100, 0))
		for _, p := range permits[61:] {
			p.Release(nil)
		}
		require.Equal(t, limiter.HalfOpen, b.State())
		results(t, b, 25, nil)
		require.Equal(t, limiter.Closed, b.State(), "as many as were in flight")
		require.Zero(t, b.Stats().Probes)
	})
}

// The next probe starts after a tenth of the outage's age, with some jitter.
func TestBreakerProbesByTheAgeOfTheOutage(t *testing.T) {
	for seed := range 50 {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, limiter.BreakerConfig{})
			trip(t, b, 1)
			since := b.Stats().Since
			var starts []time.Duration
			for time.Since(since) < 12*time.Hour {
				starts = append(starts, time.Since(since))
				p := tryAcquire(t, b)
				refused(t, b)
				time.Sleep(10 * ms)
				p.Release([]error{limiter.ErrUnavailable, limiter.ErrMisconfigured}[seed%2])
				age := time.Since(since)
				d := opened(t, b) + 10*ms // from the start of the probe
				require.LessOrEqual(t, d, max(1200*ms, min(age/10, 5*time.Minute)))
				require.GreaterOrEqual(t, d, max(time.Second, min(age/12, 250*time.Second)))
				pass(opened(t, b) - 1)
				refused(t, b)
				pass(1)
			}
			hour := func(from time.Duration) int {
				n := 0
				for _, at := range starts {
					if from <= at && at < from+time.Hour {
						n++
					}
				}
				return n
			}
			require.LessOrEqual(t, hour(0), 90)
			for _, at := range starts[90:] {
				require.LessOrEqual(t, hour(at), 15, "in any hour")
			}
			require.Equal(t, len(starts), b.Stats().Probes)
			recoverFrom(t, b)

			t.Log("another outage is a new one")
			results(t, b, 10, limiter.ErrUnavailable)
			require.LessOrEqual(t, opened(t, b), 1200*ms)
			require.Zero(t, b.Stats().Probes)
		})
	}
}

// recoverFrom lets operations succeed until b is closed.
func recoverFrom(t testing.TB, b *limiter.Breaker) {
	t.Helper()
	results(t, b, 4, nil)
	require.Equal(t, limiter.Closed, b.State())
}

func TestBreakerKeepsToItsOwnTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{OpenFor: 10 * ms, MaxOpen: 15 * ms})
		trip(t, b, 1)
		for range 50 {
			result(t, b, limiter.ErrUnavailable)
			d := opened(t, b)
			require.GreaterOrEqual(t, d, 10*ms)
			require.LessOrEqual(t, d, 15*ms)
			pass(d)
		}
	})
}

// The members of a fleet do not probe in step.
func TestBreakerJitters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		due := map[time.Duration]bool{}
		for range 100 {
			b := newBreaker(t, limiter.BreakerConfig{})
			results(t, b, 10, limiter.ErrUnavailable)
			due[opened(t, b).Truncate(ms)] = true
		}
		require.Greater(t, len(due), 50)
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
		require.Equal(t, 100, b.Stats().Probes, "what did not start was none")

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

// A probe that does not return makes room for another when that is due, and it
// has taken much longer than earlier successes.
func TestBreakerOverdueProbe(t *testing.T) {
	for name, test := range map[string]struct {
		success  time.Duration // before the outage; 0: none
		min, max time.Duration
	}{
		"quick operations": {20 * ms, time.Second, 1200 * ms},
		"slow operations":  {time.Minute, 3 * time.Minute, 3 * time.Minute},
		"unknown":          {0, 10 * time.Second, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker(t, limiter.BreakerConfig{})
				if test.success > 0 {
					p := tryAcquire(t, b)
					time.Sleep(test.success)
					p.Release(nil)
				}
				trip(t, b, 1)
				begin := time.Now()
				gone := tryAcquire(t, b)
				soon := ask(t.Context(), b, 10, 100*ms)
				c := newCrowd()
				c.join(t.Context(), b, 0)
				c.wg.Wait()
				require.GreaterOrEqual(t, time.Since(begin), test.min)
				require.LessOrEqual(t, time.Since(begin), test.max)
				require.False(t, soon().done, "the one in line was first")
				refused(t, b)
				require.Equal(t, limiter.HalfOpen, b.State())
				require.Equal(t, 2, b.Stats().Probes)
				require.Equal(t, 1, b.Stats().InFlight)

				t.Log("its failure says no more than that it is overdue, its success all")
				c.permits[0].Abstain()
				require.Equal(t, 1, soon().n)
				late := tryAcquire(t, b)
				gone.Release(limiter.ErrUnavailable)
				require.Equal(t, limiter.HalfOpen, b.State())
				refused(t, b)
				a := ask(t.Context(), b, 10, 0)
				pass(test.max)
				require.Equal(t, 1, a().n)
				last := tryAcquire(t, b)
				last.Release(limiter.ErrUnavailable)
				opened(t, b)
				late.Release(nil)
				require.Equal(t, limiter.HalfOpen, b.State())
				require.Equal(t, 2, b.Stats().Allowed)
				require.Equal(t, 2, ready(t, b, 10, 0))
			})
		})
	}
}

// If no probe returns, the outage still gets older, and probes rarer.
func TestBreakerProbesThatNeverReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		p := tryAcquire(t, b)
		time.Sleep(20 * ms)
		p.Release(nil)
		trip(t, b, 1)
		begin, probes := time.Now(), 0
		for time.Since(begin) < time.Hour {
			acquire(t, b)
			probes++
		}
		require.InDelta(t, 80, probes, 10)
		acquire(t, b).Release(nil)
		require.Equal(t, 2, b.Stats().Allowed)
	})
}

// A ramp in which no operation returns is replaced by another probe.
func TestBreakerOverdueRamp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		trip(t, b, 100)
		results(t, b, 2, nil)
		var gone []permit
		for range 3 {
			gone = append(gone, tryAcquire(t, b))
			pass(5 * time.Second)
		}
		refused(t, b)
		pass(5*time.Second - 1)
		refused(t, b)
		pass(1)
		probe := tryAcquire(t, b)
		refused(t, b)
		require.Equal(t, 1, b.Stats().Allowed)
		for _, p := range gone {
			p.Release(nil) // its ramp has ended
		}
		require.Equal(t, 1, b.Stats().Allowed)
		probe.Release(nil)
		require.Equal(t, 2, b.Stats().Allowed)
	})
}

func TestBreakerOldOperationsDoNotCloseIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		var old []permit
		for range 20 {
			old = append(old, tryAcquire(t, b))
		}
		pass(ms)
		results(t, b, 10, limiter.ErrUnavailable)
		d := opened(t, b)
		old[0].Release(nil)
		old[1].Release(limiter.ErrUnavailable)
		old[2].Cancel()
		old[3].Abstain()
		old[4].Release(later{limiter.ErrUnavailable, time.Hour})
		require.Equal(t, d, opened(t, b))
		pass(d)

		t.Log("half-open: they are no probes")
		probe := tryAcquire(t, b)
		for _, p := range old[5:8] {
			p.Release(nil)
		}
		old[8].Release(limiter.ErrUnavailable)
		require.Equal(t, 1, b.Stats().Allowed)
		require.Equal(t, 1, b.Stats().InFlight)
		refused(t, b)

		t.Log("their failures make the outage older")
		time.Sleep(time.Minute)
		old[9].Release(limiter.ErrUnavailable)
		probe.Cancel()
		result(t, b, limiter.ErrUnavailable)
		require.GreaterOrEqual(t, opened(t, b), 5*time.Second)
		pass(opened(t, b))

		t.Log("closed again")
		results(t, b, 20, nil) // 21 were in flight
		require.Equal(t, limiter.Closed, b.State())
		old[10].Release(limiter.ErrUnavailable)
		require.Zero(t, b.Stats().Failures)
		require.Zero(t, b.Stats().InFlight)
	})
}

func TestBreakerWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		results(t, b, 10, limiter.ErrUnavailable)
		d := opened(t, b)
		c := newCrowd()
		c.each = func(_ int, p permit) {
			time.Sleep(time.Second)
			p.Release(nil)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		c.join(ctx, b, -1)
		c.joinAll(t.Context(), b, 20)
		pass(time.Second / 2)
		cancel(errGaveUp) // the head that sleeps
		c.wg.Wait()
		require.Equal(t, map[int]error{-1: errGaveUp}, c.errs)
		require.Equal(t, []time.Duration{d, d + time.Second, d + time.Second, d + 2*time.Second}, c.at[:4],
			"1, 2, and all the others: with 4 successes it closes")
		for i, at := range c.at {
			require.LessOrEqual(t, at, d+3*time.Second)
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
		results(t, b, 10, limiter.ErrUnavailable)
		due := time.Until(b.Stats().NextProbe)
		require.Equal(t, "inventory", b.Blocked().Name)
		soon, now := ask(t.Context(), b, 100, 40*ms), ask(t.Context(), b, 100, 0)
		ctx, cancel := context.WithCancelCause(t.Context())
		never := ask(ctx, b, 100, 0)
		pass(time.Second / 2)
		cancel(errGaveUp)
		synctest.Wait()
		require.Equal(t, errGaveUp, never().err)
		pass(due - time.Second/2)
		require.Equal(t, answer{n: 1, after: due - 40*ms, done: true}, soon())
		require.Equal(t, answer{n: 1, after: due, done: true}, now())

		probe := tryAcquire(t, b)
		a := ask(t.Context(), b, 100, 0)
		require.False(t, a().done, "the probe is in flight")
		probe.Release(nil)
		synctest.Wait()
		require.Equal(t, 2, a().n)
		probe = tryAcquire(t, b)
		require.Equal(t, 1, ready(t, b, 100, 0))
		probe.Release(limiter.ErrUnavailable)
		results(t, b, 9, limiter.ErrUnavailable)

		c := newCrowd() // the waiter will be the probe
		c.join(t.Context(), b, 0)
		a = ask(t.Context(), b, 100, 0)
		c.wg.Wait()
		require.False(t, a().done)
		c.permits[0].Release(nil)
		synctest.Wait()
		require.Equal(t, 2, a().n)
	})
}

func TestBreakerReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []limiter.State
		b := newBreaker(t, limiter.BreakerConfig{OnChange: func(_ limiter.State, now limiter.BreakerStats) {
			changes = append(changes, now.State)
		}})
		results(t, b, 9, limiter.ErrUnavailable)
		p := tryAcquire(t, b)
		b.Reset()
		require.Equal(t, limiter.BreakerStats{State: limiter.Closed, InFlight: 1}, b.Stats())
		p.Release(limiter.ErrUnavailable)
		require.Equal(t, 1, b.Stats().Failures)
		results(t, b, 9, limiter.ErrUnavailable)

		t.Log("who waits starts at once")
		c := newCrowd()
		c.joinAll(t.Context(), b, 20)
		require.Empty(t, c.order)
		b.Reset()
		c.wg.Wait()
		require.Zero(t, c.at[19])
		for _, p := range c.permits {
			p.Release(nil)
		}

		t.Log("a probe has no say afterwards")
		results(t, b, 10, limiter.ErrUnavailable)
		pass(opened(t, b))
		probe := tryAcquire(t, b)
		b.Reset()
		require.Zero(t, b.Stats().InFlight)
		probe.Release(limiter.ErrUnavailable)
		require.Equal(t, limiter.Closed, b.State())
		require.Zero(t, b.Stats().Failures)
		require.Equal(t, []limiter.State{limiter.Open, limiter.Closed, limiter.Open, limiter.HalfOpen, limiter.Closed}, changes)
	})
}

func TestBreakerStatsInJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		text, err := json.Marshal(b.Stats())
		require.NoError(t, err)
		require.JSONEq(t, `{"state":"closed","probes":0,"failures":0,"allowed":0,"in_flight":0,"waiting":0}`, string(text))

		results(t, b, 10, fmt.Errorf("401 Unauthorized: token revoked: %w", limiter.ErrMisconfigured))
		s := b.Stats()
		text, err = json.Marshal(map[string]any{"inventory": s})
		require.NoError(t, err)
		require.JSONEq(t, fmt.Sprintf(`{"inventory":{"state":"open","cause":%q,"since":%q,"next_probe":%q,
			"probes":0,"failures":0,"allowed":0,"in_flight":0,"waiting":0}}`,
			s.Cause, s.Since.Format(time.RFC3339Nano), s.NextProbe.Format(time.RFC3339Nano)), string(text))

		text, err = json.Marshal(limiter.BreakerStats{State: limiter.HalfOpen, Cause: (*gone)(nil)})
		require.NoError(t, err)
		require.Contains(t, string(text), `"state":"half-open"`)
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
				time.Sleep(ms) // meanwhile no other goroutine may call
			}
			changes = append(changes, change{from, now})
		}})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for k := range 50 {
					p, err := b.Acquire(t.Context())
					if err != nil {
						return
					}
					time.Sleep(time.Duration(k) * ms)
					if k%10 > 5 {
						p.Release(limiter.ErrUnavailable)
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
			require.Equal(t, state == limiter.Open, !c.now.NextProbe.IsZero())
			require.Equal(t, limiter.ErrUnavailable, c.now.Cause)
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
		results(t, b, 10, limiter.ErrUnavailable)
		require.Greater(t, opened(t, b), centuries/2)
		refused(t, b)
	})
}
