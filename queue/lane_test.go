package queue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
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

func all(t testing.TB, limiters ...limiter.Limiter) limiter.Limiter {
	t.Helper()
	l, err := limiter.All(limiters...)
	require.NoError(t, err)
	return l
}

// A tenant with a thousand messages and a limit of its own is at the head of the
// queue. The other tenants' messages behind it are handled as if it were not
// there.
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

// Whatever happens, no key has more in flight than its limit, nor do all keys
// together exceed theirs; and the messages of an ordered group succeed in order.
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
			require.NoError(t, b.drain()) // its parked messages are returned at once
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

// A failure that one key's breaker registers holds that key's messages, and
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
			Limiter: all(t), NoBreaker: true, NoPace: true, DeadLetter: dead, Retry: retry.Policy{},
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
				return stamped{is: limiter.ErrUnavailable}
			}
			return nil
		})
		time.Sleep(2 * time.Second)
		mu.Lock()
		require.Equal(t, 200, others, "done within two seconds")
		require.LessOrEqual(t, calls, 20, "calls in the outage: those that opened the breaker, what was running then, and a probe")
		mu.Unlock()
		require.NotZero(t, r.Stats().Parked)
		require.Empty(t, r.Stats().Blocked.Reason)
		time.Sleep(10 * time.Minute)
		require.NoError(t, r.drain())
		require.LessOrEqual(t, calls, 20+60, "probes")
		require.EqualValues(t, 300, r.Stats().Done)
		require.Zero(t, dead.Stats().Visible)
	})
}

// One tenant gets a long Retry-After (429), and has more messages than may be
// held. Whatever the limits are, the others continue; and a pace of its own
// spares the downstream.
func TestAThrottledKeyStopsNoOther(t *testing.T) {
	none := func(*testing.T) limiter.Limiter { return all(t) }
	unset := func(*testing.T) limiter.Limiter { return nil }
	rate := func(t *testing.T) limiter.Limiter { return bucket(t, 20, 1) } // nearly always empty
	places := func(t *testing.T) limiter.Limiter { return semaphore(t, 5) }
	own := func(t *testing.T) limiter.Limiter { return adaptiveRate(t) }
	for name, c := range map[string]struct {
		shared, own func(*testing.T) limiter.Limiter
		calls       int32 // at most, of the throttled one
	}{
		"no limit, own pace":       {none, own, 10},
		"default, own pace":        {unset, own, 10},
		"rate, own pace":           {rate, own, 10},
		"semaphore, own pace":      {places, own, 10},
		"no limit, own semaphore":  {none, places, 300},
		"rate, own semaphore":      {rate, places, 300},
		"semaphore, own semaphore": {places, places, 300},
	} {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			for i := range 300 {
				require.NoError(t, q.Send(t.Context(), of("throttled", i)))
				require.NoError(t, q.Send(t.Context(), of("up"+strconv.Itoa(i%5), i)))
			}
			var others, calls atomic.Int32
			r := start(t, q, queue.Config{
				Limiter: c.shared(t), NoBreaker: name != "default, own pace", LimiterFor: perTenant(func(string) limiter.Limiter { return c.own(t) }).limiterFor,
			}, func(_ context.Context, m *queue.Message) error {
				time.Sleep(10 * time.Millisecond)
				if m.Attributes["tenant"] == "throttled" {
					calls.Add(1)
					return stamped{is: limiter.ErrOverload, after: 10 * time.Minute}
				}
				others.Add(1)
				return nil
			})
			time.Sleep(time.Minute)
			synctest.Wait()
			require.EqualValues(t, 300, others.Load(), "others done: %+v", r.Stats())
			require.LessOrEqual(t, calls.Load(), c.calls)
			require.LessOrEqual(t, r.Stats().Parked, 100)
			require.NoError(t, r.drain())
		})
	}
}

// A hearing limiter admits everything and records the results that it gets.
type hearing struct {
	limiter.Limiter
	mu        sync.Mutex // guards all below
	results   []error
	abstained int
	canceled  int
}

func (h *hearing) Acquire(ctx context.Context) (limiter.Permit, error) {
	return limiter.NewPermit(h, 0), context.Cause(ctx)
}

func (h *hearing) TryAcquire() (limiter.Permit, bool) { return limiter.NewPermit(h, 0), true }

func (h *hearing) CancelPermit(uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.canceled++
}

func (h *hearing) AbstainPermit(uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abstained++
}

func (h *hearing) ReleasePermit(_ uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.results = append(h.results, err)
}

// A failure downstream of a message with a limiter of its own concerns its key
// only. For the limit for all, the operation ran, since a rate must count it, and
// says nothing about the downstream.
func TestWhatTheLimitForAllHears(t *testing.T) {
	overload := stamped{is: limiter.ErrOverload, after: time.Hour}
	paused := func(t *testing.T) limiter.Limiter { return adaptiveRate(t) }
	closed := func(t *testing.T) limiter.Limiter { return breaker(t) }
	touchy := func(string) (limiter.Limiter, error) {
		return limiter.NewBreaker(limiter.BreakerConfig{MinFailures: 1})
	}
	opened := func(t *testing.T) limiter.Limiter {
		b, err := touchy("")
		require.NoError(t, err)
		return b
	}
	inAll := func(t *testing.T) limiter.Limiter { return all(t, semaphore(t, 1), opened(t)) }
	keyed := func(t *testing.T) limiter.Limiter {
		k, err := limiter.NewKeyed(touchy)
		require.NoError(t, err)
		return k.For("a")
	}
	unavailable := stamped{is: limiter.ErrUnavailable}
	unaware := func(t *testing.T) limiter.Limiter { return semaphore(t, 1) }
	used := func(t *testing.T) limiter.Limiter { return bucket(t, 0.001, 1) }
	none := func(*testing.T) limiter.Limiter { return nil }
	for name, c := range map[string]struct {
		own   func(*testing.T) limiter.Limiter
		err   error
		tells bool
	}{
		"a pause":                       {paused, overload, false},
		"a breaker that opens":          {opened, unavailable, false},
		"misconfigured":                 {opened, stamped{is: limiter.ErrMisconfigured}, false},
		"a breaker among others":        {inAll, unavailable, false},
		"a breaker of a Keyed":          {keyed, unavailable, false},
		"a breaker that stays closed":   {closed, unavailable, false},
		"no trouble":                    {opened, errors.New("bad request"), true},
		"a semaphore that is all taken": {unaware, overload, false},
		"a bucket that is empty":        {used, overload, false},
		"no limiter of its own":         {none, overload, true},
	} {
		bubble(t, name, func(t *testing.T) {
			q, own, all := newQueue(t, memqueue.Config{}), c.own(t), &hearing{Limiter: all(t)}
			require.NoError(t, q.Send(t.Context(), of("a", 0)))
			r := start(t, q, queue.Config{Limiter: all, LimiterFor: func(*queue.Message) limiter.Limiter { return own }},
				func(context.Context, *queue.Message) error { return c.err })
			time.Sleep(time.Millisecond)
			synctest.Wait()
			all.mu.Lock()
			require.Zero(t, all.canceled)
			if c.tells {
				require.Equal(t, []error{c.err}, all.results)
				require.Zero(t, all.abstained)
			} else {
				require.Empty(t, all.results)
				require.Equal(t, 1, all.abstained)
			}
			all.mu.Unlock()
			require.NoError(t, r.drain())
		})
	}
}

// The same for a key whose limiter ignores failures, so that each of its messages
// has to fail by itself: they are held, and the others continue.
func TestHeldMessagesOfOneKeyDoNotStopTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		for i := range 400 {
			require.NoError(t, q.Send(t.Context(), of([]string{"down", "up"}[i/80%2], i)))
		}
		var mu sync.Mutex
		up := 0
		r := start(t, q, queue.Config{
			Limiter: all(t), NoBreaker: true, NoPace: true, LimiterFor: perTenant(func(string) limiter.Limiter { return semaphore(t, 20) }).limiterFor,
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

// When a message is returned for lack of room, the messages behind it in its
// ordered group are returned as well, whether its limiter refuses it or it is
// held.
func TestShedGroupsKeepTheirOrder(t *testing.T) {
	for name, c := range map[string]struct {
		own       func(*testing.T) limiter.Limiter
		throttled bool // the first run of each group is
	}{
		"refused": {func(t *testing.T) limiter.Limiter { return bucket(t, 1, 1) }, false},
		"held":    {func(t *testing.T) limiter.Limiter { return semaphore(t, 100) }, true},
	} {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{FIFO: true})
			const groups, each = 250, 4
			for i := range groups * each {
				m := of("slow", i)
				m.Group, m.Dedup = strconv.Itoa(i/each), strconv.Itoa(i)
				require.NoError(t, q.Send(t.Context(), m))
			}
			order, ran := map[string][]int{}, map[string]bool{}
			var mu sync.Mutex
			r := start(t, q, queue.Config{Limiter: all(t), NoBreaker: true, NoPace: true, LimiterFor: perTenant(func(string) limiter.Limiter { return c.own(t) }).limiterFor},
				func(_ context.Context, m *queue.Message) error {
					body, _ := strconv.Atoi(string(m.Body))
					mu.Lock()
					defer mu.Unlock()
					if body%each == 0 && c.throttled && !ran[m.ID] {
						ran[m.ID] = true
						return stamped{is: limiter.ErrOverload, after: time.Minute}
					}
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
}

// The minimum of attempts is enough for a tenant that has fifty minutes of work
// in the queue: the others never wait for it.
func TestTheFewestAttemptsKeepNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		for i := range 3000 {
			require.NoError(t, q.Send(t.Context(), of("hot", i)))
		}
		var others, hot atomic.Int32
		var worst atomic.Int64
		r := start(t, q, queue.Config{
			Retry:      retry.Policy{MaxAttempts: 8},
			LimiterFor: perTenant(func(string) limiter.Limiter { return bucket(t, 1, 1) }).limiterFor,
		}, func(_ context.Context, m *queue.Message) error {
			if m.Attributes["tenant"] == "hot" {
				hot.Add(1)
				return nil
			}
			others.Add(1)
			worst.Store(max(worst.Load(), int64(time.Since(m.SentAt))))
			return nil
		})
		for i := range 900 { // ten a minute
			require.NoError(t, q.Send(t.Context(), of("tenant "+strconv.Itoa(i), i)))
			time.Sleep(6 * time.Second)
		}
		require.NoError(t, r.drain())
		require.EqualValues(t, 900, others.Load())
		require.Less(t, time.Duration(worst.Load()), time.Second)
		require.EqualValues(t, 3000, hot.Load())
	})
}

// A throng is a source of a limited number of new messages of one tenant. It
// keeps only weak pointers to the messages that it has delivered.
type throng struct {
	mu     sync.Mutex // guards all below
	left   int
	handed []weak.Pointer[queue.Message]
}

func (s *throng) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	s.mu.Lock()
	n := min(o.Max, 10, s.left)
	s.left -= n
	var msgs []*queue.Message
	for range n {
		m := of("hot", 0)
		m.ID, m.Receipt = strconv.Itoa(len(s.handed)), "r"
		m.Attempt, m.LeaseUntil = 1, time.Now().Add(o.Lease)
		msgs = append(msgs, m)
		s.handed = append(s.handed, weak.Make(m))
	}
	s.mu.Unlock()
	if n == 0 {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	time.Sleep(time.Millisecond)
	return msgs, nil
}

func (s *throng) inMemory() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.handed {
		if p.Value() != nil {
			n++
		}
	}
	return n
}

func (s *throng) Ack(context.Context, ...*queue.Message) error                 { return nil }
func (s *throng) Nack(context.Context, time.Duration, ...*queue.Message) error { return nil }
func (s *throng) Extend(_ context.Context, lease time.Duration, msgs ...*queue.Message) error {
	for _, m := range msgs {
		m.LeaseUntil = time.Now().Add(lease)
	}
	return nil
}

// Returned messages do not stay in memory for as long as their key is stopped.
func TestWhatIsGivenBackIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own, src := bucket(t, 1, 1), &throng{left: 5000}
		own.Pause(time.Now().Add(time.Hour))
		r := start(t, src, queue.Config{LimiterFor: func(*queue.Message) limiter.Limiter { return own }},
			func(context.Context, *queue.Message) error { return nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		s := r.Stats()
		require.EqualValues(t, 5000, s.Received)
		require.Equal(t, 100, s.InHand)
		runtime.GC()
		require.Less(t, src.inMemory(), 1000, "messages in memory, of which 100 are in hand")
		require.NoError(t, r.drain())
	})
}

// A message that has used up half of its attempts stays; when all parked messages
// have, nothing is received, and the consumer reports why.
func TestFullOfParkedMessagesIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		for i := range 300 {
			require.NoError(t, q.Send(t.Context(), of("stopped", i)))
		}
		b := bucket(t, 100, 1)
		stopped := time.Now().Add(24 * time.Hour)
		b.Pause(stopped)
		var log logBuffer
		r := start(t, q, queue.Config{
			LimiterFor: func(*queue.Message) limiter.Limiter { return b },
			Retry:      retry.Policy{MaxAttempts: 8}, MaxHold: 11 * time.Hour,
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}, func(context.Context, *queue.Message) error { return nil })
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		s := r.Stats()
		require.Equal(t, queue.ByParked, s.Blocked.Reason, "%+v", s)
		require.Equal(t, stopped, s.Blocked.Until)
		require.Less(t, s.Parked, 120)
		require.Zero(t, s.Done)
		require.LessOrEqual(t, s.Received, int64(5*300), "receives: half of the attempts and one")
		lines := strings.Count(log.String(), "receiving nothing")
		require.Positive(t, lines)
		require.LessOrEqual(t, lines, 8, "repeated after 1 min, 2 min, and so on: %s", log.String())
		require.Contains(t, log.String(), `blocked_by="parked messages" until=2000-01-02T00:00:00`)
		time.Sleep(24 * time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 300, r.Stats().Done)
	})
}

// A LimiterFor that fails costs its message a delay, and nothing else.
func TestBadLimiterForHarmsOneMessageOnly(t *testing.T) {
	for name, bad := range map[string]func(shared limiter.Limiter) limiter.Limiter{
		"panics":            func(limiter.Limiter) limiter.Limiter { panic("no tenant") },
		"is a nil pointer":  func(limiter.Limiter) limiter.Limiter { return map[string]*limiter.Semaphore{}["bad"] },
		"can't be compared": func(limiter.Limiter) limiter.Limiter { return incomparable{} },
		"has Limiter's":     func(shared limiter.Limiter) limiter.Limiter { return shared },
		"has it among all":  func(shared limiter.Limiter) limiter.Limiter { return all(t, semaphore(t, 1), shared) },
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

// Nor do the messages of a key for which no limiter can be made fill the buffer.
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

// incomparable is a limiter that is no map key.
type incomparable struct {
	limiter.Limiter
	_ []int
}

func (incomparable) Blocked() limiter.Block { return limiter.Block{} }

// One of a thousand tenants sends nine tenths of the messages. The others wait as
// long as they do without it, or nearly so.
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

// Messages that are returned before a key's rate is known come back as soon as it
// is: a flood of one key is done nearly as fast as its limit allows. That its
// messages don't run is no reason to receive more of them.
func TestAFloodOfOneKeyUsesItsLimit(t *testing.T) {
	for _, c := range []struct{ rate, messages int }{{20, 400}, {20, 2000}, {200, 600}, {200, 5000}} {
		bubble(t, fmt.Sprintf("%d messages at %d/s", c.messages, c.rate), func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			for i := range c.messages {
				require.NoError(t, q.Send(t.Context(), of("hot", i)))
			}
			src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
			r := start(t, src, queue.Config{
				Concurrency: 20, Limiter: all(t), NoBreaker: true, NoPace: true,
				LimiterFor: perTenant(func(string) limiter.Limiter { return bucket(t, float64(c.rate), 1) }).limiterFor,
			}, sleeper(constant(5*time.Millisecond)))
			ideal := time.Duration(c.messages/c.rate) * time.Second
			began := time.Now()
			for r.Stats().Done < int64(c.messages) && time.Since(began) < time.Hour {
				time.Sleep(100 * time.Millisecond)
			}
			t.Logf("%v, ideal %v: %+v", time.Since(began), ideal, r.Stats())
			took := time.Since(began)
			require.LessOrEqual(t, float64(r.Stats().Received), 2.4*float64(c.messages), "deliveries")
			require.NoError(t, r.drain())
			require.Less(t, took, ideal*5/4+6*time.Second, "what is given back at first comes back after 2 and 4 s")
		})
	}
}
