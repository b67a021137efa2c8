package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
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
// memory: nothing is received again, and no attempt counts for the messages
// behind it.
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

// A message is held for 11 hours at most, since SQS hides one for 12.
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

// An outage of three hours on a FIFO queue with a long backlog: few groups give
// few results, too few for a breaker to open soon.
func TestGroup_Outage(t *testing.T) {
	for name, failure := range map[string]error{
		"503": stamped{is: limiter.ErrUnavailable},
		"429": stamped{limiter.ErrOverload, -1},
		"401": stamped{is: limiter.ErrMisconfigured},
	} {
		for _, groups := range []int{1, 3, 10} {
			if testing.Short() && name != "503" && groups != 3 {
				continue
			}
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

// When the ack of a message fails with a lost lease, or can't be confirmed while
// the lease lasts, the queue will deliver the message again, so the messages
// behind it must not run first.
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

// While a dead-letter sink is down, the head of a group is held, and the messages
// behind it use up no receives.
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

// A drain returns a group in order, even if its head was held and part of the
// group is being extended.
func TestGroup_DrainAfterAFailedHandOver(t *testing.T) {
	for at := 20 * time.Second; at < 70*time.Second; at += 500 * time.Millisecond {
		bubble(t, at.String(), func(t *testing.T) {
			var steps []queuetest.Step
			for i := range 4 {
				steps = append(steps, queuetest.Deliver(&queue.Message{ID: fmt.Sprint("g", i), Group: "g", Sequence: fmt.Sprint(i)}), queuetest.Pause(3*time.Second))
			}
			script := queuetest.Script(append(steps, queuetest.Block())...)
			src := &queuetest.Faulty{Source: script, Plan: queuetest.On(queuetest.OpExtend, queuetest.Fault{Before: 2 * time.Second})}
			down := &queuetest.Faulty{Sink: newQueue(t, memqueue.Config{}), Plan: queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.Refuse})}
			r := start(t, src, queue.Config{DeadLetter: down, DrainTimeout: 5 * time.Second, Retry: retry.Policy{BaseDelay: time.Hour, MaxDelay: time.Hour, Jitter: -1}},
				func(context.Context, *queue.Message) error { return retry.Permanent(errors.New("poison")) })
			time.Sleep(at)
			require.NoError(t, r.drain())
			returned := script.IDs(queuetest.OpNack)
			require.ElementsMatch(t, []string{"g0", "g1", "g2", "g3"}, returned)
			behind := slices.DeleteFunc(returned, func(id string) bool { return id == "g0" }) // which has a delay of its own
			require.Equal(t, []string{"g1", "g2", "g3"}, behind)
		})
	}
}

// Groups whose heads fail and are held, with more messages behind them than the
// slots could run, leave the slots to other groups.
func TestGroup_FailingHeadsLeaveTheSlotsToOthers(t *testing.T) {
	for name, failure := range map[string]error{
		"plain error":       errors.New("a passing error"),
		"with a long delay": retry.After(time.Hour, errors.New("not yet")),
	} {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{FIFO: true})
			for i := range 30 {
				for k := range 10 {
					require.NoError(t, q.Send(t.Context(), &queue.Message{Group: fmt.Sprint("bad", i), Dedup: fmt.Sprintf("bad%d-%d", i, k), Body: []byte("bad")}))
				}
			}
			var good atomic.Int64
			r := start(t, q, queue.Config{Limiter: all(t), NoBreaker: true, NoPace: true, Retry: retry.Policy{Jitter: -1, BaseDelay: time.Minute}}, func(_ context.Context, m *queue.Message) error {
				if string(m.Body) == "bad" {
					return failure
				}
				time.Sleep(time.Second)
				good.Add(1)
				return nil
			})
			time.Sleep(30 * time.Second)
			require.Equal(t, 30, r.Stats().Held)
			fillGroups(t, q, 100, 1)
			time.Sleep(20 * time.Second)
			require.EqualValues(t, 100, good.Load(), "of 1 s each, in 10 slots, within 20 s: %+v", r.Stats())
			require.NoError(t, r.drain())
		})
	}
}

// A head that is postponed is held, and costs the messages behind it no receive.
func TestGroup_PostponedHead(t *testing.T) {
	bubble(t, "every 20 s, for 5 min", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		fillGroups(t, q, 1, 5)
		begin := time.Now()
		var order []string
		r := start(t, q, queue.Config{Limiter: all(t), NoBreaker: true, NoPace: true}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "0" && time.Since(begin) < 5*time.Minute {
				return queue.Postpone(20*time.Second, nil)
			}
			order = append(order, string(m.Body))
			return nil
		})
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, []string{"0", "1", "2", "3", "4"}, order)
		require.EqualValues(t, 5, q.Stats().Received)
	})
}

// While the heads of twenty groups fail, the messages behind them lose no
// receive.
func TestGroup_BehindFailingHeads(t *testing.T) {
	bubble(t, "for half an hour", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true})
		fillGroups(t, q, 20, 8)
		begin := time.Now()
		var mu sync.Mutex
		most := map[string]int{}
		r := start(t, q, queue.Config{Limiter: all(t), NoBreaker: true, NoPace: true, Retry: retry.Policy{MaxAttempts: -1}}, func(_ context.Context, m *queue.Message) error {
			mu.Lock()
			defer mu.Unlock()
			most[string(m.Body)] = max(most[string(m.Body)], m.Attempt)
			if time.Since(begin) < 30*time.Minute {
				return errors.New("a passing error")
			}
			return nil
		})
		time.Sleep(24 * time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 160, r.Stats().Done)
		for body, n := range most {
			require.Equal(t, 1, n, "receives of message %s of a group", body)
		}
	})
}

// Without a dead-letter sink the head that fails for good is left to the queue's
// own redrive.
func TestGroup_PoisonIsRedrivenByTheQueue(t *testing.T) {
	bubble(t, "after three receives", func(t *testing.T) {
		own := newQueue(t, memqueue.Config{FIFO: true})
		q := newQueue(t, memqueue.Config{FIFO: true, MaxReceives: 3, DeadLetter: own})
		fillGroups(t, q, 1, 2)
		r := start(t, q, queue.Config{}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "0" {
				return retry.Permanent(errors.New("poison"))
			}
			return nil
		})
		time.Sleep(10 * time.Hour)
		require.NoError(t, r.drain())
		msgs, err := own.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		require.NoError(t, err)
		require.NotEmpty(t, msgs)
		require.Equal(t, "0", string(msgs[0].Body))
	})
}

// Whatever happens to calls and handlers, no message of a group starts while
// another one runs, or after one that was sent later has succeeded.
func TestGroup_OrderUnderFaults(t *testing.T) {
	for seed := range seeds(40) {
		bubble(t, fmt.Sprint("seed ", seed), func(t *testing.T) {
			q := newQueue(t, memqueue.Config{FIFO: true})
			fillGroups(t, q, 12, 6)
			random := queuetest.Random(seed, 0.3,
				queuetest.Fault{Mode: queuetest.LoseReply}, queuetest.Fault{Mode: queuetest.Refuse}, queuetest.Fault{Mode: queuetest.Half},
				queuetest.Fault{After: 3 * time.Second}, queuetest.Fault{Before: 7 * time.Second}, queuetest.Fault{Mode: queuetest.Hang})
			src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond, Plan: func(c queuetest.Call) queuetest.Fault {
				f := random(c)
				if f.Mode == queuetest.Hang && c.Op == queuetest.OpReceive {
					return queuetest.Fault{}
				}
				return f
			}}
			begin := time.Now()
			var mu sync.Mutex
			running, last, runs := map[string]bool{}, map[string]string{}, 0
			begun := func(m *queue.Message) (run int) {
				mu.Lock()
				defer mu.Unlock()
				if running[m.Group] {
					t.Errorf("two of group %s at once", m.Group)
				}
				if string(m.Body) < last[m.Group] {
					t.Errorf("group %s: %s after %s", m.Group, m.Body, last[m.Group])
				}
				running[m.Group] = true
				runs++
				return runs
			}
			ended := func(m *queue.Message, err error) {
				mu.Lock()
				defer mu.Unlock()
				running[m.Group] = false
				if err == nil {
					last[m.Group] = string(m.Body)
				}
			}
			r := start(t, src, queue.Config{Lease: 5 * time.Second, Limiter: all(t), NoBreaker: true, NoPace: true}, func(ctx context.Context, m *queue.Message) (err error) {
				run := begun(m)
				defer func() { ended(m, err) }()
				select {
				case <-time.After(time.Duration(run%7) * 300 * time.Millisecond):
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				if time.Since(begin) < 10*time.Minute {
					switch run % 9 {
					case 0:
						return errors.New("a passing error")
					case 1:
						return stamped{limiter.ErrUnavailable, -1}
					case 2:
						return queue.Postpone(time.Second, nil)
					case 3:
						return stamped{limiter.ErrOverload, 3 * time.Second}
					}
				}
				return nil
			})
			time.Sleep(2 * time.Hour)
			s := q.Stats()
			require.NoError(t, r.drain())
			require.Zero(t, s.Visible+s.Delayed+s.InFlight, "%+v", r.Stats())
			for group, body := range last {
				require.Equal(t, "5", body, "the last of group %s", group)
			}
		})
	}
}
