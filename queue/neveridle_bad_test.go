package queue_test

import (
	"context"
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

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/audit"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// Messages that always fail as if the downstream did leave no slot idle if there
// is always something to do, do not delay the others on a quiet queue, and end
// exhausted.
func TestNeverIdleForBadMessages(t *testing.T) {
	audit.On = false
	t.Cleanup(func() { audit.On = true })
	seeds := []uint64{1, 2, 3, 4, 5} // of fewer, chance could spoil most
	if testrun.Long() {
		seeds = append(seeds, 6, 7, 8, 9)
	}
	median := func(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }
	for name, c := range map[string]struct {
		failure stamped
		share   float64 // of the messages
		least   float64 // percent of the runs without bad messages
	}{
		"503":                                   {stamped{is: limiter.ErrUnavailable}, 0.05, 95},
		"403":                                   {stamped{is: limiter.ErrMisconfigured}, 0.05, 95},
		"429":                                   {stamped{is: limiter.ErrOverload}, 0.05, 95},
		"429, Retry-After":                      {stamped{is: limiter.ErrOverload, after: time.Second}, 0.05, 80},
		"503 for a third, one backend of three": {stamped{is: limiter.ErrUnavailable}, 0.3, 80},
	} {
		if !testrun.Long() && (c.share > 0.1 || c.failure.after > 0) {
			continue // it needs the six minutes
		}
		t.Run(name, func(t *testing.T) {
			var busy, good, late []float64
			for _, seed := range seeds {
				ideal, _, _ := goodOnes(t, seed, nil, 0, 0)
				all, well, _ := goodOnes(t, seed, c.failure, c.share, 0)
				busy = append(busy, 100*float64(all)/float64(ideal))
				good = append(good, 100*float64(well)/float64(ideal)/(1-c.share))
				if c.share < 0.1 {
					_, _, longest := goodOnes(t, seed, c.failure, c.share, time.Second)
					late = append(late, longest.Seconds())
				}
			}
			t.Logf("runs in the last minute, %% of those without bad messages: %.1f, of good ones: %.1f; the longest wait of a good one on a quiet queue, s: %.1f", busy, good, late)
			require.GreaterOrEqual(t, median(busy), c.least)
			if len(late) > 0 {
				require.LessOrEqual(t, median(late), 5+10*c.failure.after.Seconds()) // which stops all until the message is a suspect
			}
		})
	}
}

// A few messages that always fail, and nothing before them to compare them with, do
// not keep a quiet queue waiting.
func TestNeverIdleBehindBadMessages(t *testing.T) {
	for _, bad := range []int{5, 15, 30} {
		for _, class := range []error{limiter.ErrUnavailable, limiter.ErrOverload, limiter.ErrMisconfigured} {
			bubble(t, fmt.Sprint(bad, " ", class), func(t *testing.T) {
				q, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				for range bad {
					require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("bad")}))
				}
				var done atomic.Int64
				r := start(t, q, queue.Config{DeadLetter: dead}, func(_ context.Context, m *queue.Message) error {
					time.Sleep(20 * time.Millisecond)
					if string(m.Body) == "bad" {
						return stamped{is: class}
					}
					done.Add(1)
					return nil
				})
				time.Sleep(10 * time.Second)
				const good = 1800
				for range good {
					require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("good")}))
					time.Sleep(time.Second)
				}
				time.Sleep(time.Minute)
				require.EqualValues(t, good, done.Load())
				require.NoError(t, r.drain())
			})
		}
	}
}

// A rate that messages which always fail could use up goes to the others as well: the
// start that waits is for the fresh message that is received for it.
func TestNeverIdleForBadMessagesAtARate(t *testing.T) {
	for _, ahead := range []bool{true, false} {
		bubble(t, fmt.Sprint("look-ahead ", ahead), func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			for n := range 2000 {
				body := "good"
				if n%3 == 0 {
					body = "bad"
				}
				require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte(body)}))
			}
			bucket, err := limiter.NewTokenBucket(0.5, 1)
			require.NoError(t, err)
			var good atomic.Int64
			cfg := queue.Config{Concurrency: 4, Limiter: bucket, NoBreaker: true, NoPace: true, NoLookAhead: !ahead}
			r := start(t, q, cfg, func(_ context.Context, m *queue.Message) error {
				time.Sleep(time.Millisecond)
				if string(m.Body) == "bad" {
					return stamped{is: limiter.ErrUnavailable}
				}
				good.Add(1)
				return nil
			})
			time.Sleep(time.Hour)
			before := good.Load()
			time.Sleep(10 * time.Minute)
			require.GreaterOrEqual(t, good.Load()-before, int64(100), "of 300")
			require.NoError(t, r.drain())
		})
	}
}

// goodOnes runs a consumer with the defaults over messages of which a share always
// fails, if failure is set, and returns how many handlers start in the last
// minute, how many of them for good messages, and how long one of these waited to
// start. A message comes every gap; 0:
// there is always work.
func goodOnes(t *testing.T, seed uint64, failure error, share float64, gap time.Duration) (runs, good int, longest time.Duration) {
	t.Helper()
	lasts := 6 * time.Minute
	if !testrun.Long() {
		lasts = 3 * time.Minute
	}
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var mu sync.Mutex
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		began := time.Now()
		n := 0
		next := func() *queue.Message {
			n++
			body := "good"
			if failure != nil && rng.Float64() < share {
				body = "bad"
			}
			return &queue.Message{Body: []byte(body), Attributes: map[string]string{"at": strconv.FormatInt(time.Since(began).Nanoseconds(), 10)}}
		}
		r := start(t, q, queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
			at, err := strconv.ParseInt(m.Attributes["at"], 10, 64)
			require.NoError(t, err)
			now := time.Since(began)
			mu.Lock()
			takes := 15*time.Millisecond + time.Duration(rng.Int64N(int64(10*time.Millisecond)))
			if now >= lasts-time.Minute && now < lasts {
				runs++
				if string(m.Body) == "good" {
					good++
				}
			}
			if string(m.Body) == "good" && gap > 0 {
				longest = max(longest, now-time.Duration(at))
			}
			mu.Unlock()
			time.Sleep(takes)
			if string(m.Body) == "bad" {
				return failure
			}
			return nil
		})
		if gap == 0 {
			for time.Since(began) < lasts {
				for q.Stats().Visible < 500 {
					mu.Lock()
					var batch []*queue.Message
					for range 100 {
						batch = append(batch, next())
					}
					mu.Unlock()
					require.NoError(t, q.Send(t.Context(), batch...))
				}
				time.Sleep(100 * time.Millisecond)
			}
		} else {
			for time.Since(began) < 2*time.Hour {
				mu.Lock()
				m := next()
				mu.Unlock()
				require.NoError(t, q.Send(t.Context(), m))
				time.Sleep(gap)
			}
			reasons := map[string]int{}
			for _, m := range dead.Messages() {
				record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute])
				require.NoError(t, err)
				reasons[record.Reason]++
			}
			if failure != nil {
				require.NotEmpty(t, reasons, "two hours are enough for twelve attempts")
				require.Equal(t, fmt.Sprint(map[string]int{retry.ReasonExhausted: len(dead.Messages())}), fmt.Sprint(reasons))
			}
		}
		require.NoError(t, r.drain())
	})
	return runs, good, longest
}
