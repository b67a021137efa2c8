package queue_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// All slots are used after the concurrency was raised, and none beyond the new
// limit after it was lowered.
func TestConsumer_SetConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 8000)
		var mu sync.Mutex // guards running and most
		running, most := 0, 0
		r := start(t, &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}, queue.Config{Concurrency: 10}, func(context.Context, *queue.Message) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			running--
			return nil
		})
		for _, n := range []int{1, 60, 7, 40} {
			require.NoError(t, r.SetConcurrency(n))
			time.Sleep(2 * time.Second)
			mu.Lock()
			most = 0
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			require.Equal(t, n, most)
			mu.Unlock()
		}
		require.NoError(t, r.drain())
	})
	c, err := queue.NewConsumer(newQueue(t, memqueue.Config{}), queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }), queue.Config{})
	require.NoError(t, err)
	for _, n := range []int{-1, 0, 100_001} {
		require.ErrorContains(t, c.SetConcurrency(n), fmt.Sprint(n))
	}
}

// Whatever fails, whatever the pace is, and however often the concurrency is
// changed, no more handlers run than allowed, and no more start than the bucket
// admits.
func TestConsumer_NeverOver(t *testing.T) {
	for seed := range seeds(1000) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 5))
			rate, burst := 5+395*random.Float64(), 1+random.IntN(20) // or the slots bind
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 4000)
			var mu sync.Mutex // guards all below
			limit, running, began := 1+random.IntN(40), 0, time.Now()
			var starts []float64 // in seconds
			src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
			cfg := queue.Config{Concurrency: limit, Limiter: bucket(t, rate, burst), DeadLetter: newQueue(t, memqueue.Config{}), Logger: quiet}
			r := start(t, src, cfg, func(context.Context, *queue.Message) error {
				mu.Lock()
				if running++; running > limit {
					t.Errorf("seed %d: %d run, %d may", seed, running, limit)
				}
				starts = append(starts, time.Since(began).Seconds())
				took, fate := time.Duration(random.IntN(500))*time.Millisecond, random.IntN(50)
				mu.Unlock()
				time.Sleep(took)
				mu.Lock()
				defer mu.Unlock()
				running--
				switch {
				case fate < 4:
					return bare429
				case fate < 6:
					return stamped{is: limiter.ErrOverload, after: time.Duration(random.IntN(3000)) * time.Millisecond}
				case fate < 8:
					return stamped{is: limiter.ErrUnavailable}
				case fate < 9:
					return stamped{is: limiter.ErrMisconfigured}
				case fate < 10:
					return io.ErrUnexpectedEOF
				}
				return nil
			})
			steps := rand.New(rand.NewPCG(seed, 6))
			for range 20 {
				time.Sleep(time.Duration(steps.IntN(2000)) * time.Millisecond)
				synctest.Wait() // what has been chosen has begun
				mu.Lock()
				limit = 1 + steps.IntN(40) // those that run may finish
				require.NoError(t, r.SetConcurrency(limit))
				mu.Unlock()
			}
			require.NoError(t, r.drain())
			require.NotEmpty(t, starts, "seed %d", seed)
			least := math.Inf(1) // of i - rate * starts[i]
			for i, at := range starts {
				least = min(least, float64(i)-rate*at)
				require.LessOrEqual(t, float64(i+1)-rate*at-least, float64(burst)+1e-6, "seed %d: start %d, rate %.1f, burst %d", seed, i, rate, burst)
			}
		})
	}
}

// While a consumer is paused nothing starts and nothing is received. What was not
// started is returned, and no attempt counts; running handlers continue.
func TestConsumer_Pause(t *testing.T) {
	for _, fifo := range []bool{false, true} {
		bubble(t, fmt.Sprint("fifo ", fifo), func(t *testing.T) {
			var log bytes.Buffer
			q := newQueue(t, memqueue.Config{FIFO: fifo, Wait: time.Second})
			fillGroups(t, q, 20, 5)
			var mu sync.Mutex
			starts, most := 0, 0
			r := start(t, q, queue.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				starts++
				most = max(most, m.Attempt)
				mu.Unlock()
				time.Sleep(10 * time.Second)
				return nil
			})
			time.Sleep(time.Second)
			r.Pause("the API is being moved")
			mu.Lock()
			before := starts
			mu.Unlock()
			time.Sleep(time.Minute)
			s, qs := r.Stats(), q.Stats()
			mu.Lock()
			require.Equal(t, before, starts, "nothing starts")
			mu.Unlock()
			require.Equal(t, limiter.ByValve, s.Blocked.Reason)
			require.EqualError(t, s.Blocked.Cause, "the API is being moved")
			require.Zero(t, s.InHand, "%+v", s)
			require.EqualValues(t, 10, s.Done, "what ran has ended")
			require.Equal(t, 90, qs.Visible)
			time.Sleep(time.Hour)
			require.Equal(t, qs.Received, q.Stats().Received, "nothing is received")
			r.Resume()
			time.Sleep(10 * time.Minute)
			require.NoError(t, r.drain())
			require.EqualValues(t, 100, r.Stats().Done)
			require.LessOrEqual(t, most, 2)
			require.Contains(t, log.String(), `blocked_by=valve cause="the API is being moved"`)
			require.Contains(t, log.String(), "receiving again")
		})
	}
}
