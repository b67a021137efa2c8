package judge_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

func TestGuard(t *testing.T) {
	var g judge.Guard
	now := epoch
	allowed := func() int {
		for n := 0; ; n++ {
			if ok, _ := g.Allow(now); !ok {
				return n
			}
		}
	}
	for n := range 20 {
		ok, began := g.Allow(now)
		require.True(t, ok && !began, n)
	}
	ok, began := g.Allow(now)
	require.True(t, !ok && began, "the stock is used up")
	ok, began = g.Allow(now)
	require.True(t, !ok && !began, "it says so once")

	now = now.Add(59 * time.Second)
	require.Zero(t, allowed())
	now = now.Add(time.Second)
	require.Equal(t, 1, allowed(), "one a minute")
	now = now.Add(5 * time.Minute)
	require.Equal(t, 5, allowed())
	for n := range 4 {
		require.False(t, g.Succeeded(now), n)
	}
	require.Equal(t, 8, allowed(), "two for each success")
	for n := range 10 {
		require.Equal(t, n == 4, g.Succeeded(now), "success %d: it ends with half of its stock", n)
	}
	now = now.Add(1000 * time.Hour)
	require.Equal(t, 20, allowed(), "it has no more in stock")
	now = now.Add(-time.Hour)
	require.Zero(t, allowed(), "a clock that goes back gains nothing")
}

func TestGuard_None(t *testing.T) {
	var g *judge.Guard
	for range 1000 {
		ok, began := g.Allow(epoch)
		require.True(t, ok && !began)
	}
	require.False(t, g.Succeeded(epoch))
}

// Over any time no more go out than the stock, one a minute and two for each
// success, and where two of five succeed none has to wait.
func TestGuard_Rations(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 5))
		share := r.Float64()
		var g judge.Guard
		now, out, done, waited := epoch, 0, 0, 0
		rationing := false
		for range 2000 {
			now = now.Add(time.Duration(r.Int64N(int64(2 * time.Second))))
			if r.Float64() < share {
				done++
				if ended := g.Succeeded(now); ended {
					require.True(t, rationing, "seed %d", seed)
					rationing = false
				}
			} else {
				ok, began := g.Allow(now)
				if began {
					require.False(t, ok || rationing, "seed %d", seed)
					rationing = true
				}
				if ok {
					out++
				} else {
					require.True(t, rationing, "seed %d", seed)
					waited++
				}
			}
			most := 20 + now.Sub(epoch).Minutes() + 2*float64(done)
			require.LessOrEqual(t, float64(out), most, "seed %d", seed)
		}
		if share > 0.5 {
			require.Zero(t, waited, "seed %d, %v succeed", seed, share)
		}
	}
}

func TestGuard_Concurrently(t *testing.T) {
	var g judge.Guard
	var out, began atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				if i%10 == 0 {
					g.Succeeded(epoch)
				}
				ok, b := g.Allow(epoch)
				if ok {
					out.Add(1)
				}
				if b {
					began.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, out.Load(), int64(20+2*80))
	require.GreaterOrEqual(t, out.Load(), int64(20))
	require.Positive(t, began.Load())
}
