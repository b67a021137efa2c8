package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// seeds is n, or a twentieth of that unless tests run at full length.
func seeds(n uint64) uint64 {
	if !testrun.Long() {
		return n / 20
	}
	return n
}

// ----- never lost -----

// A ledger records what happened to a set of messages, identified by their
// bodies.
type ledger struct {
	mu   sync.Mutex
	done map[string]int
}

// handle fails every fourth message for good and every third one at first.
func (l *ledger) handle(_ context.Context, m *queue.Message) error {
	time.Sleep(100 * time.Millisecond)
	n, _ := strconv.Atoi(string(m.Body))
	switch {
	case n%4 == 0:
		return retry.Permanent(errors.New("poison"))
	case n%3 == 0 && m.Attempt == 1:
		return io.ErrUnexpectedEOF
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(map[string]int)
	}
	l.done[string(m.Body)]++
	return nil
}

// requireComplete checks that each of n messages was done or is in dead with
// its reason, and that the queue is empty.
func (l *ledger) requireComplete(t *testing.T, n int, q, dead *memqueue.Queue, what string) {
	t.Helper()
	s := q.Stats()
	require.Zero(t, s.Visible+s.Delayed+s.InFlight, "%s: left in the queue: %+v", what, s)
	buried := map[string]bool{}
	for dead.Stats().Visible > 0 {
		msgs, err := dead.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Hour})
		require.NoError(t, err)
		for _, m := range msgs {
			record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute])
			require.NoError(t, err, what)
			require.Equal(t, retry.ReasonPermanent, record.Reason, what)
			buried[string(m.Body)] = true
		}
	}
	for i := range n {
		if i%4 == 0 {
			require.True(t, buried[strconv.Itoa(i)], "%s: message %d is lost", what, i)
		} else {
			require.NotZero(t, l.done[strconv.Itoa(i)], "%s: message %d is lost", what, i)
		}
	}
}

const storyMessages = 24

var storyConfig = queue.Config{
	Concurrency: 3, Retry: retry.Policy{BaseDelay: time.Second, MaxDelay: 10 * time.Second}, Lease: 10 * time.Second, Logger: quiet,
}

// play runs the scenario with the given faults and returns how many calls it
// took.
func play(t *testing.T, plan queuetest.Plan, what string) (calls int) {
	var l ledger
	q, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
	fill(t, q, storyMessages)
	faulty := &queuetest.Faulty{Source: q, Sink: dead, Plan: plan, Latency: 10 * time.Millisecond}
	cfg := storyConfig
	cfg.DeadLetter = sink{faulty}
	r := start(t, faulty, cfg, l.handle)
	time.Sleep(10 * time.Minute)
	calls = faulty.Calls("")
	before := r.Stats()
	require.NoError(t, r.drain(), "%s: %+v", what, before)
	l.requireComplete(t, storyMessages, q, dead, fmt.Sprintf("%s: %+v", what, before))
	return calls
}

func TestNoSingleFaultLosesAMessage(t *testing.T) {
	calls := 0
	synctest.Test(t, func(t *testing.T) { calls = play(t, nil, "no fault") })
	calls = min(calls, 60) // what follows are empty receives
	for name, f := range map[string]queuetest.Fault{
		"refuse":       {Mode: queuetest.Refuse},
		"lose reply":   {Mode: queuetest.LoseReply},
		"half":         {Mode: queuetest.Half},
		"hang":         {Mode: queuetest.Hang},
		"delay before": {Before: 15 * time.Second},
		"delay after":  {After: 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			for k := 1; k <= calls; k++ {
				synctest.Test(t, func(t *testing.T) {
					plan := queuetest.OnCall(k, f)
					if f.Mode == queuetest.Hang {
						plan = hangOnce(k)
					}
					play(t, plan, fmt.Sprintf("%s at call %d", name, k))
				})
			}
		})
	}
}

// hangOnce holds up call k for a minute, as a network that drops packets does
// until a timeout.
func hangOnce(k int) queuetest.Plan {
	return queuetest.OnCall(k, queuetest.Fault{Mode: queuetest.Refuse, Before: time.Minute})
}

func TestRandomFaultsLoseNothing(t *testing.T) {
	for seed := range seeds(1000) {
		synctest.Test(t, func(t *testing.T) {
			faults := queuetest.Random(seed, 0.2, queuetest.Fault{Mode: queuetest.Refuse}, queuetest.Fault{Mode: queuetest.LoseReply},
				queuetest.Fault{Mode: queuetest.Half}, queuetest.Fault{Before: 3 * time.Second}, queuetest.Fault{After: 12 * time.Second})
			end := time.Now().Add(5 * time.Minute)
			play(t, func(c queuetest.Call) queuetest.Fault {
				if time.Now().After(end) {
					return queuetest.Fault{}
				}
				return faults(c)
			}, fmt.Sprint("seed ", seed))
		})
	}
}

// TestACrashAtAnyStepLosesNothing lets the first consumer's process die at its
// k-th call: from then on nothing that it does reaches the queues. With half of
// the crashes the call itself is still made.
func TestACrashAtAnyStepLosesNothing(t *testing.T) {
	for _, mode := range []queuetest.Mode{queuetest.Refuse, queuetest.LoseReply} {
		for k := 1; k <= 40; k++ {
			synctest.Test(t, func(t *testing.T) {
				what := fmt.Sprintf("crash at call %d, mode %d", k, mode)
				var l ledger
				q, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				fill(t, q, storyMessages)
				dying := &queuetest.Faulty{Source: q, Sink: dead, Plan: func(c queuetest.Call) queuetest.Fault {
					switch {
					case c.Total == k:
						return queuetest.Fault{Mode: mode}
					case c.Total > k:
						return queuetest.Fault{Mode: queuetest.Hang}
					}
					return queuetest.Fault{}
				}}
				cfg := storyConfig
				cfg.DeadLetter, cfg.DrainTimeout = sink{dying}, time.Second
				r := start(t, dying, cfg, l.handle)
				time.Sleep(10 * time.Second)
				_ = r.drain() // a process that dies returns nothing that counts

				cfg.DeadLetter = dead
				r = start(t, q, cfg, l.handle)
				time.Sleep(10 * time.Minute)
				require.NoError(t, r.drain(), what)
				l.requireComplete(t, storyMessages, q, dead, what)
				duplicates := 0
				for _, n := range l.done {
					duplicates += n - 1
				}
				require.LessOrEqual(t, duplicates, 20, "%s: no more than were in hand or unsettled", what)
			})
		}
	}
}

// ----- never burned -----

func TestAnOutageBurnsNoReceives(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, failure := range map[string]error{
		"refused connections": fmt.Errorf("call the API: %w", refused),
		"503":                 stamped{is: limiter.ErrUnavailable},
		"401":                 stamped{is: limiter.ErrMisconfigured},
		"429 and Retry-After": stamped{limiter.ErrOverload, 30 * time.Second},
	} {
		bubble(t, name, func(t *testing.T) {
			probes := 0
			b, err := limiter.NewBreaker(limiter.BreakerConfig{OnChange: func(_ limiter.State, now limiter.BreakerStats) {
				if now.State == limiter.HalfOpen {
					probes++
				}
			}})
			require.NoError(t, err)
			own, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
			q := newQueue(t, memqueue.Config{MaxReceives: 3, DeadLetter: own})
			fill(t, q, 1000)
			src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
			var down atomic.Bool
			r := start(t, src, queue.Config{Concurrency: 10, Limiter: all(t, adaptiveRate(t), b), DeadLetter: dead, Retry: retry.Policy{MaxAttempts: 3}},
				func(context.Context, *queue.Message) error {
					time.Sleep(50 * time.Millisecond)
					if down.Load() {
						return failure
					}
					return nil
				})
			time.Sleep(3 * time.Second)
			inHand := r.Stats().InHand
			down.Store(true)
			time.Sleep(5 * time.Minute)
			s := r.Stats()
			require.NotEmpty(t, s.Blocked.Reason, "never silent: %+v", s)
			time.Sleep(5 * time.Minute)
			down.Store(false)
			time.Sleep(10 * time.Minute)
			require.NoError(t, r.drain())

			s = r.Stats()
			extra := int(s.Received) - 1000
			t.Logf("in hand at the start of the outage %d, probes %d, extra receives %d, runs of held messages %d", inHand, probes, extra, s.Reruns)
			require.EqualValues(t, 1000, s.Done)
			require.Zero(t, dead.Stats().Sent+own.Stats().Sent, "nothing is dead-lettered")
			require.LessOrEqual(t, extra, inHand+probes)
			require.Equal(t, limiter.Classify(failure) != limiter.ErrOverload, probes > 0, "a refusal is no outage")
		})
	}
}

// A message that always fails as if the downstream were unavailable stops nobody.
// While others succeed its attempts are used up; without others to compare it
// with it is kept for twelve hours.
func TestOneMessageThatAlwaysFailsStopsNobody(t *testing.T) {
	for name, c := range map[string]struct {
		trickle  bool // of messages that succeed
		after    time.Duration
		reason   string
		attempts int // at least
	}{
		"others succeed": {true, 2 * time.Hour, retry.ReasonExhausted, 12},
		"a quiet queue":  {false, 13 * time.Hour, retry.ReasonExhausted + ": nothing to compare with", 1},
	} {
		bubble(t, name, func(t *testing.T) {
			own, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
			q := newQueue(t, memqueue.Config{MaxReceives: 100, DeadLetter: own})
			fill(t, q, 1000)
			r := start(t, q, queue.Config{DeadLetter: dead, Retry: retry.Policy{Jitter: -1}}, func(_ context.Context, m *queue.Message) error {
				time.Sleep(100 * time.Millisecond)
				if string(m.Body) == "77" {
					return stamped{is: limiter.ErrUnavailable}
				}
				return nil
			})
			time.Sleep(11 * time.Second)
			require.EqualValues(t, 999, r.Stats().Done, "as fast as ever")
			for end := time.Now().Add(c.after); time.Now().Before(end); time.Sleep(10 * time.Second) {
				if c.trickle {
					require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("good")}))
				}
			}
			require.NoError(t, r.drain())
			require.Zero(t, own.Stats().Sent)
			msgs, err := dead.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Minute})
			require.NoError(t, err)
			require.Len(t, msgs, 1)
			record, err := retry.ParseDeadLetter(msgs[0].Attributes[retry.DeadLetterAttribute])
			require.NoError(t, err)
			require.Equal(t, c.reason, record.Reason)
			require.GreaterOrEqual(t, record.Attempts, c.attempts)
			require.LessOrEqual(t, record.Attempts, 12)
		})
	}
}

func TestHeldMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1000)
		var down atomic.Bool
		down.Store(true)
		r := start(t, q, queue.Config{Limiter: all(t), NoBreaker: true, NoPace: true, MaxHeld: 25, MaxHold: 10 * time.Minute},
			func(context.Context, *queue.Message) error {
				if down.Load() {
					return stamped{is: limiter.ErrMisconfigured}
				}
				return nil
			})
		time.Sleep(2 * time.Minute)
		s := r.Stats()
		require.GreaterOrEqual(t, s.Held+s.Running, 25)
		const fresh = 40 // one a second, then one in a tenth of the time
		require.LessOrEqual(t, s.InHand, 25+2*10+fresh, "the limit, what ran again meanwhile, and what was asked for: %+v", s)
		require.Equal(t, queue.ByHeld, s.Blocked.Reason)
		require.LessOrEqual(t, s.Received, int64(25+2*10+fresh))
		time.Sleep(10 * time.Minute)
		require.NotZero(t, r.Stats().Released, "given back after MaxHold")
		down.Store(false)
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 1000, r.Stats().Done)
	})
}

// Held messages occupy no slot, and yet are no reason to ask for more at once.
func TestHeldMessagesDoNotStarveSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1000)
		src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
		r := start(t, src, queue.Config{Limiter: all(t), NoBreaker: true, NoPace: true, MaxHeld: 50},
			func(context.Context, *queue.Message) error { return stamped{limiter.ErrOverload, time.Minute} })
		time.Sleep(30 * time.Second)
		s := r.Stats()
		t.Logf("%+v", s)
		require.NoError(t, r.drain())
		require.LessOrEqual(t, s.InHand, 50+3*10+40, "the limit, what was asked for, and a fresh one now and then")
	})
}

func TestSlowSlotsAreNotReceivedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 200)
		var longest time.Duration
		var mu sync.Mutex
		src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
		r := start(t, src, queue.Config{Concurrency: 5, Lease: 6 * time.Second, Trace: &queue.Trace{Started: func(i queue.StartedInfo) {
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, i.Waited)
		}}}, sleeper(constant(2*time.Second)))
		time.Sleep(2 * time.Minute)
		require.NoError(t, r.drain())
		require.EqualValues(t, 200, q.Stats().Received, "no message was delivered twice")
		require.LessOrEqual(t, longest, 50*time.Millisecond)
	})
}

// ----- never over -----

func TestConsumersSharingALimitStayWithinIt(t *testing.T) {
	for seed := range seeds(1000) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			places, rate, burst := 1+rng.IntN(8), float64(20+rng.IntN(100)), 1+rng.IntN(10)
			sem, err := limiter.NewSemaphore(places)
			require.NoError(t, err)
			bucket, err := limiter.NewTokenBucket(rate, burst)
			require.NoError(t, err)
			b := breaker(t)
			members := []limiter.Limiter{sem, bucket, b}

			q := newQueue(t, memqueue.Config{})
			fill(t, q, 300)
			var mu sync.Mutex
			inFlight, limit := 0, places
			var starts []time.Time
			h := func(context.Context, *queue.Message) error {
				mu.Lock()
				inFlight++
				if inFlight > limit {
					t.Errorf("seed %d: %d in flight, the limit is %d", seed, inFlight, limit)
				}
				starts = append(starts, time.Now())
				took, fail := time.Duration(rng.IntN(300))*time.Millisecond, rng.IntN(20) == 0
				mu.Unlock()
				time.Sleep(took)
				mu.Lock()
				inFlight--
				mu.Unlock()
				if fail {
					return stamped{limiter.ErrOverload, time.Second}
				}
				return nil
			}
			var rs []*running
			for range 3 {
				mu.Lock() // guards rng, too
				rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
				src := &queuetest.Faulty{Source: q, Latency: time.Duration(rng.IntN(40)) * time.Millisecond}
				cfg := queue.Config{Concurrency: 1 + rng.IntN(10), Limiter: all(t, members...), Retry: retry.Policy{BaseDelay: 10 * time.Millisecond}}
				mu.Unlock()
				rs = append(rs, start(t, src, cfg, h))
			}
			for range 5 { // resizes while it runs, and a drain in the middle
				time.Sleep(time.Second)
				mu.Lock()
				n := 1 + rng.IntN(8)
				// Running handlers finish; only then does the smaller limit hold.
				require.NoError(t, sem.Resize(n))
				limit = max(n, sem.Stats().InUse)
				mu.Unlock()
				for range 400 {
					time.Sleep(time.Millisecond)
					mu.Lock()
					limit = max(n, min(limit, sem.Stats().InUse))
					mu.Unlock()
				}
			}
			require.NoError(t, rs[0].drain(), "seed %d", seed)
			time.Sleep(3 * time.Minute)
			done := rs[0].Stats().Done
			for _, r := range rs[1:] {
				require.NoError(t, r.drain(), "seed %d", seed)
				done += r.Stats().Done
			}
			require.EqualValues(t, 300, done, "seed %d", seed)
			for i := range starts {
				for j := i; j < len(starts); j++ {
					most := float64(burst) + rate*starts[j].Sub(starts[i]).Seconds() + 1e-6
					if float64(j-i+1) > most {
						t.Fatalf("seed %d: %d starts in %v: burst %d and rate %v allow %v", seed, j-i+1, starts[j].Sub(starts[i]), burst, rate, most)
					}
				}
			}
		})
	}
}
