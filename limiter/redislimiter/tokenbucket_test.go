package redislimiter_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

// rates is several processes with one bucket on one store.
type rates struct {
	t     *testing.T
	store *store.MemoryRate
	wires []*wire
	all   []*redislimiter.TokenBucket
}

func (f *rates) add(rate float64, burst int, cfg redislimiter.Config) *redislimiter.TokenBucket {
	w := &wire{trip: ms}
	b, err := redislimiter.NewTokenBucketOn(rateWire{w, f.store}, "x", rate, burst, cfg)
	require.NoError(f.t, err)
	f.wires, f.all = append(f.wires, w), append(f.all, b)
	return b
}

func newRates(t *testing.T, n int, rate float64, burst int, cfg redislimiter.Config) *rates {
	f := &rates{t: t, store: store.NewMemoryRate()}
	for range n {
		f.add(rate, burst, cfg)
	}
	return f
}

func TestTokenBucketFleet(t *testing.T) {
	type fleet struct {
		n     int
		rate  float64
		burst int
	}
	fleets := []fleet{{1, 200, 20}, {8, 200, 20}, {8, 1, 1}, {50, 1000, 50}, {8, 1000, 1}, {3, 50000, 100}}
	if testing.Short() {
		fleets = fleets[:4]
	}
	for _, test := range fleets {
		synctest.Test(t, func(t *testing.T) {
			f := newRates(t, test.n, test.rate, test.burst, redislimiter.Config{})
			var far downstream
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			begin := time.Now()
			for i, b := range f.all {
				work(ctx, &wg, b, &far, i, 10, nil)
			}
			length := 10 * time.Second
			if test.rate < 10 {
				length = 200 * time.Second
			}
			time.Sleep(cold + time.Second + length)
			cancel()
			wg.Wait()
			for _, b := range f.all {
				closing(t, b)
			}
			n := far.between(begin.Add(cold+time.Second), begin.Add(cold+time.Second+length))
			t.Logf("%+v: used %.3f worst %.1f jain %.3f calls/message %.3f", test, float64(n)/test.rate/length.Seconds(), far.worst(test.rate), far.jain(test.n), float64(f.store.Calls())/float64(len(far.starts)))
			require.LessOrEqual(t, far.worst(test.rate), float64(test.burst)+test.rate*0.022)
			require.GreaterOrEqual(t, float64(n), 0.95*test.rate*length.Seconds())
			require.GreaterOrEqual(t, far.jain(test.n), 0.95)
		})
	}
}

// A thousand messages a second come at random, and slots are available.
func TestTokenBucketWaits(t *testing.T) {
	for _, test := range []struct {
		n     int
		rate  float64
		burst int
	}{{1, 2000, 50}, {8, 2000, 50}, {8, 2000, 1}, {8, 1250, 100}} {
		synctest.Test(t, func(t *testing.T) {
			const offered = 1000
			f := newRates(t, test.n, test.rate, test.burst, redislimiter.Config{})
			var wg sync.WaitGroup
			var mu sync.Mutex
			var waits []time.Duration
			ctx, cancel := context.WithCancel(t.Context())
			settled := time.Now().Add(cold + 8*time.Second) // what waited for the cold start is through
			for _, b := range f.all {
				wg.Go(func() { poisson(ctx, float64(offered/test.n), b, settled, &mu, &waits) })
			}
			time.Sleep(time.Until(settled))
			calls := f.store.Calls()
			length := 20 * time.Second
			if testing.Short() {
				length = 4 * time.Second
			}
			time.Sleep(length)
			calls = f.store.Calls() - calls
			cancel()
			wg.Wait()
			var missed uint64
			for _, b := range f.all {
				missed += b.Stats().Missed
				closing(t, b)
			}
			slices.Sort(waits)
			p99 := waits[len(waits)*99/100]
			per := float64(calls) / float64(len(waits))
			t.Logf("%+v: %.3f calls per message, p50 %v p90 %v p99 %v max %v, missed %d", test, per, waits[len(waits)/2], waits[len(waits)*9/10], p99, waits[len(waits)-1], missed)
			require.LessOrEqual(t, per, 0.1)
			switch {
			case test.n == 1:
				require.LessOrEqual(t, p99, ms)
			case test.rate >= 2*offered: // a call's round trip, when a process's own are used up
				require.LessOrEqual(t, p99, 2*ms)
			}
		})
	}
}
