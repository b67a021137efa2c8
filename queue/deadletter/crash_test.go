package deadletter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// A process is a redrive's connection to its queues, which can crash: after the crash
// none of its calls has an effect.
type process struct {
	from queue.Source
	to   queue.Sink

	mu    sync.Mutex // guards all below
	left  int        // calls until the crash
	done  float64    // the share of its messages that the last call still acts on
	calls int
}

var errCrashed = errors.New("the process has crashed")

// step acts on the messages, or on some of them if it is the last step, or on
// none after it.
func (p *process) step(msgs []*queue.Message, act func([]*queue.Message) error) error {
	p.mu.Lock()
	p.calls++
	p.left--
	left := p.left
	p.mu.Unlock()
	switch {
	case left > 0:
		return act(msgs)
	case left == 0:
		if n := int(p.done * float64(len(msgs)+1)); n > 0 || len(msgs) == 0 {
			_ = act(msgs[:n])
		}
	}
	return errCrashed
}

func (p *process) Receive(ctx context.Context, o queue.ReceiveOptions) (msgs []*queue.Message, err error) {
	return msgs, p.step(nil, func([]*queue.Message) error {
		msgs, err = p.from.Receive(ctx, o)
		return err
	})
}

func (p *process) Ack(ctx context.Context, msgs ...*queue.Message) error {
	return p.step(msgs, func(msgs []*queue.Message) error { return p.from.Ack(ctx, msgs...) })
}

func (p *process) Nack(ctx context.Context, d time.Duration, msgs ...*queue.Message) error {
	return p.step(msgs, func(msgs []*queue.Message) error { return p.from.Nack(ctx, d, msgs...) })
}

func (p *process) Extend(ctx context.Context, d time.Duration, msgs ...*queue.Message) error {
	return p.step(msgs, func(msgs []*queue.Message) error { return p.from.Extend(ctx, d, msgs...) })
}

func (p *process) Send(ctx context.Context, msgs ...*queue.Message) error {
	return p.step(msgs, func(msgs []*queue.Message) error { return p.to.Send(ctx, msgs...) })
}

// crashConfig is slow enough that leases are extended.
func crashConfig(t *testing.T) deadletter.Config {
	t.Helper()
	bucket, err := limiter.NewTokenBucket(0.25, 3)
	require.NoError(t, err)
	return deadletter.Config{Limiter: bucket, Logger: quiet, Filter: deadletter.Filter{
		Func: func(l deadletter.Letter) bool { return l.Record.Reason != retry.ReasonUndecodable },
	}}
}

// A redrive is killed at a random point: after any call to a queue, before it, or
// in its midst. Every message is in one of the queues, or in both, with its
// reason. The next redrive finishes the work: on a FIFO queue without a message
// twice, on a standard one with those twice that were in both.
func TestKilled(t *testing.T) {
	const n = 60
	kills := 100
	if testing.Short() {
		kills = 20
	}
	for _, fifo := range []bool{false, true} {
		t.Run(fmt.Sprintf("fifo=%v", fifo), func(t *testing.T) {
			begun, twice, both := 0, 0, 0
			for seed := range uint64(kills) {
				synctest.Test(t, func(t *testing.T) {
					random := rand.New(rand.NewPCG(seed, 5))
					at := fmt.Sprintf("seed %d", seed)
					dead, orders := newQueue(t, memqueue.Config{FIFO: fifo}), newQueue(t, memqueue.Config{FIFO: fifo})
					groups := 0
					if fifo {
						groups = n // each letter is the head of its group, or a listing would not see it
					}
					fill(t, dead, n, groups)
					time.Sleep(time.Second)
					p := &process{from: dead, to: orders, left: 1 + random.IntN(70), done: random.Float64()}
					_, err := deadletter.Redrive(t.Context(), p, sinkOf(p), crashConfig(t))
					if err == nil && p.left > 0 {
						return // it was done before
					}
					begun++
					time.Sleep(2*time.Minute + time.Second) // leases end, but for those that were extended
					hidden := dead.Stats().InFlight

					left, there := make(map[string]int), make(map[string]int)
					for _, l := range list(t, dead, deadletter.Config{}) {
						body := string(l.Message.Body)
						left[body]++
						var i int
						_, err := fmt.Sscanf(body, "m%d", &i)
						require.NoError(t, err)
						require.Equal(t, record(i), l.Record, at)
					}
					for _, l := range list(t, orders, deadletter.Config{}) {
						body := string(l.Message.Body)
						there[body]++
						var i int
						_, err := fmt.Sscanf(body, "m%d", &i)
						require.NoError(t, err)
						require.Equal(t, record(i), l.History.Last, at)
						require.False(t, l.Recorded, at)
					}
					inBoth := 0
					for i := range n {
						body := fmt.Sprint("m", i)
						require.LessOrEqual(t, left[body], 1, at)
						require.LessOrEqual(t, there[body], 1, at)
						if left[body]+there[body] == 0 && record(i).Reason == retry.ReasonUndecodable {
							hidden-- // it was to stay, and its lease was extended
							continue
						}
						require.Positive(t, left[body]+there[body], "%s: %s is lost", at, body)
						inBoth += left[body] * there[body]
					}
					both += inBoth
					require.LessOrEqual(t, inBoth, 10, at)
					require.Zero(t, hidden, at)

					cfg := crashConfig(t)
					cfg.Limiter = nil
					s, err := deadletter.Redrive(t.Context(), dead, orders, cfg)
					require.NoError(t, err, at)
					requireAddsUp(t, s)
					copies := bodies(drain(t, orders))
					require.Len(t, copies, n*2/3, at)
					extra := 0
					for _, c := range copies {
						extra += c - 1
					}
					twice += extra
					if fifo {
						require.Zero(t, extra, at)
					} else {
						require.Equal(t, inBoth, extra, at)
					}
					time.Sleep(2 * time.Hour)
					require.Len(t, drain(t, dead), n/3, at)
				})
			}
			t.Logf("%d kills of a redrive under way, %d letters in both queues after them, %d redriven twice in the end", begun, both, twice)
			require.Greater(t, begun, kills/2, "the points are too far off")
			require.Positive(t, both, "no kill between a send and its ack")
		})
	}
}

// A hundred kills of one redrive after the other.
func TestKilledAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const kills, n = 100, 2000
		seed := testrun.Seed(t)
		random := rand.New(rand.NewPCG(seed, 0))
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, n, 0)
		for range kills {
			p := &process{from: dead, to: orders, left: 1 + random.IntN(8), done: random.Float64()}
			_, err := deadletter.Redrive(t.Context(), p, sinkOf(p), deadletter.Config{Logger: quiet})
			require.Error(t, err)
			time.Sleep(2*time.Minute + time.Second)
		}
		_, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{Logger: quiet})
		require.NoError(t, err)
		require.Zero(t, dead.Stats().Visible+dead.Stats().InFlight)
		copies := bodies(drain(t, orders))
		total := 0
		for _, c := range copies {
			total += c
		}
		require.Len(t, copies, n, "lost (seed %d)", seed)
		require.LessOrEqual(t, total, n+10*kills, "seed %d", seed)
		t.Logf("%d messages arrived %d times", n, total)
	})
}
