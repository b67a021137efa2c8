package queue_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// tenants gives each tenant, named by a message's attribute, a limiter of its
// own.
type tenants struct {
	mu   sync.Mutex // guards all
	all  map[string]limiter.Limiter
	make func(tenant string) limiter.Limiter
}

func perTenant(f func(tenant string) limiter.Limiter) *tenants {
	return &tenants{all: map[string]limiter.Limiter{}, make: f}
}

func (k *tenants) limiterFor(m *queue.Message) limiter.Limiter {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := m.Attributes["tenant"]
	l, ok := k.all[name]
	if !ok {
		l = k.make(name)
		k.all[name] = l
	}
	return l
}

func of(tenant string, body int) *queue.Message {
	return &queue.Message{Body: []byte(strconv.Itoa(body)), Attributes: map[string]string{"tenant": tenant}}
}

func bucket(t *testing.T, rate float64, burst int) *limiter.TokenBucket {
	t.Helper()
	b, err := limiter.NewTokenBucket(rate, burst)
	require.NoError(t, err)
	return b
}

func semaphore(t *testing.T, n int) *limiter.Semaphore {
	t.Helper()
	s, err := limiter.NewSemaphore(n)
	require.NoError(t, err)
	return s
}

// A tenant with a thousand messages and a limit of its own stands first in the
// queue. The others' messages behind them are done as if it were not there.
func TestHotKeyKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		for i := range 1000 {
			require.NoError(t, q.Send(t.Context(), of("hot", i)))
		}
		for i := range 100 {
			require.NoError(t, q.Send(t.Context(), of(strconv.Itoa(i), i)))
		}
		var mu sync.Mutex
		var hot []time.Duration
		others, receives := 0, 0
		var last time.Duration
		began := time.Now()
		r := start(t, q, queue.Config{LimiterFor: perTenant(func(string) limiter.Limiter { return bucket(t, 1, 1) }).limiterFor},
			func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				defer mu.Unlock()
				if m.Attributes["tenant"] == "hot" {
					hot = append(hot, time.Since(began))
					receives = max(receives, m.Attempt)
				} else {
					others++
					last = time.Since(began)
				}
				return nil
			})
		time.Sleep(time.Second)
		synctest.Wait()
		mu.Lock()
		require.Equal(t, 100, others, "others done in the first second")
		require.Less(t, last, time.Second)
		mu.Unlock()
		time.Sleep(3 * time.Hour)
		require.NoError(t, r.drain())
		require.Len(t, hot, 1000)
		for i, at := range hot {
			require.GreaterOrEqual(t, at, time.Duration(i)*time.Second, "start %d of the hot tenant", i)
		}
		require.LessOrEqual(t, hot[999], 1200*time.Second, "the hot tenant's own rate is used")
		require.LessOrEqual(t, receives, 7, "receives of one message: half of the attempts and one")
		s := r.Stats()
		t.Logf("the hot tenant took %v for 1000 messages; %d receives for 1100 messages, at most %d of one", hot[999], s.Received, receives)
		require.Less(t, s.Received, int64(3*1100), "deliveries")
		require.EqualValues(t, 1100, s.Done)
	})
}

// Whatever happens, no key has more in flight than its limit, nor has the whole;
// and the messages of an ordered group succeed in order.
func TestRandomKeysAreNeverOver(t *testing.T) {
	for seed := range seeds(400) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 11))
			fifo := seed%2 == 1
			q := newQueue(t, memqueue.Config{FIFO: fifo})
			dead := newQueue(t, memqueue.Config{FIFO: fifo})
			keys, total := 1+rnd.IntN(6), 1+rnd.IntN(12)
			limits := map[string]int{}
			for k := range keys {
				limits[strconv.Itoa(k)] = 1 + rnd.IntN(3)
			}
			n := 150
			for i := range n {
				m := of(strconv.Itoa(rnd.IntN(keys)), i)
				if fifo {
					m.Group, m.Dedup = strconv.Itoa(rnd.IntN(8)), strconv.Itoa(i)
				}
				require.NoError(t, q.Send(t.Context(), m))
			}
			var mu sync.Mutex
			inFlight, running := map[string]int{}, 0
			done, order := map[string]int{}, map[string][]int{}
			by := perTenant(func(tenant string) limiter.Limiter { return semaphore(t, limits[tenant]) })
			shared := semaphore(t, total)
			cfg := queue.Config{
				Concurrency: 1 + rnd.IntN(20), Limiter: shared, LimiterFor: by.limiterFor, DeadLetter: dead,
				Retry: retry.Policy{BaseDelay: time.Second, MaxDelay: 10 * time.Second}, NoDeadLetterGuard: true,
			}
			fault := rand.New(rand.NewPCG(seed, 12))
			h := func(_ context.Context, m *queue.Message) error {
				key := m.Attributes["tenant"]
				mu.Lock()
				inFlight[key]++
				running++
				require.LessOrEqual(t, inFlight[key], limits[key], "seed %d: key %s", seed, key)
				require.LessOrEqual(t, running, total, "seed %d", seed)
				took, throw := time.Duration(fault.IntN(300))*time.Millisecond, fault.IntN(10)
				mu.Unlock()
				time.Sleep(took)
				mu.Lock()
				defer mu.Unlock()
				inFlight[key]--
				running--
				switch throw {
				case 0:
					return stamped{is: limiter.ErrOverload, after: time.Second}
				case 1:
					return fmt.Errorf("passing")
				}
				body, _ := strconv.Atoi(string(m.Body))
				done[string(m.Body)]++
				order[m.Group] = append(order[m.Group], body)
				return nil
			}
			a, b := start(t, q, cfg, h), start(t, q, cfg, h)
			time.Sleep(time.Duration(rnd.IntN(20_000)) * time.Millisecond)
			require.NoError(t, b.drain()) // what it has parked goes back at once
			time.Sleep(time.Hour)
			require.NoError(t, a.drain())
			require.Len(t, done, n, "seed %d", seed)
			for body, times := range done {
				require.Equal(t, 1, times, "seed %d: message %s", seed, body)
			}
			if fifo {
				for group, bodies := range order {
					require.True(t, slices.IsSorted(bodies), "seed %d: group %s ran as %v", seed, group, bodies)
				}
			}
		})
	}
}

// Trouble that one key's breaker knows of holds that key's messages, and
// neither the others nor receiving; nothing is dead-lettered.
func TestTroubleOfOneKeyIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		for i := range 300 {
			require.NoError(t, q.Send(t.Context(), of([]string{"down", "a", "b"}[i%3], i)))
		}
		began := time.Now()
		var mu sync.Mutex
		calls, others := 0, 0
		r := start(t, q, queue.Config{
			Limiter: limiter.All(), DeadLetter: dead, Retry: retry.Policy{MaxAttempts: 3},
			LimiterFor: perTenant(func(string) limiter.Limiter { return breaker(t) }).limiterFor,
		}, func(_ context.Context, m *queue.Message) error {
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if m.Attributes["tenant"] != "down" {
				others++
				return nil
			}
			if time.Since(began) < 5*time.Minute {
				calls++
				return stamped{is: limiter.ErrOverload, after: 30 * time.Second}
			}
			return nil
		})
		time.Sleep(2 * time.Second)
		mu.Lock()
		require.Equal(t, 200, others, "done within two seconds")
		require.LessOrEqual(t, calls, 10, "calls in the trouble: what was running when it began")
		mu.Unlock()
		require.NotZero(t, r.Stats().Parked)
		require.Empty(t, r.Stats().BlockedBy)
		time.Sleep(10 * time.Minute)
		require.NoError(t, r.drain())
		require.LessOrEqual(t, calls, 10+12, "probes")
		require.EqualValues(t, 300, r.Stats().Done)
		require.Zero(t, dead.Stats().Visible)
	})
}

// The same of a key whose limiter is no breaker, so that each of its messages
// has to find out for itself: they are held, and the others go on.
func TestHeldMessagesOfOneKeyDoNotStopTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		for i := range 400 {
			require.NoError(t, q.Send(t.Context(), of([]string{"down", "up"}[i/80%2], i)))
		}
		var mu sync.Mutex
		up := 0
		r := start(t, q, queue.Config{
			Limiter: limiter.All(), LimiterFor: perTenant(func(string) limiter.Limiter { return semaphore(t, 20) }).limiterFor,
		}, func(_ context.Context, m *queue.Message) error {
			time.Sleep(10 * time.Millisecond)
			if m.Attributes["tenant"] == "down" {
				return stamped{is: limiter.ErrOverload, after: time.Minute}
			}
			mu.Lock()
			defer mu.Unlock()
			up++
			return nil
		})
		time.Sleep(3 * time.Second)
		mu.Lock()
		require.GreaterOrEqual(t, up, 80, "of the 80 that stand behind 80 held ones")
		mu.Unlock()
		require.NoError(t, r.drain())
	})
}

// What is given back for want of room takes the rest of its ordered group along.
func TestShedGroupsKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		const groups, each = 250, 4
		for i := range groups * each {
			m := of("slow", i)
			m.Group, m.Dedup = strconv.Itoa(i/each), strconv.Itoa(i)
			require.NoError(t, q.Send(t.Context(), m))
		}
		order := map[string][]int{}
		var mu sync.Mutex
		r := start(t, q, queue.Config{LimiterFor: perTenant(func(string) limiter.Limiter { return bucket(t, 1, 1) }).limiterFor},
			func(_ context.Context, m *queue.Message) error {
				body, _ := strconv.Atoi(string(m.Body))
				mu.Lock()
				defer mu.Unlock()
				order[m.Group] = append(order[m.Group], body)
				return nil
			})
		time.Sleep(6 * time.Hour)
		s := r.Stats()
		require.NoError(t, r.drain())
		require.NotZero(t, s.Released, "groups were given back")
		require.Len(t, order, groups)
		for group, bodies := range order {
			require.Len(t, bodies, each, "group %s", group)
			require.True(t, slices.IsSorted(bodies), "group %s ran as %v", group, bodies)
		}
	})
}

// A message that has used up half of its attempts stays; when all that is
// parked is such, nothing is received, and the consumer says why.
func TestFullOfParkedMessagesIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		for i := range 300 {
			require.NoError(t, q.Send(t.Context(), of("stopped", i)))
		}
		b := bucket(t, 100, 1)
		b.Pause(time.Now().Add(24 * time.Hour))
		r := start(t, q, queue.Config{
			LimiterFor: func(*queue.Message) limiter.Limiter { return b },
			Retry:      retry.Policy{MaxAttempts: 2}, MaxHold: 11 * time.Hour,
		}, func(context.Context, *queue.Message) error { return nil })
		time.Sleep(2 * time.Hour)
		s := r.Stats()
		require.Equal(t, queue.ByParked, s.BlockedBy, "%+v", s)
		require.Less(t, s.Parked, 120)
		require.Zero(t, s.Done)
		require.LessOrEqual(t, s.Received, int64(2*300), "each was received twice at most")
		time.Sleep(24 * time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 300, r.Stats().Done)
	})
}

// A function that can't say which limiter costs its message a delay, and
// nothing else.
func TestBadLimiterForHarmsOneMessageOnly(t *testing.T) {
	for name, bad := range map[string]func(shared limiter.Limiter) limiter.Limiter{
		"panics":           func(limiter.Limiter) limiter.Limiter { panic("no tenant") },
		"can't be told":    func(limiter.Limiter) limiter.Limiter { return untold{} },
		"has Limiter's":    func(shared limiter.Limiter) limiter.Limiter { return shared },
		"has it among all": func(shared limiter.Limiter) limiter.Limiter { return limiter.All(semaphore(t, 1), shared) },
	} {
		bubble(t, name, func(t *testing.T) {
			q, shared := newQueue(t, memqueue.Config{}), semaphore(t, 4)
			for i := range 10 {
				require.NoError(t, q.Send(t.Context(), of([]string{"good", "bad"}[min(i, 1)], i)))
			}
			var mu sync.Mutex
			seen := map[string]int{}
			var errs []error
			r := start(t, q, queue.Config{
				Limiter: shared, Retry: retry.Policy{BaseDelay: time.Minute},
				LimiterFor: func(m *queue.Message) limiter.Limiter {
					if m.Attributes["tenant"] == "bad" && m.Attempt == 1 {
						return bad(shared)
					}
					return nil
				},
				Trace: &queue.Trace{Error: func(i queue.ErrorInfo) {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, i.Err)
				}},
			}, func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				defer mu.Unlock()
				seen[string(m.Body)] = m.Attempt
				return nil
			})
			time.Sleep(time.Hour)
			require.NoError(t, r.drain())
			require.Len(t, seen, 10)
			require.Equal(t, 1, seen["0"])
			require.Equal(t, 2, seen["7"])
			require.EqualValues(t, 9, r.Stats().Retried)
			require.NotEmpty(t, errs)
			require.ErrorContains(t, errs[0], "LimiterFor")
		})
	}
}

// Nor does a key for which no limiter can be made fill the hand.
func TestALimiterThatCanNotBeMadeHarmsItsKeyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		var mended atomic.Bool
		perTenant, err := limiter.NewKeyed(func(tenant string) (limiter.Limiter, error) {
			if tenant == "bad" && !mended.Load() {
				return nil, errors.New("no such tenant")
			}
			return limiter.NewSemaphore(1)
		})
		require.NoError(t, err)
		for i := range 200 {
			require.NoError(t, q.Send(t.Context(), of("bad", i)))
		}
		for i := range 10 {
			require.NoError(t, q.Send(t.Context(), of("good", i)))
		}
		var good, bad atomic.Int32
		r := start(t, q, queue.Config{
			Concurrency: 2,
			LimiterFor:  func(m *queue.Message) limiter.Limiter { return perTenant.For(m.Attributes["tenant"]) },
		}, func(_ context.Context, m *queue.Message) error {
			if m.Attributes["tenant"] == "good" {
				good.Add(1)
			} else {
				bad.Add(1)
			}
			return nil
		})
		for i := range 12 {
			require.NoError(t, q.Send(t.Context(), of("good", 10+i)))
			time.Sleep(10 * time.Minute)
			require.EqualValues(t, 11+i, good.Load())
		}
		require.Zero(t, bad.Load())
		require.Less(t, r.Stats().Received, int64(200*100), "each stays away for longer and longer")
		mended.Store(true)
		time.Sleep(time.Hour)
		require.EqualValues(t, 200, bad.Load(), "they were kept")
		require.NoError(t, r.drain())
	})
}

// untold is a limiter that is no map key.
type untold struct {
	limiter.Limiter
	_ []int
}

func (untold) Blocked() (string, time.Time) { return "", time.Time{} }

// Of a thousand tenants one sends nine tenths of the messages. The others wait
// as long as they do without it, or nearly so.
func TestThousandTenants(t *testing.T) {
	const rate, tenantsN = 200, 1000
	span := 60 * time.Second
	if testing.Short() {
		span = 10 * time.Second
	}
	measure := func(t *testing.T, withHot bool) (p99 time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			var mu sync.Mutex
			var waits []time.Duration
			r := start(t, q, queue.Config{
				Concurrency: 50, Limiter: bucket(t, rate, 1),
				LimiterFor: perTenant(func(string) limiter.Limiter { return bucket(t, 20, 5) }).limiterFor,
			}, func(_ context.Context, m *queue.Message) error {
				if m.Attributes["tenant"] != "0" {
					mu.Lock()
					waits = append(waits, time.Since(m.SentAt))
					mu.Unlock()
				}
				time.Sleep(20 * time.Millisecond)
				return nil
			})
			rnd := rand.New(rand.NewPCG(1, 1))
			for began := time.Now(); time.Since(began) < span; {
				time.Sleep(time.Duration(rnd.ExpFloat64() * float64(time.Second) / 100))
				require.NoError(t, q.Send(t.Context(), of(strconv.Itoa(1+rnd.IntN(tenantsN-1)), 0)))
				if withHot {
					for range 9 {
						require.NoError(t, q.Send(t.Context(), of("0", 0)))
					}
				}
			}
			time.Sleep(time.Second)
			s := r.Stats()
			r.stop()
			require.NoError(t, <-r.ended)
			requireBalanced(t, r.Stats())
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(waits)
			p99 = waits[len(waits)*99/100]
			t.Logf("hot %v: %d waits, p50 %v, p99 %v, max %v; received %d, done %d, parked %d, released %d",
				withHot, len(waits), waits[len(waits)/2], p99, waits[len(waits)-1], s.Received, s.Done, s.Parked, s.Released)
		})
		return p99
	}
	without, with := measure(t, false), measure(t, true)
	require.LessOrEqual(t, with, 2*without, "p99 of the others")
}
