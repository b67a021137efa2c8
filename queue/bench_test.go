package queue_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// BenchmarkConsumer measures the engine with a handler that does nothing: one
// op is a message received, handled and acked. Sending is not measured.
func BenchmarkConsumer(b *testing.B) {
	bucket, err := limiter.NewTokenBucket(1e9, 1e6)
	require.NoError(b, err)
	sem, err := limiter.NewSemaphore(1000)
	require.NoError(b, err)
	for name, l := range map[string]limiter.Limiter{"breaker": nil, "unlimited": all(b), "semaphore+bucket": all(b, sem, bucket)} {
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
				}), queue.Config{Concurrency: concurrency, Limiter: l, Logger: quiet})
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
