package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func newKeyed(t testing.TB, create func(key string) (limiter.Limiter, error)) *limiter.Keyed[string] {
	t.Helper()
	k, err := limiter.NewKeyed(create)
	require.NoError(t, err)
	return k
}

// fillUp uses enough new keys that every idle one is forgotten.
func fillUp(k *limiter.Keyed[string]) {
	for i := range 5000 {
		k.For(fmt.Sprint("filler ", i))
	}
}

func TestKeyedIsOneLimiterPerKey(t *testing.T) {
	k := newKeyed(t, func(string) (limiter.Limiter, error) { return limiter.NewSemaphore(1) })
	a := tryAcquire(t, k.For("a"))
	refused(t, k.For("a"))
	tryAcquire(t, k.For("b")).Release(nil)
	require.Equal(t, limiter.ByConcurrency, k.For("a").Blocked().Reason)
	a.Release(nil)
	n, err := k.For("a").Ready(t.Context(), 5, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	acquire(t, k.For("a")).Cancel()
	require.Equal(t, 2, k.Len())
	require.True(t, limiter.Share(k.For("a"), k.For("a")))
	require.False(t, limiter.Share(k.For("a"), k.For("b")))
}

// Forgetting loses no state: limiters that are not as good as new are kept.
func TestKeyedForgetsOnlyWhatIsAsGoodAsNew(t *testing.T) {
	type made = limiter.Limiter
	for name, test := range map[string]struct {
		create func() (made, error)
		use    func(t *testing.T, l made) (undo func())
		after  time.Duration // until it is as good as new once undone
	}{
		"a permit out": {
			func() (made, error) { return limiter.NewSemaphore(1) },
			func(t *testing.T, l made) func() { p := tryAcquire(t, l); return func() { p.Release(nil) } }, 0,
		},
		"a waiter": {
			func() (made, error) { return limiter.NewSemaphore(1) },
			func(t *testing.T, l made) func() {
				p := tryAcquire(t, l)
				c := newCrowd()
				c.join(t.Context(), l, 0)
				return func() { p.Release(nil); c.wg.Wait(); c.permits[0].Release(nil) }
			}, 0,
		},
		"an emptied bucket": {
			func() (made, error) { return limiter.NewTokenBucket(1, 5) },
			func(t *testing.T, l made) func() { fill(l); return func() {} }, 5 * time.Second,
		},
		"an open breaker": {
			func() (made, error) { return limiter.NewBreaker(limiter.BreakerConfig{}) },
			func(t *testing.T, l made) func() {
				for range 10 {
					tryAcquire(t, l).Release(limiter.ErrUnavailable)
				}
				require.True(t, limiter.Tripped(l))
				return func() {
					pass(2 * time.Second)
					for range 10 {
						acquire(t, l).Release(nil)
					}
				}
			}, 0,
		},
		"an outage that nobody probes": {
			func() (made, error) { return limiter.NewBreaker(limiter.BreakerConfig{}) },
			func(t *testing.T, l made) func() {
				for range 10 {
					tryAcquire(t, l).Release(limiter.ErrUnavailable)
				}
				return func() {}
			}, 19 * time.Minute,
		},
		"a ramp that nobody uses": {
			func() (made, error) { return limiter.NewBreaker(limiter.BreakerConfig{}) },
			func(t *testing.T, l made) func() {
				for range 10 {
					tryAcquire(t, l).Release(limiter.ErrMisconfigured)
				}
				pass(time.Hour)
				tryAcquire(t, l).Release(nil)
				require.True(t, limiter.Tripped(l))
				return func() {}
			}, 19 * time.Minute,
		},
		"a failure": {
			func() (made, error) { return limiter.NewBreaker(limiter.BreakerConfig{}) },
			func(t *testing.T, l made) func() {
				tryAcquire(t, l).Release(limiter.ErrUnavailable)
				return func() {}
			}, 11 * time.Second,
		},
		"from before it opened": {
			func() (made, error) { return limiter.NewBreaker(limiter.BreakerConfig{}) },
			func(t *testing.T, l made) func() {
				p := tryAcquire(t, l)
				for range 10 {
					tryAcquire(t, l).Release(limiter.ErrUnavailable)
				}
				pass(2 * time.Second)
				for range 10 {
					acquire(t, l).Release(nil)
				}
				return func() { p.Cancel() }
			}, 0,
		},
		"a paused adaptive limit": {
			func() (made, error) { return limiter.NewAdaptive(limiter.AdaptiveConfig{Max: 10}) },
			func(t *testing.T, l made) func() { tryAcquire(t, l).Release(overload(time.Hour)); return func() {} },
			2*time.Hour + 10*time.Minute, // not as soon as the pause ends: there is the ramp
		},
		"a paused adaptive rate": {
			func() (made, error) {
				return limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{Max: 10})
			},
			func(t *testing.T, l made) func() { tryAcquire(t, l).Release(overload(time.Hour)); return func() {} },
			2*time.Hour + 10*time.Minute,
		},
		"what an adaptive limit has learnt": {
			func() (made, error) { return limiter.NewAdaptive(limiter.AdaptiveConfig{Max: 10, Initial: 10}) },
			func(t *testing.T, l made) func() { releaseAll(fill(l), limiter.ErrOverload); return func() {} }, 11 * time.Minute,
		},
		"what an adaptive rate has learnt": {
			func() (made, error) {
				return limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{Max: 10})
			},
			func(t *testing.T, l made) func() { tryAcquire(t, l).Release(limiter.ErrOverload); return func() {} }, 11 * time.Minute,
		},
		"one of all": {
			func() (made, error) {
				b, err := limiter.NewTokenBucket(1, 5)
				s, _ := limiter.NewSemaphore(1)
				return all(t, s, b), err
			},
			func(t *testing.T, l made) func() { p := tryAcquire(t, l); return func() { p.Release(nil) } }, time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				created := 0
				k := newKeyed(t, func(key string) (limiter.Limiter, error) {
					if key != "it" {
						return limiter.NewSemaphore(1)
					}
					created++
					return test.create()
				})
				it := k.For("it")
				undo := test.use(t, it)
				pass(test.after / 2)
				fillUp(k)
				require.Same(t, it, k.For("it"))
				require.Equal(t, 1, created, "still in use")
				undo()
				pass(test.after)
				fillUp(k)
				_ = k.For("it")
				require.Equal(t, 2, created, "as good as new")
				require.LessOrEqual(t, k.Len(), 1100)
				acquire(t, it).Release(nil) // the old one leads to the new
				require.Equal(t, 2, created)
			})
		})
	}
}

// Keys whose downstream is gone for good are not kept forever.
func TestKeyedForgetsDeadHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t, func(string) (limiter.Limiter, error) { return limiter.NewBreaker(limiter.BreakerConfig{}) })
		const dead = 5000
		for i := range dead {
			for range 10 {
				tryAcquire(t, k.For(fmt.Sprint("dead", i))).Release(limiter.ErrMisconfigured)
			}
		}
		require.Equal(t, dead, k.Len())
		time.Sleep(time.Hour)
		for i := range 2 * dead {
			tryAcquire(t, k.For(fmt.Sprint("alive", i))).Release(nil)
		}
		require.LessOrEqual(t, k.Len(), 1100)
	})
}

// An always idle limiter, whose Acquire takes its time.
type slowToAcquire struct {
	*limiter.Semaphore
	entered, leave chan struct{}
}

func (s slowToAcquire) Idle() bool { return true }

func (s slowToAcquire) Acquire(ctx context.Context) (limiter.Permit, error) {
	close(s.entered)
	<-s.leave
	return s.Semaphore.Acquire(ctx)
}

// A key is not forgotten between the lookup of its limiter and its use.
func TestKeyedKeepsAKeyThatIsBeingUsed(t *testing.T) {
	slow := slowToAcquire{newSemaphore(t, 1), make(chan struct{}), make(chan struct{})}
	k := newKeyed(t, func(key string) (limiter.Limiter, error) {
		if key == "slow" {
			return slow, nil
		}
		return limiter.NewSemaphore(1)
	})
	l := k.For("slow")
	done := make(chan error)
	go func() {
		_, err := l.Acquire(context.Background())
		done <- err
	}()
	<-slow.entered
	fillUp(k)
	require.Same(t, l, k.For("slow"))
	close(slow.leave)
	require.NoError(t, <-done)
	fillUp(k)
	require.NotSame(t, l, k.For("slow"))
}

// A limiter that was changed by hand is not as good as new.
func TestKeyedKeepsWhatWasChanged(t *testing.T) {
	s, b := newSemaphore(t, 1), newBucket(t, 1, 1)
	other := newBucket(t, 1, 1)
	require.True(t, s.Idle())
	require.True(t, b.Idle())
	require.NoError(t, s.Resize(2))
	require.NoError(t, b.SetRate(2))
	require.NoError(t, other.SetBurst(2))
	require.False(t, s.Idle())
	require.False(t, b.Idle())
	require.False(t, other.Idle())
}

// A million keys pass, some of them often, in bounded memory.
func TestKeyedMemoryIsBounded(t *testing.T) {
	keys := 1_000_000
	if testing.Short() {
		keys = 100_000
	}
	synctest.Test(t, func(t *testing.T) {
		k := newKeyed(t, func(string) (limiter.Limiter, error) { return limiter.NewTokenBucket(10, 1) })
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		var warm uint64
		most := 0
		for i := range keys {
			tryAcquire(t, k.For(fmt.Sprint(i))).Release(nil)
			if i%100 == 0 {
				time.Sleep(10 * ms) // 10,000 keys a second, each for 100 ms
			}
			most = max(most, k.Len())
			if i == keys/10 {
				warm = heap()
			}
		}
		require.LessOrEqual(t, most, 4000)
		require.Less(t, heap(), warm+1<<20)
		runtime.KeepAlive(k)
	})
}

// However keys come and go, and are forgotten while they are about to be used,
// no key ever has two operations in flight.
func TestKeyedNeverOver(t *testing.T) {
	k := newKeyed(t, func(string) (limiter.Limiter, error) { return limiter.NewSemaphore(1) })
	const keys = 3000
	var mu sync.Mutex
	inFlight := map[string]int{}
	var over []string
	var wg sync.WaitGroup
	for w := range uint64(8) {
		r := rand.New(rand.NewPCG(w, 0))
		wg.Go(func() {
			var held []limiter.Limiter // for keys that may be forgotten meanwhile
			var names []string
			for range 5000 {
				if len(held) < 50 || r.IntN(2) == 0 {
					name := fmt.Sprint(r.IntN(keys))
					held, names = append(held, k.For(name)), append(names, name)
				}
				i := r.IntN(len(held))
				p, ok := held[i].TryAcquire()
				if !ok {
					continue
				}
				mu.Lock()
				if inFlight[names[i]]++; inFlight[names[i]] > 1 {
					over = append(over, names[i])
				}
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				inFlight[names[i]]--
				mu.Unlock()
				p.Release(nil)
			}
		})
	}
	wg.Wait()
	require.Empty(t, over)
}

func TestKeyedErrors(t *testing.T) {
	_, err := limiter.NewKeyed[int](nil)
	require.EqualError(t, err, "limiter: NewKeyed: create is nil: must be a function")

	broken := errors.New("no such tenant")
	fail := true
	k := newKeyed(t, func(key string) (limiter.Limiter, error) {
		switch {
		case key == "nil":
			return nil, nil
		case key == "nil pointer":
			return (*limiter.Semaphore)(nil), nil
		case fail:
			return nil, broken
		}
		return limiter.NewSemaphore(1)
	})
	l := k.For("x")
	_, err = l.Acquire(t.Context())
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "limiter: Keyed: key x: no such tenant")
	_, err = l.Ready(t.Context(), 1, 0)
	require.ErrorIs(t, err, broken)
	refused(t, l)
	require.Equal(t, limiter.ByError, l.Blocked().Reason)
	require.ErrorIs(t, l.Blocked().Cause, broken)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGaveUp)
	_, err = l.Acquire(ctx)
	require.Equal(t, errGaveUp, err)
	_, err = k.For("nil").Acquire(t.Context())
	require.EqualError(t, err, "limiter: Keyed: key nil: create returned nil")
	_, err = k.For("nil pointer").Acquire(t.Context())
	require.EqualError(t, err, "limiter: Keyed: key nil pointer: create returned nil (a *limiter.Semaphore)")
	require.Zero(t, k.Len())
	fail = false
	acquire(t, k.For("x"))
}

func TestKeyedAllocatesNothingForAKnownKey(t *testing.T) {
	k, err := limiter.NewKeyed(func(int) (limiter.Limiter, error) { return limiter.NewSemaphore(1) })
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		p, err := k.For(7).Acquire(context.Background())
		if err != nil {
			panic(err)
		}
		p.Release(nil)
	}))
}

// A limiter that was forgotten and made again is still the same limiter: All of
// both must not wait for itself.
func TestKeyedIsTheSameWhenMadeAgain(t *testing.T) {
	k := newKeyed(t, func(string) (limiter.Limiter, error) { return limiter.NewSemaphore(1) })
	before, other := k.For("x"), k.For("y")
	for range 3 {
		fillUp(k)
	}
	again := k.For("x")
	require.NotSame(t, before, again)
	require.True(t, limiter.Share(before, again))
	require.False(t, limiter.Share(other, again))
	tryAcquire(t, all(t, before, again)).Release(nil)
}

// The result of For stands for the limiter of its key, and is the same limiter
// after it was forgotten and made again.
func TestAKeysLimiterIsKnownByItsKey(t *testing.T) {
	k, err := limiter.NewKeyed(func(int) (limiter.Limiter, error) {
		b, err := limiter.NewBreaker(limiter.BreakerConfig{})
		if err != nil {
			return nil, err
		}
		return limiter.All(b, newSemaphore(t, 1))
	})
	require.NoError(t, err)
	first := k.For(0)
	for i := range 5000 {
		k.For(i % 2500)
	}
	again := k.For(0)
	require.NotSame(t, first, again)
	require.Equal(t, limiter.Identity(first), limiter.Identity(again))
	require.True(t, limiter.Share(first, again))
	require.NotEqual(t, limiter.Identity(first), limiter.Identity(k.For(1)))
	members := slices.Collect(limiter.Members(again))
	require.Len(t, members, 2)
	require.IsType(t, &limiter.Breaker{}, members[0])

	s := newSemaphore(t, 1)
	require.Equal(t, limiter.Identity(s), any(s))
	require.NotEqual(t, limiter.Identity(s), limiter.Identity(newSemaphore(t, 1)))
}
