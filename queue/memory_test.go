package queue

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// A message that is postponed again and again is remembered for as long as that
// continues, however many others come and go.
func TestMemory_KeepsWhatItLearnedLately(t *testing.T) {
	var y memory
	x := &Message{ID: "x"}
	for i := range 2 * maxRemembered {
		if i%100 == 0 {
			x.Attempt++
			y.note(x, 0, judge.Streak{})
		}
		y.note(&Message{ID: fmt.Sprint(i), Attempt: 1}, 0, judge.Streak{})
	}
	x.Attempt++
	failures, _ := y.failures(x)
	require.Zero(t, failures, "each of its receives was postponed")
	require.Len(t, y.by, maxRemembered)
	require.Equal(t, maxRemembered, y.order.Len())
}

// Messages that are done use no memory.
func TestMemory_ForgetsWhatIsDone(t *testing.T) {
	var y memory
	x := &Message{ID: "x", Attempt: 5}
	y.note(x, 0, judge.Streak{})
	for i := range 2 * maxRemembered {
		m := &Message{ID: fmt.Sprint(i), Attempt: 1}
		y.note(m, 0, judge.Streak{})
		y.forget(m)
	}
	x.Attempt++
	failures, _ := y.failures(x)
	require.Zero(t, failures, "it had two messages to remember at most")
	require.Equal(t, 1, y.order.Len())
}
