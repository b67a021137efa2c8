package idempotent_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/idempotent"
)

// What the middleware adds to a message: a key that was never seen, and one
// whose operation has succeeded before.
func BenchmarkMemory(b *testing.B) {
	store, err := idempotent.NewMemory(100_000)
	require.NoError(b, err)
	w, err := idempotent.New(store, idempotent.Config{})
	require.NoError(b, err)
	h := w.Wrap(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }))
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			n++
			m := &queue.Message{Attributes: map[string]string{idempotent.KeyAttribute: strconv.Itoa(n)}, Attempt: 1}
			if err := h.Handle(context.Background(), m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("done", func(b *testing.B) {
		b.ReportAllocs()
		m := &queue.Message{Body: []byte("an order"), Attempt: 2}
		for b.Loop() {
			if err := h.Handle(context.Background(), m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
