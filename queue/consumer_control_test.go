package queue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// However the concurrency is changed, a handler starts only while fewer run than
// may, and all slots are used again after it was raised.
func TestConsumer_SetConcurrency(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 3))
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 8000)
			var mu sync.Mutex
			limit, running, most := 10, 0, 0
			src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
			r := start(t, src, queue.Config{Concurrency: limit}, func(context.Context, *queue.Message) error {
				mu.Lock()
				if running++; running > limit {
					t.Errorf("seed %d: %d run, %d may", seed, running, limit)
				}
				most = max(most, running)
				took := time.Duration(random.IntN(200)) * time.Millisecond
				mu.Unlock()
				time.Sleep(took)
				mu.Lock()
				defer mu.Unlock()
				running--
				return nil
			})
			for range 20 {
				time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
				synctest.Wait() // what has been chosen has begun
				mu.Lock()
				limit = 1 + random.IntN(40)
				require.NoError(t, r.SetConcurrency(limit))
				mu.Unlock()
				mu.Lock()
				for running > limit { // those that ran may finish
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
				}
				mu.Unlock()
			}
			require.NoError(t, r.SetConcurrency(1))
			time.Sleep(time.Second)
			mu.Lock()
			limit, most = 60, 0
			require.NoError(t, r.SetConcurrency(limit))
			mu.Unlock()
			time.Sleep(3 * time.Second)
			require.NoError(t, r.drain())
			require.Equal(t, 60, most, "seed %d", seed)
		})
	}
	c, err := queue.NewConsumer(newQueue(t, memqueue.Config{}), queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }), queue.Config{})
	require.NoError(t, err)
	for _, n := range []int{-1, 0, 100_001} {
		require.ErrorContains(t, c.SetConcurrency(n), fmt.Sprint(n))
	}
}
