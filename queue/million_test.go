package queue_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// TestAMillionMessagesLeaveNothingBehind sends and consumes a million messages
// and compares the live heap and the goroutines before and after.
func TestAMillionMessagesLeaveNothingBehind(t *testing.T) {
	if !testrun.Long() {
		t.Skip("a million messages take a while: set RAMPMETER_LONG")
	}
	const total, batch = 1_000_000, 1000
	q := newQueue(t, memqueue.Config{MaxMessages: 10 * batch})
	c, err := queue.NewConsumer(q, queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }),
		queue.Config{Concurrency: 100, Logger: quiet})
	require.NoError(t, err)
	send := func(n int) {
		msgs := make([]*queue.Message, batch)
		for i := range msgs {
			msgs[i] = &queue.Message{Body: make([]byte, 100)}
		}
		for range n / batch {
			require.NoError(t, q.Send(t.Context(), msgs...))
		}
	}
	consume := func(n int) {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		before := q.Stats().Acked
		send(n)
		for q.Stats().Acked < before+uint64(n) {
			runtime.Gosched()
		}
		stop()
		require.NoError(t, <-ended)
	}
	live := func() (bytes uint64, goroutines int) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, runtime.NumGoroutine()
	}

	consume(10 * batch) // what is made only once exists now
	before, goroutines := live()
	consume(total)
	after, goroutinesAfter := live()
	for i := 0; i < 1000 && goroutinesAfter > goroutines; i++ { // a goroutine that has reported that it is done may not have ended
		time.Sleep(time.Millisecond)
		goroutinesAfter = runtime.NumGoroutine()
	}
	t.Logf("live heap %.1f MB before, %.1f MB after; goroutines %d and %d", float64(before)/1e6, float64(after)/1e6, goroutines, goroutinesAfter)
	require.Less(t, int64(after)-int64(before), int64(10<<20))
	require.LessOrEqual(t, goroutinesAfter, goroutines)
	require.EqualValues(t, total+10*batch, c.Stats().Done)
	runtime.KeepAlive(q)
}
