package queue_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/audit"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// A downstream is an API in virtual time, and what it has seen.
type downstream struct {
	admit func(now time.Duration) error // of a request that arrives
	done  func()                        // a request that was accepted has been answered; may be nil

	mu       sync.Mutex // guards all below
	rng      *rand.Rand
	began    time.Time
	accepted []int // requests by second
	refused  []int
	times    []time.Duration // when requests were accepted, if keep is set
	failed   []time.Duration // when requests were refused
	early    int             // requests that started in a pause
	keep     bool
}

// handler returns a handler that sends one request: it takes 20 ms, 5 ms more or
// less, and arrives after a quarter of that.
func (d *downstream) handler() queue.HandlerFunc {
	var until time.Time // of a Retry-After that this consumer has read
	return func(context.Context, *queue.Message) error {
		d.mu.Lock()
		if time.Now().Before(until) {
			d.early++
		}
		takes := 15*time.Millisecond + time.Duration(d.rng.Int64N(int64(10*time.Millisecond)))
		d.mu.Unlock()
		time.Sleep(takes / 4)
		d.mu.Lock()
		now := time.Since(d.began)
		err := d.admit(now)
		d.mu.Unlock()
		time.Sleep(takes - takes/4)

		d.mu.Lock()
		defer d.mu.Unlock()
		second := int(time.Since(d.began) / time.Second)
		count := &d.accepted
		if err != nil {
			count = &d.refused
			d.failed = append(d.failed, now)
			if after, ok := limiter.RetryAfter(err); ok {
				until = time.Now().Add(after)
			}
		} else if d.keep {
			d.times = append(d.times, now)
		}
		for len(*count) <= second {
			*count = append(*count, 0)
		}
		(*count)[second]++
		if d.done != nil && err == nil {
			d.done()
		}
		return err
	}
}

// between returns the sum of the seconds in [from, to).
func between(counts []int, from, to int) float64 {
	n := 0
	for i := from; i < min(to, len(counts)); i++ {
		n += counts[i]
	}
	return float64(n)
}

// A tokenAPI accepts rate requests a second, burst at once.
func tokenAPI(rate, burst float64, refusal error) func(*rand.Rand) func(time.Duration) error {
	return func(*rand.Rand) func(time.Duration) error {
		tokens, last := burst, time.Duration(0)
		return func(now time.Duration) error {
			tokens, last = min(burst, tokens+rate*(now-last).Seconds()), now
			if tokens < 1 {
				return refusal
			}
			tokens--
			return nil
		}
	}
}

// atRandom is an API that refuses one request in twenty.
func atRandom(rng *rand.Rand) func(time.Duration) error {
	return func(time.Duration) error {
		if rng.Float64() < 0.05 {
			return bare429
		}
		return nil
	}
}

// feed keeps work in the queue until ctx ends.
func feed(ctx context.Context, t *testing.T, q *memqueue.Queue) {
	t.Helper()
	batch := make([]*queue.Message, 500)
	for i := range batch {
		batch[i] = &queue.Message{Body: []byte("0")}
	}
	for ctx.Err() == nil {
		for q.Stats().Visible < 2000 {
			require.NoError(t, q.Send(t.Context(), batch...))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// seedsOf returns the seeds of a test with a threshold.
func seedsOf() []uint64 {
	if !testrun.Long() {
		return []uint64{1, 2, 3}
	}
	return []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9}
}

var (
	bare429  = stamped{is: limiter.ErrOverload}
	after429 = stamped{is: limiter.ErrOverload, after: time.Second}
)

// A figure is one that a test has measured for each seed.
type figure struct {
	name  string
	asked float64
	most  bool // it is to be no more than asked, else no less
	of    []float64
}

// require asks that the median is as good as asked, and the worst within 8 points.
func (f figure) require(t *testing.T) {
	t.Helper()
	sorted := slices.Sorted(slices.Values(f.of))
	median := sorted[len(sorted)/2]
	t.Logf("%s: %.1f, median %.1f, asked %.1f", f.name, f.of, median, f.asked)
	if f.most {
		require.LessOrEqual(t, median, f.asked, f.name)
		require.LessOrEqual(t, sorted[len(sorted)-1], f.asked+8, f.name)
		return
	}
	require.GreaterOrEqual(t, median, f.asked, f.name)
	require.GreaterOrEqual(t, sorted[0], f.asked-8, f.name)
}

// While there is work, a consumer uses what the downstream gives, whatever is
// known of it.
func TestNeverIdle(t *testing.T) {
	audit.On = false // its recounts would take most of the time
	t.Cleanup(func() { audit.On = true })
	const tooHigh = "the rate is set too high"
	for _, row := range []struct {
		name    string
		slots   []int
		procs   int
		long    bool // too much for -short, and for more than three seeds
		minute  int  // how long the first one is, in seconds; 0: 60
		seconds int
		rate    float64 // that the API gives
		api     func(*rand.Rand) func(time.Duration) error
		inOne   int   // or that it accepts so many at once,
		refusal error // and refuses the others so
		cfg     func(t *testing.T) queue.Config
		first   float64 // percent of it asked in the first minute
		later   float64 // and after it
		refused float64 // percent of the requests after the first minute, at most
		log     string
	}{
		{name: "50/s, Retry-After", slots: []int{10, 100}, seconds: 120, rate: 50, api: tokenAPI(50, 10, after429), first: 85, later: 93, refused: 0.5, log: "refused, Retry-After 1s: paced to "},
		{name: "400/s, Retry-After", slots: []int{10, 100}, seconds: 80, rate: 400, api: tokenAPI(400, 40, after429), first: 80, later: 93, refused: 0.5},
		{name: "50/s, bare", slots: []int{10, 100}, seconds: 120, rate: 50, api: tokenAPI(50, 10, bare429), later: 97, refused: 3},
		{name: "400/s, bare", slots: []int{10, 100}, minute: 20, seconds: 40, rate: 400, api: tokenAPI(400, 40, bare429), later: 97, refused: 3},
		{name: "two consumers, Retry-After", slots: []int{10}, procs: 2, seconds: 120, rate: 50, api: tokenAPI(50, 10, after429), later: 90, refused: 3},
		{name: "two consumers, bare", slots: []int{10}, procs: 2, seconds: 120, rate: 50, api: tokenAPI(50, 10, bare429), later: 90, refused: 3},
		{
			name: "a TokenBucket exactly right, Retry-After", slots: []int{10, 100}, seconds: 120, rate: 50, api: tokenAPI(50, 10, after429), later: 96, refused: 0.3,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 50, 10)} },
		},
		{
			name: "a TokenBucket exactly right, bare", slots: []int{10, 100}, seconds: 120, rate: 50, api: tokenAPI(50, 10, bare429), later: 99, refused: 0.3,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 50, 10)} },
		},
		{
			name: "a TokenBucket 25 % too high, bare", slots: []int{10, 100}, seconds: 120, rate: 50, api: tokenAPI(50, 10, bare429), later: 92, refused: 4,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 62.5, 10)} },
			log: tooHigh + ": 62/s, the downstream takes about 5",
		},
		{name: "10 in flight, bare", slots: []int{50}, minute: 20, seconds: 40, rate: 500, inOne: 10, refusal: bare429, later: 95, refused: 100},
		{name: "10 in flight, Retry-After", slots: []int{50}, long: true, seconds: 180, rate: 500, inOne: 10, refusal: after429, later: 85, refused: 100},
		{name: "5 % at random", slots: []int{10}, minute: 30, seconds: 90, api: atRandom, later: 88, refused: 100},
		{name: "5 % at random", slots: []int{100}, long: true, minute: 30, seconds: 90, api: atRandom, later: 88, refused: 100},
	} {
		if !testrun.Long() {
			if row.long {
				continue
			}
			row.slots = row.slots[:1]
		}
		for _, slots := range row.slots {
			t.Run(fmt.Sprintf("%s, %d slots", row.name, slots), func(t *testing.T) {
				begin := figure{name: "percent in the first minute", asked: row.first}
				later := figure{name: "percent after it", asked: row.later}
				refused := figure{name: "percent refused after it", asked: row.refused, most: true}
				rate := row.rate
				if rate == 0 {
					rate = float64(slots) / 0.020
				}
				first := cmp.Or(row.minute, 60)
				seeds := seedsOf()
				if row.long {
					seeds = seeds[:3]
				}
				for _, seed := range seeds {
					synctest.Test(t, func(t *testing.T) {
						d := &downstream{rng: rand.New(rand.NewPCG(seed, 1)), began: time.Now()}
						if row.inOne == 0 {
							d.admit = row.api(d.rng)
						} else {
							inFlight := 0
							d.done = func() { inFlight-- }
							d.admit = func(time.Duration) error {
								if inFlight == row.inOne {
									return row.refusal
								}
								inFlight++
								return nil
							}
						}
						q := newQueue(t, memqueue.Config{})
						var log logBuffer
						var consumers []*running
						ctx, stop := context.WithCancel(t.Context())
						var wg sync.WaitGroup
						wg.Go(func() { feed(ctx, t, q) })
						for range max(row.procs, 1) {
							var cfg queue.Config
							if row.cfg != nil {
								cfg = row.cfg(t)
							}
							cfg.Concurrency = slots
							cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
							consumers = append(consumers, start(t, &queuetest.Faulty{Source: q, Latency: 5 * time.Millisecond}, cfg, d.handler()))
						}
						time.Sleep(time.Duration(row.seconds) * time.Second)
						stop()
						for _, r := range consumers {
							if row.log != "" {
								require.InDelta(t, row.rate, r.Stats().Pace, row.rate/10)
							}
							require.NoError(t, r.drain())
						}
						wg.Wait()
						require.Zero(t, d.early, "requests in a pause")
						if row.log != "" {
							require.Contains(t, log.String(), row.log)
						}
						if !strings.Contains(row.log, tooHigh) {
							require.NotContains(t, log.String(), tooHigh)
						}
						after := between(d.accepted, first, row.seconds)
						begin.of = append(begin.of, 100*min(1, between(d.accepted, 0, first)/(rate*float64(first))))
						later.of = append(later.of, 100*min(1, after/(rate*float64(row.seconds-first))))
						bad := between(d.refused, first, row.seconds)
						refused.of = append(refused.of, 100*bad/(bad+after))
					})
				}
				begin.require(t)
				later.require(t)
				refused.require(t)
			})
		}
	}
}

// An outage is over for a consumer soon after it is over for the downstream, and
// costs few calls and receives.
func TestOutagesAreNoticedToEnd(t *testing.T) {
	audit.On = false
	t.Cleanup(func() { audit.On = true })
	unavailable := stamped{is: limiter.ErrUnavailable}
	for _, row := range []struct {
		name  string
		err   error
		lasts time.Duration
		back  time.Duration // within so long after its end
		calls int           // that fail at most, without those that start before the tenth has failed; 0: any number
		log   string
	}{
		{name: "503 for 30 s", err: unavailable, lasts: 30 * time.Second, back: 5 * time.Second, calls: 10 + 90},
		{name: "503 for 5 min", err: unavailable, lasts: 5 * time.Minute, back: 32 * time.Second, calls: 10 + 90},
		{name: "a quota used up for an hour, bare", err: bare429, lasts: time.Hour, back: 6 * time.Minute},
		{name: "a quota used up for an hour, Retry-After", err: after429, lasts: time.Hour, back: 6 * time.Minute},
		{name: "401 for an hour", err: revoked{}, lasts: time.Hour, back: 6 * time.Minute, calls: 10 + 90, log: "401 Unauthorized: token revoked"},
	} {
		some := []int{10, 100}
		if !testrun.Long() {
			some = some[:1]
		}
		for _, slots := range some {
			t.Run(fmt.Sprintf("%s, %d slots", row.name, slots), func(t *testing.T) {
				var backs, calls, failed, burned []string
				for _, seed := range seedsOf() {
					synctest.Test(t, func(t *testing.T) {
						const warm = 5 * time.Second
						d := &downstream{rng: rand.New(rand.NewPCG(seed, 1)), began: time.Now(), keep: true}
						d.admit = func(now time.Duration) error {
							if now >= warm && now < warm+row.lasts {
								return row.err
							}
							return nil
						}
						q := newQueue(t, memqueue.Config{})
						var log logBuffer
						var dead queuetest.Recorder
						ctx, stop := context.WithCancel(t.Context())
						var wg sync.WaitGroup
						wg.Go(func() { feed(ctx, t, q) })
						r := start(t, &queuetest.Faulty{Source: q, Latency: 5 * time.Millisecond}, queue.Config{
							Concurrency: slots, DeadLetter: &dead, Logger: slog.New(slog.NewTextHandler(&log, nil)),
						}, d.handler())
						minute := min(time.Minute, row.lasts)
						time.Sleep(warm + minute)
						if row.log != "" {
							require.Contains(t, log.String(), row.log, "at its start")
						}
						time.Sleep(row.lasts - minute)
						d.mu.Lock()
						full := 0.9 * between(d.accepted, 2, 5) / 3
						d.mu.Unlock()
						back := time.Duration(math.MaxInt64)
						for at := 100 * time.Millisecond; at <= row.back+10*time.Second; at += 100 * time.Millisecond {
							time.Sleep(100 * time.Millisecond)
							d.mu.Lock()
							i := len(d.times)
							for i > 0 && d.times[i-1] > warm+row.lasts+at-200*time.Millisecond {
								i--
							}
							got := float64(len(d.times)-i) / 0.2
							d.mu.Unlock()
							if got >= full {
								back = at
								break
							}
						}
						s := r.Stats()
						stop()
						require.NoError(t, r.drain())
						wg.Wait()
						late := 0
						for _, at := range d.failed {
							if at > warm+time.Minute {
								late++
							}
						}
						backs = append(backs, back.String())
						calls = append(calls, fmt.Sprint(late))
						failed = append(failed, fmt.Sprint(len(d.failed)))
						burned = append(burned, fmt.Sprint(s.Retried+s.Released+s.LostLease))
						require.LessOrEqual(t, back, row.back)
						require.LessOrEqual(t, late, 90, "calls after the first minute")
						if row.calls > 0 {
							require.LessOrEqual(t, len(d.failed), row.calls+2*slots, "calls that failed")
						}
						require.LessOrEqual(t, s.Retried+s.Released+s.LostLease, int64(10), "burned receives")
						require.Empty(t, dead.Messages())
					})
				}
				t.Logf("back after %s; calls after the first minute %s; calls that failed %s; returned %s",
					strings.Join(backs, " "), strings.Join(calls, " "), strings.Join(failed, " "), strings.Join(burned, " "))
			})
		}
	}
}

// revoked is what a client says of a 401.
type revoked struct{}

func (revoked) Error() string        { return "401 Unauthorized: token revoked" }
func (revoked) Is(target error) bool { return target == limiter.ErrMisconfigured }
