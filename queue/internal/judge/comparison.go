package judge

import (
	"math"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// Guilt is how far a message's failures are its own fault rather than the
// downstream's.
type Guilt uint8

// The degrees of guilt.
const (
	Innocent Guilt = iota // nothing points at the message
	Suspect               // it fails too often for chance: its results no longer reach the limits
	Guilty                // and hardly any other message does: its attempts count
)

const (
	leastShare   = 0.01  // the assumed share of other messages that fail, at least
	leastRefused = 0.04  // the same for refusals, which come in groups: two in a row are no message's fault
	chance       = 0.001 // a lower probability is no coincidence
	hardlyChance = 0.05  // a lower probability is hardly one
	guiltyBelow  = 0.1   // share of other messages that fail above which it is a partial outage

	minutes = 10 // of results to compare with
	telling = 20 // first runs that make a share of them significant by itself
)

// A Comparison records the results of the first runs of messages, to compare a
// message's failures with. Its zero value is ready. It is not safe for concurrent
// use.
type Comparison struct {
	total  Mark
	minute int64         // the latest minute in recent, in minutes since 1970
	recent [minutes]Mark // total as it was when each of the last minutes began
}

// A Mark is the number of first runs up to some time, and of those that had
// failed, by class.
type Mark struct {
	runs   int
	failed [3]int
}

// A Streak is a message's failures in a row with the same class.
type Streak struct {
	class int
	n     int
	first time.Time
	since Mark // after the first of them
	alone bool // others succeeded while it failed, at some time
	odd   bool // its last failure was hardly chance
}

// Unlikely reports whether the failures up to the last one are hardly chance,
// given how many others succeeded meanwhile: a probability below 5 %, a weak
// suspicion.
func (s Streak) Unlikely() bool { return s.odd }

// Suspected reports whether the message has been a suspect since the streak
// began. On a queue that has become quiet it may be Innocent again, for lack of
// others to compare it with, and its failures still say nothing about others.
func (s Streak) Suspected() bool { return s.alone }

// Len is the number of failures.
func (s Streak) Len() int { return s.n }

// Lasts is how long ago the first failure was.
func (s Streak) Lasts(now time.Time) time.Duration {
	if s.n == 0 {
		return 0
	}
	return now.Sub(s.first)
}

func indexOf(class error) int {
	switch class {
	case limiter.ErrOverload:
		return 0
	case limiter.ErrUnavailable:
		return 1
	case limiter.ErrMisconfigured:
		return 2
	}
	return -1
}

// Add records the result of a message's first run: its class, nil for a result
// that says nothing against the downstream.
func (c *Comparison) Add(now time.Time, class error) {
	c.forget(now)
	c.total.runs++
	if i := indexOf(class); i >= 0 {
		c.total.failed[i]++
	}
}

// Fail records a failure of a message in its streak, and returns how guilty that
// makes it: whether its failures in a row would be chance with a probability
// below 0.1 % if it failed as often as other messages did since the first of
// them, in the last ten minutes at most. In a partial outage it is at most a
// suspect, since the few results to compare it with may happen to include no
// failure.
func (c *Comparison) Fail(now time.Time, s *Streak, class error) Guilt {
	c.forget(now)
	i := indexOf(class)
	if i < 0 {
		*s = Streak{}
		return Innocent
	}
	if s.n == 0 || s.class != i {
		*s = Streak{class: i, n: 1, first: now, since: c.total}
		return Innocent
	}
	s.n++
	s.odd = false
	runs, failed := c.since(s.since, i)
	if runs <= failed {
		return Innocent // no other message has succeeded
	}
	// Few results don't show the share well: half a failure more is assumed.
	share := max(leastShare, (float64(failed)+0.5)/float64(runs+1))
	if class == limiter.ErrOverload {
		share = max(share, leastRefused)
	}
	p := math.Pow(share, float64(s.n))
	s.odd = p < hardlyChance
	if p >= chance {
		return Innocent
	}
	s.alone = true
	switch {
	case share >= guiltyBelow, c.Partial(now, class):
		return Suspect
	}
	return Guilty
}

// Partial reports whether class is that of a partial outage: at least a tenth of
// the first runs of the last ten minutes failed with it. Fewer than 20 of them
// show nothing.
func (c *Comparison) Partial(now time.Time, class error) bool {
	c.forget(now)
	i := indexOf(class)
	if i < 0 {
		return false
	}
	runs, failed := c.since(Mark{}, i)
	return runs >= telling && float64(failed) >= guiltyBelow*float64(runs)
}

// since returns how many first runs there were since m, in the last ten minutes
// at most, and how many of them failed with that class.
func (c *Comparison) since(m Mark, class int) (runs, failed int) {
	if oldest := c.recent[(c.minute+1)%minutes]; oldest.runs > m.runs {
		m = oldest
	}
	return c.total.runs - m.runs, c.total.failed[class] - m.failed[class]
}

// forget moves on to the present minute.
func (c *Comparison) forget(now time.Time) {
	minute := now.Unix() / 60
	if c.minute == 0 {
		c.minute = minute
	}
	for i := max(c.minute, minute-minutes) + 1; i <= minute; i++ {
		c.recent[i%minutes] = c.total
	}
	c.minute = max(c.minute, minute)
}
