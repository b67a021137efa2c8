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

func (f *rates) each(change func(w *wire)) {
	for _, w := range f.wires {
		w.set(change)
	}
}

// The store is gone for 20 s in mid-load, and comes back empty.
func TestTokenBucketOutage(t *testing.T) {
	for _, down := range []func(w *wire){
		func(w *wire) { w.down = true }, // and it comes back empty
		func(w *wire) { w.hang = true }, // or as it was
	} {
		for _, mode := range []redislimiter.Outage{redislimiter.Share, redislimiter.Closed} {
			synctest.Test(t, func(t *testing.T) {
				const n, rate, burst = 8, 200.0, 20
				f := newRates(t, n, rate, burst, redislimiter.Config{OnOutage: mode})
				var far downstream
				var wg sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				for i, b := range f.all {
					work(ctx, &wg, b, &far, i, 10, nil)
				}
				time.Sleep(5 * time.Second)

				f.each(down)
				if f.wires[0].down {
					f.store.Flush()
				}
				gone := time.Now()
				time.Sleep(3 * time.Second)
				late := f.add(rate, burst, redislimiter.Config{OnOutage: mode}) // joins while it is away
				f.wires[n].set(down)
				work(ctx, &wg, late, &far, n, 10, nil)
				time.Sleep(17 * time.Second)
				for i, b := range f.all {
					s := b.Stats()
					require.Equal(t, redislimiter.Away, s.State)
					require.Error(t, s.Err)
					switch {
					case mode == redislimiter.Closed || i == n:
						require.Zero(t, s.Share)
						require.Equal(t, redislimiter.ByOutage, b.Blocked().Reason)
					default:
						require.Equal(t, n, s.Processes)
						require.InDelta(t, rate/n, s.Share, 0.001)
					}
				}
				its, _ := far.of(n)
				require.Zero(t, its, "started by a process that joined during the outage")

				back := time.Now()
				f.each(func(w *wire) { w.down, w.hang = false, false })
				time.Sleep(10 * time.Second)
				cancel()
				wg.Wait()
				for _, b := range f.all {
					closing(t, b)
				}

				during := far.between(gone.Add(2*time.Second), back)
				if mode == redislimiter.Closed {
					require.Zero(t, during)
					require.LessOrEqual(t, far.worst(rate), burst+rate*0.022)
				} else {
					require.LessOrEqual(t, far.worst(rate*(1+1.0/n)), burst+rate*0.022)
					require.GreaterOrEqual(t, float64(during), 0.95*rate*back.Sub(gone.Add(2*time.Second)).Seconds())
					require.GreaterOrEqual(t, float64(far.between(back, back.Add(2*time.Second))), 0.9*rate*2, "from the shares to the slots without a gap")
				}
				after := far.between(back.Add(2*time.Second), back.Add(10*time.Second))
				require.GreaterOrEqual(t, float64(after), 0.95*rate*8)
				t.Logf("%v: worst %.1f, of the time without Redis %.3f used, after it %.3f", mode, far.worst(rate), float64(during)/rate/back.Sub(gone.Add(2*time.Second)).Seconds(), float64(after)/rate/8)
			})
		}
	}
}

// One process is cut off, and the others continue.
func TestTokenBucketPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate, burst = 4, 200.0, 10
		f := newRates(t, n, rate, burst, redislimiter.Config{})
		var far downstream
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i, b := range f.all {
			work(ctx, &wg, b, &far, i, 10, nil)
		}
		time.Sleep(5 * time.Second)
		f.wires[0].set(func(w *wire) { w.down = true })
		time.Sleep(20 * time.Second)
		f.wires[0].set(func(w *wire) { w.down = false })
		at := time.Now()
		time.Sleep(10 * time.Second)
		cancel()
		wg.Wait()
		for _, b := range f.all {
			closing(t, b)
		}
		t.Logf("worst %.1f of limit, %.1f of 5/4", far.worst(rate), far.worst(rate*1.25))
		require.LessOrEqual(t, far.worst(rate*(1+1.0/n)), burst+rate*0.022)
		far.mu.Lock()
		late := downstream{}
		for _, s := range far.starts {
			if s.After(at.Add(500 * ms)) {
				late.starts = append(late.starts, s)
			}
		}
		far.mu.Unlock()
		require.LessOrEqual(t, late.worst(rate), burst+rate*0.022, "all is as before")
	})
}

// Whatever happens to the store and the calls to it, the limit holds in Closed,
// at every start.
func TestTokenBucketNeverOver(t *testing.T) {
	seeds, starts := uint64(300), 0
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			rate, burst := []float64{1, 3, 50, 200, 1000}[r.IntN(5)], 1+r.IntN(40)
			cfg := redislimiter.Config{OnOutage: redislimiter.Closed}
			f := newRates(t, 1+r.IntN(6), rate, burst, cfg)
			slowest := ms // way, there or back
			for _, w := range f.wires {
				own := rand.New(rand.NewPCG(seed, r.Uint64()))
				w.trip = []time.Duration{ms, 20 * ms, 100 * ms}[r.IntN(3)]
				slowest = max(slowest, w.trip)
				w.flaky = func() bool { return own.IntN(20) == 0 }
			}
			var far downstream
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			stops := make([]context.CancelFunc, 0)
			start := func(i int) {
				ctx, stop := context.WithCancel(ctx)
				stops = append(stops, stop)
				own := rand.New(rand.NewPCG(seed, r.Uint64()))
				b := f.all[i]
				for range 1 + r.IntN(12) {
					r := rand.New(rand.NewPCG(own.Uint64(), 0))
					wg.Go(func() {
						for ctx.Err() == nil {
							ctx, give := ctx, context.CancelFunc(func() {})
							if r.IntN(4) == 0 {
								ctx, give = context.WithTimeout(ctx, time.Duration(r.Int64N(int64(100*ms))))
							}
							p, err := b.Acquire(ctx)
							give()
							if err != nil {
								continue
							}
							if r.IntN(6) == 0 {
								p.Cancel()
								continue
							}
							far.start(i)
							if r.IntN(3) == 0 {
								time.Sleep(time.Duration(r.Int64N(int64(3 * time.Second))))
							}
							p.Release(nil)
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
					stops[r.IntN(len(stops))]() // it dies, or goes idle
				case 7:
					f.add(rate, burst, cfg)
					start(len(f.all) - 1)
				case 8:
					f.all[r.IntN(len(f.all))].Pause(time.Now().Add(time.Duration(r.Int64N(int64(time.Second)))))
				}
			}
			f.each(func(w *wire) { w.down, w.hang, w.flaky = false, false, nil })
			cancel()
			wg.Wait()
			for _, b := range f.all {
				closing(t, b)
				require.Equal(t, b.Stats().PausedUntil.IsZero(), b.Idle(), "seed %d", seed)
			}
			// A slot can be used for 10 ms beyond what a round trip leaves of its
			// width.
			allowed := 1 + max(float64(burst-1), rate*max(20*ms, 2*slowest+10*ms).Seconds())
			require.LessOrEqual(t, far.worst(rate), allowed+0.01, "seed %d", seed)
			starts += len(far.starts)
		})
	}
	require.Positive(t, starts)
}

// The store returns with a state that is a while old, as after a failover to a
// replica that lags, or its clock is set.
func TestStoreOfAnotherTime(t *testing.T) {
	const n, rate, burst = 6, 200.0, 10
	for name, test := range map[string]struct {
		happens func(f *rates, skew *time.Duration)
		over    float64 // starts beyond the limit
	}{
		// At most what was leased since is leased again, until a process calls that
		// has seen a newer state.
		"failover": {func(f *rates, _ *time.Duration) {
			back := f.store.Snapshot()
			time.Sleep(300 * ms)
			back()
		}, rate * 0.3},
		"set back":        {func(_ *rates, skew *time.Duration) { *skew -= time.Hour }, 0},
		"set back a bit":  {func(_ *rates, skew *time.Duration) { *skew -= 40 * ms }, rate * 0.04},
		"set forward":     {func(_ *rates, skew *time.Duration) { *skew += time.Hour }, rate * 1},
		"set ahead a bit": {func(_ *rates, skew *time.Duration) { *skew += 200 * ms }, rate * 0.2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var skew time.Duration
				f := newRates(t, n, rate, burst, redislimiter.Config{})
				var lock sync.Mutex
				f.each(func(w *wire) { w.skew, w.clock = &skew, &lock })
				var far downstream
				var wg sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				for i, b := range f.all {
					work(ctx, &wg, b, &far, i, 10, nil)
				}
				time.Sleep(5 * time.Second)
				var jump time.Duration
				test.happens(f, &jump)
				lock.Lock()
				skew += jump
				lock.Unlock()
				at := time.Now()
				time.Sleep(10 * time.Second)
				cancel()
				wg.Wait()
				for _, b := range f.all {
					closing(t, b)
				}
				t.Logf("worst %.1f over rate*t", far.worst(rate))
				require.LessOrEqual(t, far.worst(rate), 1+rate*0.055+test.over)
				require.GreaterOrEqual(t, float64(far.between(at.Add(2*time.Second), at.Add(10*time.Second))), 0.95*rate*8)
			})
		})
	}
}
