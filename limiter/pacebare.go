package limiter

import (
	"math"
	"time"
)

// How a pace handles bare refusals.
const (
	// The target share of refusals: what it costs to use all of the downstream's
	// capacity. The faster a process is, the lower its target, so that processes
	// that share a limit become equal. Noise of up to 1.2 % needs no test.
	aimAt    = 0.0165 // at a pace of aimPace
	aimPace  = 20
	aimPower = 0.4
	leastAim = 0.012
	mostAim  = 0.06

	// A refusal lowers the pace by a step, the second one in a row by two, and so
	// on. An acceptance raises it by a step times the target share, so that the
	// pace is steady when the target share is refused. One round-trip changes the
	// pace by at most roundSteps steps.
	shareStep  = 0.025
	mostInRow  = 8
	roundSteps = 3

	// When a refusal is overdue by this factor, the steps up become longer.
	longUp = 3

	// The step up after a refusal for the operation's own sake.
	againStep = 0.25

	// The least share of the pace that one round-trip leaves, and the least share
	// of the recent deliveries that any refusal leaves.
	roundLeast     = 0.25
	deliveredLeast = 0.9

	// The pace rises up to this many times what is used of it.
	usedMost = 2

	// Noise: if the pace has fallen to this share of the most that was delivered, and
	// refusals continue, it dips to half for a moment. If refusals do not become
	// fewer, and are at most a quarter of all results, they are noise: their share,
	// rounded up for chance, is added to the target. Rounded down, the pace would
	// fall again.
	sinks        = 0.7
	sinking      = 0.85
	sunkRefusals = 6
	shareDip     = 0.5
	dipRefusals  = 8
	mostRefusals = 24   // refusals in a dip that are more than noise: fewer may be noise that bunched
	dipDoubt     = 0.35 // the standard deviation of so few, as a share of them
	mostNoise    = 0.25
	dipLeast     = 15 // delivered a second: slower processes have no time for a dip
	dipPatience  = time.Minute

	// Noise is checked again at the next full minute, when all processes dip together
	// and those that have taken each other for noise see it. Each time it is
	// confirmed, it is checked half as often, if dips would take more than 1/dipTime
	// of the time.
	leastChecked = time.Minute
	mostChecked  = 8 * time.Minute
	dipTime      = 16

	// The most that was delivered is measured in windows of a second and
	// windowResults results. It fades, and is forgotten when this share is
	// refused.
	windowResults = 100
	windowFade    = 0.995
	windowRefused = 0.3
)

// A shareControl keeps the share of bare refusals small.
type shareControl struct {
	roundFrom   time.Duration // the round-trip: ends with the result of an operation that started in it
	roundRate   float64
	roundStarts uint64
	step        float64

	refusedRow  int // refusals in a row
	acceptedRow int // acceptances since the last refusal

	windowFrom time.Duration
	windowN    int
	windowBad  int
	abstained  int     // operations in the window that have no result
	before     float64 // share of refusals in the window before
	best       float64 // the most delivered in a window; 0: forgotten
	sunk       int     // refusals since the pace has been falling

	floor      float64       // the share that is noise
	floorUntil time.Duration // when noise is checked again; 0: there is none
	confirmed  int           // how often in a row it was confirmed
	dipping    bool
	dipFrom    time.Duration
	dipN       int
	dipBad     int
}

// dip returns the factor for the pace.
func (c *shareControl) dip() float64 {
	if c.dipping {
		return shareDip
	}
	return 1
}

// result records the result of an operation that started at begin.
func (c *shareControl) result(p *pace, begin, now time.Duration, refused bool) {
	p.fill(now)
	if !p.bare {
		c.begin(p, begin, now)
	}
	if begin >= c.roundFrom {
		c.step = min(shareStep, roundSteps/max(1, float64(p.starts-c.roundStarts)))
		c.roundFrom, c.roundRate, c.roundStarts = now, p.rate, p.starts
	}
	c.window(now, refused)
	switch {
	case p.row >= downRefusals: // no time for tests
		c.dipping = false
	case c.dipping:
		c.dipped(p, begin, now, refused)
		return
	case c.suspicious(p, now):
		c.dipping, c.dipFrom, c.dipN, c.dipBad = true, now, 0, 0
		return
	}
	least := leastPace
	if _, ok := p.quiet.noise(p.used); ok {
		least = quietLeast * p.used
	}
	aim := p.noise() + min(max(aimAt*math.Pow(aimPace/p.rate, aimPower), leastAim), mostAim)
	if !refused {
		c.refusedRow = 0
		c.acceptedRow++
		if p.rate < usedMost*p.used || p.used == 0 {
			p.rate *= 1 + c.step*aim*max(1, float64(c.acceptedRow)*aim/longUp)
		}
		return
	}
	c.refusedRow++
	c.acceptedRow = 0
	least = max(least, roundLeast*c.roundRate, deliveredLeast*p.lately(now))
	if p.row >= outageRefusals {
		least = max(least, 1) // until it is an outage
	}
	p.rate = min(p.rate, max(least, p.rate*(1-c.step*float64(min(c.refusedRow, mostInRow)))))
}

// begin handles the first bare refusal. If there was no pace, it becomes that
// of the last round-trip.
func (c *shareControl) begin(p *pace, begin, now time.Duration) {
	p.limited(now)
	if math.IsInf(p.rate, 1) {
		p.rate = float64(p.flying+1) / max(1e-4, (now-begin).Seconds())
	}
	p.bare = true
	*c = shareControl{roundFrom: now, roundRate: p.rate, roundStarts: p.starts, step: shareStep, windowFrom: now}
}

// window counts a result.
func (c *shareControl) window(now time.Duration, refused bool) {
	c.windowN++
	if refused {
		c.windowBad++
		c.sunk++
	}
	t := (now - c.windowFrom).Seconds()
	if t < 1 || c.windowN < windowResults {
		return
	}
	c.before = float64(c.windowBad) / float64(c.windowN)
	c.best *= windowFade
	if c.before > windowRefused {
		c.best = 0
	}
	c.best = max(c.best, float64(c.windowN-c.windowBad+c.abstained)/t)
	c.windowFrom, c.windowN, c.windowBad, c.abstained = now, 0, 0, 0
}

// suspicious reports whether refusals may be noise, or may no longer be
// noise.
func (c *shareControl) suspicious(p *pace, now time.Duration) bool {
	if p.rate >= sinking*c.best {
		c.sunk = 0
	}
	if c.best < dipLeast {
		return false
	}
	return p.rate < sinks*c.best && c.sunk >= sunkRefusals || c.floorUntil > 0 && now >= c.floorUntil
}

// dipped counts a result during a dip, and ends the dip when there are
// enough.
func (c *shareControl) dipped(p *pace, begin, now time.Duration, refused bool) {
	if begin >= c.dipFrom {
		c.dipN++
		if refused {
			c.dipBad++
		}
	}
	n, share := float64(c.dipN), max(c.before, 0.005)
	noise := float64(c.dipBad) / n
	switch {
	case c.dipBad >= dipRefusals && noise <= mostNoise:
	case c.dipBad >= mostRefusals:
	case c.dipBad < dipRefusals && n >= 2*dipRefusals/share:
	case c.dipBad == 0 && n >= dipRefusals/2/share:
	case now-c.dipFrom > dipPatience:
	default:
		return
	}
	c.dipping, c.sunk = false, 0
	if c.dipBad >= dipRefusals && noise <= mostNoise {
		holds := leastChecked
		for holds < min(mostChecked, dipTime*(now-c.dipFrom), leastChecked<<c.confirmed) {
			holds *= 2
		}
		c.floor, c.floorUntil = noise, now+holds-(now+p.clock)%holds
		if c.confirmed > 0 {
			c.floor *= 1 + dipDoubt
		}
		c.confirmed = min(c.confirmed+1, 3)
		p.rate = c.best / (1 - noise)
		return
	}
	p.rate *= 1 - c.floor
	c.floor, c.floorUntil, c.confirmed = 0, 0, 0
	if c.dipBad == 0 {
		c.best = 0
	}
}
