package sqslambda

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// The refusals that a process sees show whether they are the messages' own.
func TestHealth_Typical(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	refusal := func(pause time.Duration) judge.Facts {
		return judge.Facts{Result: judge.Result{Err: limiter.ErrOverload, Class: limiter.ErrOverload, Pause: pause}, Run: 1}
	}
	success := judge.Facts{Run: 1}
	good := func(h *health, n int) {
		for i := range n {
			h.succeeded(now, "good "+strconv.Itoa(i), 1, success)
		}
	}
	fails := func(h *health, id string, receives int, pause time.Duration) bool {
		_, _, typical := h.failed(now, id, receives, refusal(pause))
		return typical
	}
	for _, pause := range []time.Duration{0, time.Second} {
		known := leastKnown
		if pause > 0 {
			known = memoryAgain
		}
		var h health
		for n := range 30 { // one of ten is always refused
			good(&h, 9)
			require.Equal(t, n >= known, fails(&h, "bad "+strconv.Itoa(n), 1, pause), "bad message %d", n)
			good(&h, 1)
			fails(&h, "bad "+strconv.Itoa(n), 2, pause)
		}
		heard := 0
		for n := range 10 { // then everything is
			if !fails(&h, "new "+strconv.Itoa(n), 1, pause) {
				heard++
			}
		}
		require.GreaterOrEqual(t, heard, 10-typicalMisses)

		h = health{}
		for n := range 30 { // one of ten is refused by chance
			good(&h, 9)
			require.False(t, fails(&h, "unlucky "+strconv.Itoa(n), 1, pause))
			good(&h, 1)
			h.succeeded(now, "unlucky "+strconv.Itoa(n), 2, success)
		}

		h = health{}
		for n := range 30 { // half of all are refused, again and again
			good(&h, 1)
			require.False(t, fails(&h, "late "+strconv.Itoa(n), 1, pause))
			good(&h, 1)
			fails(&h, "late "+strconv.Itoa(n), 2, pause)
		}
	}
}

// The number of messages that a process remembers is limited.
func TestHealth_Memory(t *testing.T) {
	var h health
	for n := range 10 * mostKnown {
		h.failed(time.Now(), strconv.Itoa(n), 1, judge.Facts{Result: judge.Result{Class: limiter.ErrOverload}, Run: 1})
	}
	require.Len(t, h.refused, mostKnown)
}
