package limiter

import (
	"math"
	"time"
)

// How a pace deals with bare refusals.
const (
	// The share of refusals that is aimed at: it is what the use of all that the
	// downstream gives costs. The faster a process is, the less it aims at, which
	// makes processes that share a limit equal. 1.2 % is also so much noise that
	// needs no test.
	aimAt    = 0.0165 // at aimPace
	aimPace  = 20
	aimPower = 0.4
	leastAim = 0.012
	mostAim  = 0.06

	// A refusal lowers the pace by a step, the second one in a row by two, and so
	// on. An acceptance raises it by the aim's share of a step, so that it is
	// steady when as many are refused as are aimed at. In a round-trip there are no
	// more than so many steps' worth.
	shareStep  = 0.025
	mostInRow  = 8
	roundSteps = 3

	// When no refusal has come for so many times as long as one should take, the
	// steps up become longer.
	longUp = 3

	// The step up with a refusal that is the operation's own.
	againStep = 0.25

	// One round-trip leaves so much of the pace at least, and no refusal less than
	// so much of what has been delivered lately.
	roundLeast     = 0.25
	deliveredLeast = 0.9

	// The pace is raised up to so much of what is used of it.
	usedMost = 2

	// Noise: if the pace has fallen to so much of the most that was delivered, and
	// refusals go on, then it dips to half for a moment. If refusals become no fewer
	// by that, at most a quarter, they are noise, and their share, rounded up by what
	// chance may make of it, is added to the aim. Rounded down it would sink again.
	sinks        = 0.7
	sinking      = 0.85
	sunkRefusals = 6
	shareDip     = 0.5
	dipRefusals  = 8
	mostRefusals = 24   // before so many are more than noise: it may have bunched
	dipDoubt     = 0.35 // the standard deviation of so few, as a share of them
	mostNoise    = 0.25
	dipLeast     = 15 // delivered a second: processes that deliver less have no time for it
	dipPatience  = time.Minute

	// Noise is looked at again at the next full minute, when processes that have taken
	// each other for noise dip together, and see it. Each time that it is confirmed it
	// is looked at half as often, if dips would take more than one part in so many of
	// the time.
	leastChecked = time.Minute
	mostChecked  = 8 * time.Minute
	dipTime      = 16

	// The most that was delivered is looked for in windows of a second and so many
	// results. It fades, and is forgotten when so many are refused.
	windowResults = 100
	windowFade    = 0.995
	windowRefused = 0.3
)

// A shareControl keeps the share of bare refusals at a small figure.
type shareControl struct {
	roundFrom   time.Duration // the round-trip: it ends with the result of an operation that started in it
	roundRate   float64
	roundStarts uint64
	step        float64

	refusedRow  int // refusals in a row
	acceptedRow int // acceptances since the last refusal

	windowFrom time.Duration
	windowN    int
	windowBad  int
	abstained  int     // operations in it that have no result
	before     float64 // share of refusals in the window before
	best       float64 // the most delivered in one; 0: forgotten
	sunk       int     // refusals since the pace has been sinking

	floor      float64       // the share that is noise
	floorUntil time.Duration // then it is looked at again; 0: there is none
	confirmed  int           // how often in a row it was
	dipping    bool
	dipFrom    time.Duration
	dipN       int
	dipBad     int
}

// dip returns what is left of the pace.
func (c *shareControl) dip() float64 {
	if c.dipping {
		return shareDip
	}
	return 1
}

// result follows the result of an operation that started at begin.
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
	case p.row >= downRefusals: // that is no time for tests
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

// begin begins with the first bare refusal. The pace is that of the last
// round-trip, if there was none.
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

// suspicious reports whether refusals may be noise, or noise none any more.
func (c *shareControl) suspicious(p *pace, now time.Duration) bool {
	if p.rate >= sinking*c.best {
		c.sunk = 0
	}
	if c.best < dipLeast {
		return false
	}
	return p.rate < sinks*c.best && c.sunk >= sunkRefusals || c.floorUntil > 0 && now >= c.floorUntil
}

// dipped counts a result in a dip, and ends it when that is enough.
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
