package downstream_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/downstream"
)

// A fixed limit, whatever the capacity is.
type fixed struct{ limit, inFlight int }

func (f *fixed) Limit() int { return f.limit }

func (f *fixed) Try() (func(bool), bool) {
	if f.inFlight == f.limit {
		return nil, false
	}
	f.inFlight++
	return func(bool) { f.inFlight-- }, true
}

func TestRun(t *testing.T) {
	capacity, steps := downstream.Stepped(4*time.Minute, 10, 5)
	cfg := downstream.Config{
		Capacity: capacity,
		Steps:    steps,
		Queue:    1,
		Service:  100 * time.Millisecond,
		Refusal:  20 * time.Millisecond,
		Length:   8 * time.Minute,
		Settling: time.Minute,
	}
	synctest.Test(t, func(t *testing.T) {
		r := downstream.Run(downstream.Known(cfg), cfg)
		require.InEpsilon(t, 15*240*10, r.Good, 0.02, "10 and then 5 at once, 100 ms each, by Little's law")
		require.Zero(t, r.Refused)
		require.InDelta(t, 1, r.Means[0], 0.01)
		require.InDelta(t, 1, r.Means[1], 0.01)
		require.InEpsilon(t, 460*time.Millisecond, r.P99, 0.05, "ln 100 times the mean")
	})
	synctest.Test(t, func(t *testing.T) {
		r := downstream.Run(&fixed{limit: 20}, cfg)
		require.InEpsilon(t, 15*240*10, r.Good, 0.02, "no more than it can do")
		require.Positive(t, r.Refused, "20 are 10 more than it does and lets wait, since the step")
		require.InDelta(t, 2, r.Means[0], 0.01)
		require.InDelta(t, 4, r.Means[1], 0.01)
		require.Equal(t, []time.Duration{-1, -1}, r.Settled)
	})
}
