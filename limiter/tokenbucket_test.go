package limiter_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

const ms = time.Millisecond

func TestTokenBucketRefusesBadSettings(t *testing.T) {
	for _, rate := range []float64{0, -1, math.NaN(), math.Inf(1), math.Inf(-1)} {
		_, err := limiter.NewTokenBucket(rate, 1)
		require.ErrorContains(t, err, "limiter: NewTokenBucket: ratePerSecond is ")
		require.ErrorContains(t, newBucket(t, 1, 1).SetRate(rate), "limiter: TokenBucket.SetRate: ratePerSecond is ")
	}
	for _, burst := range []int{0, -1} {
		_, err := limiter.NewTokenBucket(1, burst)
		require.ErrorContains(t, err, "limiter: NewTokenBucket: burst is ")
		require.ErrorContains(t, newBucket(t, 1, 1).SetBurst(burst), "limiter: TokenBucket.SetBurst: burst is ")
	}
}

func TestTokenBucketSpacesStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 10, 2)
		c := newCrowd()
		c.joinAll(t.Context(), b, 5)
		require.Equal(t, limiter.TokenBucketStats{Rate: 10, Burst: 2, Waiting: 3}, b.Stats())
		require.Equal(t, limiter.Block{Reason: limiter.ByRate, Until: time.Now().Add(400 * ms)}, b.Blocked(), "three waiters come first")
		c.wg.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, c.order)
		require.Equal(t, []time.Duration{0, 0, 100 * ms, 200 * ms, 300 * ms}, c.at)
		pass(100 * ms)
		require.Zero(t, b.Blocked())
		pass(time.Hour)
		require.Equal(t, limiter.TokenBucketStats{Rate: 10, Burst: 2, Tokens: 2}, b.Stats())
	})
}

func TestTokenBucketTryAcquireNeverOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 10, 1)
		tryAcquire(t, b)
		refused(t, b)
		c := newCrowd()
		c.joinAll(t.Context(), b, 2)
		for range 4 {
			pass(50 * ms)
			refused(t, b)
		}
		c.wg.Wait()
		require.Equal(t, []int{0, 1}, c.order)

		c.permits[1].Cancel()
		p := tryAcquire(t, b)
		c.join(t.Context(), b, 2)
		p.Cancel()
		refused(t, b) // the token is the waiter's though it may not have run yet
		c.wg.Wait()
		require.Equal(t, []int{0, 1, 2}, c.order)
	})
}

// Waiters that had taken their tokens in advance would start during it.
func TestTokenBucketPauseHoldsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 10, 1)
		c := newCrowd()
		c.joinAll(t.Context(), b, 4)
		pass(150 * ms) // two have started
		until := time.Now().Add(10 * time.Second)
		b.Pause(until)
		require.Equal(t, limiter.Block{Reason: limiter.ByPause, Until: until}, b.Blocked())
		require.Equal(t, until, b.Stats().PausedUntil)
		refused(t, b)
		c.wg.Wait()
		require.Equal(t, []time.Duration{0, 100 * ms, 10150 * ms, 10250 * ms}, c.at)
		require.Zero(t, b.Stats().PausedUntil)
	})
}

func TestTokenBucketPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 10, 1)
		c := newCrowd()
		b.Pause(time.Now().Add(time.Hour))
		b.Pause(time.Now().Add(time.Minute)) // shortens nothing
		c.joinAll(t.Context(), b, 2)
		pass(30 * time.Minute)
		require.Empty(t, c.order)
		b.Pause(time.Now().Add(time.Hour))
		pass(45 * time.Minute)
		require.Empty(t, c.order)
		b.Resume()
		c.wg.Wait()
		require.Equal(t, []time.Duration{75 * time.Minute, 75*time.Minute + 100*ms}, c.at)
		pass(100 * ms)
		b.Pause(time.Now().Add(-time.Second)) // over already
		tryAcquire(t, b)
	})
}

func TestTokenBucketSetRateHoldsForWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 10, 1)
		c := newCrowd()
		c.joinAll(t.Context(), b, 6)
		pass(150 * ms) // 0 and 100 ms; half a token is there
		require.NoError(t, b.SetRate(1))
		pass(1600 * ms) // 650 ms and 1650 ms; a tenth is there
		require.NoError(t, b.SetRate(100))
		c.wg.Wait()
		require.Equal(t, []time.Duration{0, 100 * ms, 650 * ms, 1650 * ms, 1759 * ms, 1769 * ms}, c.at)
	})
}

func TestTokenBucketSetBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 1, 10)
		require.NoError(t, b.SetBurst(3))
		require.Equal(t, 3.0, b.Stats().Tokens, "what no longer fits is lost")
		require.NoError(t, b.SetBurst(20))
		require.Equal(t, 3.0, b.Stats().Tokens, "room is not tokens")
		pass(4 * time.Second)
		require.Equal(t, 7.0, b.Stats().Tokens)
	})
}

// Cancelled reservations refund nothing; waiters here have reserved nothing.
func TestTokenBucketWaitersThatGiveUpCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 10, 1)
		acquire(t, b)
		ctx, cancel := context.WithCancelCause(t.Context())
		c := newCrowd()
		for i := range 50 {
			c.join(ctx, b, i)
		}
		c.join(t.Context(), b, 50)
		c.join(t.Context(), b, 51)
		pass(50 * ms)
		cancel(errGaveUp) // the head among them
		c.wg.Wait()
		require.Len(t, c.errs, 50)
		require.Equal(t, errGaveUp, c.errs[0])
		require.Equal(t, []int{50, 51}, c.order)
		require.Equal(t, []time.Duration{100 * ms, 200 * ms}, c.at)
		_, err := b.Acquire(ctx)
		require.Equal(t, errGaveUp, err)
		pass(100 * ms)
		require.Equal(t, 1.0, b.Stats().Tokens)
	})
}

func TestTokenBucketCancelPutsTheTokenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 10, 2)
		p, q := acquire(t, b), acquire(t, b)
		c := newCrowd()
		c.join(t.Context(), b, 0)
		pass(20 * ms)
		p.Cancel() // the waiter starts at once
		synctest.Wait()
		require.Equal(t, []time.Duration{20 * ms}, c.at)
		require.InDelta(t, 0.2, b.Stats().Tokens, 1e-9)
		q.Cancel() // if neither had been taken, the bucket would have flown over
		require.InDelta(t, 1, b.Stats().Tokens, 1e-9)

		r := acquire(t, b)
		pass(time.Hour)
		r.Cancel() // the bucket is full already
		require.Equal(t, 2.0, b.Stats().Tokens)
		tryAcquire(t, b)
		tryAcquire(t, b)
		refused(t, b)

		pass(100 * ms)
		tryAcquire(t, b).Release(nil) // releasing returns nothing
		refused(t, b)
	})
}

// A token that was taken from a full bucket made room for another one. With
// both back there would be more than the burst.
func TestTokenBucketCancelAddsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 1, 1)
		p := tryAcquire(t, b)
		pass(time.Second)
		tryAcquire(t, b)
		p.Cancel()
		refused(t, b)

		b = newBucket(t, 1, 3)
		p, q := tryAcquire(t, b), tryAcquire(t, b)
		pass(1500 * ms) // 2.5 are there; without p and q it would be full
		tryAcquire(t, b)
		p.Cancel()
		require.InDelta(t, 2, b.Stats().Tokens, 1e-6)
		q.Cancel()
		require.InDelta(t, 2, b.Stats().Tokens, 1e-6)

		b = newBucket(t, 1, 1)
		p = tryAcquire(t, b)
		require.NoError(t, b.SetBurst(5))
		p.Cancel()
		require.InDelta(t, 1, b.Stats().Tokens, 1e-6)
		pass(time.Hour)
		require.NoError(t, b.SetBurst(1))
		p = tryAcquire(t, b)
		pass(time.Hour)
		require.NoError(t, b.SetBurst(5))
		p.Cancel()
		require.InDelta(t, 1, b.Stats().Tokens, 1e-6, "there was no room for it then")
		p = tryAcquire(t, b)
		pass(4500 * ms)
		require.NoError(t, b.SetBurst(2))
		require.NoError(t, b.SetBurst(5))
		p.Cancel()
		require.InDelta(t, 2, b.Stats().Tokens, 1e-6, "it would have been lost too")
	})
}

func TestTokenBucketCancelPutsManyTokensBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const burst = 5000
		b := newBucket(t, 1e-3, burst)
		held := make([]permit, burst)
		for i := range held {
			held[i] = tryAcquire(t, b)
		}
		refused(t, b)
		for i, k := range rand.Perm(1000) { // of the last thousand, in any order
			held[burst-1-k].Cancel()
			require.InDelta(t, i+1, b.Stats().Tokens, 1e-6)
		}
		for _, p := range held[:burst-1000] { // long ago: perhaps
			p.Cancel()
		}
		require.LessOrEqual(t, b.Stats().Tokens, float64(burst))
	})
}

func TestTokenBucketReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(t, 200, 1)
		require.Equal(t, 9, ready(t, b, 100, 40*ms))
		require.Equal(t, 1, ready(t, b, 100, 0))
		require.Equal(t, 5, ready(t, b, 5, 40*ms))
		c := newCrowd()
		c.joinAll(t.Context(), b, 4) // one starts, three wait
		require.Equal(t, 5, ready(t, b, 100, 40*ms))
		a := ask(t.Context(), b, 100, 10*ms)
		c.wg.Wait()
		synctest.Wait()
		require.True(t, a().done)
		require.Equal(t, 1, a().n)
		require.Equal(t, 10*ms, a().after, "two of the three are gone, and two tokens come within 10 ms")

		b.Pause(time.Now().Add(time.Second))
		a = ask(t.Context(), b, 100, 40*ms)
		require.Equal(t, 1+199, ready(t, b, 1000, 1995*ms), "a token at the end of the pause, and 199 after it")
		pass(time.Second)
		require.True(t, a().done)
		require.Equal(t, 960*ms, a().after)
		require.Equal(t, 1, a().n)

		b.Pause(time.Now().Add(time.Hour))
		a = ask(t.Context(), b, 100, 40*ms)
		pass(time.Minute)
		b.Resume()
		synctest.Wait()
		require.True(t, a().done)
		require.Equal(t, 9, a().n)

		require.NoError(t, b.SetRate(1))
		tryAcquire(t, b)
		a = ask(t.Context(), b, 1, 0)
		pass(10 * ms)
		require.NoError(t, b.SetRate(100))
		pass(time.Second)
		require.True(t, a().done)
		require.Equal(t, 20*ms, a().after.Round(ms))
	})
}

func TestTokenBucketExtremeRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newBucket(t, 1e-300, 1)
		tryAcquire(t, slow)
		refused(t, slow)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		a := ask(ctx, slow, 10, time.Hour)
		_, err := slow.Acquire(ctx)
		require.Equal(t, context.DeadlineExceeded, err)
		synctest.Wait()
		require.Equal(t, context.DeadlineExceeded, a().err)
		require.Greater(t, time.Until(slow.Blocked().Until), 100*365*24*time.Hour)

		for _, rate := range []float64{1e12, math.MaxFloat64} {
			fast := newBucket(t, rate, math.MaxInt)
			for range 1000 {
				acquire(t, fast)
			}
			require.Equal(t, math.MaxInt32, ready(t, fast, math.MaxInt32, time.Hour))
		}
	})
}

// The bucket's time is 292 years, and a token of this rate takes 31 of them.
func TestTokenBucketCancelAtALowRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{1e-9, 1e-12} {
			b := newBucket(t, rate, 2)
			for range 1000 {
				tryAcquire(t, b).Cancel()
			}
			require.InDelta(t, 2, b.Stats().Tokens, 1e-6, "rate %v", rate)
			require.Equal(t, rate, b.Stats().Rate)
		}
	})
}
