package limiter_test

import (
	"context"
	"errors"
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

// fill takes all slots.
func fill(l limiter.Limiter) (permits []permit) {
	for {
		p, ok := l.TryAcquire()
		if !ok {
			return permits
		}
		permits = append(permits, p)
	}
}

func releaseAll(permits []permit, err error) {
	for _, p := range permits {
		p.Release(err)
	}
}

// rounds repeatedly takes all slots and returns them with success.
func rounds(a limiter.Limiter, n int) {
	for range n {
		permits := fill(a)
		time.Sleep(100 * ms)
		releaseAll(permits, nil)
	}
}

func TestAdaptiveBeginsWithInitialAndGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 64})
		require.Equal(t, 1, a.Limit())
		rounds(a, 200)
		require.Equal(t, 64, a.Limit(), "the hard cap")
		require.Len(t, fill(a), 64)
		require.Equal(t, 100*ms, a.Stats().Latency.Round(ms))

		require.Equal(t, 7, newAdaptive(t, limiter.AdaptiveConfig{Max: 64, Initial: 7}).Limit())
	})
}

func TestAdaptiveRefusalLowersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 100})
		permits := fill(a)
		require.Len(t, permits, 100)
		for i, p := range permits[:30] {
			p.Release(limiter.ErrOverload)
			require.Equal(t, 90, a.Limit(), "once for all that were in flight")
			require.Equal(t, 99-i, a.Stats().InFlight)
		}
		releaseAll(permits[30:], nil)
		permits = fill(a)
		require.Len(t, permits, 90)
		permits[0].Release(limiter.ErrOverload)
		require.Equal(t, 81, a.Limit())
		require.Empty(t, fill(a), "nothing starts until fewer are in flight")
		releaseAll(permits[1:9], nil)
		require.Empty(t, fill(a))
		permits[9].Release(nil)
		require.Len(t, fill(a), 1)
	})
}

// A refusal that is the operation's own lowers nothing. Its pause is obeyed.
func TestAdaptiveOfWhatIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 100})
		permits := fill(a)
		permits[0].Release(again.Mark(limiter.ErrOverload))
		require.Equal(t, 100, a.Limit())
		require.Empty(t, a.Stats().PausedUntil)
		permits[1].Release(again.Mark(overload(time.Second)))
		require.Empty(t, fill(a))
		require.Equal(t, limiter.ByPause, a.Blocked().Reason)
		releaseAll(permits[2:], nil)
		time.Sleep(time.Second)
		rounds(a, 60) // which it ramps for
		require.Equal(t, 100, a.Limit())
	})
}

func TestAdaptiveIsNeverBelowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 20})
		for range 100 {
			tryAcquire(t, a).Release(limiter.ErrOverload)
			time.Sleep(100 * ms)
		}
		require.Equal(t, 1, a.Limit())
		require.Len(t, fill(a), 1)
	})
}

// Refusals that a lower limit would not have prevented do not lower it, unless
// they continue. A single refusal at a low level says little, however long a
// pause it asks for.
func TestAdaptiveForgetsALonelyRefusal(t *testing.T) {
	for level := 1; level <= 3; level++ {
		synctest.Test(t, func(t *testing.T) {
			a := newAdaptive(t, limiter.AdaptiveConfig{Max: 20, Initial: level})
			permits := fill(a)
			require.Len(t, permits, level)
			permits[0].Release(overload(30 * time.Second))
			releaseAll(permits[1:], nil)
			time.Sleep(30 * time.Second)
			rounds(a, 3*60*10) // three minutes
			require.GreaterOrEqual(t, a.Limit(), 15, "level %d", level)
		})
	}
}

// A level that is refused again and again is tried less and less often.
func TestAdaptiveRemembersARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 20, Initial: 5})
		refusals, paused := 0, time.Duration(0)
		began := time.Now()
		for time.Since(began) < time.Hour {
			permits := fill(a)
			if len(permits) == 0 {
				paused += 100 * ms
			}
			time.Sleep(100 * ms)
			for _, p := range permits[min(7, len(permits)):] {
				p.Release(overload(10 * time.Second))
				refusals++
			}
			releaseAll(permits[:min(7, len(permits))], nil)
		}
		require.GreaterOrEqual(t, refusals, 5, "it is still tried")
		require.LessOrEqual(t, paused, 4*time.Minute, "%d refusals", refusals)
	})
}

func TestAdaptiveNotLoweredWhileNotUsed(t *testing.T) {
	for _, err := range []error{limiter.ErrOverload, context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 50})
			for range 100 {
				for i := range 11 {
					p := tryAcquire(t, a)
					time.Sleep(ms)
					if i == 0 {
						p.Release(err)
					} else {
						p.Release(nil)
					}
				}
			}
			require.Equal(t, 50, a.Limit(), "less than one in ten")
			tryAcquire(t, a).Release(err)
			tryAcquire(t, a).Release(err)
			require.Less(t, a.Limit(), 50, "more")
		})
	}
}

// Nor does latency raise or lower it while it is not used.
func TestAdaptiveKeepsALimitThatIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 10})
		r := rand.New(rand.NewPCG(1, 0))
		for range 5000 {
			permits := fill(a)
			require.Len(t, permits, 10)
			releaseAll(permits[:5], nil) // so that 5 are in flight
			releaseAll(permits[5:], errPoison)
			p := tryAcquire(t, a)
			time.Sleep(upTo(r, time.Second))
			p.Release(nil)
			if a.Limit() != 10 {
				break
			}
		}
		// It was full, but for no time at all: only operations that start
		// while it is full are counted, and these took no time whatever the
		// limit.
		b := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 10})
		for i := range 5000 {
			p := tryAcquire(t, b)
			q := tryAcquire(t, b)
			time.Sleep(upTo(r, time.Duration(i)*ms))
			p.Release(nil)
			q.Release(nil)
			require.Equal(t, 10, b.Limit())
		}
	})
}

// A limit on trial that nobody needs is dropped.
func TestAdaptiveGivesUpATrialThatIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 10})
		for a.Limit() == 10 {
			rounds(a, 1)
		}
		time.Sleep(ms)
		p := tryAcquire(t, a)
		time.Sleep(100 * ms)
		p.Release(nil)
		require.Equal(t, 10, a.Limit())
	})
}

// Successes during a pause say nothing about how many may start after it.
func TestAdaptiveRampBeginsAfterThePause(t *testing.T) {
	for _, inFlight := range []int{4, 10} {
		synctest.Test(t, func(t *testing.T) {
			a := newAdaptive(t, limiter.AdaptiveConfig{Max: 10, Initial: 10})
			var permits []permit
			for range inFlight {
				permits = append(permits, tryAcquire(t, a))
			}
			time.Sleep(ms)
			permits[0].Release(overload(30 * time.Second))
			releaseAll(permits[1:], nil)
			refused(t, a)
			pass(30 * time.Second)
			permits = fill(a)
			require.Len(t, permits, 1)
			permits[0].Release(nil)
			require.Len(t, fill(a), 2)
		})
	}
}

// An answer other than success opens the ramp too, since the downstream works;
// our own cancellation does not.
func TestAdaptiveRampGoesUpWithEveryAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		release func(a *limiter.Adaptive, p permit)
		want    int
	}{
		"out of stock": {func(_ *limiter.Adaptive, p permit) { p.Release(errPoison) }, 18},
		"success":      {func(_ *limiter.Adaptive, p permit) { p.Release(nil) }, 18},
		"cancellation": {func(_ *limiter.Adaptive, p permit) { p.Release(context.Canceled) }, 1},
		"no verdict":   {func(_ *limiter.Adaptive, p permit) { p.Abstain() }, 1},
		"no start":     {func(_ *limiter.Adaptive, p permit) { p.Cancel() }, 1},
		"unavailable":  {func(_ *limiter.Adaptive, p permit) { p.Release(limiter.ErrUnavailable) }, 1},
		"panic": {func(a *limiter.Adaptive, p permit) {
			p.Cancel()
			require.Panics(t, func() {
				_ = limiter.Do(t.Context(), a, func(context.Context) error { panic("handler") })
			})
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAdaptive(t, limiter.AdaptiveConfig{Max: 20, Initial: 20})
				permits := fill(a)
				permits[0].Release(overload(time.Second))
				releaseAll(permits[1:], nil)
				pass(time.Second)
				require.Equal(t, 1, a.Limit())
				for range 20 { // one more each time
					for _, p := range fill(a) {
						test.release(a, p)
					}
				}
				require.Equal(t, test.want, a.Limit())
			})
		})
	}
}

// So the level of a refusal is tried again even if only some answers are
// successes.
func TestAdaptiveComesBackAmongOtherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 20, Initial: 20})
		permits := fill(a)
		permits[0].Release(overload(time.Second))
		releaseAll(permits[1:], nil)
		pass(time.Second)
		for range 10 * 60 * 10 { // ten minutes
			permits := fill(a)
			time.Sleep(100 * ms)
			for i, p := range permits {
				if i%10 == 0 {
					p.Release(nil)
				} else {
					p.Release(errPoison)
				}
			}
		}
		require.Equal(t, 20, a.Limit())
	})
}

// A pause is not disuse, however long: there is a ramp after it.
func TestAdaptiveRampAfterALongPause(t *testing.T) {
	for _, pause := range []time.Duration{9 * time.Minute, 11 * time.Minute, 5 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 50})
			tryAcquire(t, a).Release(overload(pause))
			pass(pause)
			require.Len(t, fill(a), 1, "after %v", pause)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 50})
		tryAcquire(t, a).Release(overload(time.Hour))
		pass(time.Hour + 11*time.Minute)
		tryAcquire(t, a).Release(nil)
		require.Equal(t, 50, a.Limit(), "anew ten minutes later")
	})
}

// Trial numbers recur. However many trials there have been since the limit last
// fell, it falls when the downstream refuses, and not again for operations in
// flight then.
func TestAdaptiveHearsRefusalsForEver(t *testing.T) {
	a := newAdaptive(t, limiter.AdaptiveConfig{Max: 10, Initial: 10})
	a.Hold(limiter.Rounds/2 + 1)
	permits := fill(a)
	permits[0].Release(limiter.ErrOverload)
	require.Equal(t, 9, a.Limit())
	releaseAll(permits[1:], limiter.ErrOverload)
	require.Equal(t, 9, a.Limit(), "once for all that were in flight")
}

func TestAdaptiveWhatTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{
			errPoison, context.Canceled, limiter.ErrMisconfigured, limiter.ErrUnavailable,
			limiter.ResponseError(&http.Response{StatusCode: http.StatusInternalServerError}),
		} {
			a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 20})
			for range 100 {
				releaseAll(fill(a), err)
			}
			require.Equal(t, 20, a.Limit(), "%v", err)
		}
		for _, status := range []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
			a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 20})
			releaseAll(fill(a), limiter.ResponseError(&http.Response{StatusCode: status}))
			require.Equal(t, 18, a.Limit(), "%d", status)
		}
	})
}

func TestAdaptiveCancelTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 20})
		for range 1000 {
			for _, p := range fill(a) {
				p.Cancel()
			}
		}
		require.Equal(t, limiter.AdaptiveStats{Limit: 20}, a.Stats())
	})
}

func TestAdaptiveStartsAnewAfterLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 64, Initial: 2})
		rounds(a, 200)
		require.Equal(t, 64, a.Limit())
		pass(9 * time.Minute)
		rounds(a, 1)
		require.GreaterOrEqual(t, a.Limit(), 58)
		pass(11 * time.Minute)
		tryAcquire(t, a).Release(nil)
		require.Equal(t, 2, a.Limit())
	})
}

func TestAdaptiveReadyAndBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 10, Initial: 3})
		require.Equal(t, 3, ready(t, a, 10, 0))
		require.Equal(t, 2, ready(t, a, 2, 0))
		require.Zero(t, a.Blocked())
		permits := fill(a)
		require.Equal(t, limiter.Block{Reason: limiter.ByConcurrency}, a.Blocked())
		waits := ask(t.Context(), a, 10, 0)
		require.False(t, waits().done)
		permits[0].Release(nil)
		require.Equal(t, 1, waits().n)

		permits[1].Release(overload(30 * time.Second))
		block := a.Blocked()
		require.Equal(t, limiter.ByPause, block.Reason)
		require.Equal(t, 30*time.Second, time.Until(block.Until))
		require.Equal(t, block.Until, a.Stats().PausedUntil)
		permits[2].Release(nil)
		start := time.Now()
		waits = ask(t.Context(), a, 10, 5*time.Second)
		require.False(t, waits().done)
		pass(time.Minute)
		require.Equal(t, answer{n: 1, after: 25 * time.Second, done: true}, waits(), "one at a time to begin with")
		require.Equal(t, time.Minute, time.Since(start))

		ctx, cancel := context.WithCancelCause(t.Context())
		p := tryAcquire(t, a)
		c := newCrowd()
		c.join(ctx, a, 1)
		cancel(errGaveUp)
		c.wg.Wait()
		require.Equal(t, errGaveUp, c.errs[1])
		require.Zero(t, a.Stats().Waiting)
		p.Release(nil)
		require.PanicsWithValue(t, "limiter: Adaptive: a permit was returned twice", func() { p.Release(nil) })
	})
}

func TestAdaptiveRefusesBadConfig(t *testing.T) {
	for _, test := range []struct {
		cfg  limiter.AdaptiveConfig
		want string
	}{
		{limiter.AdaptiveConfig{}, "limiter: NewAdaptive: Max is 0: must be at least 1"},
		{limiter.AdaptiveConfig{Max: -1}, "limiter: NewAdaptive: Max is -1: must be at least 1"},
		{limiter.AdaptiveConfig{Max: 3, Initial: 4}, "limiter: NewAdaptive: Initial is 4: must be from 1 to Max, which is 3, or 0 for the default"},
		{limiter.AdaptiveConfig{Max: 3, Initial: -4}, "limiter: NewAdaptive: Initial is -4: must be from 1 to Max, which is 3, or 0 for the default"},
	} {
		_, err := limiter.NewAdaptive(test.cfg)
		require.EqualError(t, err, test.want)
	}
}

// A downstream that answers the first 429 with Retry-After 30 s gets the
// operations in flight, then nothing for 30 s, and then a ramp.
func TestRetryAfterPausesEverybody(t *testing.T) {
	const (
		workers = 40
		took    = 100 * ms
		trouble = time.Minute
		pause   = 30 * time.Second
	)
	for name, test := range map[string]struct {
		limit func(t *testing.T) limiter.Limiter
		ramp  int // starts in the first second after the pause, at most
	}{
		"Adaptive": {func(t *testing.T) limiter.Limiter {
			return newAdaptive(t, limiter.AdaptiveConfig{Max: workers})
		}, 400},
		"AdaptiveRate": {func(t *testing.T) limiter.Limiter {
			return newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 400})
		}, 80},
		"all": {func(t *testing.T) limiter.Limiter {
			return all(t, newAdaptive(t, limiter.AdaptiveConfig{Max: workers}), newBreaker(t, limiter.BreakerConfig{}),
				newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 400}))
		}, 80},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := test.limit(t)
				var mu sync.Mutex // guards the two
				var starts []time.Duration
				var first time.Duration // when the first 429 was answered
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), trouble+pause+20*time.Second)
				defer cancel()
				var wg sync.WaitGroup
				for i := range workers {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * ms) // not all at one instant
						for {
							p, err := l.Acquire(ctx)
							if err != nil {
								return
							}
							at := time.Since(begin)
							mu.Lock()
							starts = append(starts, at)
							mu.Unlock()
							time.Sleep(took)
							// Later requests of the same quota get its end
							// too, to the instant.
							if left := trouble + pause - time.Since(begin); at >= trouble && left > 0 {
								mu.Lock()
								if first == 0 {
									first = time.Since(begin)
								}
								mu.Unlock()
								p.Release(overload(left))
							} else {
								p.Release(nil)
							}
						}
					})
				}
				wg.Wait()
				end := trouble + pause
				var before, during, second, later int
				round := make([]int, 10)
				for _, at := range starts {
					switch {
					case at < trouble:
						before++
					case at <= first:
					case at < end:
						during++
					case at < end+time.Second:
						second++
						round[(at-end)/took]++
					case at >= end+15*time.Second:
						later++
					}
				}
				t.Log(before, during, second, round, later)
				require.Zero(t, during, "after the first 429 and before the end of the pause")
				require.Positive(t, second, "a ramp")
				require.LessOrEqual(t, second, test.ramp, "not a burst")
				require.LessOrEqual(t, round[0], test.ramp/8)
				for i := 1; i < len(round); i++ {
					require.LessOrEqual(t, round[i], 2*round[i-1]+6, "doubles at most")
				}
				require.Greater(t, later, 500, "and all is well again")
			})
		})
	}
}

// The limit holds at every start, whatever is released, cancelled, paused or
// abandoned, also in All, and nothing is left behind.
func TestAdaptiveNeverOver(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		most := 1 + r.IntN(12)
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: most, Initial: 1 + r.IntN(most)})
		s := newSemaphore(t, 1+r.IntN(12))
		b := newBreaker(t, limiter.BreakerConfig{OpenFor: 20 * ms, MaxOpen: 50 * ms})
		rate := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 2000})
		kinds := []limiter.Limiter{a, all(t, a, s), all(t, rate, b, a), all(t, s, a, b, rate)}
		var mu sync.Mutex // guards all below; held over TryAcquire and Release, so that they are in order
		var paused time.Time
		var over []string
		inFlight := 0
		var wg sync.WaitGroup
		for range 2 + r.IntN(14) {
			l := kinds[r.IntN(len(kinds))]
			r := rand.New(rand.NewPCG(seed, r.Uint64()))
			wg.Go(func() {
				for range 12 {
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if r.IntN(4) == 0 {
						ctx, cancel = context.WithTimeout(ctx, upTo(r, 60*ms))
					}
					mu.Lock()
					limit := a.Limit()
					p, ok := l.TryAcquire()
					if ok {
						if inFlight++; inFlight > limit {
							over = append(over, "over the limit")
						}
						if time.Now().Before(paused) {
							over = append(over, "in a pause")
						}
					}
					mu.Unlock()
					if !ok {
						var err error
						if p, err = l.Acquire(ctx); err != nil {
							if !errors.Is(err, context.DeadlineExceeded) {
								panic(err)
							}
							cancel()
							continue
						}
						mu.Lock()
						if inFlight++; inFlight > most {
							over = append(over, "over the cap")
						}
						mu.Unlock()
					}
					cancel()
					time.Sleep(upTo(r, 30*ms))
					after := upTo(r, 20*ms)
					err := []error{nil, nil, nil, nil, nil, errPoison, limiter.ErrUnavailable, context.DeadlineExceeded, limiter.ErrOverload, overload(after)}[r.IntN(10)]
					mu.Lock()
					inFlight--
					if r.IntN(8) == 0 {
						p.Cancel()
					} else {
						p.Release(err)
						if _, ok := err.(overload); ok && time.Now().Add(after).After(paused) {
							paused = time.Now().Add(after)
						}
					}
					if n := a.Limit(); n < 1 || n > most {
						over = append(over, "limit out of range")
					}
					mu.Unlock()
					time.Sleep(upTo(r, 10*ms))
				}
			})
		}
		wg.Wait()
		require.Empty(t, over, "seed %d", seed)
		require.Zero(t, a.Stats().InFlight, "seed %d", seed)
		require.Zero(t, a.Stats().Waiting, "seed %d", seed)
		require.Zero(t, s.Stats().InUse, "seed %d", seed)
		require.Zero(t, b.Stats().InFlight, "seed %d", seed)
		require.Zero(t, rate.Stats().Waiting, "seed %d", seed)
	})
}

func TestAdaptiveFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 3, Initial: 3})
		c := newCrowd()
		c.each = func(_ int, p permit) {
			time.Sleep(10 * ms)
			p.Release(nil)
		}
		c.joinAll(t.Context(), a, 30)
		refused(t, a)
		c.wg.Wait()
		began := make([]time.Duration, len(c.order))
		for i, who := range c.order {
			began[who] = c.at[i]
		}
		require.IsNonDecreasing(t, began, "those that start at the same instant may tell of it in any order")
	})
}

// Refusals that no other limit would have prevented, too few to lower it, must
// not use up the current trial: it would never end, and the limit would never
// change.
func TestAdaptiveGrowsAfterRefusalsFarBelowTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptive(t, limiter.AdaptiveConfig{Max: 100, Initial: 8})
		for i := range 16000 {
			p := tryAcquire(t, a)
			time.Sleep(ms)
			if i%20 == 0 {
				p.Release(limiter.ErrOverload)
			} else {
				p.Release(nil)
			}
		}
		require.Equal(t, 8, a.Limit())
		for range 500 {
			permits := fill(a)
			time.Sleep(ms)
			releaseAll(permits, nil)
		}
		require.Greater(t, a.Limit(), 50)
	})
}
