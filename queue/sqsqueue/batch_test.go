package sqsqueue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A call whose context ends while it waits for a retry returns at once. For each
// message that is not done it reports that, and the error that it was waiting out.
func TestBatchEndsBetweenTries(t *testing.T) {
	sends := settlers[0]
	sends.name, sends.op = "send", sqsfake.SendMessageBatch
	sends.do = func(ctx context.Context, q *sqsqueue.Queue, msgs ...*queue.Message) error {
		return q.Send(ctx, msgs...)
	}
	for _, s := range append(settlers[:len(settlers):len(settlers)], sends) {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{}
				q := newQueue(t, server, false, nil)
				msgs := sent(t, q, 4)
				throttled := sqsfake.Throttled()
				server.ResetStats()
				server.Plan = sqsfake.First( // nobody calls yet
					sqsfake.On(s.op, sqsfake.Fault{Mode: sqsfake.FailEntries, Err: throttled, Entries: []int{1, 3}}, 1),
					sqsfake.On(s.op, sqsfake.Fault{Mode: sqsfake.Refuse, Err: throttled}),
				)
				if s.op == sqsfake.SendMessageBatch { // it has sent the messages
					server.Plan = sqsfake.On(s.op, sqsfake.Fault{Mode: sqsfake.FailEntries, Err: throttled, Entries: []int{1, 3}}, 2)
				}
				gone := errors.New("gone home")
				ctx, cancel := context.WithCancelCause(t.Context())
				begin := time.Now()
				// Requests take no time here: whatever passes, passes between them.
				time.AfterFunc(time.Nanosecond, func() { cancel(gone) })
				errs := failed(t, s.do(ctx, q, msgs...))
				require.LessOrEqual(t, time.Since(begin), time.Nanosecond)
				require.Equal(t, 1, server.Stats(s.op).Calls)
				require.Len(t, errs, 2)
				for _, i := range []int{1, 3} {
					require.ErrorIs(t, errs[i], gone)
					require.ErrorIs(t, errs[i], limiter.ErrOverload)
					require.ErrorContains(t, errs[i], "gone home, after ")
					require.ErrorContains(t, errs[i], throttled.Message)
				}
			})
		})
	}
}
