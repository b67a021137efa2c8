package queue_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/host"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// A drain returns waiting messages in chunks of 256 and leaves running ones
// alone, however many there are.
func TestDrain_ManyRunningHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 300)
		r := start(t, q, queue.Config{Concurrency: 300, Limiter: all(t), NoBreaker: true, NoPace: true, DrainTimeout: 5 * time.Second}, func(ctx context.Context, _ *queue.Message) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		time.Sleep(time.Minute)
		require.Equal(t, 300, r.Stats().Running)
		begin := time.Now()
		require.NoError(t, r.drain())
		require.Equal(t, 5*time.Second, time.Since(begin))
		require.EqualValues(t, 300, r.Stats().Released)
	})
}

// A drain that begins at any moment, with calls that fail, ends in time, and the
// next Run continues from there.
func TestDrain_AtAnyMoment(t *testing.T) {
	for seed := range seeds(40) {
		at := time.Duration(seed*131%400) * time.Millisecond
		bubble(t, at.String(), func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 400)
			plan := queuetest.Random(seed, 0.1, queuetest.Fault{Mode: queuetest.LoseReply}, queuetest.Fault{Mode: queuetest.Half})
			src := &queuetest.Faulty{Source: q, Latency: 10 * time.Millisecond, Plan: plan}
			r := start(t, src, queue.Config{Concurrency: 100, Limiter: all(t), NoBreaker: true, NoPace: true, DrainTimeout: 3 * time.Second}, func(_ context.Context, m *queue.Message) error {
				time.Sleep(30 * time.Millisecond)
				switch {
				case m.Attempt > 5:
				case m.Body[0] == '1':
					return stamped{limiter.ErrUnavailable, -1}
				case m.Body[0] == '2':
					return errors.New("a passing error")
				}
				return nil
			})
			time.Sleep(at)
			begin := time.Now()
			_ = r.drain() // results may be left unsettled
			require.LessOrEqual(t, time.Since(begin), 4*time.Second)
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			_ = r.Run(ctx)
			s := r.Stats()
			requireBalanced(t, s)
			require.Zero(t, s.InHand+s.Unsettled)
			require.Positive(t, s.Done)
		})
	}
}

// A counting host counts the results that are reported to it. It is called under
// the consumer's lock.
type counting struct{ results int }

func (*counting) Deadline() (handlers, run time.Time) { return time.Time{}, time.Time{} }
func (*counting) Guard() *judge.Guard                 { return nil }
func (*counting) Guilt(string, int, judge.Facts) (judge.Guilt, bool, bool) {
	return judge.Innocent, false, false
}
func (h *counting) Judged(string, int, judge.Facts, judge.Verdict) { h.results++ }
func (*counting) Blocked(limiter.Block)                            {}

// A handler that returns when Run is about to give it up, or has just done so,
// has a result or is abandoned, and never both.
func TestDrain_ResultAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 100)
		begin := time.Now()
		c, err := queue.NewConsumer(q, queue.HandlerFunc(func(_ context.Context, m *queue.Message) error {
			n, _ := strconv.Atoi(string(m.Body))
			time.Sleep(time.Until(begin.Add(2*time.Second + time.Duration(n)*10*time.Millisecond))) // ignoring its context
			return nil
		}), queue.Config{Concurrency: 100, Logger: quiet, DrainTimeout: time.Second})
		require.NoError(t, err)
		var h counting
		ctx, stop := context.WithTimeout(host.NewContext(t.Context(), &h), time.Second)
		defer stop()
		var abandoned *queue.AbandonedError
		require.ErrorAs(t, c.Run(ctx), &abandoned)
		time.Sleep(time.Minute)
		s := c.Stats()
		requireBalanced(t, s)
		require.EqualValues(t, 100, s.Received)
		require.Len(t, abandoned.IDs, int(s.Abandoned))
		require.Less(t, s.Abandoned, int64(100))
		require.EqualValues(t, 100-s.Abandoned, h.results, "%+v", s)
	})
}
