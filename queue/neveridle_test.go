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

// A downstream is an API in virtual time that records its requests.
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

// atRandom is an API that refuses that share of the requests.
func atRandom(share float64) func(*rand.Rand) func(time.Duration) error {
	return func(rng *rand.Rand) func(time.Duration) error {
		return func(time.Duration) error {
			if rng.Float64() < share {
				return bare429
			}
			return nil
		}
	}
}

// windows is an API that accepts n requests in each window, and refuses the
// others until the window ends, with a Retry-After in whole units.
func windows(n int, length, unit time.Duration) func(*rand.Rand) func(time.Duration) error {
	return func(*rand.Rand) func(time.Duration) error {
		window, accepted := time.Duration(-1), 0
		return func(now time.Duration) error {
			if w := now / length; w != window {
				window, accepted = w, 0
			}
			if accepted < n {
				accepted++
				return nil
			}
			left := length - now%length
			return stamped{is: limiter.ErrOverload, after: (left + unit - 1) / unit * unit}
		}
	}
}

// becomes is an API that is first one and then, after a minute, another.
func becomes(first, then func(*rand.Rand) func(time.Duration) error) func(*rand.Rand) func(time.Duration) error {
	return func(rng *rand.Rand) func(time.Duration) error {
		a, b := first(rng), then(rng)
		return func(now time.Duration) error {
			if now < time.Minute {
				return a(now)
			}
			return b(now)
		}
	}
}

// upAndDown is an API that is up and unavailable alternately, for each at a time.
func upAndDown(each time.Duration) func(*rand.Rand) func(time.Duration) error {
	return func(*rand.Rand) func(time.Duration) error {
		return func(now time.Duration) error {
			if now/each%2 == 1 {
				return stamped{is: limiter.ErrUnavailable}
			}
			return nil
		}
	}
}

// feed keeps work in the queue until ctx ends. The amount of it varies; otherwise
// a returned message would come again after as long as the pace takes from one
// refusal to the next, and would always be the refused one.
func feed(ctx context.Context, t *testing.T, q *memqueue.Queue) {
	t.Helper()
	batch := make([]*queue.Message, 500)
	for i := range batch {
		batch[i] = &queue.Message{Body: []byte("0")}
	}
	for i := 0; ctx.Err() == nil; i++ {
		for q.Stats().Visible < 1000+i/150%5*700 {
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

// A figure is a value that a test has measured for each seed.
type figure struct {
	name  string
	asked float64
	most  bool // it must be no more than required, else no less
	of    []float64
}

// require checks that the median is as good as required, and the worst within 8
// points.
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

// While there is work, a consumer uses what the downstream offers, whatever it
// knows about the downstream.
func TestNeverIdle(t *testing.T) {
	audit.On = false // its recounts would take most of the time
	t.Cleanup(func() { audit.On = true })
	const tooHigh = "the rate is set too high"
	for _, row := range []struct {
		name    string
		slots   []int
		procs   int
		long    bool // at full length only
		minute  int  // how long the first one is, in seconds; 0: 60
		seconds int
		rate    float64 // that the API gives; 0: what goes through without any limit
		share   float64 // of the time that it gives it; 0: all
		api     func(*rand.Rand) func(time.Duration) error
		inOne   int   // or the number that it accepts at once,
		refusal error // and refuses the others so
		cfg     func(t *testing.T) queue.Config
		first   float64 // percent of it required in the first minute
		later   float64 // and after it
		refused float64 // percent of the requests after the first minute, at most
		equal   float64 // required of Jain's index of the consumers, in percent
		early   int     // requests that may start in a pause: one that is refused four times by chance is a suspect
		log     string
	}{
		{name: "50/s, Retry-After", slots: []int{10, 100}, seconds: 120, rate: 50, api: tokenAPI(50, 10, after429), first: 85, later: 93, refused: 0.5, log: "refused, Retry-After 1s: paced to "},
		{name: "400/s, Retry-After", slots: []int{10, 100}, seconds: 80, rate: 400, api: tokenAPI(400, 40, after429), first: 80, later: 93, refused: 0.5},
		{name: "20/s, Retry-After", slots: []int{10, 100}, long: true, seconds: 600, rate: 20, api: tokenAPI(20, 5, after429), first: 85, later: 93, refused: 0.5},
		{name: "150/s, Retry-After", slots: []int{10, 100}, long: true, seconds: 600, rate: 150, api: tokenAPI(150, 30, after429), first: 85, later: 93, refused: 0.5},
		{name: "50/s, bare", slots: []int{10, 100}, seconds: 120, rate: 50, api: tokenAPI(50, 10, bare429), later: 97, refused: 3},
		{name: "400/s, bare", slots: []int{10, 100}, minute: 20, seconds: 40, rate: 400, api: tokenAPI(400, 40, bare429), later: 97, refused: 3},
		{name: "20/s, bare", slots: []int{10, 100}, long: true, seconds: 600, rate: 20, api: tokenAPI(20, 5, bare429), later: 97, refused: 3},
		{name: "150/s, bare", slots: []int{10, 100}, long: true, seconds: 600, rate: 150, api: tokenAPI(150, 30, bare429), later: 97, refused: 3},
		{name: "two consumers, Retry-After", slots: []int{10}, procs: 2, seconds: 120, rate: 50, api: tokenAPI(50, 10, after429), later: 90, refused: 3},
		{name: "two consumers, bare", slots: []int{10}, procs: 2, seconds: 120, rate: 50, api: tokenAPI(50, 10, bare429), later: 90, refused: 3},
		{name: "five consumers, Retry-After", slots: []int{10}, procs: 5, long: true, seconds: 600, rate: 50, api: tokenAPI(50, 10, after429), later: 90, refused: 3, equal: 80},
		{name: "five consumers, bare", slots: []int{10}, procs: 5, long: true, seconds: 600, rate: 50, api: tokenAPI(50, 10, bare429), later: 90, refused: 3, equal: 70},
		{
			// With this many consumers, the others' requests look like noise to a
			// few of them, whose refusals do not depend on their own pace.
			name: "twenty consumers, Retry-After", slots: []int{10}, procs: 20, long: true, seconds: 600, rate: 50, api: tokenAPI(50, 10, after429), later: 90, refused: 5, equal: 80,
			early: 600, // of 30,000
		},
		{name: "twenty consumers, bare", slots: []int{10}, procs: 20, long: true, seconds: 600, rate: 50, api: tokenAPI(50, 10, bare429), later: 90, refused: 5, equal: 70},
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
		{
			name: "a TokenBucket 25 % too high, Retry-After", slots: []int{10, 100}, long: true, seconds: 600, rate: 50, api: tokenAPI(50, 10, after429), later: 92, refused: 4,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 62.5, 10)} }, log: tooHigh,
		},
		{
			name: "a TokenBucket 5 % too high, bare", slots: []int{10, 100}, long: true, seconds: 300, rate: 50, api: tokenAPI(50, 10, bare429), later: 92, refused: 6,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 52.5, 10)} },
		},
		{
			name: "a TokenBucket 5 % too high, Retry-After", slots: []int{10, 100}, long: true, seconds: 600, rate: 50, api: tokenAPI(50, 10, after429), later: 92, refused: 6,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 52.5, 10)} },
		},
		{
			name: "a TokenBucket 100 % too high, bare", slots: []int{10, 100}, long: true, seconds: 300, rate: 50, api: tokenAPI(50, 10, bare429), later: 92, refused: 4,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 100, 10)} }, log: tooHigh,
		},
		{
			name: "a TokenBucket 100 % too high, Retry-After", slots: []int{10, 100}, long: true, seconds: 600, rate: 50, api: tokenAPI(50, 10, after429), later: 92, refused: 4,
			cfg: func(t *testing.T) queue.Config { return queue.Config{Limiter: bucket(t, 100, 10)} }, log: tooHigh,
		},
		{name: "10 in flight, bare", slots: []int{50}, minute: 20, seconds: 40, rate: 500, inOne: 10, refusal: bare429, later: 95, refused: 100},
		{name: "10 in flight, Retry-After", slots: []int{50}, long: true, seconds: 180, rate: 500, inOne: 10, refusal: after429, later: 85, refused: 100},
		{name: "windows of a second", slots: []int{10, 100}, long: true, seconds: 600, rate: 100, api: windows(100, time.Second, time.Millisecond), later: 95, refused: 100, early: 30},
		{name: "windows of a second, whole seconds", slots: []int{10, 100}, long: true, seconds: 600, rate: 100, api: windows(100, time.Second, time.Second), later: 85, refused: 100},
		{name: "windows of a minute", slots: []int{10, 100}, long: true, seconds: 600, rate: 50, api: windows(3000, time.Minute, time.Millisecond), later: 95, refused: 4},
		{name: "1 % at random", slots: []int{10, 100}, long: true, seconds: 180, api: atRandom(0.01), later: 95, refused: 100},
		{name: "5 % at random", slots: []int{10}, minute: 30, seconds: 90, api: atRandom(0.05), later: 88, refused: 100},
		{name: "5 % at random", slots: []int{100}, long: true, minute: 30, seconds: 90, api: atRandom(0.05), later: 88, refused: 100},
		{name: "up and down by turns", slots: []int{10}, long: true, minute: 80, seconds: 3600, share: 0.5, api: upAndDown(20 * time.Second), later: 88, refused: 100},
		{name: "half of it after a minute, Retry-After", slots: []int{10, 100}, long: true, minute: 70, seconds: 130, rate: 25, api: becomes(tokenAPI(50, 10, after429), tokenAPI(25, 5, after429)), later: 90, refused: 3},
		{name: "half of it after a minute, bare", slots: []int{10, 100}, long: true, minute: 70, seconds: 130, rate: 25, api: becomes(tokenAPI(50, 10, bare429), tokenAPI(25, 5, bare429)), later: 90, refused: 5},
		{name: "twice as much after a minute, Retry-After", slots: []int{10, 100}, long: true, minute: 90, seconds: 150, rate: 100, api: becomes(tokenAPI(50, 10, after429), tokenAPI(100, 20, after429)), later: 90, refused: 3},
		{name: "twice as much after a minute, bare", slots: []int{10, 100}, long: true, minute: 90, seconds: 150, rate: 100, api: becomes(tokenAPI(50, 10, bare429), tokenAPI(100, 20, bare429)), later: 90, refused: 5},
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
				equal := figure{name: "Jain's index, percent", asked: row.equal}
				thousand := figure{name: "time for the first 1,000, percent of 1.2 times what it must take, or of 4 s more", asked: 100, most: true}
				rate := row.rate
				if rate == 0 {
					rate = float64(slots) / 0.020 * cmp.Or(row.share, 1)
				}
				first := cmp.Or(row.minute, 60)
				for _, seed := range seedsOf() {
					synctest.Test(t, func(t *testing.T) {
						d := &downstream{rng: rand.New(rand.NewPCG(seed, 1)), began: time.Now(), keep: row.first > 0}
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
						sum, squares := 0.0, 0.0
						for _, r := range consumers {
							n := float64(r.Stats().Done)
							sum, squares = sum+n, squares+n*n
							if row.log != "" && row.log != tooHigh {
								require.InDelta(t, row.rate, r.Stats().Pace, row.rate/10)
							}
							require.NoError(t, r.drain())
						}
						wg.Wait()
						require.LessOrEqual(t, d.early, row.early, "requests in a pause")
						if row.log != "" {
							require.Contains(t, log.String(), row.log)
						}
						if !strings.Contains(row.log, tooHigh) {
							require.NotContains(t, log.String(), tooHigh)
						}
						equal.of = append(equal.of, 100*sum*sum/squares/float64(len(consumers)))
						if row.first > 0 {
							slices.Sort(d.times)
							least := 1000 / rate // with the burst it could be a little less
							thousand.of = append(thousand.of, 100*d.times[999].Seconds()/max(1.2*least, least+4))
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
				if row.procs > 1 {
					equal.require(t)
				}
				if row.first > 0 {
					thousand.require(t)
				}
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
		{name: "503 for 5 s", err: unavailable, lasts: 5 * time.Second, back: 4 * time.Second, calls: 10 + 90},
		{name: "503 for an hour", err: unavailable, lasts: time.Hour, back: 6*time.Minute + 2*time.Second, calls: 10 + 90},
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

// revoked is a client's error for a 401.
type revoked struct{}

func (revoked) Error() string        { return "401 Unauthorized: token revoked" }
func (revoked) Is(target error) bool { return target == limiter.ErrMisconfigured }
