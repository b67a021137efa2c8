package memqueue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

func TestStaleReceipts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := newQueue(t, memqueue.Config{})
		send(t, q, message("a"))
		old := receive(t, q, 1, time.Minute)[0]
		time.Sleep(time.Minute)
		for _, err := range []error{q.Extend(ctx, time.Minute, old), q.Nack(ctx, 0, old), q.Nack(ctx, time.Minute, old)} {
			require.Equal(t, map[int]error{0: queue.ErrLeaseLost}, failed(t, err))
		}
		require.Equal(t, [3]int{1, 0, 0}, depth(q))

		m := receive(t, q, 1, time.Minute)[0]
		require.NoError(t, q.Ack(ctx, old))
		require.Equal(t, [3]int{0, 0, 1}, depth(q), "it was received again since, and stays")
		for _, err := range []error{q.Extend(ctx, 0, old), q.Nack(ctx, 0, old)} {
			require.Equal(t, map[int]error{0: queue.ErrLeaseLost}, failed(t, err))
		}
		require.Equal(t, [3]int{0, 0, 1}, depth(q))

		// The latest receipt deletes, even when its lease is over.
		time.Sleep(time.Minute)
		require.NoError(t, q.Ack(ctx, m))
		require.Equal(t, [3]int{}, depth(q))
		require.NoError(t, q.Ack(ctx, m, old), "gone already")
		require.Equal(t, map[int]error{0: queue.ErrLeaseLost}, failed(t, q.Nack(ctx, 0, m)))
		require.Equal(t, uint64(1), q.Stats().Acked)
	})
}

func TestReceiptsOfOthers(t *testing.T) {
	ctx := t.Context()
	q, other := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
	send(t, q, message("a"))
	send(t, other, message("a"))
	m, foreign := receive(t, q, 1, time.Minute)[0], receive(t, other, 1, time.Minute)[0]
	bad := []*queue.Message{foreign, nil, {}, {Receipt: m.ID}, {Receipt: m.ID + "."}, {Receipt: m.Receipt + "x"}, {Receipt: "." + m.Receipt}}
	for _, err := range []error{q.Ack(ctx, bad...), q.Nack(ctx, 0, bad...), q.Extend(ctx, time.Minute, bad...)} {
		errs := failed(t, err)
		require.Len(t, errs, len(bad))
		require.ErrorContains(t, errs[0], "not one of this queue")
		require.NotErrorIs(t, errs[0], queue.ErrLeaseLost)
	}
	require.Equal(t, [3]int{0, 0, 1}, depth(q))
}

func TestLeaseCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := newQueue(t, memqueue.Config{})
		send(t, q, message("a"))
		received := time.Now()
		m := receive(t, q, 1, 12*time.Hour)[0]
		time.Sleep(11 * time.Hour)
		require.NoError(t, q.Extend(ctx, time.Minute, m))
		require.Equal(t, time.Now().Add(time.Minute), m.LeaseUntil, "an extension can be shorter")
		require.NoError(t, q.Extend(ctx, 1<<63-1, m))
		require.Equal(t, received.Add(12*time.Hour), m.LeaseUntil)
		time.Sleep(time.Hour - 1)
		require.NoError(t, q.Extend(ctx, time.Hour, m))
		require.Equal(t, received.Add(12*time.Hour), m.LeaseUntil)
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, q.Extend(ctx, time.Hour, m), queue.ErrLeaseLost)

		m = receive(t, q, 1, time.Minute)[0]
		begin := time.Now()
		require.NoError(t, q.Nack(ctx, 1<<63-1, m))
		time.Sleep(12*time.Hour - 1)
		require.Equal(t, [3]int{0, 0, 1}, depth(q))
		receive(t, q, 1, time.Minute)
		require.Equal(t, 12*time.Hour, time.Since(begin))
	})
}

// A Nack that is done again, because its reply was lost, is as good as one.
func TestNackTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := newQueue(t, memqueue.Config{})
		send(t, q, message("a"))
		m := receive(t, q, 1, time.Minute)[0]
		require.NoError(t, q.Nack(ctx, time.Second, m))
		require.NoError(t, q.Nack(ctx, time.Second, m))
		require.NoError(t, q.Nack(ctx, 0, m))
		require.Equal(t, map[int]error{0: queue.ErrLeaseLost}, failed(t, q.Nack(ctx, 0, m)))
		require.NoError(t, q.Ack(ctx, m), "nobody has received it since")
		require.Equal(t, [3]int{}, depth(q))
	})
}

func TestSettleRefuses(t *testing.T) {
	q := newQueue(t, memqueue.Config{})
	send(t, q, message("a"))
	m := receive(t, q, 1, time.Minute)[0]
	require.ErrorContains(t, q.Nack(t.Context(), -1, m), "delay is -1ns")
	require.ErrorContains(t, q.Extend(t.Context(), -1, m), "lease is -1ns")

	cause := errors.New("gone home")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for _, err := range []error{q.Ack(ctx, m), q.Nack(ctx, 0, m), q.Extend(ctx, time.Hour, m), q.Send(ctx, m)} {
		require.ErrorIs(t, err, cause)
	}
	require.Equal(t, [3]int{0, 0, 1}, depth(q))
}

// What a handler does to a message must reach neither the queue nor the
// messages that were received with it.
func TestMessagesShareNothing(t *testing.T) {
	q := newQueue(t, memqueue.Config{})
	send(t, q, message("aaaa"), message("bbbb"), message("cccc"))
	msgs := receive(t, q, 3, time.Minute)
	msgs[0].Body = append(msgs[0].Body, "XXXXXXXX"...)
	msgs[1].Body = append(msgs[1].Body[:0], "YYYY"...)
	require.Equal(t, []string{"aaaaXXXXXXXX", "YYYY", "cccc"}, bodies(msgs))
	require.NoError(t, q.Nack(t.Context(), 0, msgs...))
	require.Equal(t, []string{"aaaa", "bbbb", "cccc"}, bodies(receive(t, q, 3, time.Minute)))
}
