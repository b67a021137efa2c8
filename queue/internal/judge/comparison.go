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
	Suspect               // it fails too often for chance: the limits hear no more of it
	Guilty                // and hardly any other does: its attempts count
)

const (
	leastShare   = 0.01  // of other messages that are taken to fail, where none was seen to
	leastRefused = 0.04  // the same of refusals, which come together: two in a row are nobody's fault
	chance       = 0.001 // what is less likely than this is no coincidence
	hardlyChance = 0.05  // what is less likely than this is hardly one
	guiltyBelow  = 0.1   // share of other messages that fail above which it is a partial outage

	minutes = 10 // of results to compare with
	telling = 20 // first runs that make a share of them worth something by itself
)

// A Comparison has the results of the first runs of messages, to compare a
// message's failures with. Its zero value is ready. It is not safe for
// concurrent use.
type Comparison struct {
	total  Mark
	minute int64         // the latest one in recent, in minutes since 1970
	recent [minutes]Mark // total as it was when each of the last minutes began
}

// A Mark is how many first runs there had been at some time, and how many of
// them had failed, by class.
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

// Unlikely reports whether the failures up to the last one are hardly chance, given
// how many others succeeded meanwhile: less than the 5 % of a weak suspicion.
func (s Streak) Unlikely() bool { return s.odd }

// Suspected reports whether the message has been a suspect since the streak began.
// On a queue that has become quiet it may be Innocent again, for want of others to
// compare it with, and still it says nothing about them.
func (s Streak) Suspected() bool { return s.alone }

// Len is how many there are.
func (s Streak) Len() int { return s.n }

// Lasts is how long ago the first of them was.
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

// Add notes the result of a message's first run: its class, nil for one that
// says nothing against the downstream.
func (c *Comparison) Add(now time.Time, class error) {
	c.forget(now)
	c.total.runs++
	if i := indexOf(class); i >= 0 {
		c.total.failed[i]++
	}
}

// Fail notes a failure of a message in its streak, and says how guilty that
// makes it: whether its failures in a row would be chance with a probability
// below 0.1 % if it failed as often as other messages did since the first of
// them, in the last ten minutes at most. It is no more than a suspect in a partial
// outage: of few results a message may have seen none that failed.
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
		return Innocent // nobody else has succeeded
	}
	// Of few results the share is not known well: half a failure more is assumed.
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
// the first runs of the last ten minutes failed with it. It takes 20 of them to
// tell.
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
