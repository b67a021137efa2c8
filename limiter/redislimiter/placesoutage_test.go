package redislimiter_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

func (f *places) each(change func(w *wire)) {
	for _, w := range f.wires {
		w.set(change)
	}
}

// The store is gone for 20 s in mid-load, and comes back empty.
func TestSemaphoreOutage(t *testing.T) {
	for _, down := range []func(w *wire){
		func(w *wire) { w.down = true },
		func(w *wire) { w.hang = true },
	} {
		for _, mode := range []redislimiter.Outage{redislimiter.Share, redislimiter.Closed} {
			synctest.Test(t, func(t *testing.T) {
				const n, limit = 8, 20
				f := newPlaces(t, n, limit, redislimiter.Config{OnOutage: mode})
				hold := func() time.Duration { return 20*ms + rand.N(80*ms) }
				var wg sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				for i, s := range f.all {
					f.far.work(ctx, &wg, s, i, 10, hold)
				}
				time.Sleep(5 * time.Second)
				most, _ := f.far.lap(limit)
				require.Equal(t, limit, most)

				f.each(down)
				f.store.Flush()
				time.Sleep(3 * time.Second)
				f.far.lap(limit)
				late := f.add(limit, redislimiter.Config{OnOutage: mode}) // joins while it is away
				f.wires[n].set(down)
				f.far.work(ctx, &wg, late, n, 10, hold)
				time.Sleep(17 * time.Second)
				for i, s := range f.all {
					s := s.Stats()
					require.Equal(t, redislimiter.Away, s.State)
					require.Error(t, s.Err)
					if mode == redislimiter.Closed || i == n {
						require.Zero(t, s.Share)
					} else {
						require.Equal(t, limit/n, s.Share)
					}
				}
				most, used := f.far.lap(limit)
				if mode == redislimiter.Closed {
					require.Zero(t, most)
				} else {
					require.LessOrEqual(t, most, limit)
					require.GreaterOrEqual(t, used, 0.95*float64(limit/n*n)/limit)
				}
				f.each(func(w *wire) { w.down, w.hang = false, false })
				time.Sleep(2 * time.Second)
				most, _ = f.far.lap(limit)
				require.LessOrEqual(t, most, limit)
				time.Sleep(8 * time.Second)
				most, after := f.far.lap(limit)
				cancel()
				wg.Wait()
				for _, s := range f.all {
					closing(t, s)
				}
				require.LessOrEqual(t, most, limit)
				require.GreaterOrEqual(t, after, 0.95)
				t.Logf("%v: of the time without Redis %.3f used, after it %.3f", mode, used, after)
			})
		}
	}
}

// Whatever happens to the store and the calls to it, the limit holds in Closed,
// at every start.
func TestSemaphoreNeverOver(t *testing.T) {
	seeds, starts := uint64(300), 0
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			limit := 1 + r.IntN(12)
			cfg := redislimiter.Config{OnOutage: redislimiter.Closed}
			f := newPlaces(t, 1+r.IntN(6), limit, cfg)
			for _, w := range f.wires {
				own := rand.New(rand.NewPCG(seed, r.Uint64()))
				w.trip = []time.Duration{ms, 20 * ms, 100 * ms}[r.IntN(3)]
				w.flaky = func() bool { return own.IntN(20) == 0 }
			}
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			var stops []context.CancelFunc
			start := func(i int) {
				ctx, stop := context.WithCancel(ctx)
				stops = append(stops, stop)
				own := rand.New(rand.NewPCG(seed, r.Uint64()))
				s := f.all[i]
				for range 1 + r.IntN(12) {
					r := rand.New(rand.NewPCG(own.Uint64(), 0))
					wg.Go(func() {
						for ctx.Err() == nil {
							ctx, give := ctx, context.CancelFunc(func() {})
							if r.IntN(4) == 0 {
								ctx, give = context.WithTimeout(ctx, time.Duration(r.Int64N(int64(100*ms))))
							}
							p, err := s.Acquire(ctx)
							give()
							if err != nil {
								continue
							}
							f.far.begin(i)
							// An operation that outlives its lease can't be undone: here none does.
							time.Sleep(time.Duration(r.Int64N(int64(45 * ms))))
							f.far.end()
							if r.IntN(3) == 0 {
								p.Cancel()
							} else {
								p.Release(nil)
							}
							if r.IntN(3) == 0 {
								time.Sleep(time.Duration(r.Int64N(int64(2 * time.Second))))
							}
						}
					})
				}
			}
			for i := range f.all {
				start(i)
			}
			for range 20 {
				time.Sleep(time.Duration(r.Int64N(int64(2 * time.Second))))
				w := f.wires[r.IntN(len(f.wires))]
				switch r.IntN(9) {
				case 0:
					f.store.Flush()
				case 1:
					f.each(func(w *wire) { w.down = true })
				case 2:
					w.set(func(w *wire) { w.down = true })
				case 3:
					w.set(func(w *wire) { w.hang = true })
				case 4, 5:
					f.each(func(w *wire) { w.down, w.hang = false, false })
				case 6:
					stops[r.IntN(len(stops))]()
				case 7:
					f.add(limit, cfg)
					start(len(f.all) - 1)
				case 8:
					f.all[r.IntN(len(f.all))].Pause(time.Now().Add(time.Duration(r.Int64N(int64(time.Second)))))
				}
			}
			f.each(func(w *wire) { w.down, w.hang, w.flaky = false, false, nil })
			cancel()
			wg.Wait()
			for _, s := range f.all {
				closing(t, s)
				require.Zero(t, s.Stats().InUse, "seed %d", seed)
			}
			require.LessOrEqual(t, f.far.most, limit, "seed %d", seed)
			starts += f.far.done
		})
	}
	require.Positive(t, starts)
}
