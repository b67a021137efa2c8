package idempotent_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/idempotent"
)

// The cost that the middleware adds to a message: with a new key, in a store that is
// full, as in the long run; and with a key whose operation has already succeeded. The
// cost of computing the key is not included.
func BenchmarkMemory(b *testing.B) {
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = "order-" + strconv.Itoa(i)
	}
	n := 0
	run := func(b *testing.B, key func(*queue.Message) (string, error)) {
		store, err := idempotent.NewMemory(10_000)
		require.NoError(b, err)
		w, err := idempotent.New(store, idempotent.Config{Key: key})
		require.NoError(b, err)
		h := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }))
		m := &queue.Message{Body: []byte("an order"), Attempt: 1}
		for range 20_000 {
			require.NoError(b, h.Handle(context.Background(), m))
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := h.Handle(context.Background(), m); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("new", func(b *testing.B) {
		run(b, func(*queue.Message) (string, error) { n++; return keys[n%len(keys)], nil })
	})
	b.Run("done", func(b *testing.B) {
		run(b, func(*queue.Message) (string, error) { return keys[0], nil })
	})
	b.Run("done, by the body's hash", func(b *testing.B) { run(b, nil) })
}
