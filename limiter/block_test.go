package limiter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func TestBlockString(t *testing.T) {
	until := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for want, b := range map[string]limiter.Block{
		"":                     {},
		"concurrency":          {Reason: limiter.ByConcurrency},
		"rate inventory":       {Reason: limiter.ByRate, Name: "inventory"},
		"limiter error: <nil>": {Reason: limiter.ByError, Cause: (*gone)(nil)},
		"breaker inventory until 2026-08-01T12:00:00Z: no such item": {
			Reason: limiter.ByBreaker, Name: "inventory", Until: until, Cause: errPoison,
		},
	} {
		require.Equal(t, want, b.String())
	}
	for _, r := range []limiter.Reason{limiter.ByBreaker, limiter.ByPause, limiter.ByValve} {
		require.True(t, r.Outage(), r)
	}
	for _, r := range []limiter.Reason{"", limiter.ByConcurrency, limiter.ByRate, limiter.ByError, "pause for lunch"} {
		require.False(t, r.Outage(), r)
	}
}

// A gone is an error whose nil pointer has no text.
type gone struct{ reason string }

func (g *gone) Error() string { return g.reason }
