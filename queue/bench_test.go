package queue_test

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/audit"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// BenchmarkConsumer measures the engine with a handler that does nothing: one
// op is a message received, handled and acked. Sending is not measured.
func BenchmarkConsumer(b *testing.B) {
	audit.On = false // a consumer in production does no recounts
	b.Cleanup(func() { audit.On = true })
	bucket, err := limiter.NewTokenBucket(1e9, 1e6)
	require.NoError(b, err)
	sem, err := limiter.NewSemaphore(1000)
	require.NoError(b, err)
	for name, l := range map[string]limiter.Limiter{"default": nil, "unlimited": all(b), "semaphore+bucket": all(b, sem, bucket)} {
		for _, concurrency := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("%s/%d", name, concurrency), func(b *testing.B) {
				q, err := memqueue.New(memqueue.Config{})
				require.NoError(b, err)
				body := make([]byte, 100)
				msgs := make([]*queue.Message, 0, 1000)
				for range b.N {
					if msgs = append(msgs, &queue.Message{Body: body}); len(msgs) == cap(msgs) {
						require.NoError(b, q.Send(b.Context(), msgs...))
						msgs = msgs[:0]
					}
				}
				if len(msgs) > 0 {
					require.NoError(b, q.Send(b.Context(), msgs...))
				}
				q.Close()
				var n atomic.Int64
				c, err := queue.NewConsumer(q, queue.HandlerFunc(func(context.Context, *queue.Message) error {
					n.Add(1)
					return nil
				}), queue.Config{Concurrency: concurrency, Limiter: l, NoBreaker: l != nil, NoPace: l != nil, Logger: quiet})
				require.NoError(b, err)
				b.ReportAllocs()
				b.ResetTimer()
				require.NoError(b, c.Run(b.Context()))
				b.StopTimer()
				require.EqualValues(b, b.N, n.Load())
				s := c.Stats()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
				b.ReportMetric(float64(s.ReceiveCalls+s.AckCalls)/float64(b.N), "calls/op")
			})
		}
	}
}

// BenchmarkHeld measures the same while messages are held: one op is a message
// received, handled and acked.
func BenchmarkHeld(b *testing.B) {
	audit.On = false
	b.Cleanup(func() { audit.On = true })
	for _, n := range []int{100, 10_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			q, err := memqueue.New(memqueue.Config{})
			require.NoError(b, err)
			var refused, done atomic.Int64
			refusedAll := make(chan struct{})
			c, err := queue.NewConsumer(q, queue.HandlerFunc(func(_ context.Context, m *queue.Message) error {
				switch {
				case m.Body[0] == 'h':
					if refused.Add(1) == int64(n) {
						close(refusedAll)
					}
					return retry.After(time.Hour, limiter.ErrOverload)
				case done.Add(1) == int64(b.N):
					q.Close()
				}
				return nil
			}), queue.Config{Concurrency: 10, Limiter: all(b), NoBreaker: true, NoPace: true, MaxHeld: 2 * n, MaxHold: 2 * time.Hour, Logger: quiet})
			require.NoError(b, err)
			send := func(kind byte, n int) {
				for ; n > 0; n -= 1000 {
					msgs := make([]*queue.Message, min(n, 1000))
					for i := range msgs {
						msgs[i] = &queue.Message{Body: []byte{kind}}
					}
					require.NoError(b, q.Send(b.Context(), msgs...))
				}
			}
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			send('h', n)
			go func() { ended <- c.Run(ctx) }()
			<-refusedAll
			b.ResetTimer()
			send('f', b.N)
			for done.Load() < int64(b.N) {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			stop()
			require.NoError(b, <-ended)
		})
	}
}
