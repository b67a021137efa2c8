package judge_test

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// After how many failures in a row a message is blamed, by how many of the others
// failed since the first of them.
func TestComparison(t *testing.T) {
	for _, c := range []struct {
		runs, failed  int
		suspect       int // the failure with which it is a suspect or guilty; 0: not within 15
		guilty        bool
		failWith      error
		othersFailing error
	}{
		{runs: 0}, // no other message has succeeded
		{runs: 10, suspect: 3, guilty: true},
		{runs: 100, suspect: 2, guilty: true},
		{runs: 10_000, suspect: 2, guilty: true},
		{runs: 1000, failed: 30, suspect: 2, guilty: true},
		{runs: 1000, failed: 35, suspect: 3, guilty: true},
		{runs: 1000, failed: 95, suspect: 3, guilty: true},
		{runs: 1000, failed: 100, suspect: 4},
		{runs: 1000, failed: 300, suspect: 6},
		{runs: 1000, failed: 500, suspect: 10},
		{runs: 1000, failed: 900},
		{runs: 1000, failed: 1000},
		{runs: 1000, failed: 900, othersFailing: limiter.ErrOverload, suspect: 2, guilty: true}, // of another class
	} {
		t.Run(strconv.Itoa(c.failed)+" of "+strconv.Itoa(c.runs), func(t *testing.T) {
			var others judge.Comparison
			var s judge.Streak
			others.Add(epoch, limiter.ErrUnavailable) // its own first run
			require.Equal(t, judge.Innocent, others.Fail(epoch, &s, limiter.ErrUnavailable))
			class := c.othersFailing
			if class == nil {
				class = limiter.ErrUnavailable
			}
			for i := range c.runs {
				if i < c.failed {
					others.Add(epoch, class)
				} else {
					others.Add(epoch, nil)
				}
			}
			want := judge.Innocent
			for n := 2; n <= 15; n++ {
				if n == c.suspect {
					want = judge.Suspect
					if c.guilty {
						want = judge.Guilty
					}
				}
				require.Equal(t, want, others.Fail(epoch, &s, limiter.ErrUnavailable), "failure %d", n)
			}
		})
	}
}

// A streak is of one class, and ends with a failure that names none.
func TestComparison_Streak(t *testing.T) {
	var others judge.Comparison
	for range 100 {
		others.Add(epoch, nil)
	}
	var s judge.Streak
	fail := func(class error) judge.Guilt {
		for range 100 {
			others.Add(epoch, nil)
		}
		return others.Fail(epoch, &s, class)
	}
	require.Equal(t, judge.Innocent, fail(limiter.ErrOverload))
	require.Equal(t, judge.Innocent, fail(limiter.ErrUnavailable))
	require.Equal(t, judge.Guilty, fail(limiter.ErrUnavailable))
	require.Equal(t, judge.Guilty, fail(limiter.ErrUnavailable))
	require.Equal(t, judge.Innocent, fail(nil))
	require.Equal(t, judge.Innocent, fail(limiter.ErrUnavailable))
	require.Equal(t, judge.Guilty, fail(limiter.ErrUnavailable))
}

// Results are forgotten after ten minutes.
func TestComparison_Forgets(t *testing.T) {
	for age, want := range map[time.Duration]judge.Guilt{
		time.Minute: judge.Guilty, 9 * time.Minute: judge.Guilty, 11 * time.Minute: judge.Innocent, 24 * time.Hour: judge.Innocent,
	} {
		var others judge.Comparison
		var s judge.Streak
		others.Fail(epoch, &s, limiter.ErrUnavailable)
		for range 1000 {
			others.Add(epoch, nil)
		}
		require.Equal(t, want, others.Fail(epoch.Add(age), &s, limiter.ErrUnavailable), age)
		require.Equal(t, judge.Innocent, others.Fail(epoch.Add(age), new(judge.Streak), limiter.ErrUnavailable))
	}
	var others judge.Comparison // a clock that goes back does no harm
	var s judge.Streak
	for i := range 100 {
		others.Add(epoch.Add(time.Duration(i%7)*-time.Minute), nil)
	}
	others.Fail(epoch.Add(-time.Hour), &s, limiter.ErrUnavailable)
}

// In a partial outage no message is guilty, not even one that failed last and has
// seen nothing but successes since.
func TestComparison_FewSuccessesInAPartialOutage(t *testing.T) {
	for failed, want := range map[int]judge.Guilt{10: judge.Guilty, 40: judge.Suspect} {
		var others judge.Comparison
		var s judge.Streak
		for i := range 200 {
			if i < failed {
				others.Add(epoch, limiter.ErrUnavailable)
			} else {
				others.Add(epoch, nil)
			}
		}
		others.Fail(epoch, &s, limiter.ErrUnavailable)
		for range 20 {
			others.Add(epoch, nil)
		}
		require.Equal(t, judge.Innocent, others.Fail(epoch, new(judge.Streak), limiter.ErrUnavailable))
		require.Equal(t, want, others.Fail(epoch, &s, limiter.ErrUnavailable), "%d of 200 failed", failed)
	}
}

// Messages that fail by chance are hardly ever blamed, however many others fail,
// and one that always fails soon is, as long as most others succeed.
func TestComparison_Chance(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, p := range []float64{0, 0.003, 0.01, 0.03, 0.09, 0.2, 0.5, 0.8} {
		var others judge.Comparison
		now, blamed, guilty := epoch, 0, 0
		type message struct {
			s   judge.Streak
			bad bool
		}
		var failing []*message
		badRuns := 0
		bad := &message{bad: true}
		fail := func(m *message) {
			g := others.Fail(now, &m.s, limiter.ErrUnavailable)
			switch {
			case m.bad:
				badRuns++
				if g != judge.Innocent {
					bad = nil
				}
			case g == judge.Guilty:
				guilty++
				fallthrough
			case g == judge.Suspect:
				blamed++
			}
		}
		const messages = 20_000
		for i := range messages {
			now = now.Add(50 * time.Millisecond)
			var class error
			if r.Float64() < p {
				class = limiter.ErrUnavailable
			}
			others.Add(now, class)
			if class != nil {
				m := &message{}
				fail(m)
				failing = append(failing, m)
			}
			if i%100 == 0 { // what has failed runs again
				if bad != nil {
					fail(bad)
				}
				kept := failing[:0]
				for _, m := range failing {
					if r.Float64() < p {
						fail(m)
						kept = append(kept, m)
					}
				}
				failing = kept
			}
		}
		require.LessOrEqual(t, blamed, messages/250, "of those that fail with a probability of %v", p)
		if p > 0.4 {
			require.Zero(t, guilty, p)
		}
		if p < 0.6 {
			require.Nil(t, bad, "p = %v", p)
			require.LessOrEqual(t, badRuns, 14, "p = %v", p)
		}
	}
}

func TestComparison_Partial(t *testing.T) {
	for _, c := range []struct {
		runs, failed int
		age          time.Duration
		class        error
		want         bool
	}{
		{runs: 20, failed: 2, class: limiter.ErrOverload, want: true},
		{runs: 20, failed: 1, class: limiter.ErrOverload},
		{runs: 19, failed: 19, class: limiter.ErrOverload},
		{runs: 1000, failed: 100, class: limiter.ErrOverload, want: true},
		{runs: 1000, failed: 99, class: limiter.ErrOverload},
		{runs: 1000, failed: 1000, class: limiter.ErrUnavailable},
		{runs: 1000, failed: 1000, class: nil},
		{runs: 1000, failed: 1000, age: 9 * time.Minute, class: limiter.ErrOverload, want: true},
		{runs: 1000, failed: 1000, age: 11 * time.Minute, class: limiter.ErrOverload},
	} {
		var others judge.Comparison
		for i := range c.runs {
			if i < c.failed {
				others.Add(epoch, limiter.ErrOverload)
			} else {
				others.Add(epoch, nil)
			}
		}
		require.Equal(t, c.want, others.Partial(epoch.Add(c.age), c.class), "%+v", c)
	}
}

// A message that has failed twice, while none of six others did, has hardly
// failed by chance. It is no suspect yet.
func TestComparison_Unlikely(t *testing.T) {
	var c judge.Comparison
	var s judge.Streak
	now := time.Unix(1_000_000, 0)
	require.Equal(t, judge.Innocent, c.Fail(now, &s, limiter.ErrOverload))
	require.False(t, s.Unlikely(), "one failure is anybody's")
	for range 6 {
		c.Add(now, nil)
	}
	require.Equal(t, judge.Innocent, c.Fail(now, &s, limiter.ErrOverload))
	require.True(t, s.Unlikely())
	for range 20 {
		c.Add(now, limiter.ErrOverload)
	}
	require.Equal(t, judge.Innocent, c.Fail(now, &s, limiter.ErrOverload))
	require.False(t, s.Unlikely(), "most fail")
}
