package limiter_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// A rateSide accepts so many operations a second, with a burst, and refuses the
// others. It is used from a bubble, where everything of one instant is in some
// order, under the test's lock.
type rateSide struct {
	rate, burst, tokens float64
	last                time.Time
}

func (s *rateSide) admit() bool {
	now := time.Now()
	s.tokens = min(s.burst, s.tokens+s.rate*now.Sub(s.last).Seconds())
	s.last = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

// From refusals alone the rate is found within two minutes, and then hardly
// anything is refused.
func TestAdaptiveRateFindsTheRate(t *testing.T) {
	rates := []float64{0.5, 2, 10, 100, 1000}
	if testing.Short() {
		rates = []float64{2, 100}
	}
	for _, perSecond := range rates {
		for _, burst := range []float64{1, 2, 10} { // seconds
			synctest.Test(t, func(t *testing.T) {
				const settling, length = 2 * time.Minute, 10 * time.Minute
				a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1e5})
				// What starts at one instant comes in the order in which it
				// has started: the side needs no lock.
				side := &rateSide{rate: perSecond, burst: max(1, perSecond*burst), last: time.Now()}
				side.tokens = side.burst
				arrivals := make(chan func(), 1000)
				go func() {
					for f := range arrivals {
						f()
					}
				}()
				var accepted, refused int
				var mean, seconds float64
				begin, last := time.Now(), time.Now()
				for time.Since(begin) < length {
					p := acquire(t, a)
					settled := time.Since(begin) > settling
					if settled {
						d := time.Since(last).Seconds()
						mean += a.Rate() * d
						seconds += d
					}
					last = time.Now()
					time.AfterFunc(20*ms, func() {
						arrivals <- func() {
							ok := side.admit()
							if settled && ok {
								accepted++
							} else if settled {
								refused++
							}
							time.AfterFunc(80*ms, func() {
								if ok {
									p.Release(nil)
								} else {
									p.Release(limiter.ErrOverload)
								}
							})
						}
					})
				}
				pass(time.Second)
				close(arrivals)
				what := fmt.Sprintf("rate %v, burst %v s", perSecond, burst)
				share := float64(refused) / float64(accepted+refused)
				t.Logf("%s: mean %.3f refused %.4f", what, mean/seconds/perSecond, share)
				require.InEpsilon(t, perSecond, mean/seconds, 0.1, what)
				require.LessOrEqual(t, share, 0.02, what)
			})
		}
	}
}

// When the far side accepts twice as many, or half, that is found too.
func TestAdaptiveRateFollowsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1e5, Initial: 10})
		side := &rateSide{rate: 50, burst: 50, last: time.Now()}
		for _, rate := range []float64{50, 100, 25, 50} {
			side.rate = rate
			for begin := time.Now(); time.Since(begin) < 2*time.Minute; {
				p := acquire(t, a)
				if side.admit() {
					p.Release(nil)
				} else {
					p.Release(limiter.ErrOverload)
				}
			}
			require.InEpsilon(t, rate, a.Rate(), 0.15)
		}
	})
}

// After an outage, in which everything is refused, it is soon back to what it
// was before, whether the far side says how long to stay away, and whether a
// breaker keeps most of it from the rate, or not.
func TestAdaptiveRateAfterAnOutage(t *testing.T) {
	for name, test := range map[string]struct {
		refusal error
		breaker bool
	}{
		"plain":       {limiter.ErrOverload, false},
		"Retry-After": {overload(2 * time.Second), false},
		"breaker":     {limiter.ErrOverload, true},
	} {
		for outage, bound := range map[time.Duration]time.Duration{
			5 * time.Second:  2 * time.Minute,
			15 * time.Second: 2 * time.Minute,
			60 * time.Second: 2 * time.Minute,
			5 * time.Minute:  4 * time.Minute,
			5 * time.Hour:    4 * time.Minute,
		} {
			t.Run(fmt.Sprint(name, " ", outage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000})
					var l limiter.Limiter = a
					if test.breaker {
						l = all(t, newBreaker(t, limiter.BreakerConfig{MaxOpen: 30 * time.Second}), a)
					}
					side := newBucket(t, 20, 2)
					var down atomic.Bool
					ctx, stop := context.WithCancel(t.Context())
					defer pass(time.Second)
					defer stop()
					for range 20 {
						go func() {
							for {
								p, err := l.Acquire(ctx)
								if err != nil {
									return
								}
								time.Sleep(20 * ms)
								if down.Load() {
									p.Release(test.refusal)
								} else if _, ok := side.TryAcquire(); ok {
									p.Release(nil)
								} else {
									p.Release(limiter.ErrOverload)
								}
							}
						}()
					}
					pass(2 * time.Minute)
					require.InDelta(t, 20, a.Rate(), 4)
					down.Store(true)
					pass(outage)
					require.Less(t, a.Rate(), 10.0, "it gets less")
					down.Store(false)
					ended := time.Now()
					for a.Rate() < 18 && time.Since(ended) < bound {
						pass(time.Second)
					}
					t.Log("back after", time.Since(ended))
					require.GreaterOrEqual(t, a.Rate(), 18.0, "after %v", bound)
				})
			})
		}
	}
}

// Refusals one upon another are no outage while something is accepted: then
// the rate is not doubled, but found again.
func TestAdaptiveRateFallsFar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1e4, Initial: 1000})
		side := &rateSide{rate: 1, burst: 1, last: time.Now()}
		refused, accepted := 0, 0
		for begin := time.Now(); time.Since(begin) < 10*time.Minute; {
			p := acquire(t, a)
			switch ok := side.admit(); {
			case ok:
				accepted++
				p.Release(nil)
			default:
				refused++
				p.Release(limiter.ErrOverload)
			}
		}
		require.InDelta(t, 1, a.Rate(), 0.5)
		require.Less(t, refused, 60, "beside %d accepted", accepted)
	})
}

// Neither a pause nor waiting for one's turn is disuse, however long.
func TestAdaptiveRateForgetsNothingWhileInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000, Initial: 400})
		tryAcquire(t, a).Release(overload(11 * time.Minute))
		pass(11 * time.Minute)
		acquire(t, a)
		require.InDelta(t, 400*0.9/8, a.Rate(), 1e-9, "the ramp")

		b := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000})
		c := newCrowd()
		begin := time.Now()
		const each = 24 * time.Minute
		c.each = func(_ int, p permit) {
			p.Observe(header("RateLimit-Policy", `"day";q=60;w=86400`))
			p.Release(nil)
		}
		c.joinAll(t.Context(), b, 3)
		pass(each / 2)
		refused(t, b) // nor does one who comes meanwhile change that
		c.wg.Wait()
		require.InDelta(t, 2*each.Seconds(), time.Since(begin).Seconds(), 1)
		refused(t, b)
	})
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000})
		begin := time.Now()
		for range 3 {
			p := acquire(t, a) // waits longer than would be disuse
			p.Observe(header("RateLimit-Policy", `"day";q=60;w=86400`))
			p.Release(nil)
		}
		require.InDelta(t, 2*24*60, time.Since(begin).Seconds(), 1)
	})
}

// What we did ourselves is no acceptance.
func TestAdaptiveRateWhatTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000, Initial: 10})
		for range 100 {
			acquire(t, a).Release(context.Canceled)
			acquire(t, a).Abstain()
			require.Panics(t, func() {
				_ = limiter.Do(t.Context(), a, func(context.Context) error { panic("handler") })
			})
		}
		require.InDelta(t, 10, a.Rate(), 0)
	})
}

func TestAdaptiveRateIsBetweenItsBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 20, Initial: 5})
		require.InDelta(t, 5, a.Rate(), 0)
		for range 200 {
			acquire(t, a).Release(nil)
		}
		require.InDelta(t, 20, a.Rate(), 0)
		for range 200 {
			acquire(t, a).Release(limiter.ErrOverload)
			require.Positive(t, a.Rate())
		}
		require.InDelta(t, 1.0/60, a.Rate(), 1e-9)
	})
}

func TestAdaptiveRateNeedsUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000, Initial: 10})
		for range 300 {
			acquire(t, a).Release(nil)
			time.Sleep(200 * ms) // half of the rate
		}
		require.InDelta(t, 10, a.Rate(), 0)
		for range 300 {
			acquire(t, a).Release(errPoison) // work done, whatever it says
		}
		require.Greater(t, a.Rate(), 20.0)
		high := a.Rate()
		for range 300 {
			acquire(t, a).Release(limiter.ErrUnavailable) // none
		}
		require.InDelta(t, high, a.Rate(), 0)

		pass(11 * time.Minute)
		acquire(t, a).Release(nil)
		require.InDelta(t, 10, a.Rate(), 0, "anew")
	})
}

func TestAdaptiveRateOneCutForAllInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000, Initial: 100})
		var permits []permit
		for range 50 {
			permits = append(permits, acquire(t, a))
		}
		for _, p := range permits {
			p.Release(limiter.ErrOverload)
		}
		require.InDelta(t, 90, a.Rate(), 1e-9)
		acquire(t, a).Release(limiter.ErrOverload)
		require.InDelta(t, 63, a.Rate(), 1e-9, "again, at once")
	})
}

func TestAdaptiveRateRefusesBadConfig(t *testing.T) {
	for _, test := range []struct {
		cfg  limiter.AdaptiveRateConfig
		want string
	}{
		{limiter.AdaptiveRateConfig{}, "limiter: NewAdaptiveRate: Max is 0: must be a finite number above 0"},
		{limiter.AdaptiveRateConfig{Max: -1}, "limiter: NewAdaptiveRate: Max is -1: must be a finite number above 0"},
		{limiter.AdaptiveRateConfig{Max: math.NaN()}, "limiter: NewAdaptiveRate: Max is NaN: must be a finite number above 0"},
		{limiter.AdaptiveRateConfig{Max: math.Inf(1)}, "limiter: NewAdaptiveRate: Max is +Inf: must be a finite number above 0"},
		{limiter.AdaptiveRateConfig{Max: 1, Initial: math.NaN()}, "limiter: NewAdaptiveRate: Initial is NaN: must be above 0 and at most Max, which is 1, or 0 for the default"},
		{limiter.AdaptiveRateConfig{Max: 1, Initial: 2}, "limiter: NewAdaptiveRate: Initial is 2: must be above 0 and at most Max, which is 1, or 0 for the default"},
		{limiter.AdaptiveRateConfig{Max: 1, Initial: -2}, "limiter: NewAdaptiveRate: Initial is -2: must be above 0 and at most Max, which is 1, or 0 for the default"},
	} {
		_, err := limiter.NewAdaptiveRate(test.cfg)
		require.EqualError(t, err, test.want)
	}
}

// Whatever happens, no more start than the rate allows: it changes only with
// what is given back, and is asked for after each.
func TestAdaptiveRateNeverOver(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 300, Initial: 1 + 200*r.Float64()})
		var rates steps
		rates.set(a.Rate())
		var starts []time.Time
		var pausedUntil time.Time
		var held []permit
		for range 200 {
			if p, ok := a.TryAcquire(); ok {
				require.False(t, time.Now().Before(pausedUntil), "seed %d: started in a pause", seed)
				if r.IntN(10) == 0 {
					p.Cancel()
				} else {
					starts = append(starts, time.Now())
					held = append(held, p)
				}
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
		const burst = 3 // 10 ms at the most
		for i, from := range starts {
			room := float64(burst)
			for j, to := range starts[i:] {
				if j > 0 {
					room += rates.integral(starts[i+j-1], to)
				}
				require.LessOrEqual(t, float64(j+1), room+1e-6, "seed %d: too many starts within %v", seed, to.Sub(from))
			}
		}
	})
}

// Half of the rate is used, and the other half taken and given back, as an All
// does where another member refuses.
func TestAdaptiveRateCancelIsNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000, Initial: 10})
		for range 300 {
			for range 9 {
				acquire(t, a).Cancel()
			}
			acquire(t, a).Release(nil)
			time.Sleep(200 * ms)
		}
		require.Equal(t, 10.0, a.Rate())
	})
}

// What is left of a quota is not for those who started since and were cancelled.
func TestAdaptiveRateCancelledAreNotInWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000, Initial: 10})
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
