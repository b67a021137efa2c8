package outage_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue/internal/outage"
)

func TestDelays(t *testing.T) {
	for receives, least := range map[int]time.Duration{
		-5: 30 * time.Second, 0: 30 * time.Second, 1: 30 * time.Second, 2: time.Minute, 3: 2 * time.Minute, 5: 8 * time.Minute,
		6: 15 * time.Minute, 7: 15 * time.Minute, 1 << 30: 15 * time.Minute,
	} {
		seen := make(map[time.Duration]bool)
		for range 100 {
			d := outage.Delay(receives, time.Second)
			require.GreaterOrEqual(t, d, least, receives)
			require.LessOrEqual(t, d, min(least*5/4, 15*time.Minute), receives)
			seen[d] = true
		}
		require.Equal(t, least < 15*time.Minute, len(seen) > 1, "jitter after %d receives", receives)
	}
	require.GreaterOrEqual(t, outage.Delay(1, 10*time.Minute), 10*time.Minute, "what is known to last longer counts")
	require.Equal(t, 15*time.Minute, outage.Delay(1, 10*time.Hour))
}

// The span is the minimum sum of the delays.
func TestSpan(t *testing.T) {
	for n := range 60 {
		least, sum := outage.Span(n), time.Duration(0)
		for receives := range n {
			sum += outage.Delay(receives+1, 0)
		}
		require.LessOrEqual(t, least, sum)
		require.LessOrEqual(t, sum, least*5/4)
	}
}
