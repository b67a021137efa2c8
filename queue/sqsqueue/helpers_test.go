package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// newQueue returns an empty queue of the server, named "orders".
func newQueue(t *testing.T, server *sqsfake.Server, fifo bool, attributes map[string]string) *sqsqueue.Queue {
	t.Helper()
	name := "orders"
	all := map[string]string{}
	if fifo {
		name += ".fifo"
		all["FifoQueue"] = "true"
	}
	for k, v := range attributes {
		all[k] = v
	}
	url, err := server.CreateQueue(name, all)
	require.NoError(t, err)
	q, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return q
}

func message(body string) *queue.Message { return &queue.Message{Body: []byte(body)} }

// messages returns n messages with the bodies 0, 1, 2...
func messages(n int) []*queue.Message {
	msgs := make([]*queue.Message, n)
	for i := range msgs {
		msgs[i] = message(fmt.Sprint(i))
	}
	return msgs
}

func send(t *testing.T, q *sqsqueue.Queue, msgs ...*queue.Message) {
	t.Helper()
	require.NoError(t, q.Send(t.Context(), msgs...))
}

func receive(t *testing.T, q *sqsqueue.Queue, max int, lease time.Duration) []*queue.Message {
	t.Helper()
	msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: max, Lease: lease})
	require.NoError(t, err)
	return msgs
}

// sent sends n messages and receives them.
func sent(t *testing.T, q *sqsqueue.Queue, n int) []*queue.Message {
	t.Helper()
	send(t, q, messages(n)...)
	var msgs []*queue.Message
	for len(msgs) < n {
		msgs = append(msgs, receive(t, q, n-len(msgs), 30*time.Second)...)
	}
	return msgs
}

// failed returns what err says of each message; nil says that all were done.
func failed(t *testing.T, err error) map[int]error {
	t.Helper()
	if err == nil {
		return nil
	}
	var batch *queue.BatchError
	require.True(t, errors.As(err, &batch), "%v", err)
	return batch.Failed
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
