package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"runtime"
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
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// ----- nobody sleeps while there is work -----

// pausable returns a rate limit that admits everything unless it is paused.
func pausable(t *testing.T) *limiter.TokenBucket {
	t.Helper()
	b, err := limiter.NewTokenBucket(1e6, 1000)
	require.NoError(t, err)
	return b
}

func TestReceivingGoesOnAfterMaxHold(t *testing.T) {
	for name, result := range map[string]error{
		"of messages that never started": nil,
		"of held messages":               stamped{limiter.ErrOverload, time.Second},
	} {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 10)
			bucket := pausable(t)
			src := &queuetest.Faulty{Source: q, Latency: time.Second}
			var runs atomic.Int64
			r := start(t, src, queue.Config{Concurrency: 10, Limiter: bucket, MaxHold: 15 * time.Minute},
				func(context.Context, *queue.Message) error {
					bucket.Pause(time.Now().Add(20 * time.Minute))
					if runs.Add(1) <= 10 {
						return result
					}
					return nil
				})
			time.Sleep(700 * time.Millisecond) // the receive is under way
			if result == nil {
				bucket.Pause(time.Now().Add(20 * time.Minute))
			}
			time.Sleep(17 * time.Minute)
			require.NotZero(t, r.Stats().Released, "given back after MaxHold")
			bucket.Resume()
			time.Sleep(4 * time.Hour)
			require.NoError(t, r.drain())
			require.EqualValues(t, 10, r.Stats().Done, "%+v", r.Stats())
		})
	}
}

func TestReceivingGoesOnAfterWaitingMessagesWereLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 10)
		bucket := pausable(t)
		src := &queuetest.Faulty{
			Source: q, Latency: time.Second,
			Plan: queuetest.On(queuetest.OpExtend, queuetest.Fault{Mode: queuetest.Refuse}),
		}
		r := start(t, src, queue.Config{Concurrency: 10, Limiter: bucket}, func(context.Context, *queue.Message) error { return nil })
		time.Sleep(700 * time.Millisecond)
		bucket.Pause(time.Now().Add(5 * time.Minute))
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.NotZero(t, r.Stats().LostLease)
		require.EqualValues(t, 10, r.Stats().Done, "%+v", r.Stats())
	})
}

// The limit of held messages is reached: a fresh one is received all the same, to
// see whether it succeeds, and another one when it has.
func TestHeldMessagesLetFreshOnesPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		var mu sync.Mutex
		var others []time.Duration
		began := time.Now()
		r := start(t, q, queue.Config{Concurrency: 2, Limiter: all(t), NoBreaker: true, NoPace: true, MaxHeld: 1}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "other" {
				mu.Lock()
				defer mu.Unlock()
				others = append(others, time.Since(began))
				return nil
			}
			return stamped{limiter.ErrOverload, time.Hour}
		})
		time.Sleep(30 * time.Second)
		for range 100 {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("other")}))
		}
		time.Sleep(10 * time.Second)
		require.NoError(t, r.drain())
		require.Len(t, others, 100)
		require.Less(t, others[99], 35*time.Second)
	})
}

func TestASlowGroupLeavesTheOtherSlotsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		send := func(group string, i int) {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Group: group, Dedup: fmt.Sprint(group, i)}))
		}
		for i := range 12 {
			send("slow", i)
		}
		for i := range 12 {
			send("quick", i)
		}
		quick := 0
		r := start(t, q, queue.Config{Concurrency: 10}, func(_ context.Context, m *queue.Message) error {
			if m.Group == "slow" {
				time.Sleep(10 * time.Minute)
				return nil
			}
			quick++
			return nil
		})
		time.Sleep(9 * time.Minute)
		early, s := quick, r.Stats()
		time.Sleep(3 * time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, 12, early, "nine of ten slots were free: %+v", s)
	})
}

// ----- sources that misbehave -----

// A sameAgain source has one message and no leases, and returns it at once from
// every receive until it is acked.
type sameAgain struct {
	mu       sync.Mutex
	acked    bool
	receives int
}

func (s *sameAgain) Receive(ctx context.Context, _ queue.ReceiveOptions) ([]*queue.Message, error) {
	s.mu.Lock()
	s.receives++
	often := s.receives > 1000
	s.mu.Unlock()
	if often {
		time.Sleep(time.Second) // time has to pass, or the test would never end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acked {
		return nil, io.EOF
	}
	return []*queue.Message{{ID: "a"}}, nil
}

func (s *sameAgain) Ack(context.Context, ...*queue.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = true
	return nil
}
func (*sameAgain) Nack(context.Context, time.Duration, ...*queue.Message) error   { return nil }
func (*sameAgain) Extend(context.Context, time.Duration, ...*queue.Message) error { return nil }

func TestASourceThatReturnsWhatIsInHandIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var src sameAgain
		r := start(t, &src, queue.Config{}, func(context.Context, *queue.Message) error {
			time.Sleep(time.Minute)
			return nil
		})
		require.NoError(t, r.wait())
		require.EqualValues(t, 1, r.Stats().Done)
		require.LessOrEqual(t, src.receives, 200, "in a minute")
	})
}

func TestABrokenConnectionIsNotTheEndOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 10)
		broken := &url.Error{Op: "Post", URL: "https://sqs.example", Err: io.EOF} // net/http's error for a server that hung up
		src := &queuetest.Faulty{Source: q, Plan: queuetest.On(queuetest.OpReceive, queuetest.Fault{Mode: queuetest.Refuse, Err: broken}, 1)}
		r := start(t, src, queue.Config{}, func(context.Context, *queue.Message) error { return nil })
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.EqualValues(t, 10, r.Stats().Done, "%+v", r.Stats())
	})
}

func TestALeaseIsExtendedAfterANewerDeliveryCameDuringAnExtension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := func(id, receipt string, lease time.Duration) []*queue.Message {
			return []*queue.Message{{ID: id, Receipt: receipt, LeaseUntil: time.Now().Add(lease)}}
		}
		src := &fakeSource{receive: []func() []*queue.Message{
			func() []*queue.Message { return m("a", "old", 30*time.Second) },
			func() []*queue.Message { time.Sleep(16 * time.Second); return m("a", "new", 30*time.Second) },
			// Its lease is too short to extend, and makes the lease loop look while the extension is under way.
			func() []*queue.Message { time.Sleep(time.Second); return m("b", "b", 400*time.Millisecond) },
		}}
		// The first extension is under way from 15 s to 20 s.
		slow := &queuetest.Faulty{Source: src, Plan: queuetest.On(queuetest.OpExtend, queuetest.Fault{Before: 5 * time.Second}, 1)}
		r := start(t, slow, queue.Config{}, func(ctx context.Context, m *queue.Message) error {
			if m.ID == "b" {
				return nil
			}
			select {
			case <-time.After(2 * time.Minute):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		require.NoError(t, r.wait())
		require.EqualValues(t, 2, r.Stats().Done, "%+v", r.Stats())
		require.Zero(t, r.Stats().LostLease)
	})
}

// ----- limiters of others -----

// A brokenLimiter fails at everything that can fail.
type brokenLimiter struct{ limiter.Limiter }

func (brokenLimiter) Ready(context.Context, int, time.Duration) (int, error) {
	return 0, errors.New("no network")
}

func TestALimiterThatFailsIsAskedOncePerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		reports := 0
		r := start(t, newQueue(t, memqueue.Config{}), queue.Config{Limiter: brokenLimiter{all(t)}, Trace: &queue.Trace{
			Error: func(i queue.ErrorInfo) {
				mu.Lock()
				defer mu.Unlock()
				reports++
				require.Equal(t, time.Second, i.RetryIn)
			},
		}}, func(context.Context, *queue.Message) error { return nil })
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.LessOrEqual(t, reports, 61)
	})
}

func TestWhatBlocksIsSaidAlsoWithMessagesInHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sem, err := limiter.NewSemaphore(1)
		require.NoError(t, err)
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 3)
		src := &queuetest.Faulty{Source: q, Latency: time.Second}
		r := start(t, src, queue.Config{Limiter: sem}, func(context.Context, *queue.Message) error { return nil })
		time.Sleep(700 * time.Millisecond)
		other, err := sem.Acquire(t.Context()) // another consumer took the slot first
		require.NoError(t, err)
		time.Sleep(time.Minute)
		s := r.Stats()
		other.Release(nil)
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.Equal(t, 1, s.Waiting)
		require.NotEmpty(t, s.Blocked.Reason, "nothing is being received, and nobody says why: %+v", s)
		require.EqualValues(t, 3, r.Stats().Done)
	})
}

// ----- results -----

func TestAPanicIsNoVerdictWhateverItsValue(t *testing.T) {
	for name, value := range map[string]error{
		"permanent": retry.Permanent(io.ErrUnexpectedEOF),
		"overload":  stamped{limiter.ErrOverload, 10 * time.Minute},
	} {
		bubble(t, name, func(t *testing.T) {
			var dead queuetest.Recorder
			b := breaker(t)
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 1)
			r := start(t, q, queue.Config{Limiter: b, DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
				if m.Attempt == 1 {
					panic(value)
				}
				return nil
			})
			time.Sleep(time.Minute)
			state := b.Stats().State
			require.NoError(t, r.drain())
			require.Equal(t, limiter.Closed, state)
			require.EqualValues(t, 1, r.Stats().Retried, "%+v", r.Stats())
			require.EqualValues(t, 1, r.Stats().Done)
		})
	}
}

func TestUnavailableIsHeldUntilTheBreakerHasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := limiter.NewBreaker(limiter.BreakerConfig{MinFailures: 2})
		require.NoError(t, err)
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 3)
		r := start(t, q, queue.Config{Limiter: b, Retry: retry.Policy{BaseDelay: time.Minute, Jitter: -1}},
			func(_ context.Context, m *queue.Message) error {
				n, _ := strconv.Atoi(string(m.Body))
				// 0 fails with a closed breaker, 1 opens it, and when 2 fails its open
				// time is over, and nobody has probed yet.
				time.Sleep([]time.Duration{0, 10 * time.Millisecond, 5 * time.Second}[n])
				return stamped{is: limiter.ErrUnavailable}
			})
		time.Sleep(10 * time.Second)
		state, s := b.Stats().State, r.Stats()
		require.NoError(t, r.drain())
		require.NotEqual(t, limiter.Closed, state)
		require.Equal(t, 3, s.Held, "0 too, as there is nothing to compare it with: %+v", s)
	})
}

// ----- FIFO -----

func TestALostReplyToANackKeepsTheGroupInOrder(t *testing.T) {
	for _, fault := range []queuetest.Fault{{Mode: queuetest.LoseReply}, {After: 5 * time.Second}} {
		bubble(t, fmt.Sprintf("%+v", fault), func(t *testing.T) {
			q := newQueue(t, memqueue.Config{FIFO: true, Retention: 14 * 24 * time.Hour})
			send := func(from, to int) {
				for i := from; i < to; i++ {
					require.NoError(t, q.Send(t.Context(), &queue.Message{Group: "g", Dedup: strconv.Itoa(i), Body: []byte(strconv.Itoa(i))}))
				}
			}
			send(0, 3)
			src := &queuetest.Faulty{Source: q, Plan: queuetest.On(queuetest.OpNack, fault, 1, 2)}
			var order []string
			r := start(t, src, queue.Config{}, func(_ context.Context, m *queue.Message) error {
				time.Sleep(time.Second)
				if m.Attempt == 1 && string(m.Body) == "0" {
					return queue.Postpone(10*time.Millisecond, nil)
				}
				order = append(order, string(m.Body))
				return nil
			})
			time.Sleep(500 * time.Millisecond)
			send(3, 6) // they arrive with the first ones, once these were returned
			time.Sleep(24 * time.Hour)
			require.NoError(t, r.drain())
			require.Equal(t, []string{"0", "1", "2", "3", "4", "5"}, order)
		})
	}
}

func TestADrainGivesGroupsBackInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		msgs := []*queue.Message{{ID: "quick"}}
		for i := range 5 {
			msgs = append(msgs, &queue.Message{ID: fmt.Sprint("g", i), Group: "g", Sequence: fmt.Sprint(i)})
		}
		src := queuetest.Script(queuetest.Deliver(msgs...), queuetest.Block())
		r := start(t, src, queue.Config{DrainTimeout: 5 * time.Second}, func(_ context.Context, m *queue.Message) error {
			if m.Group != "" {
				time.Sleep(3 * time.Second)
			}
			return nil
		})
		time.Sleep(time.Second)
		require.NoError(t, r.drain())
		require.Equal(t, []string{"g1", "g2", "g3", "g4"}, src.IDs(queuetest.OpNack))
	})
}

func TestAGroupIsGivenBackWhileItsLeasesAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		for i := range 5 {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Group: "g", Dedup: strconv.Itoa(i), Body: []byte(strconv.Itoa(i))}))
		}
		bucket, runs := pausable(t), 0
		// The first one has been held for MaxHold when the leases of the others are
		// to be extended.
		r := start(t, q, queue.Config{Limiter: bucket, Lease: 10 * time.Second, MaxHold: 5 * time.Second},
			func(context.Context, *queue.Message) error {
				if runs++; runs == 1 {
					bucket.Pause(time.Now().Add(time.Minute))
					return stamped{limiter.ErrOverload, time.Second}
				}
				return nil
			})
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 5, r.Stats().Done, "%+v", r.Stats())
	})
}

func TestWaitingBehindItsGroupIsNoHolding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		for i := range 4 {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Group: "g", Dedup: strconv.Itoa(i)}))
		}
		bucket := pausable(t)
		r := start(t, q, queue.Config{Limiter: bucket, MaxHold: 15 * time.Minute}, func(context.Context, *queue.Message) error {
			time.Sleep(10 * time.Minute)
			bucket.Pause(time.Now().Add(time.Minute)) // the next one has to wait so long, and no longer
			return nil
		})
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 4, r.Stats().Done)
		require.EqualValues(t, 4, q.Stats().Received, "none was given back: %+v", r.Stats())
	})
}

// ----- the end of a run -----

func TestAbandonedHandlersKeepTheirSlotsInTheNextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 4)
		var mu sync.Mutex
		now, most := 0, 0
		c, err := queue.NewConsumer(q, queue.HandlerFunc(func(context.Context, *queue.Message) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Minute) // whatever the context says
			mu.Lock()
			now--
			mu.Unlock()
			return nil
		}), queue.Config{Concurrency: 1, DrainTimeout: time.Second, Logger: quiet})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var abandoned *queue.AbandonedError
		require.ErrorAs(t, c.Run(ctx), &abandoned)
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		_ = c.Run(ctx)
		time.Sleep(time.Minute)
		require.Equal(t, 1, most, "handlers at once")
	})
}

// ----- everything at once -----

// A chaos is one random schedule: some consumers of one queue whose handlers
// and calls misbehave in every way, are drained and started again at random,
// and then left in peace to finish.
type chaos struct {
	t       *testing.T
	seed    uint64
	fifo    bool
	healthy time.Time // from then on nothing misbehaves

	mu   sync.Mutex // guards all below
	rng  *rand.Rand
	done map[string]int
}

func (c *chaos) roll(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

// handler returns a consumer's handler, which also checks this consumer.
func (c *chaos) handler(concurrency int) queue.HandlerFunc {
	var mu sync.Mutex
	busy, groups := map[string]bool{}, map[string]bool{}
	return func(ctx context.Context, m *queue.Message) error {
		mu.Lock()
		if busy[m.ID] {
			c.t.Errorf("seed %d: message %s runs twice at once in one consumer", c.seed, m.Body)
		}
		if m.Sequence != "" && groups[m.Group] {
			c.t.Errorf("seed %d: two messages of group %s at once in one consumer", c.seed, m.Group)
		}
		busy[m.ID], groups[m.Group] = true, true
		if len(busy) > concurrency {
			c.t.Errorf("seed %d: %d handlers at once, not %d", c.seed, len(busy), concurrency)
		}
		mu.Unlock()
		defer func() {
			mu.Lock()
			delete(busy, m.ID)
			delete(groups, m.Group)
			mu.Unlock()
		}()

		took, dice := time.Duration(c.roll(400))*time.Millisecond, c.roll(24)
		if time.Now().After(c.healthy) {
			dice = 20
		}
		if dice == 0 {
			took = 25 * time.Second // longer than the lease
		}
		if dice == 1 {
			time.Sleep(took) // ignoring its context
		} else {
			select {
			case <-time.After(took):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		switch dice {
		case 2, 3:
			return io.ErrUnexpectedEOF
		case 4:
			return stamped{limiter.ErrOverload, time.Duration(c.roll(5000)) * time.Millisecond}
		case 5:
			return stamped{is: limiter.ErrUnavailable}
		case 6:
			return stamped{is: limiter.ErrMisconfigured}
		case 7:
			panic("at the disco")
		case 8:
			runtime.Goexit()
		case 9:
			return stamped{limiter.ErrOverload, time.Hour}
		case 10:
			return retry.After(time.Duration(c.roll(3000))*time.Millisecond, io.ErrUnexpectedEOF)
		case 11:
			return retry.Permanent(errors.New("poison"))
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.done[string(m.Body)]++
		return nil
	}
}

// lateReply is how late a reply may come, whatever the context says.
const lateReply = 7 * time.Second

func (c *chaos) play(t *testing.T) {
	const messages = 60
	dead := newQueue(t, memqueue.Config{FIFO: c.fifo})
	q := newQueue(t, memqueue.Config{FIFO: c.fifo})
	for i := range messages {
		m := &queue.Message{Body: []byte(strconv.Itoa(i))}
		if c.fifo {
			m.Group, m.Dedup = strconv.Itoa(i%5), strconv.Itoa(i)
		}
		require.NoError(t, q.Send(t.Context(), m))
	}
	c.healthy = time.Now().Add(2 * time.Minute)
	plan := func(consumer int) queuetest.Plan {
		faults := queuetest.Random(c.seed*10+uint64(consumer), 0.15, queuetest.Fault{Mode: queuetest.Refuse}, queuetest.Fault{Mode: queuetest.LoseReply},
			queuetest.Fault{Mode: queuetest.Half}, queuetest.Fault{Mode: queuetest.Hang}, queuetest.Fault{Before: 2 * time.Second}, queuetest.Fault{After: lateReply})
		return func(call queuetest.Call) queuetest.Fault {
			f := faults(call)
			if time.Now().After(c.healthy) || f.Mode == queuetest.Hang && call.Op == queuetest.OpReceive {
				return queuetest.Fault{}
			}
			return f
		}
	}
	limits := []limiter.Limiter{all(t), breaker(t), all(t, breaker(t), pausable(t))}[c.roll(3)]

	var consumers sync.WaitGroup
	for i := range 1 + c.roll(3) {
		concurrency := 1 + c.roll(8)
		src := &queuetest.Faulty{Source: q, Sink: dead, Plan: plan(i), Latency: time.Duration(c.roll(40)) * time.Millisecond}
		cfg := queue.Config{
			Concurrency: concurrency, Limiter: limits, DeadLetter: sink{src}, Lease: 10 * time.Second, DrainTimeout: 2 * time.Second,
			MaxHold: 20 * time.Second, MaxHeld: c.roll(4), NoLookAhead: c.roll(4) == 0, NoDeadLetterGuard: c.roll(2) == 0,
			Retry: retry.Policy{BaseDelay: 100 * time.Millisecond, MaxDelay: 5 * time.Second, MaxAttempts: -1}, Logger: quiet,
		}
		consumer, err := queue.NewConsumer(src, c.handler(concurrency), cfg)
		require.NoError(t, err)
		consumers.Go(func() {
			for time.Now().Before(c.healthy) { // deploys
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+c.roll(60_000))*time.Millisecond)
				_ = consumer.Run(ctx) // handlers may be abandoned, and results unsettled
				end, _ := ctx.Deadline()
				if late := time.Since(end); late > cfg.DrainTimeout+time.Second+lateReply {
					t.Errorf("seed %d: Run ended %v after its context", c.seed, late)
				}
				cancel()
				s := consumer.Stats()
				c.balanced(s)
				if s.InHand+s.Unsettled > 0 {
					t.Errorf("seed %d: in hand after Run: %+v", c.seed, s)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
			defer cancel()
			if err := consumer.Run(ctx); err != nil {
				t.Errorf("seed %d: %v", c.seed, err)
			}
		})
		consumers.Go(func() { // looking must change nothing
			for time.Now().Before(c.healthy.Add(time.Minute)) {
				s := consumer.Stats()
				c.balanced(s)
				if s.Running > concurrency || s.InHand != s.Waiting+s.Running+s.Held {
					t.Errorf("seed %d: %+v", c.seed, s)
				}
				time.Sleep(time.Duration(1+c.roll(300)) * time.Millisecond)
			}
		})
	}
	consumers.Wait()

	s := q.Stats()
	require.Zero(t, s.Visible+s.Delayed+s.InFlight, "seed %d: left in the queue: %+v", c.seed, s)
	for dead.Stats().Visible > 0 {
		msgs, err := dead.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Hour})
		require.NoError(t, err)
		for _, m := range msgs {
			c.done[string(m.Body)]++
			require.NoError(t, dead.Ack(t.Context(), m))
		}
	}
	for i := range messages {
		require.NotZero(t, c.done[strconv.Itoa(i)], "seed %d: message %d is lost", c.seed, i)
	}
}

func (c *chaos) balanced(s queue.Stats) {
	outcomes := s.Done + s.DeadLettered + s.Retried + s.Released + s.Abandoned + s.LostLease + s.Superseded
	if s.Received != outcomes+int64(s.InHand+s.Unsettled) {
		c.t.Errorf("seed %d: books: %+v", c.seed, s)
	}
}

func TestChaosLosesNothing(t *testing.T) {
	for seed := range seeds(400) {
		synctest.Test(t, func(t *testing.T) {
			c := &chaos{t: t, seed: seed, fifo: seed%2 == 1, rng: rand.New(rand.NewPCG(seed, 7)), done: map[string]int{}}
			c.play(t)
		})
	}
}
