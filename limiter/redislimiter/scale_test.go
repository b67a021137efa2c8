package redislimiter_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

// The scripts' logic over memory, in virtual time, under fleets of up to a
// thousand processes that start ten thousand messages a second: the limit is
// kept, all of it is used, the shares go where the demand is, and the store has
// little to do. The figures are those of the package's documentation.
func TestScale(t *testing.T) {
	sizes := []int{10, 100, 1000}
	if testing.Short() {
		sizes = sizes[:1]
	}
	table := []string{
		"limit                 processes  calls/s  calls/message  used  fairness  equal shares  one busy  all busy again  used, half killed",
	}
	for _, kind := range []struct {
		name  string
		limit int // of a second
		hold  time.Duration
		join  func(f *swarm, m *member) error
	}{
		{"10,000/s, burst 1,000", 10_000, 0, func(f *swarm, m *member) (err error) {
			m.bucket, err = redislimiter.NewTokenBucketOn(farRate{f.rate, m}, "scale", 10_000, 1000, redislimiter.Config{})
			m.limiter = m.bucket
			return err
		}},
		{"2,000 places, 200 ms", 10_000, 200 * time.Millisecond, func(f *swarm, m *member) (err error) {
			m.places, err = redislimiter.NewSemaphoreOn(farPlaces{f.places, m}, "scale", 2000, redislimiter.Config{})
			m.limiter = m.places
			return err
		}},
	} {
		for _, n := range sizes {
			t.Run(fmt.Sprintf("%s/%d", kind.name, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					row := simulate(t, n, kind.limit, kind.hold, kind.join)
					table = append(table, fmt.Sprintf("%-21s %s", kind.name, row))
				})
			})
		}
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// A swarm is many processes and their store, all in one bubble.
type swarm struct {
	rate    store.Rate
	places  store.Places
	members []*member
	calls   atomic.Int64
}

// A member is one process: its limiter, and workers that start one message
// after the other.
type member struct {
	swarm   *swarm
	number  int
	limiter limiter.Limiter
	bucket  *redislimiter.TokenBucket
	places  *redislimiter.Semaphore
	hold    time.Duration
	dead    atomic.Bool // it does nothing any more, and what it holds stays so
	stop    func()
	workers sync.WaitGroup

	mu     sync.Mutex // guards starts
	starts []time.Time
	ends   []time.Time
}

// scaleTrip is how long a call takes on its way, each way.
const scaleTrip = 500 * time.Microsecond

// A farRate and a farPlaces are the store as a process sees it.
type farRate struct {
	store.Rate
	m *member
}

func (s farRate) Lease(ctx context.Context, c store.RateCall) (store.RateState, error) {
	if err := s.m.travel(ctx); err != nil {
		return store.RateState{}, err
	}
	st, err := s.Rate.Lease(ctx, c)
	time.Sleep(scaleTrip)
	return st, err
}

type farPlaces struct {
	store.Places
	m *member
}

func (s farPlaces) Lease(ctx context.Context, c store.PlacesCall) (store.PlacesState, error) {
	if err := s.m.travel(ctx); err != nil {
		return store.PlacesState{}, err
	}
	st, err := s.Places.Lease(ctx, c)
	time.Sleep(scaleTrip)
	return st, err
}

// travel is the way of a call. Those of the dead do not arrive.
func (m *member) travel(ctx context.Context) error {
	if m.dead.Load() {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	m.swarm.calls.Add(1)
	time.Sleep(scaleTrip)
	return nil
}

// work starts messages until the member's stop is called, two workers for each
// that it may have at once.
func (m *member) work(workers int) {
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	for i := range workers {
		m.workers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(m.number), uint64(i)))
			for {
				p, err := m.limiter.Acquire(ctx)
				if err != nil {
					return
				}
				if m.dead.Load() {
					return
				}
				started := m.note(time.Now())
				time.Sleep(m.hold/2 + time.Duration(random.Int64N(int64(m.hold+1))))
				if !m.dead.Load() {
					m.mu.Lock()
					m.ends[started] = time.Now()
					m.mu.Unlock()
				}
				p.Release(nil) // also by the dead, whose store does not learn of it
				if ctx.Err() != nil {
					return
				}
			}
		})
	}
}

func (m *member) note(at time.Time) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.starts, m.ends = append(m.starts, at), append(m.ends, time.Time{})
	return len(m.starts) - 1
}

func (m *member) rest() {
	m.stop()
	m.workers.Wait()
}

// between returns how many messages each member has started from one instant
// on and before another.
func (f *swarm) between(from, to time.Time) (counts []float64, sum float64) {
	for _, m := range f.members {
		m.mu.Lock()
		i, _ := slices.BinarySearchFunc(m.starts, from, time.Time.Compare)
		j, _ := slices.BinarySearchFunc(m.starts, to, time.Time.Compare)
		m.mu.Unlock()
		counts = append(counts, float64(j-i))
		sum += float64(j - i)
	}
	return counts, sum
}

// firstWindow returns how long after an instant a window of that length was, for the
// first time, as wanted.
func firstWindow(from, to time.Time, window time.Duration, wanted func(from, to time.Time) bool) time.Duration {
	for at := from; !at.Add(window).After(to); at = at.Add(50 * time.Millisecond) {
		if wanted(at, at.Add(window)) {
			return at.Sub(from)
		}
	}
	return math.MaxInt64
}

func jainIndex(counts []float64) float64 {
	var sum, squares float64
	for _, n := range counts {
		sum, squares = sum+n, squares+n*n
	}
	return sum * sum / (float64(len(counts)) * squares)
}

// simulate plays a fleet: all are busy, then one, then all again, and then half
// of them are killed.
func simulate(t *testing.T, n, limit int, hold time.Duration, join func(*swarm, *member) error) (row string) {
	f := &swarm{rate: store.NewMemoryRate(), places: store.NewMemoryPlaces()}
	per := float64(limit)
	// More work waits than may start: twice what may be in flight or, since a
	// message takes no time, what starts in 20 ms.
	workers := max(2, int(2*per*max(hold, 20*time.Millisecond).Seconds())/n)
	for i := range n {
		m := &member{swarm: f, number: i, hold: hold}
		require.NoError(t, join(f, m))
		f.members = append(f.members, m)
	}

	// Shares are only comparable over a time in which each process has some
	// starts.
	window := max(time.Second, time.Duration(20*float64(n)/per*float64(time.Second)))

	// All. A new limit can't know what was leased before, so nothing starts at
	// first.
	began := time.Now()
	for _, m := range f.members {
		m.work(workers)
	}
	time.Sleep(5 * time.Second)
	from, before := time.Now(), f.calls.Load()
	time.Sleep(5 * time.Second)
	to := time.Now()
	calls := float64(f.calls.Load()-before) / 5
	counts, sum := f.between(from, to)
	used, fair := sum/per/5, jainIndex(counts)
	fairly := func(from, to time.Time) bool {
		counts, sum := f.between(from, to)
		return sum >= 0.95*per*to.Sub(from).Seconds() && jainIndex(counts) >= 0.95
	}
	equal := firstWindow(began, to, window, fairly)

	// One.
	one := f.members[0]
	alone := time.Now()
	one.rest()
	one.work(workers * n)
	var resting sync.WaitGroup
	for _, m := range f.members[1:] {
		resting.Go(m.rest)
	}
	resting.Wait()
	time.Sleep(5 * time.Second)
	busy := firstWindow(alone, time.Now(), 500*time.Millisecond, func(from, to time.Time) bool {
		counts, _ := f.between(from, to)
		return counts[0] >= 0.9*per*to.Sub(from).Seconds()
	})

	// All again.
	again := time.Now()
	one.rest()
	for _, m := range f.members {
		m.work(workers)
	}
	time.Sleep(6 * time.Second)
	allAgain := firstWindow(again, time.Now(), window, fairly)

	// Half of them die at once, with all they hold.
	for i, m := range f.members {
		if i%2 == 1 {
			m.dead.Store(true)
			m.stop()
		}
	}
	died := time.Now()
	time.Sleep(5 * time.Second)
	_, sum = f.between(died, time.Now())
	left := sum / per / 5

	var ending sync.WaitGroup
	for _, m := range f.members {
		ending.Go(m.rest)
	}
	ending.Wait()
	for _, m := range f.members {
		ending.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			var err error
			if m.bucket != nil {
				err = m.bucket.Close(ctx)
			} else {
				err = m.places.Close(ctx)
			}
			if !m.dead.Load() {
				require.NoError(t, err)
			}
		})
	}
	ending.Wait()

	row = fmt.Sprintf("%10d %8.0f %14.3f %4.0f%% %9.3f %13s %9s %15s %18.0f%%",
		n, calls, calls/(used*per), 100*used, fair, inSeconds(equal), inSeconds(busy), inSeconds(allAgain), 100*left)
	t.Log(row)

	// The limit, over all windows and at every instant.
	if hold == 0 {
		require.LessOrEqual(t, f.peakOverRate(per), 1000.0+1e-6, "burst")
	} else {
		require.LessOrEqual(t, f.peak(died), int(per*hold.Seconds()), "places")
	}
	require.GreaterOrEqual(t, used, 0.95)
	require.GreaterOrEqual(t, fair, 0.95)
	require.LessOrEqual(t, calls, 10*float64(n))
	require.LessOrEqual(t, busy, 2*time.Second)
	require.LessOrEqual(t, allAgain, 3*time.Second)
	return row
}

func inSeconds(d time.Duration) string {
	if d == math.MaxInt64 {
		return "never"
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// peakOverRate returns how many starts there were above rate*t at most, over
// all windows of any length t.
func (f *swarm) peakOverRate(rate float64) (peak float64) {
	var all []time.Time
	for _, m := range f.members {
		all = append(all, m.starts...)
	}
	slices.SortFunc(all, time.Time.Compare)
	var level float64
	for i, at := range all {
		if i > 0 {
			level = max(0, level-rate*at.Sub(all[i-1]).Seconds())
		}
		level++
		peak = max(peak, level)
	}
	return peak
}

// peak returns how many messages there were at once at most. Those of the dead
// have ended when they died.
func (f *swarm) peak(died time.Time) (peak int) {
	type change struct {
		at time.Time
		by int
	}
	var all []change
	for _, m := range f.members {
		for i, at := range m.starts {
			end := m.ends[i]
			if end.IsZero() {
				end = died
			}
			all = append(all, change{at, 1}, change{end, -1})
		}
	}
	slices.SortFunc(all, func(a, b change) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.by - b.by
	})
	open := 0
	for _, c := range all {
		open += c.by
		peak = max(peak, open)
	}
	return peak
}
