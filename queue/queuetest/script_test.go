package queuetest_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

func TestScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		given := messages("a", "b", "c")
		given[1] = &queue.Message{ID: "mine", Receipt: "too", Attempt: 7, SentAt: time.Unix(1, 0), FirstReceivedAt: time.Unix(2, 0), Body: []byte("b")}
		s := queuetest.Script(
			queuetest.Deliver(given...),
			queuetest.Fail(boom),
			queuetest.Fail(nil),
			queuetest.Deliver(), // nothing, so the next step is played
			queuetest.Pause(time.Minute),
			queuetest.Deliver(nil),
		)
		copy(given[0].Body, "X")
		o := queue.ReceiveOptions{Max: 2, Lease: time.Hour}
		now := time.Now()
		msgs, err := s.Receive(t.Context(), o)
		require.NoError(t, err)
		require.Equal(t, []*queue.Message{
			{ID: "message-1", Receipt: "receipt-1", Body: []byte("a"), Attempt: 1, SentAt: now, FirstReceivedAt: now, ReceivedAt: now, LeaseUntil: now.Add(time.Hour)},
			{ID: "mine", Receipt: "too", Body: []byte("b"), Attempt: 7, SentAt: time.Unix(1, 0), FirstReceivedAt: time.Unix(2, 0), ReceivedAt: now, LeaseUntil: now.Add(time.Hour)},
		}, msgs)
		msgs, err = s.Receive(t.Context(), o)
		require.NoError(t, err)
		require.Len(t, msgs, 1)
		require.Equal(t, "message-3", msgs[0].ID)
		_, err = s.Receive(t.Context(), o)
		require.ErrorIs(t, err, boom)
		msgs, err = s.Receive(t.Context(), o)
		require.NoError(t, err)
		require.Empty(t, msgs)

		// A receive that ends during a pause does not deliver; the next one
		// continues.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.Receive(ctx, o)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(now))
		msgs, err = s.Receive(t.Context(), o)
		require.NoError(t, err)
		require.Len(t, msgs, 1)
		for range 2 {
			_, err = s.Receive(t.Context(), o)
			require.ErrorIs(t, err, io.EOF)
		}
		_, err = s.Receive(t.Context(), queue.ReceiveOptions{Lease: time.Hour})
		require.ErrorContains(t, err, "Max is 0")
	})
}

// Concurrent receives wait for each other's steps.
func TestScriptInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := queuetest.Script(queuetest.Pause(time.Minute), queuetest.Deliver(messages("a")...), queuetest.Block(), queuetest.Deliver(messages("never")...))
		begin := time.Now()
		got := make(chan []*queue.Message, 2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for range 2 {
			go func() {
				msgs, err := s.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
				if len(msgs) == 0 {
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				got <- msgs
			}()
		}
		require.Equal(t, "a", string((<-got)[0].Body))
		require.Equal(t, time.Minute, time.Since(begin))
		require.Empty(t, <-got)
		require.Equal(t, time.Hour, time.Since(begin))
		_, err := s.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.ErrorIs(t, err, context.DeadlineExceeded, "the block is for good")
	})
}

// Stop ends the wait at a Block, and the wait for another receive that is under
// way. It does not end a Pause, and what follows the Pause is delivered.
func TestScriptStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := queuetest.Script(queuetest.Pause(time.Minute), queuetest.Deliver(messages("a")...), queuetest.Block())
		stop := make(chan struct{})
		o := queue.ReceiveOptions{Max: 1, Lease: time.Minute, Stop: stop}
		begin := time.Now()
		var took [2]time.Duration
		var got [2][]*queue.Message
		var done sync.WaitGroup
		for i := range 2 {
			done.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				msgs, err := s.Receive(t.Context(), o)
				require.NoError(t, err)
				got[i], took[i] = msgs, time.Since(begin)
			})
		}
		time.Sleep(2 * time.Second)
		close(stop)
		done.Wait()
		require.Len(t, got[0], 1)
		require.Equal(t, time.Minute, took[0])
		require.Empty(t, got[1])
		require.Equal(t, 2*time.Second, took[1])
		msgs, err := s.Receive(t.Context(), o)
		require.NoError(t, err)
		require.Empty(t, msgs, "at the block")
	})
}

func TestScriptRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := queuetest.Script(queuetest.Deliver(messages("a", "b")...))
		msgs, err := s.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		require.NoError(t, err)
		begin := time.Now()
		require.NoError(t, s.Extend(ctx, time.Hour, msgs...))
		require.Equal(t, begin.Add(time.Hour), msgs[1].LeaseUntil)
		time.Sleep(time.Second)
		require.NoError(t, s.Nack(ctx, time.Minute, msgs[1]))
		require.NoError(t, s.Ack(ctx, msgs[0]))
		cause := errors.New("gone home")
		cancel(cause)
		require.ErrorIs(t, s.Ack(ctx, msgs[1]), cause)
		require.Equal(t, []queuetest.Settled{
			{Op: queuetest.OpExtend, ID: "message-1", For: time.Hour, At: begin},
			{Op: queuetest.OpExtend, ID: "message-2", For: time.Hour, At: begin},
			{Op: queuetest.OpNack, ID: "message-2", For: time.Minute, At: begin.Add(time.Second)},
			{Op: queuetest.OpAck, ID: "message-1", At: begin.Add(time.Second)},
		}, s.Settled())
		require.Equal(t, []string{"message-1"}, s.IDs(queuetest.OpAck))
		require.Empty(t, s.IDs(queuetest.OpSend))
	})
}

func TestRecorder(t *testing.T) {
	var rec queuetest.Recorder
	m := &queue.Message{Body: []byte("body"), Attributes: map[string]string{"a": "1"}}
	require.NoError(t, rec.Send(t.Context(), m, m))
	copy(m.Body, "XXXX")
	m.Attributes["a"] = "2"
	require.Len(t, rec.Messages(), 2)
	require.Equal(t, &queue.Message{Body: []byte("body"), Attributes: map[string]string{"a": "1"}}, rec.Messages()[1])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, rec.Send(ctx, m), context.Canceled)
	require.Len(t, rec.Messages(), 2)
}
