package limiter_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func TestAcquireAllocatesNothing(t *testing.T) {
	for name, l := range map[string]limiter.Limiter{
		"semaphore": newSemaphore(t, 1),
		"bucket":    newBucket(t, 1e12, 100),
		"waiting":   newBucket(t, 1e5, 1), // each time, for 10 µs
		"breaker":   newBreaker(t, limiter.BreakerConfig{}),
		"valve":     &limiter.Valve{Schedule: func(time.Time) time.Time { return time.Time{} }},
		"adaptive":  newAdaptive(t, limiter.AdaptiveConfig{Max: 10}),
		"rate":      newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1e12}),
		"all":       all(t, newSemaphore(t, 1), newBucket(t, 1e12, 100), newBreaker(t, limiter.BreakerConfig{})),
	} {
		allocs := testing.AllocsPerRun(1000, func() {
			p, err := l.Acquire(context.Background())
			if err != nil {
				panic(err)
			}
			p.Release(nil)
		})
		require.Zero(t, allocs, name)
	}
}

// Two goroutines pass one slot back and forth, and each waits for it every
// time.
func TestWaitingAllocatesNothing(t *testing.T) {
	s, a := newSemaphore(t, 1), newAdaptive(t, limiter.AdaptiveConfig{Max: 1})
	waiting := func() int { return s.Stats().Waiting + a.Stats().Waiting }
	for name, l := range map[string]limiter.Limiter{
		"semaphore": s,
		"adaptive":  a,
		"all":       all(t, newBucket(t, 1e12, 100), s),
	} {
		var stop atomic.Bool
		pass := func() {
			p, err := l.Acquire(context.Background())
			if err != nil {
				panic(err)
			}
			for waiting() == 0 && !stop.Load() {
				runtime.Gosched()
			}
			p.Release(nil)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				pass()
			}
		})
		allocs := testing.AllocsPerRun(1000, pass)
		stop.Store(true)
		wg.Wait()
		require.Zero(t, allocs, name)
	}
}
