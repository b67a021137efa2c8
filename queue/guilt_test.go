package queue_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// A message is compared with others of its key: an outage of one tenant, while
// all the others succeed, dead-letters nothing.
func TestGuilt_OutageOfOneTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		keyed, err := limiter.NewKeyed(func(string) (limiter.Limiter, error) { return limiter.NewBreaker(limiter.BreakerConfig{}) })
		require.NoError(t, err)
		begin := time.Now()
		r := start(t, q, queue.Config{DeadLetter: &dead, Limiter: all(t), NoBreaker: true, NoPace: true, LimiterFor: func(m *queue.Message) limiter.Limiter {
			return keyed.For(string(m.Body))
		}}, func(_ context.Context, m *queue.Message) error {
			time.Sleep(10 * time.Millisecond)
			if string(m.Body) == "t0" && time.Since(begin) < 2*time.Hour {
				return stamped{limiter.ErrUnavailable, -1}
			}
			return nil
		})
		sent := 0
		for time.Since(begin) < 150*time.Minute {
			for i := range 3 {
				require.NoError(t, q.Send(t.Context(), &queue.Message{Body: fmt.Appendf(nil, "t%d", i)}))
				sent++
			}
			time.Sleep(20 * time.Second)
		}
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.Empty(t, dead.Messages())
		require.EqualValues(t, sent, r.Stats().Done)
	})
}

// A message that was first received more than twelve hours ago is not given up
// after a single refusal.
func TestGuilt_OneRefusalOfAnOldMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead queuetest.Recorder
		old := &queue.Message{ID: "a", Attempt: 2, FirstReceivedAt: time.Now().Add(-13 * time.Hour)}
		src := queuetest.Script(queuetest.Deliver(old), queuetest.Pause(time.Minute))
		runs := 0
		r := start(t, src, queue.Config{DeadLetter: &dead}, func(context.Context, *queue.Message) error {
			if runs++; runs == 1 {
				return stamped{limiter.ErrOverload, time.Second}
			}
			return nil
		})
		require.NoError(t, r.wait())
		require.Empty(t, dead.Messages())
		require.EqualValues(t, 1, r.Stats().Done)
	})
}

// A queue with nothing to compare with survives an outage of eleven hours with
// few receives.
func TestGuilt_OutageOfElevenHours(t *testing.T) {
	for _, n := range []int{1, 10, 300} {
		bubble(t, fmt.Sprintf("%d messages", n), func(t *testing.T) {
			var dead queuetest.Recorder
			own := newQueue(t, memqueue.Config{})
			q := newQueue(t, memqueue.Config{MaxReceives: 22, DeadLetter: own}) // ten more than attempts
			fill(t, q, n)
			begin := time.Now()
			var mu sync.Mutex
			most := 0
			r := start(t, q, queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				defer mu.Unlock()
				most = max(most, m.Attempt)
				if time.Since(begin) < 11*time.Hour {
					return stamped{limiter.ErrUnavailable, -1}
				}
				return nil
			})
			time.Sleep(13 * time.Hour)
			require.NoError(t, r.drain())
			require.EqualValues(t, n, r.Stats().Done)
			require.Empty(t, dead.Messages())
			require.Zero(t, own.Stats().Sent, "redriven by the queue")
			require.LessOrEqual(t, most, 3, "receives of one message")
		})
	}
}

// When a fifth of the messages fail for an hour it is a partial outage: it
// dead-letters nothing, whether or not a breaker reacts to it, and whether or not
// the messages had been received before.
func TestGuilt_PartialOutage(t *testing.T) {
	for _, broken := range []bool{false, true} {
		for _, received := range []bool{false, true} {
			if testing.Short() && broken != received {
				continue
			}
			bubble(t, fmt.Sprintf("breaker %v, received before %v", broken, received), func(t *testing.T) {
				const n = 400
				var dead queuetest.Recorder
				own := newQueue(t, memqueue.Config{})
				q := newQueue(t, memqueue.Config{MaxReceives: 22, DeadLetter: own})
				fill(t, q, n)
				for range n / 10 {
					if received {
						msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Hour})
						require.NoError(t, err)
						require.NoError(t, q.Nack(t.Context(), 0, msgs...))
					}
				}
				cfg := queue.Config{DeadLetter: &dead}
				if !broken {
					cfg.Limiter, cfg.NoBreaker, cfg.NoPace = all(t), true, true
				}
				begin := time.Now()
				r := start(t, q, cfg, func(_ context.Context, m *queue.Message) error {
					time.Sleep(50 * time.Millisecond)
					if i, _ := strconv.Atoi(string(m.Body)); i*40503>>7%100 < 20 && time.Since(begin) < time.Hour {
						return stamped{limiter.ErrUnavailable, -1}
					}
					return nil
				})
				time.Sleep(3 * time.Hour)
				require.NoError(t, r.drain())
				require.EqualValues(t, n, r.Stats().Done, "%+v", r.Stats())
				require.Empty(t, dead.Messages())
				require.Zero(t, own.Stats().Sent, "redriven by the queue")
			})
		}
	}
}

// Twenty messages that always fail, at the head of a queue or among a thousand
// others, keep the good message that comes every ten seconds waiting for a minute
// at most, and end dead-lettered.
func TestGuilt_SuspectsLetTheOthersPass(t *testing.T) {
	for _, others := range []int{0, 980} {
		bubble(t, fmt.Sprintf("among %d others", others), func(t *testing.T) {
			var dead queuetest.Recorder
			q := newQueue(t, memqueue.Config{})
			send := func(body string) { require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte(body)})) }
			for i := range 20 + others {
				if i%(1+others/20) == 0 {
					send("bad")
				} else {
					send("other")
				}
			}
			var mu sync.Mutex
			var latest time.Duration
			r := start(t, q, queue.Config{DeadLetter: &dead, Limiter: all(t), NoBreaker: true, NoPace: true}, func(_ context.Context, m *queue.Message) error {
				time.Sleep(50 * time.Millisecond)
				switch string(m.Body) {
				case "bad":
					return stamped{limiter.ErrUnavailable, -1}
				case "good":
					mu.Lock()
					defer mu.Unlock()
					latest = max(latest, time.Since(m.SentAt))
				}
				return nil
			})
			if others > 0 {
				time.Sleep(15 * time.Minute) // only the bad ones are left
			}
			const good = 2 * 60 * 6
			for range good {
				send("good")
				time.Sleep(10 * time.Second)
			}
			require.NoError(t, r.drain())
			require.Less(t, latest, time.Minute)
			require.EqualValues(t, good+others, r.Stats().Done)
			require.Len(t, dead.Messages(), 20)
		})
	}
}
