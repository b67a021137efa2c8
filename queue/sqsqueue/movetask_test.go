package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// moveQueues makes a queue "orders" with n messages that its policy has moved to
// "dead".
func moveQueues(t *testing.T, server *sqsfake.Server, n int) (dead, orders string) {
	t.Helper()
	dead, err := server.CreateQueue("dead", nil)
	require.NoError(t, err)
	q := newQueue(t, server, false, map[string]string{"RedrivePolicy": fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":1}`, server.ARN("dead"))})
	require.NoError(t, q.Send(t.Context(), messages(n)...))
	for server.Queue("dead").Visible < n {
		_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Second})
		require.NoError(t, err)
	}
	return dead, q.URL()
}

func TestMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		dead, orders := moveQueues(t, &server, 100)
		var seen []sqsqueue.MoveProgress
		begin := time.Now()
		p, err := sqsqueue.Move(t.Context(), server.Client(), dead, sqsqueue.MoveConfig{Rate: 10, OnProgress: func(p sqsqueue.MoveProgress) { seen = append(seen, p) }})
		require.NoError(t, err)
		require.Equal(t, sqsqueue.MoveProgress{Moved: 100, Total: 100}, p)
		require.Equal(t, 100, server.Queue(orders).Visible)
		require.Equal(t, 12*time.Second, time.Since(begin))
		require.Len(t, seen, 6)
		require.EqualValues(t, 100, seen[1].Total)
		require.InDelta(t, 40, seen[1].Moved, 1, "one may be moved at this very instant")
	})
}

// The task is cancelled when the context ends, and the rest stays.
func TestMove_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		dead, orders := moveQueues(t, &server, 100)
		ctx, cancel := context.WithTimeout(t.Context(), 3050*time.Millisecond)
		defer cancel()
		p, err := sqsqueue.Move(ctx, server.Client(), dead, sqsqueue.MoveConfig{Rate: 10})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.InDelta(t, 30, p.Moved, 1)
		time.Sleep(time.Minute)
		require.EqualValues(t, p.Moved, server.Queue(orders).Visible)
		require.EqualValues(t, 100-p.Moved, server.Queue(dead).Visible)
	})
}

// If the context ends while the task is being started, the task is cancelled, too: no
// task continues unnoticed.
func TestMove_CancelledWhileItStarts(t *testing.T) {
	for name, c := range map[string]struct {
		fail  error
		moved int64
	}{"started": {nil, 1}, "refused": {sqsfake.Throttled(), 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var server sqsfake.Server
				dead, orders := moveQueues(t, &server, 100)
				enough := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				client := startingMove{server.Client(), func() { cancel(enough) }, c.fail}
				p, err := sqsqueue.Move(ctx, client, dead, sqsqueue.MoveConfig{Rate: 10})
				require.ErrorIs(t, err, enough)
				if c.fail != nil {
					require.ErrorContains(t, err, "Request is throttled")
				}
				time.Sleep(time.Minute)
				require.LessOrEqual(t, p.Moved, c.moved)
				require.EqualValues(t, p.Moved, server.Queue(orders).Visible)
				require.EqualValues(t, 100-p.Moved, server.Queue(dead).Visible)
			})
		})
	}
}

// startingMove is a client whose caller is interrupted when the service has started
// a task, or refused to, and the answer is on its way.
type startingMove struct {
	sqsqueue.MoveAPI
	interrupt func()
	fail      error
}

func (c startingMove) StartMessageMoveTask(ctx context.Context, in *sqs.StartMessageMoveTaskInput, o ...func(*sqs.Options)) (out *sqs.StartMessageMoveTaskOutput, err error) {
	if err = c.fail; err == nil {
		out, err = c.MoveAPI.StartMessageMoveTask(context.WithoutCancel(ctx), in, o...)
	}
	c.interrupt()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, err
}

// If the service can't move the messages, the error says so.
func TestMove_NotMovable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		dead, orders := moveQueues(t, &server, 3)
		deadQueue, err := sqsqueue.New(server.Client(), dead, sqsqueue.Config{})
		require.NoError(t, err)
		fifo := newQueue(t, &server, true, nil).URL()
		_, err = server.CreateQueue("other", nil)
		require.NoError(t, err)

		_, err = sqsqueue.Move(t.Context(), server.Client(), orders, sqsqueue.MoveConfig{To: dead})
		require.ErrorIs(t, err, sqsqueue.ErrNotMovable)
		require.ErrorContains(t, err, "not the dead-letter queue of any redrive policy")
		_, err = sqsqueue.Move(t.Context(), server.Client(), dead, sqsqueue.MoveConfig{To: fifo})
		require.ErrorIs(t, err, sqsqueue.ErrNotMovable)
		require.ErrorContains(t, err, "FIFO")

		// As a consumer dead-letters it.
		require.NoError(t, deadQueue.Send(t.Context(), message("by hand")))
		p, err := sqsqueue.Move(t.Context(), server.Client(), dead, sqsqueue.MoveConfig{})
		require.ErrorIs(t, err, sqsqueue.ErrNotMovable)
		require.ErrorContains(t, err, "set MoveConfig.To")
		require.EqualValues(t, 3, p.Moved)
		p, err = sqsqueue.Move(t.Context(), server.Client(), dead, sqsqueue.MoveConfig{To: orders})
		require.NoError(t, err)
		require.EqualValues(t, 1, p.Moved)
		require.Equal(t, 4, server.Queue(orders).Visible)
	})
}

func TestMove_Errors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		dead, orders := moveQueues(t, &server, 100)
		client := server.Client()
		for _, c := range []struct {
			client sqsqueue.MoveAPI
			from   string
			cfg    sqsqueue.MoveConfig
			want   string
		}{
			{nil, dead, sqsqueue.MoveConfig{}, "client is nil"},
			{(*sqs.Client)(nil), dead, sqsqueue.MoveConfig{}, "client is nil"},
			{client, "", sqsqueue.MoveConfig{}, "fromURL is empty"},
			{client, dead, sqsqueue.MoveConfig{To: dead}, "MoveConfig.To is fromURL"},
			{client, dead, sqsqueue.MoveConfig{Rate: 501}, "MoveConfig.Rate is 501"},
			{client, server.URL("nobody"), sqsqueue.MoveConfig{}, "create the queue"},
			{client, dead, sqsqueue.MoveConfig{To: server.URL("nobody")}, "create the queue"},
		} {
			_, err := sqsqueue.Move(t.Context(), c.client, c.from, c.cfg)
			require.ErrorContains(t, err, c.want)
		}

		// One task at a time.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		over := make(chan error, 1)
		go func() {
			_, err := sqsqueue.Move(ctx, client, dead, sqsqueue.MoveConfig{Rate: 1, To: orders})
			over <- err
		}()
		time.Sleep(5 * time.Second)
		_, err := sqsqueue.Move(t.Context(), client, dead, sqsqueue.MoveConfig{})
		require.ErrorContains(t, err, "has a task under way")
		cancel()
		require.ErrorIs(t, <-over, context.Canceled)

		// A state that can't be read now and then does not end it.
		server.Plan = sqsfake.On(sqsfake.ListMessageMoveTasks, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, 6, 7, 8)
		p, err := sqsqueue.Move(t.Context(), client, dead, sqsqueue.MoveConfig{Rate: 10})
		require.NoError(t, err)
		require.Positive(t, p.Moved)
		server.Plan = sqsfake.On(sqsfake.StartMessageMoveTask, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.AccessDenied()})
		_, err = sqsqueue.Move(t.Context(), client, dead, sqsqueue.MoveConfig{})
		require.ErrorIs(t, err, limiter.ErrMisconfigured)
		require.ErrorContains(t, err, "sqs:StartMessageMoveTask")
	})
}

// A server without such tasks, like those that emulate SQS, does not move these
// messages itself. A server that does not know the queue's attributes either is not
// SQS.
func TestMove_NotThere(t *testing.T) {
	for _, refusal := range []sqsfake.Error{
		{Code: "UnknownOperationException"}, {Code: "InvalidAction"}, {Code: "UnsupportedOperation"}, {Status: 501, Code: "InternalFailure"},
	} {
		for _, op := range []sqsfake.Op{sqsfake.ListDeadLetterSourceQueues, sqsfake.ListMessageMoveTasks, sqsfake.StartMessageMoveTask, sqsfake.GetQueueAttributes} {
			t.Run(refusal.Code+" "+string(op), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var server sqsfake.Server
					dead, orders := moveQueues(t, &server, 3)
					server.Plan = sqsfake.On(op, sqsfake.Fault{Mode: sqsfake.Refuse, Err: refusal})
					_, err := sqsqueue.Move(t.Context(), server.Client(), dead, sqsqueue.MoveConfig{To: orders})
					require.Error(t, err)
					require.Equal(t, op != sqsfake.GetQueueAttributes, errors.Is(err, sqsqueue.ErrNotMovable), "%v", err)
					require.Equal(t, 3, server.Queue("dead").Visible)
				})
			})
		}
	}
}
