package sqsqueue_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// settlers are the calls that settle messages, and the operation behind each.
var settlers = []struct {
	name string
	op   sqsfake.Op
	do   func(ctx context.Context, q *sqsqueue.Queue, msgs ...*queue.Message) error
}{
	{"ack", sqsfake.DeleteMessageBatch, func(ctx context.Context, q *sqsqueue.Queue, msgs ...*queue.Message) error {
		return q.Ack(ctx, msgs...)
	}},
	{"nack", sqsfake.ChangeMessageVisibilityBatch, func(ctx context.Context, q *sqsqueue.Queue, msgs ...*queue.Message) error {
		return q.Nack(ctx, 0, msgs...)
	}},
	{"nack later", sqsfake.ChangeMessageVisibilityBatch, func(ctx context.Context, q *sqsqueue.Queue, msgs ...*queue.Message) error {
		return q.Nack(ctx, time.Hour, msgs...)
	}},
	{"extend", sqsfake.ChangeMessageVisibilityBatch, func(ctx context.Context, q *sqsqueue.Queue, msgs ...*queue.Message) error {
		return q.Extend(ctx, time.Hour, msgs...)
	}},
}

// Whatever goes wrong once with a request succeeds in a second one, and only the
// messages that failed are in it.
func TestSettleAsksAgain(t *testing.T) {
	for name, c := range map[string]struct {
		fault sqsfake.Fault
		again int // messages in the second request
	}{
		"throttled":     {sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, 5},
		"503":           {sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.ServiceUnavailable()}, 5},
		"reset":         {sqsfake.Fault{Mode: sqsfake.Reset}, 5},
		"lost reply":    {sqsfake.Fault{Mode: sqsfake.LoseReply}, 5},
		"cut reply":     {sqsfake.Fault{Mode: sqsfake.Truncate}, 5},
		"hangs":         {sqsfake.Fault{Mode: sqsfake.Hang}, 5},
		"entries":       {sqsfake.Fault{Mode: sqsfake.FailEntries, Entries: []int{1, 4}}, 2},
		"throttles one": {sqsfake.Fault{Mode: sqsfake.FailEntries, Err: sqsfake.Throttled(), Entries: []int{0}}, 1},
		"omitted":       {sqsfake.Fault{Mode: sqsfake.OmitEntries, Entries: []int{2}}, 1},
		"omitted, done": {sqsfake.Fault{Mode: sqsfake.OmitDone, Entries: []int{2, 3, 4}}, 3},
	} {
		for _, s := range settlers {
			t.Run(name+"/"+s.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := &sqsfake.Server{Plan: sqsfake.On(s.op, c.fault, 1)}
					q := newQueue(t, server, false, nil)
					msgs := sent(t, q, 5)
					require.NoError(t, s.do(within(t, 10*time.Second), q, msgs...))
					require.Equal(t, 2, server.Stats(s.op).Calls)
					state := server.Queue("orders")
					switch s.name {
					case "ack":
						require.Equal(t, 5, state.Deleted)
					case "nack":
						require.Equal(t, 5, state.Visible)
					default:
						require.Equal(t, 5, state.InFlight)
						time.Sleep(time.Hour - 10*time.Second)
						require.Equal(t, 5, server.Queue("orders").InFlight)
					}
				})
			})
		}
	}
}

func TestSettleGivesUp(t *testing.T) {
	for _, s := range settlers {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fault := sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}
				server := &sqsfake.Server{Plan: func(c sqsfake.Call) sqsfake.Fault {
					return sqsfake.On(s.op, fault)(c)
				}}
				q := newQueue(t, server, false, nil)
				msgs := sent(t, q, 3)
				begin := time.Now()
				errs := failed(t, s.do(t.Context(), q, msgs...))
				require.Len(t, errs, 3)
				for _, err := range errs {
					require.ErrorIs(t, err, limiter.ErrOverload)
				}
				require.Less(t, time.Since(begin), 5*time.Second)
				require.Equal(t, 6, server.Stats(s.op).Calls)

				// The call's time ends it sooner.
				fault = sqsfake.Fault{Mode: sqsfake.Hang}
				begin = time.Now()
				errs = failed(t, s.do(within(t, 5*time.Second), q, msgs...))
				require.Len(t, errs, 3)
				require.ErrorIs(t, errs[0], context.DeadlineExceeded)
				require.Equal(t, 5*time.Second, time.Since(begin))

				// Failures that waiting does not help are not retried.
				server.ResetStats()
				fault = sqsfake.Fault{Mode: sqsfake.FailEntries, Err: sqsfake.AccessDenied(), Entries: []int{1}}
				errs = failed(t, s.do(t.Context(), q, msgs...))
				require.Len(t, errs, 1)
				require.ErrorIs(t, errs[1], limiter.ErrMisconfigured)
				require.Equal(t, 1, server.Stats(s.op).Calls)
			})
		})
	}
}

func TestSettleEndedContext(t *testing.T) {
	q := newQueue(t, &sqsfake.Server{}, false, nil)
	cause := errors.New("gone home")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for _, s := range settlers {
		require.ErrorIs(t, s.do(ctx, q, message("a")), cause)
	}
	require.ErrorIs(t, q.Send(ctx, message("a")), cause)
	_, err := q.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
	require.ErrorIs(t, err, cause)
}

func TestSettleRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, false, nil)
		m := sent(t, q, 1)[0]
		require.ErrorContains(t, q.Nack(t.Context(), -1, m), "delay is -1ns")
		require.ErrorContains(t, q.Extend(t.Context(), -1, m), "lease is -1ns")
		for _, s := range settlers {
			errs := failed(t, s.do(t.Context(), q, nil, &queue.Message{}))
			require.Len(t, errs, 2)
			require.ErrorContains(t, errs[0], "nil")
			require.ErrorContains(t, errs[1], "Receipt")
			errs = failed(t, s.do(t.Context(), q, &queue.Message{Receipt: "nonsense"}))
			require.ErrorIs(t, errs[0], queue.ErrLeaseLost)
		}
		require.NoError(t, q.Ack(t.Context(), m))
	})
}

// Delays and leases are whole seconds, and not shorter than asked.
func TestSecondsRoundUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, false, nil)
		m := sent(t, q, 1)[0]
		begin := time.Now()
		require.NoError(t, q.Nack(t.Context(), time.Second+1, m))
		m = receive(t, q, 1, 5*time.Second+1)[0]
		require.Equal(t, 2*time.Second, time.Since(begin))
		require.Equal(t, 6*time.Second, m.LeaseUntil.Sub(begin), "the service may have handed it out when the receive began")
		require.NoError(t, q.Extend(t.Context(), 4*time.Second+1, m))
		require.Equal(t, 7*time.Second, m.LeaseUntil.Sub(begin))
		require.Len(t, receive(t, q, 1, 30*time.Second), 1)
		require.Equal(t, 7*time.Second, time.Since(begin))
	})
}

// A FIFO queue refuses to delete what is not leased any more.
func TestAckOfLostLeaseFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, true, nil)
		send(t, q, &queue.Message{Body: []byte("a"), Group: "g", Dedup: "a"})
		m := receive(t, q, 1, 10*time.Second)[0]
		time.Sleep(11 * time.Second)
		errs := failed(t, q.Ack(t.Context(), m))
		require.ErrorIs(t, errs[0], queue.ErrLeaseLost)
		require.Len(t, receive(t, q, 1, 10*time.Second), 1)
	})
}

// The twelve hours count from the receive; a message can be hidden until their
// end and not longer.
func TestTwelveHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		q := newQueue(t, server, false, nil)
		send(t, q, message("a"))
		begin := time.Now()
		m := receive(t, q, 1, time.Hour)[0]
		for at := 30 * time.Minute; at < 12*time.Hour; at += 30 * time.Minute {
			time.Sleep(time.Until(begin.Add(at)))
			require.NoError(t, q.Extend(t.Context(), time.Hour, m), "at %v", at)
			require.False(t, m.LeaseUntil.After(begin.Add(12*time.Hour)))
			require.GreaterOrEqual(t, m.LeaseUntil.Sub(begin), min(at+time.Hour, 12*time.Hour-time.Second))
		}
		time.Sleep(time.Until(begin.Add(12*time.Hour - time.Second)))
		calls := server.Stats(sqsfake.ChangeMessageVisibilityBatch).Calls
		errs := failed(t, q.Extend(t.Context(), time.Hour, m))
		require.ErrorIs(t, errs[0], queue.ErrLeaseLost)
		require.Equal(t, calls, server.Stats(sqsfake.ChangeMessageVisibilityBatch).Calls, "there is nothing to ask for")
	})
}

// A receipt handle from a receive outside this package does not say since when its
// message is hidden.
func TestTwelveHoursOfBareHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, false, nil)
		m := sent(t, q, 1)[0]
		begin := m.ReceivedAt
		require.NoError(t, q.Extend(t.Context(), 12*time.Hour, m))
		_, handle, _ := strings.Cut(m.Receipt, "@")
		time.Sleep(7 * time.Hour)
		known := &queue.Message{Receipt: handle, ReceivedAt: begin}
		require.NoError(t, q.Extend(t.Context(), 12*time.Hour, known))
		require.InDelta(t, 12*time.Hour, known.LeaseUntil.Sub(begin), float64(2*time.Second))
		bare := &queue.Message{Receipt: handle}
		require.NoError(t, q.Extend(t.Context(), 12*time.Hour, bare))
		require.False(t, bare.LeaseUntil.After(begin.Add(12*time.Hour)))
		require.Greater(t, time.Until(bare.LeaseUntil), time.Hour)
		require.NoError(t, q.Nack(t.Context(), 12*time.Hour, bare))
	})
}

// picky is a client of a service that refuses a whole batch for one receipt
// handle that it does not like.
type picky struct{ *sqs.Client }

func (p picky) DeleteMessageBatch(ctx context.Context, in *sqs.DeleteMessageBatchInput, o ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error) {
	for _, e := range in.Entries {
		if *e.ReceiptHandle == "bad" {
			return nil, &smithy.GenericAPIError{Code: "ReceiptHandleIsInvalid"}
		}
	}
	return p.Client.DeleteMessageBatch(ctx, in, o...)
}

func TestOneBadEntryHarmsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		msgs := sent(t, newQueue(t, server, false, nil), 5)
		q, err := sqsqueue.New(picky{server.Client()}, server.URL("orders"), sqsqueue.Config{})
		require.NoError(t, err)
		msgs[2] = &queue.Message{Receipt: "bad"}
		errs := failed(t, q.Ack(t.Context(), msgs...))
		require.Len(t, errs, 1)
		require.ErrorIs(t, errs[2], queue.ErrLeaseLost)
		require.Equal(t, 4, server.Queue("orders").Deleted)
	})
}
