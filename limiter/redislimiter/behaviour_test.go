package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

var errGaveUp = errors.New("gave up")

// A closer is the interface of both limiters.
type closer interface {
	limiter.Limiter
	Close(ctx context.Context) error
	Pause(until time.Time)
	Resume()
	Idle() bool
}

// pair returns two processes of each kind, which have started already.
func pairs(t *testing.T, f func(t *testing.T, kind string, a, b closer)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRates(t, 2, 100, 10, redislimiter.Config{})
		warm(t, r.all[0])
		warm(t, r.all[1])
		f(t, "rate", r.all[0], r.all[1])
		closing(t, r.all[0])
		closing(t, r.all[1])
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(t, 2, 10, redislimiter.Config{})
		warm(t, p.all[0])
		warm(t, p.all[1])
		f(t, "concurrency", p.all[0], p.all[1])
		closing(t, p.all[0])
		closing(t, p.all[1])
	})
}

// warm acquires and releases one permit, so that the store has answered.
func warm(t *testing.T, l limiter.Limiter) {
	p, err := l.Acquire(t.Context())
	require.NoError(t, err)
	p.Release(nil)
}

func TestConstructorsRefuse(t *testing.T) {
	c := redis.NewClient(&redis.Options{})
	defer func() { _ = c.Close() }()
	bucket := func(client redis.UniversalClient, name string, rate float64, burst int, cfg redislimiter.Config) error {
		_, err := redislimiter.NewTokenBucket(client, name, rate, burst, cfg)
		return err
	}
	semaphore := func(client redis.UniversalClient, name string, n int, cfg redislimiter.Config) error {
		_, err := redislimiter.NewSemaphore(client, name, n, cfg)
		return err
	}
	var none redislimiter.Config
	for _, test := range []struct {
		err  error
		want string
	}{
		{bucket(nil, "x", 1, 1, none), "redislimiter: NewTokenBucket: client is nil: must be a Redis client"},
		{semaphore(nil, "x", 1, none), "redislimiter: NewSemaphore: client is nil: must be a Redis client"},
		{bucket((*redis.Client)(nil), "x", 1, 1, none), "redislimiter: NewTokenBucket: client is nil: must be a Redis client"},
		{semaphore((*redis.ClusterClient)(nil), "x", 1, none), "redislimiter: NewSemaphore: client is nil: must be a Redis client"},
		{semaphore(c, "", 1, none), "redislimiter: NewSemaphore: name is empty: must name the limit, the same in all processes"},
		{semaphore(c, "a{b", 1, none), `redislimiter: NewSemaphore: name is "a{b": must be without braces, spaces and control characters`},
		{bucket(c, "a b", 1, 1, none), `redislimiter: NewTokenBucket: name is "a b": must be without braces, spaces and control characters`},
		{bucket(c, strings.Repeat("x", 201), 1, 1, none), "redislimiter: NewTokenBucket: name is 201 bytes long: must be at most 200"},
		{bucket(c, "x", 0, 1, none), "redislimiter: NewTokenBucket: ratePerSecond is 0: must be a finite number above 0"},
		{bucket(c, "x", math.NaN(), 1, none), "redislimiter: NewTokenBucket: ratePerSecond is NaN: must be a finite number above 0"},
		{bucket(c, "x", 1, 0, none), "redislimiter: NewTokenBucket: burst is 0: must be at least 1 and, at that rate, at most 20000"},
		{bucket(c, "x", 1, 20001, none), "redislimiter: NewTokenBucket: burst is 20001: must be at least 1 and, at that rate, at most 20000"},
		{semaphore(c, "x", 0, none), "redislimiter: NewSemaphore: n is 0: must be at least 1 and at most 2147483647"},
		{semaphore(c, "x", 1, redislimiter.Config{OnOutage: 7}), "redislimiter: NewSemaphore: OnOutage is Outage(7): must be Share or Closed"},
	} {
		require.EqualError(t, test.err, test.want)
	}
	require.NoError(t, bucket(c, strings.Repeat("x", 200), 1e6, 100_000, none))
}

func TestStrings(t *testing.T) {
	require.Equal(t, "share closed Outage(9)", fmt.Sprint(redislimiter.Share, redislimiter.Closed, redislimiter.Outage(9)))
	require.Equal(t, "joining connected away State(9)", fmt.Sprint(redislimiter.Joining, redislimiter.Connected, redislimiter.Away, redislimiter.State(9)))
}

// A name's first use waits for a lease, because nobody can know what was leased
// before.
func TestColdStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRates(t, 2, 1000, 10, redislimiter.Config{})
		begin := time.Now()
		require.Equal(t, redislimiter.Joining, f.all[0].Stats().State)
		warm(t, f.all[0])
		require.GreaterOrEqual(t, time.Since(begin), cold)
		require.Less(t, time.Since(begin), cold+50*ms)
		require.Equal(t, redislimiter.Connected, f.all[0].Stats().State)

		begin = time.Now()
		warm(t, f.all[1])
		require.Less(t, time.Since(begin), 10*ms, "the name is known")
		closing(t, f.all[0])
		closing(t, f.all[1])
	})
}

// Waiters are served in the order in which they came, and one that gives up leaves
// nothing behind. Among starts at one instant, the order in which goroutines report
// them means nothing.
func TestFirstComeFirstServed(t *testing.T) {
	pairs(t, func(t *testing.T, kind string, a, _ closer) {
		var wg sync.WaitGroup
		const n = 40
		var starts [n]time.Time
		for i := range n {
			wg.Go(func() {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if i%4 == 1 {
					var give context.CancelCauseFunc
					ctx, give = context.WithCancelCause(ctx)
					cancel = func() {}
					time.AfterFunc(time.Microsecond, func() { give(errGaveUp) })
				}
				defer cancel()
				p, err := a.Acquire(ctx)
				if err != nil {
					require.Equal(t, errGaveUp, err)
					return
				}
				starts[i] = time.Now()
				time.Sleep(10 * ms)
				p.Release(nil)
			})
			synctest.Wait()
		}
		wg.Wait()
		started, last := 0, time.Time{}
		for i, at := range starts {
			if at.IsZero() {
				continue
			}
			require.False(t, at.Before(last), "%s: %d started before one that came before", kind, i)
			started, last = started+1, at
		}
		require.GreaterOrEqual(t, started, n*3/4, kind)
	})
}

func TestTryAcquireNeverWaits(t *testing.T) {
	pairs(t, func(t *testing.T, kind string, a, _ closer) {
		time.Sleep(5 * time.Second)
		require.True(t, a.Idle(), "%s: at rest", kind)
		begin := time.Now()
		_, ok := a.TryAcquire()
		require.False(t, ok, "%s: nothing is in hand at rest", kind)
		require.Equal(t, begin, time.Now())
		require.Equal(t, kind+" x", a.Blocked().String())
		time.Sleep(10 * ms)
		require.Zero(t, a.Blocked(), kind)
		p, ok := a.TryAcquire()
		require.True(t, ok, "%s: it was asked for in the background", kind)
		p.Release(nil)
	})
}

// A permit that is cancelled is good for another start.
func TestCancelGivesBack(t *testing.T) {
	pairs(t, func(t *testing.T, kind string, a, _ closer) {
		for range 1000 { // far more than there are in so short a time
			p, err := a.Acquire(t.Context())
			require.NoError(t, err)
			p.Cancel()
		}
	})
}

// Ready returns how many can start, and takes nothing.
func TestReady(t *testing.T) {
	pairs(t, func(t *testing.T, kind string, a, _ closer) {
		time.Sleep(2 * time.Second)
		n, err := a.Ready(t.Context(), 5, 0)
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, 1, kind)
		for range n {
			p, ok := a.TryAcquire()
			require.True(t, ok, kind)
			defer p.Release(nil)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errGaveUp)
		_, err = a.Ready(ctx, 1, 0)
		require.Equal(t, errGaveUp, err)
		_, err = a.Acquire(ctx)
		require.Equal(t, errGaveUp, err)
	})
}

// Nor does it overflow, with Redis or without.
func TestReadyWithinForEver(t *testing.T) {
	pairs(t, func(t *testing.T, _ string, a, _ closer) {
		n, err := a.Ready(t.Context(), 5, math.MaxInt64)
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, 1)
	})
	synctest.Test(t, func(t *testing.T) {
		f := newRates(t, 1, 100, 10, redislimiter.Config{})
		warm(t, f.all[0])
		time.Sleep(time.Second)
		warm(t, f.all[0]) // it was in touch when it knew the live processes
		f.each(func(w *wire) { w.down = true })
		for f.all[0].Stats().State != redislimiter.Away {
			warm(t, f.all[0])
		}
		n, err := f.all[0].Ready(t.Context(), 5, math.MaxInt64)
		require.NoError(t, err)
		require.Equal(t, 5, n)
		closing(t, f.all[0])
	})
}

// A Retry-After that one process sees pauses the fleet.
func TestPauseOfTheFleet(t *testing.T) {
	pairs(t, func(t *testing.T, kind string, a, b closer) {
		var far downstream
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i, l := range []closer{a, b} {
			work(ctx, &wg, l, &far, i, 4, func() time.Duration { return 5 * ms })
		}
		time.Sleep(2 * time.Second)
		p, err := a.Acquire(t.Context())
		require.NoError(t, err)
		at := time.Now()
		p.Release(overload(3 * time.Second))
		require.Equal(t, limiter.Block{Reason: limiter.ByPause, Name: "x", Until: at.Add(3 * time.Second)}, a.Blocked())
		time.Sleep(time.Second)
		require.Equal(t, limiter.ByPause, b.Blocked().Reason)
		time.Sleep(9 * time.Second)
		require.Zero(t, far.between(at.Add(410*ms), at.Add(3*time.Second)), kind)
		require.NotZero(t, far.between(at.Add(3*time.Second), at.Add(3200*ms)), kind)

		a.Pause(time.Now().Add(time.Hour))
		a.Pause(time.Now().Add(time.Minute)) // shortens nothing
		time.Sleep(2 * time.Minute)
		at = time.Now()
		require.Zero(t, far.between(at.Add(-time.Minute), at), kind)
		b.Resume()
		time.Sleep(time.Second)
		require.NotZero(t, far.between(at, time.Now()), kind)
		require.NotEqual(t, limiter.ByPause, a.Blocked().Reason)
		cancel()
		wg.Wait()
	})
}

// A pause may last until any time: until somebody calls Resume.
func TestPauseForEver(t *testing.T) {
	for _, until := range []time.Time{
		time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		pairs(t, func(t *testing.T, _ string, a, b closer) {
			a.Pause(until)
			for range 3 {
				time.Sleep(time.Second)
				_, ok := b.TryAcquire() // it asks for one
				require.False(t, ok, "%v", until)
				time.Sleep(100 * ms)
				for _, l := range []closer{a, b} {
					require.Equal(t, limiter.ByPause, l.Blocked().Reason, "%v", until)
				}
			}
			b.Resume()
			time.Sleep(time.Second)
			warm(t, a)
			warm(t, b)
		})
	}
}

// A flush does not end a pause.
func TestPauseOutlivesAFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRates(t, 2, 100, 10, redislimiter.Config{})
		var far downstream
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i, b := range f.all {
			work(ctx, &wg, b, &far, i, 4, nil)
		}
		time.Sleep(3 * time.Second)
		at := time.Now()
		f.all[0].Pause(at.Add(10 * time.Second))
		time.Sleep(time.Second)
		f.store.Flush()
		time.Sleep(5 * time.Second)
		late := f.add(100, 10, redislimiter.Config{})
		work(ctx, &wg, late, &far, 2, 4, nil)
		time.Sleep(8 * time.Second)
		require.Zero(t, far.between(at.Add(450*ms), at.Add(10*time.Second)))
		its, _ := far.of(2)
		require.NotZero(t, its)
		cancel()
		wg.Wait()
		for _, b := range f.all {
			closing(t, b)
		}
	})
}

func TestSetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRates(t, 3, 100, 5, redislimiter.Config{})
		var far downstream
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i, b := range f.all {
			work(ctx, &wg, b, &far, i, 4, nil)
		}
		time.Sleep(3 * time.Second)
		used := func() float64 {
			time.Sleep(time.Second)
			from := time.Now()
			time.Sleep(4 * time.Second)
			return float64(far.between(from, time.Now())) / 4
		}
		require.InDelta(t, 100, used(), 3)
		for _, rate := range []float64{500, 20, 200} {
			require.NoError(t, f.all[1].SetRate(t.Context(), rate))
			time.Sleep(time.Second)
			for _, b := range f.all {
				require.Equal(t, rate, b.Stats().Rate)
			}
			require.InDelta(t, rate, used(), 1+rate/20)
		}

		same := f.add(100, 5, redislimiter.Config{}) // as declared: the change stands
		warm(t, same)
		require.Equal(t, 200.0, same.Stats().Rate)
		f.store.Flush() // and outlives the store's memory
		time.Sleep(3 * time.Second)
		require.Equal(t, 200.0, f.all[0].Stats().Rate)
		other := f.add(50, 5, redislimiter.Config{}) // another deployment: its values win
		warm(t, other)
		time.Sleep(time.Second)
		for _, b := range f.all[:3] {
			require.Equal(t, 50.0, b.Stats().Rate)
		}

		require.EqualError(t, other.SetRate(t.Context(), math.Inf(1)), "redislimiter: TokenBucket.SetRate: ratePerSecond is +Inf: must be a finite number above 0")
		f.each(func(w *wire) { w.down = true })
		require.ErrorIs(t, other.SetRate(t.Context(), 70), errDown)
		f.each(func(w *wire) { w.down, w.hang = false, true })
		stuck, give := context.WithTimeoutCause(t.Context(), 50*ms, errGaveUp)
		defer give()
		require.ErrorIs(t, other.SetRate(stuck, 70), errGaveUp)
		f.each(func(w *wire) { w.hang = false })
		cancel()
		wg.Wait()
		for _, b := range f.all {
			closing(t, b)
			require.Error(t, b.SetRate(t.Context(), 70), "closed")
		}
	})
}

func TestSetLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newPlaces(t, 3, 10, redislimiter.Config{})
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i, s := range f.all {
			f.far.work(ctx, &wg, s, i, 20, func() time.Duration { return 50 * ms })
		}
		time.Sleep(3 * time.Second)
		for _, n := range []int{30, 2, 12} {
			require.NoError(t, f.all[0].SetLimit(t.Context(), n))
			time.Sleep(1100 * ms)
			f.far.lap(n)
			for _, s := range f.all {
				require.Equal(t, n, s.Stats().Limit)
			}
			time.Sleep(10 * time.Second)
			most, used := f.far.lap(n)
			require.Equal(t, n, most)
			require.GreaterOrEqual(t, used, 0.95)
		}
		require.EqualError(t, f.all[0].SetLimit(t.Context(), 0), "redislimiter: Semaphore.SetLimit: n is 0: must be at least 1 and at most 2147483647")
		cancel()
		wg.Wait()
		for _, s := range f.all {
			closing(t, s)
		}
	})
}

// The whole limit goes to where the demand is.
func TestOneBusyProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 8, 200.0
		f := newRates(t, n, rate, 20, redislimiter.Config{})
		var far downstream
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		first, stop := context.WithCancel(ctx)
		for i, b := range f.all {
			ctx := first
			if i == 0 {
				ctx = t.Context()
				ctx, cancel = context.WithCancel(ctx)
			}
			work(ctx, &wg, b, &far, i, 10, nil)
		}
		time.Sleep(5 * time.Second)
		stop()
		at := time.Now()
		time.Sleep(12 * time.Second)
		for i, b := range f.all[1:] {
			require.True(t, b.Idle(), i+1)
			require.Zero(t, b.Stats().Held)
		}
		require.GreaterOrEqual(t, float64(far.between(at.Add(2*time.Second), at.Add(12*time.Second))), 0.95*rate*10)
		require.GreaterOrEqual(t, float64(far.between(at.Add(time.Second), at.Add(2*time.Second))), 0.9*rate)
		cancel()
		wg.Wait()
		for _, b := range f.all {
			closing(t, b)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newPlaces(t, 8, 20, redislimiter.Config{})
		var wg sync.WaitGroup
		busy, cancel := context.WithCancel(t.Context())
		others, stop := context.WithCancel(t.Context())
		for i, s := range f.all {
			ctx := others
			if i == 0 {
				ctx = busy
			}
			f.far.work(ctx, &wg, s, i, 40, func() time.Duration { return 50 * ms })
		}
		time.Sleep(5 * time.Second)
		stop()
		time.Sleep(2 * time.Second)
		f.far.lap(20)
		time.Sleep(5 * time.Second)
		most, used := f.far.lap(20)
		require.Equal(t, 20, most)
		require.GreaterOrEqual(t, used, 0.95)
		cancel()
		wg.Wait()
		for _, s := range f.all {
			closing(t, s)
		}
	})
}

// A burst starts at once if nothing has started for long.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRates(t, 2, 10, 20, redislimiter.Config{})
		warm(t, f.all[0])
		warm(t, f.all[1])
		time.Sleep(10 * time.Second)
		var far downstream
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i, b := range f.all {
			work(ctx, &wg, b, &far, i, 20, nil)
		}
		time.Sleep(20 * ms)
		_, all := far.of(0)
		require.GreaterOrEqual(t, all, 19)
		require.LessOrEqual(t, all, 20)
		cancel()
		wg.Wait()
		closing(t, f.all[0])
		closing(t, f.all[1])
	})
}

// Both in one All, in processes that hold many.
func TestInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate, burst, limit = 4, 200.0, 10, 8
		rates, places := newRates(t, n, rate, burst, redislimiter.Config{}), newPlaces(t, n, limit, redislimiter.Config{})
		var far downstream
		var in crowd
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i := range n {
			l := all(t, places.all[i], rates.all[i])
			for range 10 {
				wg.Go(func() {
					for {
						p, err := l.Acquire(ctx)
						if err != nil {
							return
						}
						far.start(i)
						in.begin(i)
						time.Sleep(20 * ms)
						in.end()
						p.Release(nil)
					}
				})
			}
		}
		time.Sleep(4 * time.Second)
		from := time.Now()
		time.Sleep(10 * time.Second)
		used := float64(far.between(from, time.Now())) / rate / 10
		cancel()
		wg.Wait()
		t.Logf("%.3f of the rate used", used)
		require.LessOrEqual(t, in.most, limit)
		require.LessOrEqual(t, far.worst(rate), burst+rate*0.022)
		require.GreaterOrEqual(t, used, 0.9)
		for i := range n {
			closing(t, rates.all[i])
			closing(t, places.all[i])
			require.Zero(t, places.all[i].Stats().InUse)
		}
	})
}

// After Close nothing starts, nothing is held, and no goroutine is left: the
// bubble would not end.
func TestClose(t *testing.T) {
	pairs(t, func(t *testing.T, kind string, a, b closer) {
		p, err := a.Acquire(t.Context())
		require.NoError(t, err)
		if kind == "concurrency" {
			time.AfterFunc(3*time.Second, func() { p.Release(nil) })
		}
		begin := time.Now()
		closing(t, a)
		if kind == "concurrency" {
			require.GreaterOrEqual(t, time.Since(begin), 3*time.Second, "it waits for what is in flight")
		}
		closing(t, a)
		require.Equal(t, redislimiter.ByClosed, a.Blocked().Reason)
		_, ok := a.TryAcquire()
		require.False(t, ok)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errGaveUp)
		defer cancel()
		_, err = a.Acquire(ctx)
		require.Equal(t, errGaveUp, err)
		_, err = a.Ready(ctx, 1, 0)
		require.Equal(t, errGaveUp, err)
	})
}

// Close does not wait forever for a store that hangs, or for operations.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newPlaces(t, 1, 5, redislimiter.Config{})
		p, err := f.all[0].Acquire(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errGaveUp)
		defer cancel()
		require.Equal(t, errGaveUp, f.all[0].Close(ctx))
		p.Release(nil)
		time.Sleep(time.Second)

		g := newRates(t, 1, 5, 1, redislimiter.Config{})
		warm(t, g.all[0])
		g.each(func(w *wire) { w.hang = true })
		closing(t, g.all[0])
	})
}

// A slot of a process that died is free again after one lease.
func TestDeadProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newPlaces(t, 2, 3, redislimiter.Config{})
		for range 3 {
			_, err := f.all[0].Acquire(t.Context())
			require.NoError(t, err)
		}
		f.wires[0].set(func(w *wire) { w.hang = true })
		at := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		p, err := f.all[1].Acquire(ctx)
		require.NoError(t, err)
		require.Less(t, time.Since(at), store.Lease*time.Microsecond+450*ms)
		p.Release(nil)
		for range 3 {
			f.all[0].ReleasePermit(0, nil)
		}
		closing(t, f.all[0])
		closing(t, f.all[1])
		require.Panics(t, func() { f.all[0].ReleasePermit(0, nil) })
	})
}

// An operation that abstains frees its slot, and its start counts.
func TestAbstain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := newPlaces(t, 1, 1, redislimiter.Config{})
		for range 10 {
			p, err := places.all[0].Acquire(t.Context())
			require.NoError(t, err)
			p.Abstain()
		}
		require.Zero(t, places.all[0].Stats().InUse)
		closing(t, places.all[0])

		rates := newRates(t, 1, 10, 1, redislimiter.Config{})
		begin := time.Now()
		for range 11 {
			p, err := rates.all[0].Acquire(t.Context())
			require.NoError(t, err)
			p.Abstain()
		}
		require.GreaterOrEqual(t, time.Since(begin), time.Second-10*ms)
		closing(t, rates.all[0])
	})
}

// A late context calls then once, after the first call of its Err.
type late struct {
	context.Context
	then func()
}

func (c *late) Err() error {
	err := c.Context.Err()
	if then := c.then; then != nil {
		c.then = nil
		then()
	}
	return err
}

// A context that has ended before a slot was free gets no permit.
func TestAContextThatHasEndedGetsNoPermit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := newPlaces(t, 1, 1, redislimiter.Config{}).all[0]
		held, err := places.Acquire(t.Context())
		require.NoError(t, err)
		rates := newRates(t, 1, 10, 1, redislimiter.Config{}).all[0]
		warm(t, rates)
		rates.Pause(time.Now().Add(time.Hour))
		for l, free := range map[limiter.Limiter]func(){
			places: func() { held.Release(nil) },
			rates:  func() { rates.Resume(); time.Sleep(200 * ms) },
		} {
			_, ok := l.TryAcquire()
			require.False(t, ok, "%T", l)
			ctx, cancel := context.WithCancelCause(t.Context())
			_, err := l.Acquire(&late{Context: ctx, then: func() { cancel(errGaveUp); free() }})
			require.Equal(t, errGaveUp, err, "%T", l)
			_, err = l.Ready(ctx, 1, 0)
			require.Equal(t, errGaveUp, err, "%T: though one could start", l)
		}
		require.Zero(t, places.Stats().InUse)
		closing(t, places)
		closing(t, rates)
	})
}

// Slots that other processes are due are returned when their operations end,
// and not before.
func TestPlacesInUseStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newPlaces(t, 2, 4, redislimiter.Config{})
		var wg sync.WaitGroup
		for range 4 {
			p, err := f.all[0].Acquire(t.Context())
			require.NoError(t, err)
			wg.Go(func() {
				time.Sleep(5 * time.Second)
				p.Release(nil)
			})
		}
		for range 4 { // and more are to come
			wg.Go(func() { warm(t, f.all[0]) })
		}
		at := time.Now()
		var others sync.WaitGroup
		for range 2 {
			others.Go(func() { warm(t, f.all[1]) })
		}
		others.Wait()
		require.GreaterOrEqual(t, time.Since(at), 5*time.Second-50*ms)
		require.Less(t, time.Since(at), 5500*ms)
		wg.Wait()
		closing(t, f.all[0])
		closing(t, f.all[1])
	})
}
