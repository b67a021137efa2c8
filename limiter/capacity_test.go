package limiter_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/downstream"
	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
)

// adaptiveClient is an Adaptive in front of the simulated downstream.
type adaptiveClient struct{ *limiter.Adaptive }

func (c adaptiveClient) Try() (func(refused bool), bool) {
	p, ok := c.TryAcquire()
	return func(refused bool) {
		if refused {
			p.Release(limiter.ErrOverload)
		} else {
			p.Release(nil)
		}
	}, ok
}

// Whatever the capacity is, however it changes, and whether the downstream
// refuses excess operations, delays them, or both: the limit is within a tenth
// of it, hardly anything is refused, and nearly as much gets done as if it
// were known.
func TestAdaptiveFindsTheCapacity(t *testing.T) {
	const length = 12 * time.Minute
	seeds := uint64(2)
	capacities := []int{3, 10, 50, 200}
	if !testrun.Long() {
		seeds, capacities = 1, []int{10}
	}
	for name, queue := range map[string]float64{"refuses": 0, "slows down, then refuses": 1, "slows down": -1} {
		for _, c := range capacities {
			for kind, each := range map[string][]int{"steady": {c}, "stepping": {c, (c + 1) / 2, c, 2 * c}} {
				for seed := range seeds {
					if c == 200 && seed > 0 {
						break // it only strains the machine
					}
					capacity, steps := downstream.Stepped(length/time.Duration(len(each)), each...)
					cfg := downstream.Config{
						Capacity: capacity,
						Steps:    steps,
						Queue:    queue,
						Service:  100 * ms,
						Refusal:  2 * ms,
						Length:   length,
						Settling: time.Minute,
						Seed:     seed,
					}
					var got, ideal downstream.Result
					synctest.Test(t, func(t *testing.T) {
						got = downstream.Run(adaptiveClient{newAdaptive(t, limiter.AdaptiveConfig{Max: 1000})}, cfg)
					})
					synctest.Test(t, func(t *testing.T) { ideal = downstream.Run(downstream.Known(cfg), cfg) })

					what := fmt.Sprintf("%s, capacity %d, %s, seed %d", name, c, kind, seed)
					goodput := float64(got.Good) / float64(ideal.Good)
					t.Logf("%s: means %.3f goodput %.3f refused %.4f p99 %v settled %v", what, got.Means, goodput, got.Refused, got.P99, got.Settled)
					var mean float64
					for _, m := range got.Means {
						mean += m / float64(len(got.Means))
					}
					require.InDelta(t, 1, mean, 0.1, what)
					require.GreaterOrEqual(t, goodput, 0.9, what)
					require.LessOrEqual(t, got.Refused, 0.01, what)
				}
			}
		}
	}
}
