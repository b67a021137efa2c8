package queue_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// When no extension succeeds, the handler's context ends with the lease, however
// long that is.
func TestLease_EndsTheHandlersContext(t *testing.T) {
	for _, lease := range []time.Duration{time.Second, 30 * time.Second, 12 * time.Hour} {
		bubble(t, lease.String(), func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 1)
			src := &queuetest.Faulty{Source: q, Plan: queuetest.On(queuetest.OpExtend, queuetest.Fault{Mode: queuetest.Refuse, Before: 777 * time.Millisecond})}
			late := time.Duration(math.MaxInt64)
			r := start(t, src, queue.Config{Lease: lease, Concurrency: 1}, func(ctx context.Context, m *queue.Message) error {
				if m.Attempt > 1 {
					return nil
				}
				<-ctx.Done()
				require.ErrorIs(t, context.Cause(ctx), queue.ErrLeaseLost)
				late = time.Since(m.LeaseUntil)
				return context.Cause(ctx)
			})
			time.Sleep(25 * time.Hour)
			require.NoError(t, r.drain())
			require.LessOrEqual(t, late, time.Second)
			require.EqualValues(t, 1, r.Stats().LostLease)
			require.EqualValues(t, 1, r.Stats().Done)
		})
	}
}

// A source may deliver messages without an id or a lease, with a lease that never
// ends or has ended, and with any number of receives.
func TestLease_OddMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps []queuetest.Step
		leases := []time.Time{{}, time.Now().Add(math.MaxInt64), time.Now().Add(-time.Hour)}
		attempts := []int{0, -3, math.MaxInt}
		for i := range 45 {
			m := &queue.Message{Receipt: fmt.Sprint(i), Attempt: attempts[i%3], LeaseUntil: leases[i/3%3]}
			steps = append(steps, queuetest.Deliver(m))
		}
		var dead queuetest.Recorder
		src := queuetest.Script(append(steps, queuetest.Block())...)
		r := start(t, src, queue.Config{DeadLetter: &dead, Limiter: all(t), NoBreaker: true, NoPace: true, Concurrency: 45}, func(ctx context.Context, _ *queue.Message) error {
			select {
			case <-ctx.Done():
			case <-time.After(time.Hour):
			}
			return stamped{limiter.ErrOverload, math.MaxInt64}
		})
		time.Sleep(13 * time.Hour)
		require.NoError(t, r.drain())
		s := r.Stats()
		require.EqualValues(t, 45, s.Received)
		require.EqualValues(t, 45, s.Released+s.LostLease, "%+v", s)
		require.Empty(t, dead.Messages())
	})
}
