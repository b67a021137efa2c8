package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// fillGroups sends each group the bodies "0", "1", ... in turn.
func fillGroups(t *testing.T, q queue.Sink, groups, each int) {
	t.Helper()
	for i := range groups * each {
		require.NoError(t, q.Send(t.Context(), &queue.Message{
			Body: []byte(strconv.Itoa(i / groups)), Group: fmt.Sprint("g", i%groups), Dedup: strconv.Itoa(i),
		}))
	}
}

// The head of a group fails until its attempts are used up. It is retried in
// hand: nothing is received again, and what waits behind it has failed in no
// attempt.
func TestGroup_FailingHead(t *testing.T) {
	for name, failure := range map[string]error{
		"plain error":       errors.New("a passing error"),
		"with a long delay": retry.After(20*time.Minute, errors.New("not yet")),
	} {
		bubble(t, name, func(t *testing.T) {
			var dead queuetest.Recorder
			q := newQueue(t, memqueue.Config{FIFO: true})
			fillGroups(t, q, 1, 10)
			var mu sync.Mutex
			runs, received := map[string]int{}, map[string]int{}
			var order []string
			r := start(t, q, queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				defer mu.Unlock()
				body := string(m.Body)
				runs[body]++
				received[body] = m.Attempt
				if body == "0" || body == "5" && runs[body] == 1 {
					return failure
				}
				order = append(order, body)
				return nil
			})
			time.Sleep(10 * time.Hour)
			require.NoError(t, r.drain())
			require.Len(t, dead.Messages(), 1)
			require.Equal(t, 12, runs["0"])
			require.Equal(t, 2, runs["5"], "one failure is not twelve")
			require.Equal(t, []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"}, order)
			for body, n := range received {
				require.Equal(t, 1, n, "receives of message %s", body)
			}
			require.EqualValues(t, 10, q.Stats().Received)
		})
	}
}

// A message stays in hand for 11 hours at most, since SQS hides one for 12.
func TestGroup_HeadIsReturnedAfterElevenHours(t *testing.T) {
	bubble(t, "a delay of 10 h, twice", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		fillGroups(t, q, 1, 3)
		var attempts []int
		r := start(t, q, queue.Config{}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "0" {
				if attempts = append(attempts, m.Attempt); len(attempts) < 3 {
					return retry.After(10*time.Hour, errors.New("not yet"))
				}
			}
			return nil
		})
		time.Sleep(48 * time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, []int{1, 1, 2}, attempts)
		require.EqualValues(t, 3, r.Stats().Done)
	})
}

// An outage of three hours, as a FIFO queue with a long backlog meets it: few
// groups mean few results, too few for a breaker to open soon.
func TestGroup_Outage(t *testing.T) {
	for name, failure := range map[string]error{
		"503": stamped{is: limiter.ErrUnavailable},
		"429": stamped{limiter.ErrOverload, -1},
		"401": stamped{is: limiter.ErrMisconfigured},
	} {
		for _, groups := range []int{1, 3, 10} {
			bubble(t, fmt.Sprintf("%s, %d groups", name, groups), func(t *testing.T) {
				var dead queuetest.Recorder
				q := newQueue(t, memqueue.Config{FIFO: true})
				fillGroups(t, q, groups, 3000/groups)
				begin := time.Now()
				down := func() bool { d := time.Since(begin); return d > time.Minute && d < 3*time.Hour }
				var mu sync.Mutex
				next, most := map[string]int{}, 0
				r := start(t, q, queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
					time.Sleep(100 * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					most = max(most, m.Attempt)
					if down() {
						return failure
					}
					require.Equal(t, strconv.Itoa(next[m.Group]), string(m.Body), "order of %s", m.Group)
					next[m.Group]++
					return nil
				})
				time.Sleep(6 * time.Hour)
				require.NoError(t, r.drain())
				require.Empty(t, dead.Messages(), "an outage dead-letters nothing")
				require.EqualValues(t, 3000, r.Stats().Done)
				require.LessOrEqual(t, most, 2, "receives of one message")
			})
		}
	}
}

// When the ack of a message ends with its lease lost, or can't be confirmed for
// as long as the lease lasts, the queue will deliver the message again, so what
// waits behind it must not run first.
func TestGroup_LostAck(t *testing.T) {
	for name, fault := range map[string]queuetest.Fault{
		"refused":    {Mode: queuetest.Refuse},
		"lease lost": {Mode: queuetest.Refuse, Err: &queue.BatchError{Op: "ack", Failed: map[int]error{0: queue.ErrLeaseLost}}},
	} {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{FIFO: true})
			fillGroups(t, q, 1, 3)
			begin := time.Now()
			src := &queuetest.Faulty{Source: q, Plan: func(c queuetest.Call) queuetest.Fault {
				if c.Op == queuetest.OpAck && time.Since(begin) < 90*time.Second && string(c.Messages[0].Body) == "0" {
					return fault
				}
				return queuetest.Fault{}
			}}
			var order []string
			r := start(t, src, queue.Config{}, func(_ context.Context, m *queue.Message) error {
				order = append(order, string(m.Body))
				return nil
			})
			time.Sleep(10 * time.Minute)
			require.NoError(t, r.drain())
			require.GreaterOrEqual(t, len(order), 4)
			require.IsNonDecreasing(t, order)
			require.Equal(t, "2", order[len(order)-1])
		})
	}
}

// A dead-letter sink that is down keeps the head of a group in hand, and costs
// nothing behind it a receive.
func TestGroup_DeadLetterSinkIsDown(t *testing.T) {
	bubble(t, "for an hour", func(t *testing.T) {
		q, dead := newQueue(t, memqueue.Config{FIFO: true}), newQueue(t, memqueue.Config{FIFO: true})
		fillGroups(t, q, 1, 10)
		begin := time.Now()
		sink := &queuetest.Faulty{Sink: dead, Plan: func(queuetest.Call) queuetest.Fault {
			if time.Since(begin) < time.Hour {
				return queuetest.Fault{Mode: queuetest.Refuse}
			}
			return queuetest.Fault{}
		}}
		r := start(t, q, queue.Config{DeadLetter: sink}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "0" {
				return retry.Permanent(errors.New("poison"))
			}
			return nil
		})
		time.Sleep(3 * time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 1, r.Stats().DeadLettered)
		require.EqualValues(t, 9, r.Stats().Done)
		require.EqualValues(t, 10, q.Stats().Received)
	})
}

// A drain returns a group in order though its head was held, and so has been in
// the ledger in another place than it was received in.
func TestGroup_DrainAfterAFailedHandOver(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var msgs []*queue.Message
		for i := range 4 {
			msgs = append(msgs, &queue.Message{ID: fmt.Sprint("g", i), Group: "g", Sequence: fmt.Sprint(i)})
		}
		src := queuetest.Script(queuetest.Deliver(msgs...), queuetest.Block())
		down := &queuetest.Faulty{Sink: newQueue(t, memqueue.Config{}), Plan: queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.Refuse})}
		r := start(t, src, queue.Config{DeadLetter: down, DrainTimeout: 5 * time.Second, Retry: retry.Policy{BaseDelay: time.Hour, MaxDelay: time.Hour, Jitter: -1}},
			func(context.Context, *queue.Message) error { return retry.Permanent(errors.New("poison")) })
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		returned := src.IDs(queuetest.OpNack)
		require.ElementsMatch(t, []string{"g0", "g1", "g2", "g3"}, returned)
		behind := slices.DeleteFunc(returned, func(id string) bool { return id == "g0" }) // which has a delay of its own
		require.Equal(t, []string{"g1", "g2", "g3"}, behind)
	})
}
