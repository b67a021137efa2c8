package queue_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// An endless source always has messages. Every call takes a round-trip.
type endless struct {
	roundTrip time.Duration
	mu        sync.Mutex
	n         int
}

func (s *endless) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	time.Sleep(s.roundTrip)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	msgs := make([]*queue.Message, min(o.Max, 10))
	for i := range msgs {
		s.n++
		msgs[i] = &queue.Message{ID: strconv.Itoa(s.n), Receipt: strconv.Itoa(s.n), ReceivedAt: now, LeaseUntil: now.Add(o.Lease)}
	}
	return msgs, ctx.Err()
}

func (s *endless) Ack(context.Context, ...*queue.Message) error {
	time.Sleep(s.roundTrip)
	return nil
}

func (s *endless) Nack(context.Context, time.Duration, ...*queue.Message) error {
	time.Sleep(s.roundTrip)
	return nil
}

func (s *endless) Extend(_ context.Context, lease time.Duration, msgs ...*queue.Message) error {
	time.Sleep(s.roundTrip)
	for _, m := range msgs {
		m.LeaseUntil = time.Now().Add(lease)
	}
	return nil
}

// A measure is what a consumer did in a span of virtual time.
type measure struct {
	perSecond float64
	calls     float64 // receives and acks per message
	p99       time.Duration
}

func (m measure) String() string {
	return fmt.Sprintf("%.1f messages/s, %.2f calls per message, p99 from receive to start %v", m.perSecond, m.calls, m.p99)
}

// watch runs a consumer and measures it for span, after a second of warm-up.
func watch(t *testing.T, src queue.Source, cfg queue.Config, span time.Duration, h queue.HandlerFunc) measure {
	return watchAfter(t, src, cfg, time.Second, span, h)
}

// watchAfter is watch with another warm-up.
func watchAfter(t *testing.T, src queue.Source, cfg queue.Config, warm, span time.Duration, h queue.HandlerFunc) measure {
	var mu sync.Mutex
	var waits []time.Duration
	measuring := false
	cfg.Trace = &queue.Trace{Started: func(i queue.StartedInfo) {
		mu.Lock()
		defer mu.Unlock()
		if measuring {
			waits = append(waits, i.Waited)
		}
	}}
	c, err := queue.NewConsumer(src, h, cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()

	time.Sleep(warm)
	mu.Lock()
	measuring = true
	mu.Unlock()
	before := c.Stats()
	time.Sleep(span)
	after := c.Stats()
	mu.Lock()
	measuring = false
	slices.Sort(waits)
	mu.Unlock()
	cancel()
	require.NoError(t, <-ended)
	require.NotEmpty(t, waits)
	calls := after.ReceiveCalls + after.AckCalls - before.ReceiveCalls - before.AckCalls
	return measure{
		perSecond: float64(len(waits)) / span.Seconds(),
		calls:     float64(calls) / float64(len(waits)),
		p99:       waits[len(waits)*99/100],
	}
}

// span is d, or a twentieth of it unless tests run at full length.
func span(d time.Duration) time.Duration {
	if !testrun.Long() {
		return d / 20
	}
	return d
}

func constant(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func exponential(mean time.Duration, seed uint64) func() time.Duration {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, seed))
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(-math.Log(1-r.Float64()) * float64(mean))
	}
}

func sleeper(d func() time.Duration) queue.HandlerFunc {
	return func(context.Context, *queue.Message) error {
		time.Sleep(d())
		return nil
	}
}

func TestFastHandlersKeepEverySlotBusy(t *testing.T) {
	const mean = 10 * time.Millisecond
	for _, concurrency := range []int{10, 50, 200} {
		if !testrun.Long() && concurrency > 50 {
			continue
		}
		for name, d := range map[string]func() time.Duration{
			"constant":    constant(mean),
			"exponential": exponential(mean, 1),
		} {
			t.Run(fmt.Sprint(concurrency, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := watch(t, &endless{roundTrip: 20 * time.Millisecond}, queue.Config{Concurrency: concurrency}, span(min(time.Minute, 3000*time.Second/time.Duration(concurrency))), sleeper(d))
					t.Log(m)
					ideal := float64(concurrency) / mean.Seconds()
					require.GreaterOrEqual(t, m.perSecond, 0.95*ideal)
					require.LessOrEqual(t, m.calls, 0.25)
					require.LessOrEqual(t, m.p99, 50*time.Millisecond)
				})
			})
		}
	}
}

// An uneven source is endless, and its receives take times that differ: most of
// them less than the mean, and some much more.
type uneven struct {
	endless
	takes func() time.Duration

	mu       sync.Mutex
	receives int // under way
	most     int
}

func (s *uneven) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	s.count(1)
	defer s.count(-1)
	time.Sleep(s.takes())
	return s.endless.Receive(ctx, o)
}

func (s *uneven) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receives += n
	s.most = max(s.most, s.receives)
}

// Varying round-trips leave no slot empty, and handlers that take no time at all,
// which nothing can keep busy, have about one receive under way for each. When
// round-trips vary that much it takes seconds to see how many receives help.
func TestUnevenRoundTripsKeepEverySlotBusy(t *testing.T) {
	const mean = 2 * time.Millisecond
	for _, concurrency := range []int{10, 50} {
		for _, takes := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} {
			if !testrun.Long() && concurrency > 10 {
				continue
			}
			t.Run(fmt.Sprint(concurrency, " ", takes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					src := &uneven{takes: exponential(mean, 1)}
					warm, length := time.Second, span(2*time.Second)
					if takes > 0 {
						warm, length = 5*time.Second, span(4*time.Second)
					}
					m := watchAfter(t, src, queue.Config{Concurrency: concurrency}, warm, length, sleeper(constant(takes)))
					t.Logf("%v, at most %d receives at once", m, src.most)
					least := 0.85 * float64(10*concurrency) / mean.Seconds()
					if takes > 0 {
						least = 0.85 * float64(concurrency) / takes.Seconds()
					}
					require.GreaterOrEqual(t, m.perSecond, least)
					require.LessOrEqual(t, m.calls, 0.25)
					require.LessOrEqual(t, m.p99, 25*time.Millisecond)
					require.LessOrEqual(t, src.most, 3*concurrency)
				})
			})
		}
	}
}

// From a quiet start on, full speed takes some round-trips and no more.
func TestFullSpeedComesSoon(t *testing.T) {
	for _, concurrency := range []int{10, 50, 200} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int64
				r := start(t, &endless{roundTrip: 20 * time.Millisecond}, queue.Config{Concurrency: concurrency}, func(context.Context, *queue.Message) error {
					n.Add(1)
					time.Sleep(10 * time.Millisecond)
					return nil
				})
				time.Sleep(250 * time.Millisecond)
				before := n.Load()
				time.Sleep(250 * time.Millisecond)
				perSecond := 4 * float64(n.Load()-before)
				require.NoError(t, r.drain())
				require.GreaterOrEqual(t, perSecond, 0.95*float64(concurrency)*100)
			})
		})
	}
}

// Handlers that start and end all at once look like a high rate for a moment, and
// at the start only the quick ones have ended.
func TestSlowHandlersAreNotTakenForQuickOnes(t *testing.T) {
	for name, c := range map[string]struct {
		concurrency int
		takes       func() time.Duration
		most        int // buffered messages for which there is no slot
	}{
		"in step":   {5, constant(2 * time.Second), 0},
		"irregular": {200, exponential(2*time.Second, 1), 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, &endless{roundTrip: 20 * time.Millisecond}, queue.Config{Concurrency: c.concurrency}, sleeper(c.takes))
				most := 0
				for range 1000 {
					time.Sleep(10 * time.Millisecond)
					if s := r.Stats(); s.Running == c.concurrency {
						most = max(most, s.Waiting)
					}
				}
				require.NoError(t, r.drain())
				require.LessOrEqual(t, most, c.most)
			})
		})
	}
}

// On a quiet queue every receive takes long, which must not be mistaken for the
// network's time when there is much to do.
func TestABurstAfterAQuietTimeIsNotReceivedAheadOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
		r := start(t, src, queue.Config{Concurrency: 10}, sleeper(constant(100*time.Millisecond)))
		for range 30 {
			time.Sleep(3 * time.Second)
			fill(t, q, 1)
		}
		time.Sleep(3 * time.Second)
		fill(t, q, 1000)
		most := 0
		for range 500 {
			time.Sleep(10 * time.Millisecond)
			if s := r.Stats(); s.Running == 10 {
				most = max(most, s.Waiting)
			}
		}
		require.NoError(t, r.drain())
		require.LessOrEqual(t, most, 10)
	})
}

func TestSlowHandlersAreNotReceivedAheadOf(t *testing.T) {
	for _, mean := range []time.Duration{100 * time.Millisecond, 2 * time.Second} {
		for _, concurrency := range []int{1, 10, 50, 200} {
			if testing.Short() && concurrency > 50 {
				continue
			}
			t.Run(fmt.Sprint(mean, " ", concurrency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := watch(t, &endless{roundTrip: 20 * time.Millisecond}, queue.Config{Concurrency: concurrency}, time.Minute, sleeper(exponential(mean, 1)))
					t.Log(m)
					ideal := float64(concurrency) / mean.Seconds()
					require.GreaterOrEqual(t, m.perSecond, 0.75*ideal)
				})
			})
		}
	}
}

func TestRateLimitWithASmallBurstIsUsedInFull(t *testing.T) {
	for _, burst := range []int{1, 4, 20} {
		t.Run(strconv.Itoa(burst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bucket, err := limiter.NewTokenBucket(200, burst)
				require.NoError(t, err)
				m := watch(t, &endless{roundTrip: 20 * time.Millisecond}, queue.Config{Concurrency: 50, Limiter: bucket}, span(time.Minute), sleeper(constant(10*time.Millisecond)))
				t.Log(m)
				require.GreaterOrEqual(t, m.perSecond, 0.95*200)
			})
		})
	}
}

// A message that arrives on a quiet queue meets a receive that waits for it; then
// the reply takes half a round-trip, which can't be saved.
func TestATrickleIsNotDelayed(t *testing.T) {
	const roundTrip = 20 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		src := &queuetest.Faulty{Source: q, Latency: roundTrip}
		var mu sync.Mutex
		var added []time.Duration
		r := start(t, src, queue.Config{Concurrency: 50}, func(_ context.Context, m *queue.Message) error {
			mu.Lock()
			added = append(added, time.Since(m.SentAt)-roundTrip/2)
			mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		gap := exponential(time.Second/20, 1)
		for range 20 * 120 {
			time.Sleep(gap())
			require.NoError(t, q.Send(t.Context(), &queue.Message{}))
		}
		time.Sleep(time.Second)
		require.NoError(t, r.drain())
		slices.Sort(added)
		calls := float64(r.Stats().ReceiveCalls+r.Stats().AckCalls) / float64(len(added))
		t.Logf("added latency: median %v, p99 %v, most %v; %.2f calls per message", added[len(added)/2], added[len(added)*99/100], added[len(added)-1], calls)
		require.LessOrEqual(t, added[len(added)-1], roundTrip)
		require.LessOrEqual(t, calls, 1.2)
	})
}

// Messages that arrive more slowly than they can be handled need few receives,
// however many there were while the queue was full: more would return one message
// each.
func TestReceivesGoWhenTheQueueRunsDry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		src := &counted{Source: &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}}
		r := start(t, src, queue.Config{Concurrency: 50}, sleeper(constant(time.Millisecond)))
		fill(t, q, 2000)
		time.Sleep(3 * time.Second)
		most, before := 0, r.Stats().ReceiveCalls
		for i := range 2500 { // 500/s
			time.Sleep(2 * time.Millisecond)
			require.NoError(t, q.Send(t.Context(), &queue.Message{}))
			if i == 500 {
				before = r.Stats().ReceiveCalls
			}
			if i > 500 {
				most = max(most, int(src.open.Load()))
			}
		}
		calls := float64(r.Stats().ReceiveCalls-before) / 2000
		t.Logf("at most %d receives at once, %.2f per message", most, calls)
		require.NoError(t, r.drain())
		require.LessOrEqual(t, most, 15)
		require.LessOrEqual(t, calls, 0.8)
	})
}

// counted counts the receives that are under way.
type counted struct {
	queue.Source
	open atomic.Int64
}

func (s *counted) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	s.open.Add(1)
	defer s.open.Add(-1)
	return s.Source.Receive(ctx, o)
}

// A round-trip of 100 or 200 ms is filled as well, after twelve of them from a cold
// start.
func TestLongRoundTripsKeepEverySlotBusy(t *testing.T) {
	for _, c := range []struct {
		roundTrip time.Duration
		least     float64 // of the ideal
	}{{100 * time.Millisecond, 0.92}, {200 * time.Millisecond, 0.85}} {
		for _, slots := range []int{10, 100, 200} {
			for _, mean := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
				if !testrun.Long() && (slots > 10 || mean < 20*time.Millisecond) {
					continue
				}
				t.Run(fmt.Sprintf("%v, %d slots, %v", c.roundTrip, slots, mean), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ideal := float64(slots) / mean.Seconds()
						span := time.Duration(20_000 / ideal * float64(time.Second)) // of so many messages
						span = min(max(span, 50*c.roundTrip), 2*time.Minute)         // ten of them scatter by a tenth
						m := watchAfter(t, &endless{roundTrip: c.roundTrip}, queue.Config{Concurrency: slots}, 12*c.roundTrip, span, sleeper(exponential(mean, 1)))
						t.Logf("%.1f %% of the ideal, %v", 100*m.perSecond/ideal, m)
						require.Greater(t, m.perSecond, c.least*ideal)
						if float64(slots)*c.roundTrip.Seconds()/mean.Seconds() >= 10 {
							require.LessOrEqual(t, m.calls, 0.25)
						}
					})
				})
			}
		}
	}
}

// Without a look-ahead slots are empty for a round-trip, and not for another one in
// which more of them might come free.
func TestNoLookAheadGathersBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &endless{roundTrip: 200 * time.Millisecond}
		m := watch(t, src, queue.Config{Concurrency: 10, NoLookAhead: true}, 20*time.Second, sleeper(exponential(20*time.Millisecond, 1)))
		t.Log(m)
		require.Greater(t, m.perSecond, 36.0) // 33 if it gathers for a round-trip
	})
}

// Without a look-ahead nothing is received while no slot is free, not even for
// messages that wait to run again to be compared with.
func TestNoLookAheadReceivesForFreeSlotsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 100)
		cfg := queue.Config{Concurrency: 2, NoLookAhead: true, NoBreaker: true, NoPace: true}
		r := start(t, q, cfg, func(_ context.Context, m *queue.Message) error {
			n, err := strconv.Atoi(string(m.Body))
			require.NoError(t, err)
			time.Sleep(time.Duration(1+n%4) * time.Second)
			if n%3 == 0 {
				return stamped{is: limiter.ErrUnavailable}
			}
			return nil
		})
		held := 0
		for range 600 {
			time.Sleep(100*time.Millisecond + time.Microsecond)
			synctest.Wait()
			s := r.Stats()
			held = max(held, s.Held)
			require.Zero(t, s.Waiting, "%+v", s)
		}
		require.Greater(t, held, 3)
		require.NoError(t, r.drain())
	})
}

// Where a tenth of the handlers take 500 times as long as the others, slots stay
// busy and no message waits for long.
func TestFewSlowHandlersKeepNobodyWaiting(t *testing.T) {
	const roundTrip = 20 * time.Millisecond
	for _, slots := range []int{10, 50, 200} {
		if testing.Short() && slots > 10 {
			continue
		}
		t.Run(fmt.Sprint(slots), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				random := rand.New(rand.NewPCG(1, 1))
				took := func() time.Duration {
					mu.Lock()
					defer mu.Unlock()
					if random.IntN(10) == 0 {
						return 5 * time.Second
					}
					return 10 * time.Millisecond
				}
				ideal := float64(slots) / (0.9*0.010 + 0.1*5)
				m := watchAfter(t, &endless{roundTrip: roundTrip}, queue.Config{Concurrency: slots}, 20*time.Second, 3*time.Minute, sleeper(took))
				t.Logf("%.1f %% of the ideal, %v", 100*m.perSecond/ideal, m)
				require.Greater(t, m.perSecond, 0.95*ideal)
				require.LessOrEqual(t, m.p99, roundTrip+250*time.Millisecond)
			})
		})
	}
}
