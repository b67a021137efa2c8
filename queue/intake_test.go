package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func TestAheadOf(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	then := now.Add(50 * time.Millisecond) // the horizon of the look-ahead
	for name, c := range map[string]struct {
		block limiter.Block
		wait  time.Duration
		ok    bool
	}{
		"nothing blocks":           {limiter.Block{}, 0, false},
		"slots":                    {limiter.Block{Reason: limiter.ByConcurrency}, 0, true},
		"a rate, soon":             {limiter.Block{Reason: limiter.ByRate, Until: now.Add(20 * time.Millisecond)}, 0, true},
		"a rate, in an hour":       {limiter.Block{Reason: limiter.ByRate, Until: then.Add(time.Hour)}, time.Hour, true},
		"a pause, over soon":       {limiter.Block{Reason: limiter.ByPause, Until: then}, 0, true},
		"a pause for a minute":     {limiter.Block{Reason: limiter.ByPause, Until: then.Add(time.Minute)}, time.Minute, true},
		"a pause without an end":   {limiter.Block{Reason: limiter.ByPause}, 0, false},
		"a breaker, with a probe":  {limiter.Block{Reason: limiter.ByBreaker, Until: then.Add(time.Second)}, 0, false},
		"a breaker, without one":   {limiter.Block{Reason: limiter.ByBreaker}, 0, false},
		"a valve that opens again": {limiter.Block{Reason: limiter.ByValve, Until: then.Add(time.Second)}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			wait, ok := aheadOf(c.block, then)
			require.Equal(t, c.ok, ok)
			if ok {
				require.Equal(t, c.wait, wait)
			}
		})
	}
}
