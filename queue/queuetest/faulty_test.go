package queuetest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

func messages(bodies ...string) []*queue.Message {
	var msgs []*queue.Message
	for _, body := range bodies {
		msgs = append(msgs, &queue.Message{Body: []byte(body)})
	}
	return msgs
}

func TestFaultModes(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		fault    queuetest.Fault
		sent     int         // of five messages
		received bool        // is the queue's one message leased after a receive
		is       error       // what the calls fail with
		failed   map[int]int // of a BatchError; nil: the error is none
	}{
		{fault: queuetest.Fault{}, sent: 5, received: true},
		{fault: queuetest.Fault{Before: time.Second, After: time.Second}, sent: 5, received: true},
		{fault: queuetest.Fault{Mode: queuetest.Refuse}, is: queuetest.ErrInjected},
		{fault: queuetest.Fault{Mode: queuetest.Refuse, Err: boom}, is: boom},
		{fault: queuetest.Fault{Mode: queuetest.LoseReply}, sent: 5, received: true, is: queuetest.ErrInjected},
		{fault: queuetest.Fault{Mode: queuetest.Half, Err: boom}, sent: 2, is: boom, failed: map[int]int{0: 0, 2: 0, 4: 0}},
		{fault: queuetest.Fault{Mode: queuetest.Hang}, is: context.DeadlineExceeded},
	} {
		t.Run(fmt.Sprintf("%+v", c.fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				q := newQueue(t, memqueue.Config{})
				f := &queuetest.Faulty{Source: q, Sink: q, Plan: func(queuetest.Call) queuetest.Fault { return c.fault }}
				begin := time.Now()
				err := f.Send(ctx, messages("a", "b", "c", "d", "e")...)
				require.ErrorIs(t, err, c.is)
				require.Equal(t, c.sent, q.Stats().Visible)
				var batch *queue.BatchError
				require.Equal(t, c.failed != nil, errors.As(err, &batch))
				for i := range c.failed {
					require.ErrorIs(t, batch.Failed[i], boom)
					require.Len(t, batch.Failed, len(c.failed))
				}
				if c.fault.Mode == queuetest.Hang {
					require.Equal(t, time.Minute, time.Since(begin))
					return
				}
				require.Equal(t, c.fault.Before+c.fault.After, time.Since(begin))

				require.NoError(t, q.Send(t.Context(), messages("f")...))
				msgs, err := f.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Hour})
				require.ErrorIs(t, err, c.is)
				require.Equal(t, c.received, q.Stats().InFlight == 1)
				require.Equal(t, c.is == nil, len(msgs) == 1)

				if c.received && c.is != nil {
					return
				}
				msgs, err = q.Receive(ctx, queue.ReceiveOptions{Max: 2, Lease: time.Hour})
				require.NoError(t, err)
				for _, call := range []func() error{
					func() error { return f.Extend(ctx, time.Minute, msgs...) },
					func() error { return f.Nack(ctx, time.Minute, msgs...) },
					func() error { return f.Ack(ctx, msgs...) },
				} {
					require.ErrorIs(t, call(), c.is)
				}
				for _, op := range []queuetest.Op{queuetest.OpSend, queuetest.OpReceive, queuetest.OpExtend, queuetest.OpNack, queuetest.OpAck} {
					require.Equal(t, 1, f.Calls(op))
				}
				require.Equal(t, 5, f.Calls(""))
			})
		})
	}
}

// The queue's own errors for single messages keep their index.
func TestHalfKeepsErrorsInPlace(t *testing.T) {
	q := newQueue(t, memqueue.Config{})
	f := &queuetest.Faulty{Source: q, Sink: q, Plan: queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.Half})}
	msgs := messages("a", "b", "c", "d")
	msgs[3].Delay = -1
	var batch *queue.BatchError
	require.ErrorAs(t, f.Send(t.Context(), msgs...), &batch)
	require.Len(t, batch.Failed, 3)
	require.ErrorIs(t, batch.Failed[0], queuetest.ErrInjected)
	require.ErrorIs(t, batch.Failed[2], queuetest.ErrInjected)
	require.ErrorContains(t, batch.Failed[3], "Delay")

	q.Close()
	require.ErrorAs(t, f.Send(t.Context(), messages("a", "b")...), &batch)
	require.ErrorIs(t, batch.Failed[1], memqueue.ErrClosed)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorAs(t, f.Send(ctx, messages("a", "b")...), &batch)
	require.ErrorIs(t, batch.Failed[1], context.Canceled)
}

func TestFaultyLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		f := &queuetest.Faulty{Source: q, Sink: q, Latency: 20 * time.Millisecond}
		begin := time.Now()
		require.NoError(t, f.Send(t.Context(), messages("a")...))
		require.Equal(t, 20*time.Millisecond, time.Since(begin))
		msgs, err := f.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.NoError(t, err)
		require.Equal(t, begin.Add(10*time.Millisecond), msgs[0].SentAt, "half of it before the call")
		require.Equal(t, 40*time.Millisecond, time.Since(begin))

		// An end of the context cuts the way there short, and not the way back.
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Millisecond)
		defer cancel()
		begin = time.Now()
		require.NoError(t, f.Send(ctx, messages("b")...))
		require.Equal(t, 20*time.Millisecond, time.Since(begin))
		require.ErrorIs(t, f.Send(ctx, messages("c")...), context.DeadlineExceeded)
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		begin = time.Now()
		require.ErrorIs(t, f.Send(ctx, messages("c")...), context.DeadlineExceeded)
		require.Equal(t, 5*time.Millisecond, time.Since(begin))
		require.Equal(t, uint64(2), q.Stats().Sent)
	})
}

func TestPlans(t *testing.T) {
	refuse, lose := queuetest.Fault{Mode: queuetest.Refuse}, queuetest.Fault{Mode: queuetest.LoseReply}
	// played is the modes that the plan gives to alternate sends and acks.
	played := func(p queuetest.Plan, n int) []queuetest.Mode {
		var modes []queuetest.Mode
		for i := range n {
			op := queuetest.OpSend
			if i%2 == 1 {
				op = queuetest.OpAck
			}
			modes = append(modes, p(queuetest.Call{Op: op, N: i/2 + 1, Total: i + 1}).Mode)
		}
		return modes
	}
	const s, r, l = queuetest.Succeed, queuetest.Refuse, queuetest.LoseReply
	require.Equal(t, []queuetest.Mode{s, s, r, s, s, s}, played(queuetest.OnCall(3, refuse), 6))
	require.Equal(t, []queuetest.Mode{s, r, s, r, s, r}, played(queuetest.On(queuetest.OpAck, refuse), 6))
	require.Equal(t, []queuetest.Mode{r, s, s, s, r, s}, played(queuetest.On(queuetest.OpSend, refuse, 1, 3), 6))
	require.Equal(t, []queuetest.Mode{s, l, r, l, s, l}, played(queuetest.First(queuetest.OnCall(3, refuse), queuetest.On(queuetest.OpAck, lose)), 6))
	require.Equal(t, []queuetest.Mode{s, s}, played(queuetest.First(), 2))
	require.Equal(t, []queuetest.Mode{s, s}, played(queuetest.Random(1, 1), 2))

	random := played(queuetest.Random(7, 0.05, refuse, lose), 10_000)
	require.Equal(t, random, played(queuetest.Random(7, 0.05, refuse, lose), 10_000))
	require.NotEqual(t, random, played(queuetest.Random(8, 0.05, refuse, lose), 10_000))
	count := make(map[queuetest.Mode]int)
	for _, mode := range random {
		count[mode]++
	}
	require.InDelta(t, 250, count[r], 80)
	require.InDelta(t, 250, count[l], 80)
}

// The plan sees the call's messages.
func TestPlanSeesMessages(t *testing.T) {
	var rec queuetest.Recorder
	f := &queuetest.Faulty{Sink: &rec, Plan: func(c queuetest.Call) queuetest.Fault {
		if len(c.Messages) == 1 && string(c.Messages[0].Body) == "poison" {
			return queuetest.Fault{Mode: queuetest.Refuse}
		}
		return queuetest.Fault{}
	}}
	require.NoError(t, f.Send(t.Context(), messages("a")...))
	require.ErrorIs(t, f.Send(t.Context(), messages("poison")...), queuetest.ErrInjected)
	require.Len(t, rec.Messages(), 1)
}
