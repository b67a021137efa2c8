// Package bench_test compares rampmeter's limiters with other libraries'. It is in a
// separate module, so that those are not dependencies of rampmeter.
package bench_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/semaphore"

	"github.com/rampmeter/rampmeter/limiter"
)

// crowds are the numbers of goroutines, and of slots that they share.
var crowds = []struct{ goroutines, places int }{
	{1, 1},   // uncontended
	{64, 64}, // contended, but no goroutine waits for a slot
	{64, 10}, // most wait
}

func BenchmarkSemaphoreRampmeter(b *testing.B) {
	for _, c := range crowds {
		b.Run(fmt.Sprintf("goroutines=%d/places=%d", c.goroutines, c.places), func(b *testing.B) {
			s, err := limiter.NewSemaphore(c.places)
			if err != nil {
				b.Fatal(err)
			}
			ctx := context.Background()
			crowd(b, c.goroutines, func() {
				p, err := s.Acquire(ctx)
				if err != nil {
					b.Error(err)
				}
				p.Release(nil)
			})
		})
	}
}

func BenchmarkSemaphoreXSync(b *testing.B) {
	for _, c := range crowds {
		b.Run(fmt.Sprintf("goroutines=%d/places=%d", c.goroutines, c.places), func(b *testing.B) {
			s := semaphore.NewWeighted(int64(c.places))
			ctx := context.Background()
			crowd(b, c.goroutines, func() {
				if err := s.Acquire(ctx, 1); err != nil {
					b.Error(err)
				}
				s.Release(1)
			})
		})
	}
}

// BenchmarkSemaphoreHeld… yield while they hold their slot, so that the others
// really wait.

func BenchmarkSemaphoreHeldRampmeter(b *testing.B) {
	s, err := limiter.NewSemaphore(10)
	if err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	crowd(b, 64, func() {
		p, err := s.Acquire(ctx)
		if err != nil {
			b.Error(err)
		}
		runtime.Gosched()
		p.Release(nil)
	})
}

func BenchmarkSemaphoreHeldXSync(b *testing.B) {
	s := semaphore.NewWeighted(10)
	ctx := context.Background()
	crowd(b, 64, func() {
		if err := s.Acquire(ctx, 1); err != nil {
			b.Error(err)
		}
		runtime.Gosched()
		s.Release(1)
	})
}

// crowd runs op b.N times in all, in that many goroutines.
func crowd(b *testing.B, goroutines int, op func()) {
	b.ReportAllocs()
	if goroutines == 1 {
		for b.Loop() {
			op()
		}
		return
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				op()
			}
		})
	}
	wg.Wait()
}
