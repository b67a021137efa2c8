package sqsqueue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// sendGroup sends messages of one group, with the bodies 0, 1, 2...
func sendGroup(t *testing.T, q *sqsqueue.Queue, group string, n int) {
	t.Helper()
	msgs := messages(n)
	for i, m := range msgs {
		m.Group, m.Dedup = group, fmt.Sprintf("%s-%d", group, i)
	}
	send(t, q, msgs...)
}

// attempts returns a FIFO queue whose receives are recorded.
func attemptsQueue(t *testing.T, server *sqsfake.Server) (*sqsqueue.Queue, *asked) {
	t.Helper()
	url := newQueue(t, server, true, nil).URL()
	client := &asked{Client: server.Client()}
	q, err := sqsqueue.New(client, url, sqsqueue.Config{})
	require.NoError(t, err)
	return q, client
}

// ids returns the ids of the receives.
func (a *asked) ids() []string {
	var ids []string
	for _, in := range a.inputs {
		ids = append(ids, *in.ReceiveRequestAttemptId)
	}
	return ids
}

// A receive whose reply is lost is repeated: the messages come in the same delivery,
// with a new lease.
func TestLostReceiveIsMadeAgain(t *testing.T) {
	for name, fault := range map[string]sqsfake.Fault{
		"reset":     {Mode: sqsfake.LoseReply},
		"cut off":   {Mode: sqsfake.Truncate},
		"too late":  {After: 40 * time.Second},
		"cancelled": {After: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{}
				q, client := attemptsQueue(t, server)
				sendGroup(t, q, "g", 3)
				server.Plan = sqsfake.On(sqsfake.ReceiveMessage, fault, 1)
				ctx := t.Context()
				if name == "cancelled" {
					ctx = within(t, 5*time.Second)
				}
				first := time.Now()
				msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: time.Minute})
				require.Error(t, err)
				require.Empty(t, msgs)
				time.Sleep(2 * time.Second)

				msgs = receive(t, q, 10, time.Minute)
				require.Len(t, msgs, 3)
				require.Equal(t, client.ids()[0], client.ids()[1])
				require.Equal(t, 3, server.Queue("orders.fifo").Received, "no receive is burned")
				for _, m := range msgs {
					require.Equal(t, 1, m.Attempt)
					require.Equal(t, time.Now().Add(time.Minute), m.LeaseUntil)
				}
				// The twelve hours count from the first receive.
				require.NoError(t, q.Extend(t.Context(), 12*time.Hour, msgs...))
				require.WithinDuration(t, first.Add(12*time.Hour), msgs[0].LeaseUntil, 2*time.Second)
				require.NoError(t, q.Ack(t.Context(), msgs...))

				sendGroup(t, q, "h", 1)
				require.Len(t, receive(t, q, 10, time.Minute), 1)
				require.NotEqual(t, client.ids()[1], client.ids()[2], "an id that has brought its messages is done with")
			})
		})
	}
}

func TestLostReceiveThatBringsTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		q, _ := attemptsQueue(t, server)
		sendGroup(t, q, "g", 3)
		server.Plan = sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.LoseReply}, 1)
		_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 5, Lease: time.Minute})
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		sendGroup(t, q, "h", 1)
		require.Equal(t, "h", receive(t, q, 4, time.Minute)[0].Group, "a receive of four must not bring five")
		require.Len(t, receive(t, q, 5, time.Minute), 3)
	})
}

// If something has happened to the messages, they are not delivered again: the receive
// is then like any other.
func TestLostReceiveThatIsOver(t *testing.T) {
	t.Run("taken by another", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{}
			q, client := attemptsQueue(t, server)
			sendGroup(t, q, "g", 1)
			// The reply is lost when half of the lease has gone.
			server.Plan = sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.LoseReply, After: 4 * time.Second}, 1)
			_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: 8 * time.Second})
			require.ErrorIs(t, err, limiter.ErrUnavailable)
			time.Sleep(5 * time.Second)
			other, err := sqsqueue.New(server.Client(), q.URL(), sqsqueue.Config{})
			require.NoError(t, err)
			require.Equal(t, "g", receive(t, other, 1, time.Minute)[0].Group)
			sendGroup(t, q, "h", 1)
			require.Equal(t, "h", receive(t, q, 1, time.Minute)[0].Group)
			ids := client.ids()
			require.Len(t, ids, 3)
			require.Equal(t, ids[0], ids[1])
			require.NotEqual(t, ids[1], ids[2], "it was refused, and made anew at once")
		})
	})
	t.Run("lease over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{}
			q, client := attemptsQueue(t, server)
			sendGroup(t, q, "g", 1)
			server.Plan = sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.LoseReply}, 1)
			_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.ErrorIs(t, err, limiter.ErrUnavailable)
			time.Sleep(time.Minute)
			require.Equal(t, 2, receive(t, q, 1, time.Minute)[0].Attempt)
			require.NotEqual(t, client.ids()[0], client.ids()[1])
		})
	})
	t.Run("refused when it is made again", func(t *testing.T) { // which says nothing of the first time
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{Plan: sqsfake.First(
				sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.LoseReply}, 1),
				sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, 2))}
			q, _ := attemptsQueue(t, server)
			sendGroup(t, q, "g", 1)
			for _, class := range []error{limiter.ErrUnavailable, limiter.ErrOverload} {
				_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
				require.ErrorIs(t, err, class)
			}
			require.Equal(t, 1, receive(t, q, 1, time.Minute)[0].Attempt)
		})
	})
	t.Run("refused", func(t *testing.T) { // the service has not acted on it
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, 1)}
			q, client := attemptsQueue(t, server)
			_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.ErrorIs(t, err, limiter.ErrOverload)
			require.Empty(t, receive(t, q, 1, time.Minute))
			require.NotEqual(t, client.ids()[0], client.ids()[1])
		})
	})
}

func TestStandardQueueHasNoAttemptID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.LoseReply}, 1)}
		client := &asked{Client: server.Client()}
		q, err := sqsqueue.New(client, newQueue(t, server, false, nil).URL(), sqsqueue.Config{})
		require.NoError(t, err)
		_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.Error(t, err)
		require.Empty(t, receive(t, q, 1, time.Minute))
		require.Nil(t, client.inputs[0].ReceiveRequestAttemptId)
		require.Nil(t, client.inputs[1].ReceiveRequestAttemptId)
	})
}

// The reply to every seventh receive is lost, and the lease is long: no group waits for
// its end, and no receive is wasted.
func TestLostReceivesBlockNoGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups, each = 40, 20
		seed := testrun.Seed(t)
		server := &sqsfake.Server{
			Latency: 20 * time.Millisecond,
			Plan: func() sqsfake.Plan {
				lost := sqsfake.Random(seed, 1.0/7, sqsfake.Fault{Mode: sqsfake.LoseReply}, sqsfake.Fault{Mode: sqsfake.Truncate})
				return func(c sqsfake.Call) sqsfake.Fault {
					if c.Op != sqsfake.ReceiveMessage {
						return sqsfake.Fault{}
					}
					return lost(c)
				}
			}(),
		}
		q := newQueue(t, server, true, nil)
		for g := range groups {
			sendGroup(t, q, fmt.Sprint("g", g), each)
		}
		const lease = time.Hour
		begin := time.Now()
		var mu sync.Mutex // guards next
		next := make(map[string]int)
		running := consume(t, q, func(_ context.Context, m *queue.Message) error {
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if want := fmt.Sprint(next[m.Group]); want != string(m.Body) || m.Attempt != 1 {
				t.Errorf("message %s of %s, attempt %d, where %s was next (seed %d)", m.Body, m.Group, m.Attempt, want, seed)
			}
			next[m.Group]++
			return nil
		}, queue.Config{Concurrency: 20, Lease: lease})
		for running.Stats().Done < groups*each && time.Since(begin) < 2*lease {
			time.Sleep(time.Second)
		}
		require.Less(t, time.Since(begin), time.Minute, "seed %d", seed)
		running.stop(t)
		stats := server.Queue("orders.fifo")
		require.Equal(t, []int{groups * each, groups * each}, []int{stats.Received, stats.Deleted}, "seed %d", seed)
		require.Positive(t, server.Stats(sqsfake.ReceiveMessage).Failed)
	})
}
