package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// everyHour closes a valve for the first ten minutes of every hour.
func everyHour(now time.Time) time.Time { return now.Truncate(time.Hour).Add(10 * time.Minute) }

func TestValveByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v limiter.Valve
		require.Zero(t, v.Blocked())
		require.Equal(t, 100, ready(t, &v, 100, 0))
		before := tryAcquire(t, &v)

		v.Close("incident 17")
		refused(t, &v)
		require.Equal(t, limiter.Block{Reason: limiter.ByValve, Cause: errors.New("incident 17")}, v.Blocked())
		c := newCrowd()
		c.joinAll(t.Context(), &v, 3)
		a := ask(t.Context(), &v, 100, time.Hour)
		before.Release(nil)
		pass(24 * time.Hour)
		require.Empty(t, c.order)
		require.False(t, a().done)

		v.Open()
		c.wg.Wait()
		require.Equal(t, []int{0, 1, 2}, c.order)
		require.Equal(t, 100, a().n)
		require.Zero(t, v.Blocked())
		tryAcquire(t, &v)
	})
}

func TestValveClosedUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := limiter.Valve{Name: "inventory"}
		until := time.Now().Add(time.Hour)
		v.Close("") // a later call replaces it
		require.Equal(t, limiter.Block{Reason: limiter.ByValve, Name: "inventory"}, v.Blocked())
		v.CloseUntil(until, "maintenance")
		block := v.Blocked()
		require.Equal(t, limiter.Block{Reason: limiter.ByValve, Name: "inventory", Until: until, Cause: errors.New("maintenance")}, block)
		c := newCrowd()
		c.join(t.Context(), &v, 0)
		now, soon := ask(t.Context(), &v, 100, 0), ask(t.Context(), &v, 100, time.Minute)
		pass(time.Hour)
		require.Equal(t, answer{n: 100, after: time.Hour, done: true}, now())
		require.Equal(t, answer{n: 100, after: 59 * time.Minute, done: true}, soon())
		c.wg.Wait()
		require.Equal(t, []time.Duration{time.Hour}, c.at)
		require.Zero(t, v.Blocked())

		v.CloseUntil(time.Now().Add(time.Hour), "longer than it takes")
		c = newCrowd()
		c.join(t.Context(), &v, 0)
		v.CloseUntil(time.Now().Add(time.Minute), "shorter")
		c.wg.Wait()
		require.Equal(t, []time.Duration{time.Minute}, c.at)

		for _, past := range []time.Time{time.Now(), {}} {
			v.Close("")
			v.CloseUntil(past, "over")
			tryAcquire(t, &v)
			require.True(t, v.Idle())
		}
	})
}

func TestValveSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := limiter.Valve{Name: "nightly", Schedule: everyHour}
		pass(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour)))
		hour := time.Now()
		require.Equal(t, limiter.ByValve, v.Blocked().Reason)
		require.Equal(t, hour.Add(10*time.Minute), v.Blocked().Until)
		require.EqualError(t, v.Blocked().Cause, "closed by its schedule")
		acquire(t, &v)
		require.Equal(t, 10*time.Minute, time.Since(hour))

		t.Log("what would arrive after it has closed is not ready")
		require.Equal(t, 5, ready(t, &v, 5, 49*time.Minute))
		a := ask(t.Context(), &v, 5, 50*time.Minute)
		require.False(t, a().done)
		require.Equal(t, 5, ready(t, &v, 5, time.Hour), "but after it has opened again")
		pass(10 * time.Minute)
		require.Equal(t, answer{n: 5, after: 10 * time.Minute, done: true}, a())
		pass(time.Until(hour.Add(time.Hour)) - 1)
		tryAcquire(t, &v)
		pass(1)
		refused(t, &v)

		t.Log("both by hand and by schedule: the later end")
		v.CloseUntil(time.Now().Add(5*time.Minute), "short")
		require.Equal(t, hour.Add(70*time.Minute), v.Blocked().Until)
		v.CloseUntil(time.Now().Add(15*time.Minute), "long")
		require.Equal(t, hour.Add(75*time.Minute), v.Blocked().Until)
		require.EqualError(t, v.Blocked().Cause, "long")
		v.Close("for good")
		require.Zero(t, v.Blocked().Until)
		v.Open()
		require.Equal(t, hour.Add(70*time.Minute), v.Blocked().Until)
	})
}

// A schedule that does not know the end returns an early one.
func TestValveAsksItsScheduleAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opens := time.Now().Add(90 * time.Second)
		v := limiter.Valve{Schedule: func(now time.Time) time.Time {
			if now.Before(opens) {
				return now.Add(time.Minute)
			}
			return time.Time{}
		}}
		begin := time.Now()
		acquire(t, &v)
		require.Equal(t, 2*time.Minute, time.Since(begin))
	})
}

func TestValveAmongOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, b, s := &limiter.Valve{Name: "inventory"}, newBreaker(t, limiter.BreakerConfig{}), newSemaphore(t, 1)
		l := all(t, s, b, v)
		require.True(t, limiter.Share(l, v))
		tryAcquire(t, l).Release(nil)
		results(t, b, 10, limiter.ErrUnavailable)
		v.CloseUntil(time.Now().Add(time.Minute), "maintenance")
		for _, l := range []limiter.Limiter{l, all(t, v, s, b), all(t, b, v)} {
			require.Equal(t, v.Blocked(), l.Blocked(), "the outermost")
		}
		begin := time.Now()
		p := acquire(t, l)
		require.Equal(t, time.Minute, time.Since(begin))
		p.Release(nil)
		require.Zero(t, s.Stats().InUse)

		k := newKeyed(t, func(string) (limiter.Limiter, error) { return &limiter.Valve{Schedule: everyHour}, nil })
		require.Equal(t, everyHour(time.Now()).After(time.Now()), k.For("a").Blocked().Reason == limiter.ByValve)
		fillUp(k)
		require.LessOrEqual(t, k.Len(), 1100)
	})
}

// However it is opened and closed, nothing starts while it is closed, everybody
// starts in the end, first come, first served, and what Ready returns holds.
func TestValveUnderRandomSchedules(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		period := 10*ms + upTo(r, time.Second)
		shut := upTo(r, period-ms)
		v := &limiter.Valve{}
		if r.IntN(2) == 0 {
			v.Schedule = func(now time.Time) time.Time { return now.Truncate(period).Add(shut) }
		}
		scheduled := func(at time.Time) bool { return v.Schedule != nil && v.Schedule(at).After(at) }
		var byHand time.Time // it is closed by hand until then
		far := time.Now().Add(24 * time.Hour)
		closed := func(at time.Time) bool { return byHand.After(at) || scheduled(at) }

		c := newCrowd()
		var starts []time.Time
		var mu sync.Mutex
		var wrong []string
		c.each = func(i int, p permit) {
			mu.Lock()
			defer mu.Unlock()
			starts = append(starts, time.Now())
			if scheduled(time.Now()) {
				wrong = append(wrong, fmt.Sprintf("%d started against the schedule", i))
			}
			p.Release(nil)
		}
		gaveUp := 0
		asking, stop := context.WithCancel(t.Context())
		for i := range 30 {
			ctx := t.Context()
			if r.IntN(5) == 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, upTo(r, 100*ms))
				defer cancel()
				gaveUp++
			}
			c.join(ctx, v, i)
			switch r.IntN(6) {
			case 0:
				v.Close("by hand")
				byHand = far
			case 1:
				byHand = time.Now().Add(upTo(r, time.Second))
				v.CloseUntil(byHand, "by hand")
			case 2:
				v.Open()
				byHand = time.Time{}
			case 3:
				within := upTo(r, time.Second)
				if a := ask(asking, v, 10, within)(); a.done {
					require.False(t, closed(time.Now().Add(within)), "seed %d", seed)
				} else {
					require.True(t, closed(time.Now().Add(within)), "seed %d", seed)
				}
			}
			synctest.Wait()
			mu.Lock()
			n := len(starts)
			mu.Unlock()
			require.Equal(t, closed(time.Now()), v.Blocked().Reason == limiter.ByValve, "seed %d", seed)
			if closed(time.Now()) {
				refused(t, v)
				if byHand.After(time.Now()) { // nobody starts before it is opened, or that time has come
					pass(min(time.Until(byHand), time.Second) / 2)
					mu.Lock()
					require.Len(t, starts, n, "seed %d", seed)
					mu.Unlock()
				}
			}
			pass(upTo(r, 200*ms))
		}
		v.Open()
		c.wg.Wait()
		stop()
		synctest.Wait()
		require.Empty(t, wrong, "seed %d", seed)
		require.GreaterOrEqual(t, len(starts), 30-gaveUp, "seed %d", seed)
		require.Equal(t, 30, len(starts)+len(c.errs), "seed %d", seed)
		require.IsNonDecreasing(t, c.at)
		began := make(map[int]time.Duration)
		for i, who := range c.order {
			began[who] = c.at[i]
		}
		last := time.Duration(0)
		for i := range 30 {
			if at, ok := began[i]; ok {
				require.GreaterOrEqual(t, at, last, "seed %d", seed)
				last = at
			}
		}
		require.True(t, v.Idle(), "seed %d", seed)
	})
}
