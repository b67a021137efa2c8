package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

const ms = time.Millisecond

// cold is how long a name's first use waits.
const cold = store.Lease * time.Microsecond

var errDown = errors.New("connection refused")

// overload is what a client returns for a 429.
type overload time.Duration

func (o overload) Error() string             { return "slow down" }
func (o overload) Is(target error) bool      { return target == limiter.ErrOverload }
func (o overload) RetryAfter() time.Duration { return time.Duration(o) }

// A wire stands between a process and its store: calls take their time, fail,
// hang, or are answered and the answer is lost.
type wire struct {
	mu    sync.Mutex // guards all below
	trip  time.Duration
	down  bool
	hang  bool               // until the context ends
	flaky func() (lost bool) // the answer is
	skew  *time.Duration     // of the store's clock
	clock *sync.Mutex        // guards *skew
}

func (w *wire) set(f func(w *wire)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

func (w *wire) before(ctx context.Context) error {
	w.mu.Lock()
	trip, down, hang := w.trip, w.down, w.hang
	w.mu.Unlock()
	if down {
		return errDown
	}
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	sleep(trip)
	return nil
}

func (w *wire) after() error {
	w.mu.Lock()
	trip, lost := w.trip, w.flaky != nil && w.flaky()
	w.mu.Unlock()
	sleep(trip)
	if lost {
		return errors.New("connection reset")
	}
	return nil
}

func sleep(d time.Duration) {
	if d > 0 {
		time.Sleep(rand.N(d))
	}
}

type rateWire struct {
	*wire
	to store.Rate
}

func (w rateWire) Lease(ctx context.Context, c store.RateCall) (store.RateState, error) {
	if err := w.before(ctx); err != nil {
		return store.RateState{}, err
	}
	if w.skew != nil {
		w.clock.Lock()
		c.Now = time.Now().Add(*w.skew).UnixMicro()
		w.clock.Unlock()
	}
	st, err := w.to.Lease(ctx, c)
	if lost := w.after(); lost != nil {
		return store.RateState{}, lost
	}
	return st, err
}

// A downstream records when operations start.
type downstream struct {
	mu     sync.Mutex // guards all below
	starts []time.Time
	by     map[int]int // starts of each process
}

func (f *downstream) start(process int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts = append(f.starts, time.Now())
	if f.by == nil {
		f.by = map[int]int{}
	}
	f.by[process]++
}

// of returns the starts of a process, and all of them.
func (f *downstream) of(process int) (its, all int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.by[process], len(f.starts)
}

// between returns the starts of a span.
func (f *downstream) between(from, to time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.starts {
		if !s.Before(from) && s.Before(to) {
			n++
		}
	}
	return n
}

// worst returns by how much the starts of some window exceed rate*t: at most
// the burst where the limit holds.
func (f *downstream) worst(rate float64) float64 {
	epoch := time.Now()
	return f.over(func(t time.Time) float64 { return rate * t.Sub(epoch).Seconds() })
}

// over is worst for a limit that changes: allowed is its integral.
func (f *downstream) over(allowed func(t time.Time) float64) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortFunc(f.starts, time.Time.Compare)
	worst, least := 0.0, 0.0
	for i, s := range f.starts {
		x := float64(i) - allowed(s)
		if i == 0 || x < least {
			least = x // the window that begins with start i
		}
		worst = max(worst, x+1-least)
	}
	return worst
}

// jain returns Jain's index of the starts of n processes.
func (f *downstream) jain(n int) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum, squares := 0.0, 0.0
	for _, x := range f.by {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	return sum * sum / (float64(n) * squares)
}

// work starts operations of process number i as often as l allows, with a
// number of goroutines, until ctx ends; each takes as long as hold returns.
func work(ctx context.Context, wg *sync.WaitGroup, l limiter.Limiter, f *downstream, i, goroutines int, hold func() time.Duration) {
	for range goroutines {
		wg.Go(func() {
			for {
				p, err := l.Acquire(ctx)
				if err != nil {
					return
				}
				f.start(i)
				if hold != nil {
					time.Sleep(hold())
				}
				p.Release(nil)
			}
		})
	}
}

func liveClient(t testing.TB) *redis.Client {
	t.Helper()
	addr := os.Getenv("RAMPMETER_REDIS_ADDR")
	if addr == "" {
		t.Skip("needs a Redis server: set RAMPMETER_REDIS_ADDR")
	}
	c := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// liveName returns a name that no other test has.
func liveName(t testing.TB, c *redis.Client) string {
	name := fmt.Sprintf("%s-%d-%d", t.Name(), os.Getpid(), rand.Uint64())
	t.Cleanup(func() {
		for _, kind := range []string{"rate", "places"} {
			key := "rampmeter:{" + name + "}:" + kind
			c.Del(context.Background(), key, key+":processes", key+":seen", key+":waiting")
		}
	})
	return name
}

func closing(t testing.TB, l interface{ Close(context.Context) error }) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	require.NoError(t, l.Close(ctx))
}

// quiet keeps the client from logging what tests do to it.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{})
	os.Exit(m.Run())
}

func all(t testing.TB, limiters ...limiter.Limiter) limiter.Limiter {
	t.Helper()
	l, err := limiter.All(limiters...)
	require.NoError(t, err)
	return l
}
