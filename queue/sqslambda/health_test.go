package sqslambda

import (
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
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

// Refusals of an overload are not taken for the messages' own because some are.
func TestHealth_OverloadAmongTypical(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	success := judge.Facts{Run: 1}
	for name, c := range map[string]struct {
		pause    time.Duration
		overload int // so many times as many messages are refused by it
		rerun    bool
	}{
		"they come back":                   {overload: 1},
		"they succeed in hand":             {overload: 1, rerun: true},
		"few, with a Retry-After":          {pause: time.Second},
		"few, with a Retry-After, in hand": {pause: time.Second, rerun: true},
	} {
		t.Run(name, func(t *testing.T) {
			var h health
			refusal := judge.Facts{Result: judge.Result{Class: limiter.ErrOverload, Pause: c.pause}, Run: 1}
			typical := false
			refused := func(id string, receives int) {
				_, _, typical = h.failed(now, id, receives, refusal)
			}
			accepted := func(id string, receives, run int) { h.succeeded(now, id, receives, judge.Facts{Run: run}) }
			seen := 0
			for n := range 60 {
				for range 20 {
					h.succeeded(now, "good", 1, success)
				}
				id := strconv.Itoa(n)
				for receives := range 6 {
					refused("bad "+id, receives+1)
					accepted("good", 1, 1)
				}
				if c.overload == 0 && n%15 > 0 {
					continue
				}
				refused("unlucky "+id, 1)
				if n > 30 && typical {
					seen++
				}
				if c.rerun {
					accepted("unlucky "+id, 1, 2)
				} else {
					accepted("unlucky "+id, 2, 1)
				}
			}
			require.Zero(t, seen)
		})
	}
}

// Messages without an id are not recognized by the one that the engine gives them.
func TestHealth_Nameless(t *testing.T) {
	refusal := judge.Facts{Result: judge.Result{Class: limiter.ErrOverload}, Run: 1}
	f := &function{}
	for range 100 {
		inv := newInvocation(t.Context(), f, events.SQSEvent{Records: []events.SQSMessage{{Body: "a"}, {Body: "b"}}})
		inv.Judged("record 0", 1, judge.Facts{Run: 1}, judge.Verdict{Action: judge.Ack})
		_, _, typical := inv.Guilt("record 1", 1, refusal)
		require.False(t, typical)
		inv.finish()
	}
	require.Zero(t, f.health.again.n)
	require.Empty(t, f.health.refused)
}

// The number of messages that a process remembers is limited.
func TestHealth_Memory(t *testing.T) {
	var h health
	for n := range 10 * mostKnown {
		h.failed(time.Now(), strconv.Itoa(n), 1, judge.Facts{Result: judge.Result{Class: limiter.ErrOverload}, Run: 1})
	}
	require.Len(t, h.refused, mostKnown)
}
