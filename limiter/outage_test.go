package limiter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// A shop is workers that call a downstream under a limiter, one call after the
// other, each of about 20 ms.
type shop struct {
	limiter  limiter.Limiter
	workers  int
	down     func(at time.Duration) bool // since begin
	failure  error
	failing  time.Duration // how long a failing call takes
	closing  time.Duration // of each 30 s, in which it does nothing
	duration time.Duration
	enough   time.Duration // it ends three seconds after the first success that started after that; 0: it does not

	mu     sync.Mutex // guards the rest
	over   *time.Timer
	good   []time.Duration
	failed []time.Duration // when they started
}

func (s *shop) run(ctx context.Context, seed uint64) {
	ctx, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range s.workers {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for {
				if at := time.Since(begin) % (30 * time.Second); at < s.closing {
					time.Sleep(s.closing - at)
				}
				p, err := s.limiter.Acquire(ctx)
				if err != nil {
					return
				}
				at := time.Since(begin)
				if s.down(at) {
					time.Sleep(s.failing)
					s.mu.Lock()
					s.failed = append(s.failed, at)
					s.mu.Unlock()
					p.Release(s.failure)
					continue
				}
				time.Sleep(20*ms + upTo(r, 5*ms))
				s.mu.Lock()
				s.good = append(s.good, time.Since(begin))
				if s.enough > 0 && at >= s.enough && s.over == nil {
					s.over = time.AfterFunc(3*time.Second, cancel)
				}
				s.mu.Unlock()
				p.Release(nil)
			}
		})
	}
	wg.Wait()
	if s.over != nil {
		s.over.Stop()
	}
}

// between returns how many of the times are in [from, to).
func between(times []time.Duration, from, to time.Duration) int {
	n := 0
	for _, at := range times {
		if from <= at && at < to {
			n++
		}
	}
	return n
}

// However long the downstream is down, and in whatever way, the end is
// noticed within a tenth of that time, with few calls.
func TestBreakerNoticesTheEndOfAnOutage(t *testing.T) {
	const calm = 5 * time.Second // before the outage
	lengths := []time.Duration{5 * time.Second, 30 * time.Second, 5 * time.Minute, time.Hour, 12 * time.Hour}
	slots := []int{10, 100}
	if testing.Short() {
		lengths, slots = lengths[:4], slots[:1]
	}
	for name, outage := range map[string]struct {
		failure error
		takes   time.Duration
	}{
		"refused connections": {limiter.ErrUnavailable, ms},
		"503":                 {limiter.ErrUnavailable, 20 * ms},
		"401":                 {limiter.ErrMisconfigured, 20 * ms},
		"timeouts":            {context.DeadlineExceeded, time.Second},
		"long timeouts":       {context.DeadlineExceeded, 5 * time.Second},
	} {
		for _, length := range lengths {
			if length <= outage.takes {
				continue // over before the first call has failed
			}
			for _, workers := range slots {
				t.Run(fmt.Sprint(name, " for ", length, ", ", workers, " slots"), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newBreaker(t, limiter.BreakerConfig{})
						back := max(2*time.Second, length/10) + 2*time.Second
						s := &shop{
							limiter: b, workers: workers, failure: outage.failure, failing: outage.takes,
							down:     func(at time.Duration) bool { return calm <= at && at < calm+length },
							duration: calm + length + back + time.Minute,
							enough:   calm + length,
						}
						s.run(t.Context(), 1)
						end := calm + length
						rate := func(at time.Duration) float64 { // of the full speed, in the next half second
							return float64(between(s.good, at, at+500*ms)) * 0.0225 / 0.5 / float64(workers)
						}
						after := time.Duration(0)
						for rate(end+after) < 0.9 && after <= back {
							after += 10 * ms
						}
						probes := b.Stats().Probes
						t.Logf("full speed %v after the end, %d calls failed, %d probes", after, len(s.failed), probes)
						require.LessOrEqual(t, after, back)
						// While it goes down, some calls that started before still succeed.
						require.LessOrEqual(t, len(s.failed), 10+workers+workers/4+probes)
						require.LessOrEqual(t, probes, 90+15*int((length-1)/time.Hour))
						require.Equal(t, limiter.Closed, b.State())
					})
				})
			}
		}
	}
}

// A downstream that goes down again and again is used while it is up.
func TestBreakerFollowsUpAndDown(t *testing.T) {
	for _, workers := range []int{10, 100} {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, limiter.BreakerConfig{})
			s := &shop{
				limiter: b, workers: workers, failure: limiter.ErrUnavailable, failing: 20 * ms,
				down:     func(at time.Duration) bool { return at%(40*time.Second) >= 20*time.Second },
				duration: time.Hour,
			}
			if testing.Short() {
				s.duration = 10 * time.Minute
			}
			s.run(t.Context(), 1)
			used := float64(len(s.good)) * 0.0225 / float64(workers) / (s.duration.Seconds() / 2)
			t.Logf("%d slots: %.3f of what it gives", workers, used)
			require.GreaterOrEqual(t, used, 0.88)
		})
	}
}

// One backend of several is down, and its failures come fast, while calls come in
// bursts: the others are used.
func TestBreakerLeavesAPartialOutageAlone(t *testing.T) {
	for _, workers := range []int{10, 100} {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, limiter.BreakerConfig{})
			run := func(l limiter.Limiter) int {
				r := rand.New(rand.NewPCG(1, 0))
				var mu sync.Mutex
				s := &shop{
					limiter: l, workers: workers, failure: limiter.ErrUnavailable, failing: ms,
					closing: 25 * time.Second,
					down: func(time.Duration) bool {
						mu.Lock()
						defer mu.Unlock()
						return r.Float64() < 0.3
					},
					duration: 5 * time.Minute,
				}
				s.run(t.Context(), 1)
				return len(s.good)
			}
			with, without := run(b), run(all(t))
			t.Logf("%d slots: %d of %d", workers, with, without)
			require.GreaterOrEqual(t, float64(with), 0.95*float64(without))
		})
	}
}

// One in a hundred requests is for an object that nobody may read.
func TestBreakerLetsForbiddenObjectsBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, limiter.BreakerConfig{})
		for i := range 100_000 {
			p := tryAcquire(t, b)
			time.Sleep(ms)
			if i%100 == 0 {
				p.Release(limiter.ErrMisconfigured)
			} else {
				p.Release(nil)
			}
		}
	})
}
