package queue_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// The limit of held messages is reached, and one more message is buffered that
// can't start: fresh ones are received all the same.
func TestHeld_LetsFreshOnesPass(t *testing.T) {
	const head, good = "head", "good"
	refuse := func(wait time.Duration, done *atomic.Int64) queue.HandlerFunc {
		return func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == head {
				return stamped{limiter.ErrOverload, wait}
			}
			done.Add(1)
			return nil
		}
	}
	bubble(t, "past one behind it in its group", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		send := func(group, body string) {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Group: group, Dedup: group + body, Body: []byte(body)}))
		}
		send("a", head)
		send("a", "behind")
		var done atomic.Int64
		r := start(t, q, queue.Config{Concurrency: 2, Limiter: all(t), NoBreaker: true, NoPace: true, MaxHeld: 1}, refuse(time.Hour, &done))
		time.Sleep(10 * time.Second)
		for i := range 100 {
			send(fmt.Sprint("b", i), good)
		}
		time.Sleep(30 * time.Minute)
		require.EqualValues(t, 100, done.Load(), "%+v", r.Stats())
		require.NoError(t, r.drain())
	})
	bubble(t, "past one that its own limiter keeps waiting", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		own := semaphore(t, 1)
		taken, ok := own.TryAcquire()
		require.True(t, ok)
		defer taken.Cancel()
		send := func(body string) { require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte(body)})) }
		send(head)
		var done atomic.Int64
		r := start(t, q, queue.Config{Concurrency: 2, Limiter: all(t), NoBreaker: true, NoPace: true, MaxHeld: 1, LimiterFor: func(m *queue.Message) limiter.Limiter {
			if string(m.Body) == "parked" {
				return own
			}
			return nil
		}}, refuse(12*time.Minute, &done))
		time.Sleep(10 * time.Second)
		send("parked")
		for range 100 {
			send(good)
		}
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 100, done.Load(), "%+v", r.Stats())
		require.NoError(t, r.drain())
	})
}
