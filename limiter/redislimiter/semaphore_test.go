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
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

type placesWire struct {
	*wire
	to store.Places
}

func (w placesWire) Lease(ctx context.Context, c store.PlacesCall) (store.PlacesState, error) {
	if err := w.before(ctx); err != nil {
		return store.PlacesState{}, err
	}
	st, err := w.to.Lease(ctx, c)
	if lost := w.after(); lost != nil {
		return store.PlacesState{}, lost
	}
	return st, err
}

// places is several processes with one semaphore on one store.
type places struct {
	t     *testing.T
	store *store.MemoryPlaces
	wires []*wire
	all   []*redislimiter.Semaphore
	far   crowd
}

func newPlaces(t *testing.T, n, limit int, cfg redislimiter.Config) *places {
	f := &places{t: t, store: store.NewMemoryPlaces()}
	for range n {
		f.add(limit, cfg)
	}
	return f
}

func (f *places) add(limit int, cfg redislimiter.Config) *redislimiter.Semaphore {
	w := &wire{trip: ms}
	s, err := redislimiter.NewSemaphoreOn(placesWire{w, f.store}, "x", limit, cfg)
	require.NoError(f.t, err)
	f.wires, f.all = append(f.wires, w), append(f.all, s)
	return s
}

// A crowd counts the operations in flight.
type crowd struct {
	mu    sync.Mutex // guards all below
	in    int
	most  int
	since time.Time
	used  time.Duration // the integral of in
	by    map[int]int
	done  int

	lapped time.Time
}

func (c *crowd) move(by int) {
	now := time.Now()
	c.used += time.Duration(c.in) * now.Sub(c.since)
	c.since = now
	c.in += by
	c.most = max(c.most, c.in)
}

func (c *crowd) begin(process int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.move(1)
	if c.by == nil {
		c.by = map[int]int{}
	}
	c.by[process]++
}

func (c *crowd) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.move(-1)
	c.done++
}

// lap starts a new count, and returns the most that were in flight at once
// since the last call, and which share of the limit was used.
func (c *crowd) lap(limit int) (most int, used float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.move(0)
	now := time.Now()
	most, used = c.most, c.used.Seconds()/now.Sub(c.lapped).Seconds()/float64(limit)
	c.most, c.used, c.lapped, c.by = c.in, 0, now, nil
	return most, used
}

func (c *crowd) ended() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// jain returns Jain's index of n processes since the last lap.
func (c *crowd) jain(n int) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum, squares := 0.0, 0.0
	for _, x := range c.by {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	return sum * sum / squares / float64(n)
}

func (c *crowd) work(ctx context.Context, wg *sync.WaitGroup, s *redislimiter.Semaphore, process, goroutines int, hold func() time.Duration) {
	for range goroutines {
		wg.Go(func() {
			for {
				p, err := s.Acquire(ctx)
				if err != nil {
					return
				}
				c.begin(process)
				time.Sleep(hold())
				c.end()
				p.Release(nil)
			}
		})
	}
}

func TestSemaphoreFleet(t *testing.T) {
	type fleet struct {
		n, limit int
		hold     time.Duration
	}
	fleets := []fleet{{1, 20, 100 * ms}, {8, 20, 100 * ms}, {8, 20, 10 * ms}, {16, 20, 100 * ms}, {8, 3, 50 * ms}, {30, 4, 20 * ms}, {4, 200, 100 * ms}, {8, 20, 5 * time.Second}}
	if testing.Short() {
		fleets = fleets[1:5]
	}
	for _, test := range fleets {
		synctest.Test(t, func(t *testing.T) {
			f := newPlaces(t, test.n, test.limit, redislimiter.Config{})
			var wg sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			for i, s := range f.all {
				f.far.work(ctx, &wg, s, i, 60, func() time.Duration { return time.Duration(rand.ExpFloat64() * float64(test.hold)) })
			}
			time.Sleep(cold + 3*time.Second)
			f.far.lap(test.limit)
			length := 100 * time.Second
			if testing.Short() {
				length = 20 * time.Second
			}
			calls, done := f.store.Calls(), f.far.ended()
			time.Sleep(length)
			jain := f.far.jain(test.n)
			most, used := f.far.lap(test.limit)
			done, calls = f.far.ended()-done, f.store.Calls()-calls
			cancel()
			wg.Wait()
			for _, s := range f.all {
				closing(t, s)
			}
			t.Logf("%+v: most %d used %.3f jain %.3f calls/message %.3f calls/s %.0f", test, most, used, jain, float64(calls)/float64(done), float64(calls)/length.Seconds())
			require.LessOrEqual(t, most, test.limit)
			require.GreaterOrEqual(t, used, 0.95)
			if !testing.Short() { // over a few turns
				require.GreaterOrEqual(t, jain, 0.95)
			}
		})
	}
}
