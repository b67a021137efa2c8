package limiter_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rampmeter/rampmeter/limiter"
)

// benchLimiters are limiters that never make a caller wait.
func benchLimiters(b *testing.B) map[string]limiter.Limiter {
	const plenty, fast = 1 << 30, 1e12
	return map[string]limiter.Limiter{
		"Semaphore":                     newSemaphore(b, plenty),
		"TokenBucket":                   newBucket(b, fast, plenty),
		"Breaker":                       newBreaker(b, limiter.BreakerConfig{}),
		"Valve":                         &limiter.Valve{},
		"Adaptive":                      newAdaptive(b, limiter.AdaptiveConfig{Max: plenty, Initial: plenty}),
		"AdaptiveRate":                  newAdaptiveRate(b, limiter.AdaptiveRateConfig{Max: fast}),
		"Keyed(Semaphore)":              newKeyed(b, func(string) (limiter.Limiter, error) { return limiter.NewSemaphore(plenty) }).For("key"),
		"All(Semaphore,TokenBucket)":    all(b, newSemaphore(b, plenty), newBucket(b, fast, plenty)),
		"All(Semaphore,Bucket,Breaker)": all(b, newSemaphore(b, plenty), newBucket(b, fast, plenty), newBreaker(b, limiter.BreakerConfig{})),
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	ctx := context.Background()
	for name, l := range benchLimiters(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p, err := l.Acquire(ctx)
				if err != nil {
					b.Fatal(err)
				}
				p.Release(nil)
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if p, err := l.Acquire(ctx); err == nil {
						p.Release(nil)
					}
				}
			})
		})
	}
}

// BenchmarkContended runs 64 goroutines on 10 slots.
func BenchmarkContended(b *testing.B) {
	const goroutines, places = 64, 10
	ctx := context.Background()
	for name, l := range map[string]limiter.Limiter{
		"Semaphore":                  newSemaphore(b, places),
		"Adaptive":                   newAdaptive(b, limiter.AdaptiveConfig{Max: places, Initial: places}),
		"All(Semaphore,TokenBucket)": all(b, newSemaphore(b, places), newBucket(b, 1e12, 1<<30)),
	} {
		b.Run(fmt.Sprintf("%s/goroutines=%d", name, goroutines), func(b *testing.B) {
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if p, err := l.Acquire(ctx); err == nil {
							p.Release(nil)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkKeyedFor measures For and Acquire, for known keys and for a new one
// each time.
func BenchmarkKeyedFor(b *testing.B) {
	ctx := context.Background()
	for _, keys := range []int{1000, 1 << 30} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			k, err := limiter.NewKeyed(func(int) (limiter.Limiter, error) { return limiter.NewSemaphore(1) })
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p, err := k.For(i % keys).Acquire(ctx)
				if err != nil {
					b.Fatal(err)
				}
				p.Release(nil)
			}
		})
	}
}
