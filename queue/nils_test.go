package queue_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// A sink is only a queue's sending half, and a different value than the queue.
type sink struct{ queue.Sink }

// A source that can't be compared is nobody's dead-letter queue.
type uncomparable struct {
	queue.Source
	queue.Sink
	_ []int
}

// A nil is rejected, by name, however it is hidden: a caller that drops a
// constructor's error holds a nil pointer.
func TestNilsAreRefused(t *testing.T) {
	q, h := newQueue(t, memqueue.Config{}), queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil })
	var none *memqueue.Queue
	var breaker *limiter.Breaker
	refused := func(want string, src queue.Source, h queue.Handler, cfg queue.Config) {
		t.Helper()
		c, err := queue.NewConsumer(src, h, cfg)
		require.ErrorContains(t, err, want)
		require.Nil(t, c)
	}
	refused("Source is nil (a *memqueue.Queue)", none, h, queue.Config{})
	refused("Handler is nil (a *queue_test.working)", q, (*working)(nil), queue.Config{})
	refused("Config.Limiter is nil (a *limiter.Breaker)", q, h, queue.Config{Limiter: breaker})
	refused("Config.Gate is nil (a *limiter.Breaker)", q, h, queue.Config{Gate: breaker})
	refused("Config.Gate is nil (a *limiter.Breaker)", q, h, queue.Config{Limiter: breaker, Gate: breaker})
	refused("Config.DeadLetter is nil (a *memqueue.Queue)", q, h, queue.Config{DeadLetter: none})
	refused("Config.DeadLetter is the Source itself", q, h, queue.Config{DeadLetter: q})

	_, err := queue.NewConsumer(q, h, queue.Config{DeadLetter: sink{q}})
	require.NoError(t, err)
	odd := uncomparable{Source: q, Sink: q}
	_, err = queue.NewConsumer(odd, h, queue.Config{DeadLetter: odd})
	require.NoError(t, err)
}

// Functions that make handlers pass a nil on, and the consumer rejects it.
func TestNilHandlersAreRefused(t *testing.T) {
	q := newQueue(t, memqueue.Config{})
	h := queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil })
	typed := func(context.Context, *queue.Message, int) error { return nil }
	through := func(h queue.Handler) queue.Handler { return sameHandler{h} }
	for name, nothing := range map[string]queue.Handler{
		"Chain of nil":              queue.Chain(nil),
		"Chain around nil":          queue.Chain(queue.HandlerFunc(nil), through),
		"Chain of a nil middleware": queue.Chain(h, through, nil),
		"Chain of one that drops":   queue.Chain(h, through, func(queue.Handler) queue.Handler { return nil }),
		"Timeout":                   queue.Timeout(1)(nil),
		"Decode without unmarshal":  queue.Decode(nil, typed),
		"Decode of nil":             queue.Decode[int](json.Unmarshal, nil),
	} {
		_, err := queue.NewConsumer(q, nothing, queue.Config{})
		require.ErrorContains(t, err, "Handler is nil", name)
	}
	_, err := queue.NewConsumer(q, queue.Chain(h, through), queue.Config{})
	require.NoError(t, err)
}

type working struct{}

func (*working) Handle(context.Context, *queue.Message) error { return nil }

type sameHandler struct{ queue.Handler }
