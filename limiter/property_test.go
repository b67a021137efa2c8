package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// forSeeds runs f for each of 1000 seeds, 100 with -short, in a bubble of its
// own.
func forSeeds(t *testing.T, f func(t *testing.T, seed uint64, r *rand.Rand)) {
	seeds := uint64(1000)
	if testing.Short() {
		seeds = 100
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			f(t, seed, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func upTo(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d) + 1)) }

// A step is a value that a setting has from a time on.
type step struct {
	at    time.Time
	value float64
}

// steps are a setting's values in the order of time.
type steps []step

func (s *steps) set(v float64) { *s = append(*s, step{time.Now(), v}) }

// most returns the highest of the values that the setting had at that time:
// there are several when it was changed just then.
func (s steps) most(at time.Time) float64 {
	most := 0.0
	for i, v := range s {
		if v.at.After(at) {
			break
		}
		if i+1 == len(s) || !s[i+1].at.Before(at) {
			most = max(most, v.value)
		}
	}
	return most
}

// integral returns the integral of the setting over the seconds between.
func (s steps) integral(from, to time.Time) float64 {
	sum := 0.0
	for i, v := range s {
		begin, end := v.at, to
		if i+1 < len(s) && s[i+1].at.Before(to) {
			end = s[i+1].at
		}
		if begin.Before(from) {
			begin = from
		}
		if end.After(begin) {
			sum += v.value * end.Sub(begin).Seconds()
		}
	}
	return sum
}

// A world is a semaphore and a bucket, and what was observed of them.
type world struct {
	semaphore *limiter.Semaphore
	bucket    *limiter.TokenBucket

	mu                 sync.Mutex // guards all below; held while a setting changes
	limit, rate, burst steps
	inFlight           int
	starts             []time.Time // under the bucket
	over               []string    // starts over the semaphore's limit
}

func newWorld(t *testing.T, r *rand.Rand) *world {
	limit, rate, burst := 1+r.IntN(5), 20+200*r.Float64(), 1+r.IntN(6)
	w := &world{semaphore: newSemaphore(t, limit), bucket: newBucket(t, rate, burst)}
	w.limit.set(float64(limit))
	w.rate.set(rate)
	w.burst.set(float64(burst))
	return w
}

// change makes one random change.
func (w *world) change(t *testing.T, r *rand.Rand) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch r.IntN(6) {
	case 0:
		n := 1 + r.IntN(8)
		require.NoError(t, w.semaphore.Resize(n))
		w.limit.set(float64(n))
	case 1:
		v := 20 + 200*r.Float64()
		require.NoError(t, w.bucket.SetRate(v))
		w.rate.set(v)
	case 2:
		n := 1 + r.IntN(8)
		require.NoError(t, w.bucket.SetBurst(n))
		w.burst.set(float64(n))
	case 3:
		w.bucket.Pause(time.Now().Add(upTo(r, 100*ms)))
	case 4:
		w.bucket.Resume()
	}
}

// operation acquires l, which consists of the given members, and returns the
// permit after a while.
func (w *world) operation(ctx context.Context, r *rand.Rand, l limiter.Limiter, places, tokens bool) error {
	var p permit
	switch r.IntN(8) {
	case 0:
		var ok bool
		if p, ok = l.TryAcquire(); !ok {
			return nil
		}
	case 1:
		if _, err := l.Ready(ctx, 1+r.IntN(5), upTo(r, 50*ms)); err != nil {
			return err
		}
		fallthrough
	default:
		var err error
		if p, err = l.Acquire(ctx); err != nil {
			return err
		}
	}
	cancel, abstain := r.IntN(6) == 0, r.IntN(6) == 0
	w.mu.Lock()
	if places {
		w.inFlight++
		if limit := w.limit.most(time.Now()); float64(w.inFlight) > limit {
			w.over = append(w.over, fmt.Sprintf("%d in flight, limit %v", w.inFlight, limit))
		}
	}
	if tokens && !cancel {
		w.starts = append(w.starts, time.Now())
	}
	w.mu.Unlock()
	if r.IntN(4) > 0 {
		time.Sleep(upTo(r, 30*ms))
	}
	w.mu.Lock()
	if places {
		w.inFlight--
	}
	w.mu.Unlock()
	switch {
	case cancel:
		p.Cancel()
	case abstain:
		p.Abstain()
	default:
		p.Release([]error{nil, nil, errPoison, limiter.ErrUnavailable, overload(5 * ms)}[r.IntN(5)])
	}
	return nil
}

// check asserts what must hold in the end.
func (w *world) check(t *testing.T, seed uint64) {
	require.Empty(t, w.over, "seed %d", seed)
	slices.SortFunc(w.starts, time.Time.Compare)
	for i, from := range w.starts {
		room, starts := w.burst.most(from), 0.0
		for j, to := range w.starts[i:] {
			if j > 0 {
				room += w.rate.integral(w.starts[i+j-1], to)
			}
			if starts++; starts > room+1e-6 {
				require.Failf(t, "too many starts", "seed %d: %v within %v, where %v are allowed", seed, starts, to.Sub(from), room)
			}
		}
	}
	s := w.semaphore.Stats()
	require.Zero(t, s.InUse, "seed %d", seed)
	require.Zero(t, s.Waiting, "seed %d", seed)
	require.Zero(t, w.bucket.Stats().Waiting, "seed %d", seed)
}

// Several groups share a semaphore and a bucket, directly and through Alls in
// every order, while these are changed, waiters give up, and permits are
// cancelled. The limits hold at every start, everybody makes progress, and
// nothing is left behind.
func TestNeverOver(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		w := newWorld(t, r)
		breaker := newBreaker(t, limiter.BreakerConfig{OpenFor: 20 * ms, MaxOpen: 50 * ms})
		kinds := []struct {
			limiter        limiter.Limiter
			places, tokens bool
		}{
			{w.semaphore, true, false},
			{w.bucket, false, true},
			{all(t, w.semaphore, w.bucket), true, true},
			{all(t, w.bucket, w.semaphore), true, true},
			{all(t, w.semaphore, w.bucket, breaker), true, true},
			{all(t, breaker, w.bucket, w.semaphore), true, true},
			{all(t, w.bucket, breaker), false, true},
		}
		const operations = 6
		var wg sync.WaitGroup
		begin := time.Now()
		workers := 0
		for range 1 + r.IntN(4) {
			kind := kinds[r.IntN(len(kinds))]
			for range 1 + r.IntN(5) {
				workers++
				r := rand.New(rand.NewPCG(seed, r.Uint64()))
				wg.Go(func() {
					for range operations {
						ctx, cancel := t.Context(), context.CancelFunc(func() {})
						if r.IntN(4) == 0 {
							ctx, cancel = context.WithTimeout(ctx, upTo(r, 60*ms))
						}
						err := w.operation(ctx, r, kind.limiter, kind.places, kind.tokens)
						cancel()
						if err != nil && !errors.Is(err, context.DeadlineExceeded) {
							panic(fmt.Sprintf("seed %d: %v", seed, err))
						}
						time.Sleep(upTo(r, 20*ms))
					}
				})
			}
		}
		for range r.IntN(30) {
			time.Sleep(upTo(r, 40*ms))
			w.change(t, r)
		}
		wg.Wait()
		// Each start takes 1/20 s to gain its token, 30 ms to run, 20 ms to
		// come again, and perhaps the 50 ms of an open breaker, at worst; the
		// changes pause for 100 ms each.
		require.Less(t, time.Since(begin), time.Duration(workers*operations)*200*ms+5*time.Second, "seed %d", seed)
		w.check(t, seed)
		require.Zero(t, breaker.Stats().InFlight, "seed %d", seed)
		require.Zero(t, breaker.Stats().Waiting, "seed %d", seed)
	})
}

// First come, first served, whatever happens to the others.
func TestFirstComeFirstServed(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		w := newWorld(t, r)
		breaker := newBreaker(t, limiter.BreakerConfig{})
		l := []limiter.Limiter{
			w.semaphore, w.bucket, breaker,
			all(t, w.semaphore, w.bucket), all(t, w.bucket, breaker, w.semaphore),
		}[r.IntN(5)]
		const callers = 20
		starts := make([]time.Time, callers)
		var wg sync.WaitGroup
		for i := range callers {
			own := rand.New(rand.NewPCG(seed, r.Uint64()))
			wg.Go(func() {
				r := own
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if r.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(ctx, upTo(r, 100*ms))
				}
				defer cancel()
				p, err := l.Acquire(ctx)
				if err != nil {
					return
				}
				starts[i] = time.Now()
				time.Sleep(upTo(r, 50*ms))
				switch r.IntN(8) {
				case 0, 1:
					p.Cancel()
				case 2:
					p.Abstain()
				default:
					p.Release([]error{nil, overload(50 * ms)}[r.IntN(2)])
				}
			})
			synctest.Wait() // they come one by one
			if r.IntN(2) == 0 {
				time.Sleep(upTo(r, 10*ms))
				w.change(t, r)
			}
		}
		wg.Wait()
		var last time.Time
		for i, at := range starts {
			if !at.IsZero() { // this waiter did not give up
				require.False(t, at.Before(last), "seed %d: %d started before one who came before", seed, i)
				last = at
			}
		}
		w.check(t, seed)
	})
}

// What Ready of a bucket promises holds if nobody else comes: that many can
// start within the time, and no more.
func TestTokenBucketReadyIsRight(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		b := newBucket(t, 1+500*r.Float64(), 1+r.IntN(10))
		for range r.IntN(12) {
			b.TryAcquire()
		}
		time.Sleep(upTo(r, 20*ms))
		if r.IntN(2) == 0 {
			b.Pause(time.Now().Add(upTo(r, 200*ms)))
		}
		within := upTo(r, 100*ms)
		n, err := b.Ready(t.Context(), 1000, within)
		require.NoError(t, err)
		end := time.Now().Add(within)
		for i := range n + 1 {
			acquire(t, b)
			if i < n {
				require.LessOrEqual(t, time.Until(end), within)
				require.GreaterOrEqual(t, time.Until(end), -time.Microsecond, "seed %d: number %d of %d is late", seed, i+1, n)
			} else {
				require.Less(t, time.Until(end), time.Microsecond, "seed %d: one more than %d started in time", seed, n)
			}
		}
	})
}

// A downstream fails and recovers in its own time, behind breakers and messages
// of all kinds.
func TestBreakerGuardsTheDownstream(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		type opening struct{ at, until, probe time.Time }
		var mu sync.Mutex // guards the three
		var openings []opening
		var starts []time.Time
		var wrong []string
		b := newBreaker(t, limiter.BreakerConfig{
			MinFailures: r.IntN(6),
			OnChange: func(from limiter.State, now limiter.BreakerStats) {
				mu.Lock()
				defer mu.Unlock()
				switch now.State {
				case limiter.Open:
					openings = append(openings, opening{at: time.Now(), until: now.NextProbe})
				case limiter.HalfOpen:
					openings[len(openings)-1].probe = time.Now()
				case limiter.Closed:
					if from != limiter.HalfOpen {
						wrong = append(wrong, fmt.Sprintf("closed from %v", from))
					}
				}
			},
		})
		begin := time.Now()
		outage, recovery := upTo(r, 5*time.Second), 5*time.Second+upTo(r, time.Minute)
		failure := []error{limiter.ErrUnavailable, limiter.ErrMisconfigured}[r.IntN(2)]
		downstream := func(r *rand.Rand) error {
			at := time.Since(begin)
			time.Sleep(upTo(r, 100*ms))
			if outage < at && at < recovery {
				return failure
			}
			return nil
		}
		stop := begin.Add(recovery + time.Minute)
		var wg sync.WaitGroup
		for range 2 + r.IntN(4) {
			r := rand.New(rand.NewPCG(seed, r.Uint64()))
			wg.Go(func() {
				for time.Now().Before(stop) {
					ctx, cancel := context.WithTimeout(t.Context(), upTo(r, time.Minute))
					p, err := b.Acquire(ctx)
					cancel()
					if err != nil {
						continue
					}
					s := b.Stats()
					mu.Lock()
					starts = append(starts, time.Now())
					if s.State == limiter.HalfOpen && s.InFlight > s.Allowed {
						wrong = append(wrong, fmt.Sprintf("%d in flight of %d", s.InFlight, s.Allowed))
					}
					mu.Unlock()
					switch r.IntN(10) {
					case 0:
						p.Cancel()
					case 1:
						p.Release(errPoison)
					case 2:
						p.Abstain()
					default:
						p.Release(downstream(r))
					}
					time.Sleep(upTo(r, 5*time.Second))
				}
			})
		}
		wg.Wait()
		require.Empty(t, wrong, "seed %d", seed)
		require.Equal(t, limiter.Closed, b.State(), "seed %d", seed)
		require.Zero(t, b.Stats().InFlight, "seed %d", seed)
		require.Zero(t, b.Stats().Waiting, "seed %d", seed)
		for _, o := range openings {
			require.False(t, o.probe.Before(o.until), "seed %d: probed before it was due", seed)
			for _, at := range starts {
				if at.After(o.at) && at.Before(o.probe) {
					require.Failf(t, "started while open", "seed %d: %v after it opened", seed, at.Sub(o.at))
				}
			}
		}
	})
}

// Whatever happens in whatever order: in an outage one probe is in flight until
// an operation succeeds, then no more than one for each success, and another;
// probes come no sooner than OpenFor after the last one that failed; and nothing
// is left behind.
func TestBreakerUnderRandomSchedules(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64, r *rand.Rand) {
		epoch, successes := 0, 0 // openings and probes so far, and successes since
		b := newBreaker(t, limiter.BreakerConfig{
			MinFailures: 1 + r.IntN(3),
			OnChange: func(_ limiter.State, now limiter.BreakerStats) {
				if now.State == limiter.Open {
					epoch++
					successes = 0
				}
			},
		})
		type operation struct {
			permit
			epoch, probe int // when it started; probe: its number, if it is one
		}
		var inFlight []operation
		probes := 0
		var probed time.Time // when the latest one started
		failed := false      // and whether it did
		for range 400 {
			switch r.IntN(8) {
			case 0, 1, 2:
				before := b.Stats()
				p, ok := b.TryAcquire()
				after := b.Stats()
				if before.State == limiter.Open {
					require.Equal(t, !time.Now().Before(before.NextProbe), ok, "seed %d", seed)
				}
				if !ok {
					require.NotEqual(t, limiter.Closed, before.State, "seed %d", seed)
					require.NotEmpty(t, b.Blocked().Reason, "seed %d", seed)
					break
				}
				o := operation{permit: p}
				if after.Probes > before.Probes {
					if failed {
						require.GreaterOrEqual(t, time.Since(probed), time.Second, "seed %d", seed)
					}
					probes++
					o.probe = probes
					probed, failed = time.Now(), false
					epoch++
					successes = 0
				}
				o.epoch = epoch
				inFlight = append(inFlight, o)
				if after.State == limiter.HalfOpen {
					same := 0
					for _, o := range inFlight {
						if o.epoch == epoch {
							same++
						}
					}
					require.LessOrEqual(t, same, 1+successes, "seed %d", seed)
				}
			case 3, 4, 5:
				if len(inFlight) == 0 {
					break
				}
				i := r.IntN(len(inFlight))
				o := inFlight[i]
				inFlight = slices.Delete(inFlight, i, i+1)
				switch r.IntN(6) {
				case 0:
					o.Cancel()
				case 1:
					o.Abstain()
				case 2:
					successes++
					o.Release(nil)
				case 3:
					o.Release(errPoison)
				default:
					o.Release(limiter.ErrUnavailable)
					failed = failed || o.probe > 0 && o.probe == probes
				}
			case 6:
				time.Sleep(upTo(r, []time.Duration{10 * ms, time.Second, time.Minute}[r.IntN(3)]))
			case 7:
				if r.IntN(20) == 0 {
					b.Reset()
					require.Equal(t, limiter.Closed, b.State(), "seed %d", seed)
				}
			}
		}
		for _, o := range inFlight {
			o.Abstain()
		}
		require.Zero(t, b.Stats().InFlight, "seed %d", seed)
		if b.State() == limiter.Open {
			time.Sleep(time.Until(b.Stats().NextProbe))
		}
		for range 200 { // more than were in flight
			tryAcquire(t, b).Release(nil)
		}
		require.Equal(t, limiter.Closed, b.State(), "seed %d", seed)
		p := tryAcquire(t, b)
		p.Release(nil)
		require.Panics(t, func() { p.Release(nil) }, "seed %d", seed)
	})
}

// The rate that a semaphore's Ready uses follows the true one.
func TestSemaphoreReadyFollowsTheRate(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			const places, within = 20, 40 * ms
			s := newSemaphore(t, places)
			hold := 5*ms + upTo(r, 95*ms)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for range places {
				r := rand.New(rand.NewPCG(seed, r.Uint64()))
				wg.Go(func() {
					for {
						p, err := s.Acquire(ctx)
						if err != nil {
							return
						}
						time.Sleep(time.Duration(r.ExpFloat64() * float64(hold)))
						p.Release(nil)
					}
				})
			}
			var sum float64
			const looks = 500
			for range looks {
				n, err := s.Ready(ctx, math.MaxInt, within)
				require.NoError(t, err)
				sum += float64(n)
				time.Sleep(10 * ms)
			}
			want := places * within.Seconds() / hold.Seconds()
			require.InEpsilon(t, want, sum/looks, 0.25, "seed %d", seed)
			cancel()
			wg.Wait()
		})
	}
}
