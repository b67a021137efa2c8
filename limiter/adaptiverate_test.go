package limiter_test

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/again"
	"github.com/rampmeter/rampmeter/limiter"
)

// An api has a token bucket, and refuses requests beyond it.
type api struct {
	rate, burst float64
	after       time.Duration // the Retry-After; 0: none
	abstains    bool          // every second accepted operation does
	back        time.Time     // it is unavailable until then

	mu              sync.Mutex // guards all below
	tokens          float64
	filled          time.Time
	until           time.Time // the end of the last Retry-After that was received
	accepted, early int       // calls that started before that
}

func newAPI(rate, burst float64, after time.Duration) *api {
	return &api{rate: rate, burst: burst, after: after, tokens: burst, filled: time.Now()}
}

// call calls it under a permit of l. A call takes 20 ms.
func (s *api) call(ctx context.Context, l limiter.Limiter) error {
	p, err := l.Acquire(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if time.Now().Before(s.until) {
		s.early++
	}
	s.mu.Unlock()
	time.Sleep(5 * ms)
	s.mu.Lock()
	now := time.Now()
	s.tokens = min(s.burst, s.tokens+s.rate*now.Sub(s.filled).Seconds())
	s.filled = now
	ok := s.tokens >= 1
	if ok {
		s.tokens--
		s.accepted++
	}
	abstain := s.abstains && s.accepted%2 == 0
	away := now.Before(s.back)
	if away && ok {
		s.accepted--
	}
	s.mu.Unlock()
	time.Sleep(15 * ms)
	switch {
	case away:
		p.Release(limiter.ErrUnavailable)
	case ok && abstain:
		p.Abstain()
	case ok:
		p.Release(nil)
	case s.after == 0:
		p.Release(limiter.ErrOverload)
	default:
		s.mu.Lock()
		s.until = time.Now().Add(s.after)
		s.mu.Unlock()
		p.Release(overload(s.after))
	}
	return nil
}

// busy calls the api from a number of goroutines for that long.
func (s *api) busy(t *testing.T, l limiter.Limiter, workers int, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for s.call(ctx, l) == nil {
			}
		})
	}
	wg.Wait()
}

func TestAdaptiveRateSetsNoLimitAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		require.Equal(t, 1000, ready(t, a, 1000, 0))
		for range 1000 {
			tryAcquire(t, a)
		}
		require.Equal(t, limiter.AdaptiveRateStats{Mode: limiter.PaceFree, InFlight: 1000}, a.Stats())
		require.Equal(t, math.Inf(1), a.Rate())
		require.Zero(t, a.Blocked())
	})
}

// With 10 and 100 callers, one and several processes, with and without a
// Retry-After, the API is used fully, and no Retry-After is ignored.
func TestAdaptiveRateUsesWhatTheAPIGives(t *testing.T) {
	for name, test := range map[string]struct {
		after   time.Duration
		workers int
		least   float64
		mode    limiter.PaceMode
	}{
		"Retry-After": {time.Second, 10, 0.93, limiter.PaceRetryAfter},
		"flood":       {time.Second, 100, 0.93, limiter.PaceRetryAfter},
		"bare":        {0, 10, 0.97, limiter.PaceBare},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
				s := newAPI(50, 10, test.after)
				s.busy(t, a, test.workers, time.Minute)
				before := s.accepted
				s.busy(t, a, test.workers, 2*time.Minute)
				require.Greater(t, float64(s.accepted-before), test.least*50*120)
				require.Zero(t, s.early, "calls in a pause")
				stats := a.Stats()
				require.Equal(t, test.mode, stats.Mode)
				require.InDelta(t, 50, stats.Pace, 3)
				require.Positive(t, stats.Refused)
				require.Less(t, stats.RefusedShare, 0.1)
			})
		})
	}
}

// The next operation starts at the end of a Retry-After, for everybody,
// whichever operation receives it.
func TestAdaptiveRateObeysRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		begin := time.Now()
		first, second, late := tryAcquire(t, a), tryAcquire(t, a), tryAcquire(t, a)
		pass(20 * ms)
		cause := overload(time.Second)
		first.Release(cause)
		refused(t, a)
		require.Equal(t, limiter.Block{Reason: limiter.ByPause, Until: begin.Add(1020 * ms), Cause: cause}, a.Blocked())
		require.Equal(t, begin.Add(1020*ms), a.Stats().PausedUntil)
		second.Release(overload(500 * ms)) // does not shorten it
		c := newCrowd()
		c.joinAll(t.Context(), a, 2)
		pass(999 * ms)
		late.Release(overload(2 * time.Second)) // extended by an older operation
		pass(1999 * ms)
		require.Empty(t, c.order)
		paced := a.Rate()
		pass(ms)
		require.Equal(t, []int{0}, c.order, "at once")
		require.Equal(t, 2999*ms, c.at[0])
		require.InDelta(t, paced, a.Rate(), 1e-9, "that is what was foretold")
		require.Less(t, paced, 10.0)
		pass(5 * time.Second)
		require.Len(t, c.order, 2)
	})
}

// An API that is closed for long when the first operation comes says nothing about
// its rate: when it opens, the pace is found in seconds.
func TestAdaptiveRateClosedAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const closed = 4 * time.Minute
		begin := time.Now()
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		acquire(t, a).Release(overload(closed))
		s := newAPI(50, 10, time.Second)
		for range 5 {
			require.NoError(t, s.call(t.Context(), a))
		}
		require.Less(t, time.Since(begin), closed+6*time.Second)
		s.busy(t, a, 10, 20*time.Second)
		require.Greater(t, a.Rate(), 25.0)
	})
}

// No Retry-After, no pause.
func TestAdaptiveRateBareRefusalsLowerThePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		flood := func(n int) {
			for range n {
				p := acquire(t, a)
				time.Sleep(20 * ms)
				p.Release(limiter.ErrOverload)
			}
		}
		flood(1)
		require.Equal(t, limiter.PaceBare, a.Stats().Mode)
		require.InDelta(t, 50, a.Rate(), 3)
		require.Zero(t, a.Stats().PausedUntil)
		flood(10)
		require.Less(t, a.Rate(), 25.0)
	})
}

// Results that say nothing about the downstream's capacity change nothing.
func TestAdaptiveRateWhatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		newAPI(50, 10, 0).busy(t, a, 10, 10*time.Second)
		before := a.Rate()
		for range 100 {
			for _, err := range []error{context.Canceled, limiter.ErrUnavailable, limiter.ErrMisconfigured, context.DeadlineExceeded} {
				acquire(t, a).Release(err)
			}
			acquire(t, a).Abstain()
			require.Panics(t, func() {
				_ = limiter.Do(t.Context(), a, func(context.Context) error { panic("handler") })
			})
		}
		require.Equal(t, before, a.Rate())
		acquire(t, a).Release(errPoison) // an answer
		require.Greater(t, a.Rate(), before)
		require.Zero(t, a.Stats().InFlight)
	})
}

// When nothing is accepted, calls become rare, and Ready returns one at a
// time; the first acceptance ends it.
func TestAdaptiveRateOutage(t *testing.T) {
	for name, refusal := range map[string]error{"Retry-After": overload(time.Second), "bare": limiter.ErrOverload} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
				newAPI(50, 10, 0).busy(t, a, 10, time.Minute)
				usual := a.Rate()
				down := time.Now()
				calls := func(until time.Duration) (n int) {
					for time.Since(down) < until {
						p := acquire(t, a)
						time.Sleep(20 * ms)
						p.Release(refusal)
						n++
					}
					return n
				}
				calls(time.Minute)
				stats := a.Stats()
				require.Equal(t, limiter.PaceOutage, stats.Mode)
				require.InDelta(t, 6, time.Until(stats.NextProbe).Seconds(), 1.5, "a tenth of the outage")
				block := a.Blocked()
				require.Equal(t, limiter.ByPause, block.Reason)
				require.Equal(t, stats.NextProbe, block.Until)
				require.Equal(t, refusal, block.Cause)
				require.Equal(t, 1, ready(t, a, 100, 10*time.Second), "a probe")
				ask := ask(t.Context(), a, 100, time.Second)
				require.False(t, ask().done)
				pass(time.Until(stats.NextProbe) - time.Second)
				require.Equal(t, 1, ask().n)

				require.LessOrEqual(t, calls(time.Hour), 60)
				require.LessOrEqual(t, time.Until(a.Stats().NextProbe), 5*time.Minute)
				acquire(t, a).Release(nil)
				require.NotEqual(t, limiter.PaceOutage, a.Stats().Mode)
				require.InDelta(t, usual, a.Rate(), usual/10, "as before")
			})
		})
	}
}

// A downstream that refuses from the beginning is not taken for a slow one.
func TestAdaptiveRateOutageFromTheBeginning(t *testing.T) {
	for name, after := range map[string]time.Duration{"Retry-After": time.Second, "bare": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
				newAPI(0, 0, after).busy(t, a, 10, 10*time.Minute)
				s := newAPI(50, 10, after)
				s.busy(t, a, 10, 2*time.Minute)
				require.Greater(t, s.accepted, 50*30, "a probe after a minute, and soon all of it")
			})
		})
	}
}

// A limit in flight is found, where a Retry-After makes a rate expensive.
func TestAdaptiveRateLearnsALimitInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		r := rand.New(rand.NewPCG(1, 0))
		var mu sync.Mutex // guards the four
		var inFlight, accepted, most, since int
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		time.AfterFunc(3*time.Minute, func() {
			mu.Lock()
			defer mu.Unlock()
			since = accepted
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for {
					p, err := a.Acquire(ctx)
					if err != nil {
						return
					}
					mu.Lock()
					took := 15*ms + time.Duration(r.ExpFloat64()*float64(5*ms))
					ok := inFlight < 10
					if ok {
						inFlight++
						most = max(most, inFlight)
					}
					mu.Unlock()
					time.Sleep(took)
					mu.Lock()
					if ok {
						inFlight--
						accepted++
					}
					mu.Unlock()
					if ok {
						p.Release(nil)
					} else {
						p.Release(overload(time.Second))
					}
				}
			})
		}
		wg.Wait()
		stats := a.Stats()
		require.Equal(t, limiter.PaceInFlight, stats.Mode)
		require.InDelta(t, 10, stats.MaxInFlight, 1)
		require.Greater(t, accepted-since, 500*120*85/100)
	})
}

// A few refusals with a Retry-After that don't depend on the pace are noise, until
// they bunch.
func TestAdaptiveRateNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		r := rand.New(rand.NewPCG(1, 0))
		calls := func(share float64, d time.Duration) {
			for begin := time.Now(); time.Since(begin) < d; {
				p := acquire(t, a)
				time.Sleep(20 * ms)
				if r.Float64() < share {
					p.Release(overload(time.Second))
				} else {
					p.Release(nil)
				}
			}
		}
		calls(0.1, 5*time.Minute)
		require.Equal(t, limiter.PaceNoise, a.Stats().Mode)
		p := acquire(t, a)
		p.Release(overload(time.Minute))
		require.Zero(t, a.Blocked(), "it binds no other")
		calls(1, 10*time.Second)
		require.NotEqual(t, limiter.PaceNoise, a.Stats().Mode)
		acquire(t, a).Release(overload(time.Minute))
		require.Equal(t, limiter.ByPause, a.Blocked().Reason)
	})
}

// Random bare refusals cost only themselves.
func TestAdaptiveRateBareNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		r := rand.New(rand.NewPCG(1, 0))
		var mu sync.Mutex // guards r and accepted
		accepted := 0
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for {
					p, err := a.Acquire(ctx)
					if err != nil {
						return
					}
					mu.Lock()
					took, ok := 15*ms+upTo(r, 10*ms), r.Float64() >= 0.05
					mu.Unlock()
					time.Sleep(took)
					if !ok {
						p.Release(limiter.ErrOverload)
						continue
					}
					mu.Lock()
					accepted++
					mu.Unlock()
					p.Release(nil)
				}
			})
		}
		wg.Wait()
		require.Greater(t, accepted, 500*180*95*88/10000)
	})
}

// In series with a correctly set TokenBucket, the bucket decides.
func TestAdaptiveRateBesideATokenBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		s := newAPI(50, 10, 0)
		s.busy(t, all(t, a, newBucket(t, 50, 10)), 10, 5*time.Minute)
		require.Greater(t, s.accepted, 50*300*99/100)
		require.LessOrEqual(t, a.Stats().Refused, uint64(45), "three in a thousand")
	})
}

func TestAdaptiveRateMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 20})
		require.Equal(t, 20.0, a.Rate())
		begin := time.Now()
		for range 201 {
			acquire(t, a).Release(nil)
		}
		require.InDelta(t, 10, time.Since(begin).Seconds(), 0.1)
		require.Equal(t, limiter.AdaptiveRateStats{Mode: limiter.PaceFree, Pace: 20}, a.Stats())
		for range 1000 {
			p := acquire(t, a)
			time.Sleep(20 * ms)
			p.Release(limiter.ErrOverload)
			require.Positive(t, a.Rate())
			require.LessOrEqual(t, a.Rate(), 20.0)
		}
	})
}

func TestAdaptiveRateRefusesBadConfig(t *testing.T) {
	for _, test := range []struct {
		max  float64
		want string
	}{
		{-1, "limiter: NewAdaptiveRate: Max is -1: must be a finite number above 0, or 0 for none"},
		{math.NaN(), "limiter: NewAdaptiveRate: Max is NaN: must be a finite number above 0, or 0 for none"},
		{math.Inf(1), "limiter: NewAdaptiveRate: Max is +Inf: must be a finite number above 0, or 0 for none"},
	} {
		_, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{Max: test.max})
		require.EqualError(t, err, test.want)
	}
}

// A caller that calls Ready before it receives need not wait longer than it asked
// for: as many as Ready reports start within that time, if nothing is refused
// meanwhile.
func TestAdaptiveRateReadyIsTrue(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		for range 30 {
			for range 1 + r.IntN(20) {
				p := acquire(t, a)
				time.Sleep(upTo(r, 30*ms))
				p.Release([]error{nil, nil, nil, limiter.ErrOverload, overload(upTo(r, 300*ms))}[r.IntN(5)])
			}
			within := upTo(r, time.Second)
			n, err := a.Ready(t.Context(), 1+r.IntN(20), within)
			require.NoError(t, err)
			begin := time.Now()
			for range n {
				acquire(t, a).Abstain()
			}
			require.LessOrEqual(t, time.Since(begin), within+25*ms, "seed %d: %d of them", seed, n)
		}
	})
}

func TestAdaptiveRateReadyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 10})
		tryAcquire(t, a)
		require.InDelta(t, 10, ready(t, a, 100, time.Second), 1)
		now := ask(t.Context(), a, 100, 0)
		require.False(t, now().done)
		pass(130 * ms)
		require.Equal(t, 1, now().n)

		tryAcquire(t, a).Release(overload(10 * time.Second))
		during := ask(t.Context(), a, 100, time.Second)
		pass(8 * time.Second)
		require.False(t, during().done)
		pass(2 * time.Second)
		require.True(t, during().done)

		c := newCrowd()
		c.joinAll(t.Context(), a, 3)
		counted := ask(t.Context(), a, 100, 0)
		pass(0)
		require.False(t, counted().done, "those who wait come first")
		a.Reset()
		require.Equal(t, limiter.PaceFree, a.Stats().Mode)
		pass(time.Second)
		require.Len(t, c.order, 3)
		require.True(t, counted().done)
	})
}

func TestAdaptiveRateReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		p, q := tryAcquire(t, a), tryAcquire(t, a)
		p.Release(overload(24 * time.Hour))
		c := newCrowd()
		c.joinAll(t.Context(), a, 3)
		require.Empty(t, c.order)
		a.Reset()
		synctest.Wait()
		require.Len(t, c.order, 3)
		require.Equal(t, 4, a.Stats().InFlight)
		q.Release(overload(time.Hour))
		require.Equal(t, limiter.ByPause, a.Blocked().Reason, "what is refused after it")
	})
}

// Everything learned is forgotten after ten minutes without use. A pause and
// waiting are use.
func TestAdaptiveRateForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		newAPI(50, 10, 0).busy(t, a, 10, 10*time.Second)
		learned := a.Rate()
		pass(9 * time.Minute)
		acquire(t, a).Abstain()
		require.Equal(t, learned, a.Rate())
		pass(11 * time.Minute)
		require.True(t, a.Idle())
		acquire(t, a).Abstain()
		require.Equal(t, limiter.PaceFree, a.Stats().Mode)
	})
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		for range 20 {
			p := acquire(t, a)
			time.Sleep(20 * ms)
			p.Release(nil)
		}
		tryAcquire(t, a).Release(overload(11 * time.Minute))
		pass(11 * time.Minute)
		acquire(t, a)
		require.Equal(t, limiter.PaceRetryAfter, a.Stats().Mode)

		b := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		c := newCrowd()
		begin := time.Now()
		const each = 24 * time.Minute
		c.each = func(_ int, p permit) {
			p.Observe(header("RateLimit-Policy", `"day";q=60;w=86400`))
			p.Release(nil)
		}
		c.join(t.Context(), b, 0)
		c.joinAll(t.Context(), b, 2)
		pass(each / 2)
		refused(t, b) // nor does a new caller change that
		c.wg.Wait()
		require.InDelta(t, 2*each.Seconds(), time.Since(begin).Seconds(), each.Seconds()/2)
		refused(t, b)
	})
}

func TestAdaptiveRateStatsAreJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		for _, err := range []error{nil, limiter.ErrOverload, overload(time.Second)} {
			p := acquire(t, a)
			time.Sleep(20 * ms)
			p.Release(err)
			b, err := json.Marshal(a.Stats())
			require.NoError(t, err)
			require.Contains(t, string(b), `"refused_share":`)
			var back limiter.AdaptiveRateStats
			require.NoError(t, json.Unmarshal(b, &back))
			require.Equal(t, a.Stats().Mode, back.Mode)
			require.Equal(t, a.Stats().Pace, back.Pace)
		}
	})
}

// Whatever happens, no more start than the pace allows. It changes only when a
// permit is returned, and is read after each. Nothing starts during a pause.
func TestAdaptiveRateNeverOver(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 300})
		var rates steps
		rates.set(a.Rate())
		var starts []time.Time
		var pausedUntil time.Time
		var held []permit
		for range 200 {
			if p, ok := a.TryAcquire(); ok {
				require.False(t, time.Now().Before(pausedUntil), "seed %d: started in a pause", seed)
				switch r.IntN(20) {
				case 0, 1:
					p.Cancel()
				case 2:
					starts = append(starts, time.Now())
					p.Abstain()
				default:
					starts = append(starts, time.Now())
					held = append(held, p)
				}
				rates.set(a.Rate())
			}
			if len(held) > 0 && r.IntN(2) == 0 {
				i := r.IntN(len(held))
				after := upTo(r, 300*ms)
				err := []error{nil, nil, nil, errPoison, limiter.ErrUnavailable, limiter.ErrOverload, overload(after)}[r.IntN(7)]
				held[i].Release(err)
				if _, ok := err.(overload); ok && time.Now().Add(after).After(pausedUntil) {
					pausedUntil = time.Now().Add(after)
				}
				held = append(held[:i], held[i+1:]...)
				rates.set(a.Rate())
			}
			time.Sleep(upTo(r, 20*ms))
		}
		const burst = 2 + 3 // and 10 ms at the most
		for i, from := range starts {
			room := float64(burst)
			for j, to := range starts[i:] {
				if j > 0 {
					room += rates.integral(starts[i+j-1], to)
				}
				require.LessOrEqual(t, float64(j+1), room+1e-6, "seed %d: too many starts within %v", seed, to.Sub(from))
			}
		}
		require.Equal(t, len(held), a.Stats().InFlight, "seed %d", seed)
	})
}

// A start that is cancelled at once has no effect, as in an All where another
// member refuses.
func TestAdaptiveRateCancelIsNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 10})
		begin := time.Now()
		for range 301 {
			for range 9 {
				acquire(t, a).Cancel()
			}
			acquire(t, a).Release(nil)
		}
		require.InDelta(t, 30, time.Since(begin).Seconds(), 0.1)
	})
}

func TestAdaptiveRatePermitsAreReturnedOnce(t *testing.T) {
	a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
	p := tryAcquire(t, a)
	p.Release(nil)
	for _, again := range []func(){p.Abstain, p.Cancel, func() { p.Release(nil) }} {
		require.PanicsWithValue(t, "limiter: AdaptiveRate: a permit was returned twice", again)
	}
}

// Operations that were cancelled since the response do not count against its
// quota.
func TestAdaptiveRateCancelledAreNotInWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000})
		for range 2 {
			p := acquire(t, a)
			for range 60 {
				acquire(t, a).Cancel()
			}
			for range 10 {
				acquire(t, a).Release(nil)
			}
			p.Observe(http.Header{"Ratelimit": {`"x";r=50;t=20`}})
			require.Equal(t, 2.0, a.Rate(), "50 but 10, in 20 s")
		}
	})
}

// Refusals that are no news pause for as long as they ask, and do not change the
// pace.
func TestAdaptiveRateOfWhatIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		newAPI(50, 10, time.Second).busy(t, a, 20, 2*time.Minute)
		before := a.Rate()
		for n := range 1000 {
			p, err := a.Acquire(t.Context())
			require.NoError(t, err)
			time.Sleep(20 * ms)
			if n%20 > 0 {
				p.Release(nil)
				continue
			}
			p.Release(again.Mark(overload(time.Second)))
			require.Equal(t, limiter.ByPause, a.Blocked().Reason)
			require.Equal(t, time.Now().Add(time.Second), a.Blocked().Until)
		}
		require.GreaterOrEqual(t, a.Rate(), 0.99*before)
	})
}

// Bare refusals that turn out to be the operations' own have lowered the pace for
// nothing: it rises as they continue, until it is not used up and there is no
// limit.
func TestAdaptiveRateOfWhatWasNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		run := func(n int, refusal error) {
			for i := range n {
				p, err := a.Acquire(t.Context())
				require.NoError(t, err)
				time.Sleep(100 * ms)
				if i%10 > 0 {
					p.Release(nil)
				} else {
					p.Release(refusal)
				}
			}
		}
		run(300, limiter.ErrOverload)
		low := a.Rate()
		require.Less(t, low, 6.0) // of the 10 that one caller can start
		began := time.Now()
		run(200, again.Mark(limiter.ErrOverload))
		t.Logf("from %.1f/s; 200 of them took %v", low, time.Since(began))
		require.Equal(t, math.Inf(1), a.Rate())
		require.Less(t, time.Since(began), time.Minute)
	})
}

// Operations that abstain count as operations: if every second one does, the API's
// capacity is used fully nevertheless.
func TestAdaptiveRateOfOperationsThatAbstain(t *testing.T) {
	for name, after := range map[string]time.Duration{"Retry-After": time.Second, "bare": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
				api := newAPI(50, 10, after)
				api.abstains = true
				api.busy(t, a, 20, 5*time.Minute)
				share := float64(api.accepted) / (50 * 300)
				t.Logf("%.3f of what it gives", share)
				require.GreaterOrEqual(t, share, 0.9)
			})
		})
	}
}

// An outage without a breaker teaches nothing: when it is over, the pace is what it
// was, or soon is.
func TestAdaptiveRateAfterAnOutageOfAnotherKind(t *testing.T) {
	for name, after := range map[string]time.Duration{"Retry-After": time.Second, "bare": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
				api := newAPI(50, 10, after)
				api.busy(t, a, 20, 2*time.Minute)
				before := a.Rate()
				api.back = time.Now().Add(time.Minute)
				api.busy(t, a, 20, time.Minute)
				in := a.Rate()
				accepted := api.accepted
				api.busy(t, a, 20, time.Minute)
				share := float64(api.accepted-accepted) / (50 * 60)
				t.Logf("paced to %.0f/s before it, %.0f/s at its end; %.3f of what it gives in the minute after it", before, in, share)
				require.GreaterOrEqual(t, share, 0.85)
			})
		})
	}
}
