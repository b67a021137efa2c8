package limiter

import (
	"math"
	"time"
)

// When refusals with a Retry-After are not about the pace.
const (
	// They are about how many operations are in flight if so many in a row came
	// when that was higher than it mostly is: by so many standard deviations.
	crowdRefusals = 4
	crowdSigmas   = 0.85
	crowdMemory   = 300 // starts
	crowdTries    = 3   // refusals of the limit in flight in a row that refute it
	crowdRest     = 100 // refusals before it is looked for again

	// They are noise if their share is about the same at a quarter of the pace, so
	// many times running: once when it has fallen so far by itself, then when it is
	// put to a quarter of that for a moment. Each time so many refusals are counted.
	// They are no noise if their share is a sixth of what it was, or if they do not
	// come within five minutes.
	noiseDips     = 3
	noiseDip      = 0.25
	noiseRefusals = 4
	noiseSame     = 6
	noisePatience = 5 * time.Minute
	noiseRest     = 10 * time.Second // before it is looked for again

	// Fewer operations a second than quietMost have no time for dips. If then some
	// start only when there is something to do, with few in flight, and are refused
	// about as often as the others, that is noise, too. The pace stays so many times
	// what is used, since it is not used up.
	quietMost   = 20
	quietLeast  = 10
	quietMemory = 100 // results
	quietRise   = 40  // results of such
	quietFade   = 200 // results of others
	quietSome   = 0.3
	quietCrowd  = 0.75
	quietSame   = 5

	// Noise has bunched if more than half of so many results are refusals.
	bunchResults = 64
)

// A crowdDoubt asks whether the downstream limits operations in flight, rather
// than their rate. A Retry-After costs a second, and at a rate near the limit
// chance alone brings too many together.
type crowdDoubt struct {
	variance float64       // of the operations in flight at a start
	refusals int           // in a row of unusually many
	least    int           // of these, the fewest that others had in flight
	rate     float64       // the pace before the limit in flight
	raiseAt  time.Duration // when one more is tried
	raised   bool          // more than in the epoch before have been tried
	tries    int           // refusals in a row of the limit itself
}

// start follows an operation that starts.
func (d *crowdDoubt) start(p *pace, now time.Duration) {
	x := float64(p.flying) - p.crowd
	d.variance += (x*x - d.variance) / crowdMemory
	if p.bucket.inFlight > 0 && now >= d.raiseAt {
		p.bucket.inFlight++
		d.raised = true
		d.raiseAt = now + p.bucket.due/perDoubled
	}
}

// begin begins an epoch, in which more are tried from then on.
func (d *crowdDoubt) begin(raiseAt time.Duration) { d.raised, d.raiseAt = false, raiseAt }

// refuse follows the refusal of an operation at whose start so many were in
// flight.
func (d *crowdDoubt) refuse(p *pace, flying int) {
	switch {
	case p.bucket.stage != stageKnown || p.bucket.inFlight > 0:
	case float64(flying) > p.crowd+max(1, crowdSigmas*math.Sqrt(d.variance)):
		if d.refusals++; d.refusals == 1 {
			d.least = flying
		}
		d.least = min(d.least, flying-1)
	case !p.bucket.rising: // in a rise there are more anyway
		d.refusals = min(d.refusals, 0)
	}
}

// certain reports whether a limit in flight is to be tried.
func (d *crowdDoubt) certain() bool { return d.refusals >= crowdRefusals }

// limit has the limit in flight take the place of the pace.
func (d *crowdDoubt) limit(p *pace) {
	p.bucket.inFlight = max(1, d.least)
	d.rate, p.rate = p.rate, math.Inf(1)
	d.refusals, d.tries = 0, 0
}

// refused is the end of an epoch with that limit.
func (d *crowdDoubt) refused(p *pace, e epoch) {
	c := &p.bucket
	if c.accepted == 0 {
		return // the downstream was down
	}
	c.inFlight = max(1, c.inFlight-1)
	if d.tries++; d.raised || e.t >= p.period(e.after)/2 {
		d.tries = 0
	}
	if d.tries >= crowdTries {
		c.inFlight, p.rate = 0, d.rate
		d.refusals = -crowdRest
	}
}

// A noiseDoubt asks whether refusals with a Retry-After are independent of the
// pace: one endpoint, a random few. Then obeying each of them would stop
// everything for nothing.
type noiseDoubt struct {
	rate      float64       // the pace in the first count
	share     float64       // of refusals in it; 0: not counted yet
	accepted  int           // in the count that goes on
	refusals  int           // in it
	dips      int           // times that their share was the same at a quarter of the pace
	sunk      bool          // the pace has fallen to a quarter by itself, and is kept
	dipping   bool          // it is put to a quarter
	dipUntil  time.Duration // at most
	restUntil time.Duration // nothing is counted before

	deaf         bool // it is noise: no Retry-After is obeyed
	heard, bunch int  // results since, and refusals among them
}

// refused counts an epoch that was refused at that pace.
func (d *noiseDoubt) refused(p *pace, rate float64, now time.Duration) {
	c := &p.bucket
	switch {
	case c.stage != stageKnown || c.inFlight > 0 || now < d.restUntil:
		return
	case p.row >= downRefusals: // that is no time for tests
		d.rest(now)
		return
	case d.looking():
	case d.dips > 0:
		d.dipping = true
		return
	case c.early == 0 || rate > 1.5*d.rate:
		d.rate, d.share, d.accepted, d.refusals = rate, 0, 0, 0
	case d.share > 0:
		d.sunk = p.rate <= noiseDip*d.rate
		return
	}
	d.accepted += c.accepted
	if d.refusals++; d.refusals < noiseRefusals {
		return
	}
	share := float64(d.refusals) / float64(d.refusals+d.accepted)
	d.accepted, d.refusals = 0, 0
	switch {
	case d.share == 0:
		d.share = share
	case share < d.share/noiseSame:
		d.rest(now)
	default:
		d.sunk, d.dipping = false, false
		d.dips++
		d.deaf = d.dips == noiseDips
	}
}

// looking reports whether refusals are counted at a low pace, which is kept
// meanwhile.
func (d *noiseDoubt) looking() bool { return d.sunk || d.dipping }

// dip returns what is left of the pace in an epoch that begins now.
func (d *noiseDoubt) dip(now time.Duration) float64 {
	if d.looking() && d.accepted+d.refusals == 0 {
		d.dipUntil = now + noisePatience
	}
	if d.dipping {
		return noiseDip
	}
	return 1
}

// refuted reports whether so many acceptances in this epoch say that refusals
// become fewer at a lower pace, and ends the dip.
func (d *noiseDoubt) refuted(accepted int, now time.Duration) bool {
	if !d.looking() || float64(d.accepted+accepted)*d.share <= noiseSame*noiseRefusals && now <= d.dipUntil {
		return false
	}
	d.rest(now)
	return true
}

// rest begins anew, after a while.
func (d *noiseDoubt) rest(now time.Duration) { *d = noiseDoubt{restUntil: now + noiseRest} }

// listen follows a result, and reports whether a Retry-After is obeyed.
func (d *noiseDoubt) listen(refused bool) bool {
	if !d.deaf {
		return true
	}
	if refused {
		d.bunch++
	}
	if d.heard++; d.heard == bunchResults {
		if d.bunch > bunchResults/2 {
			*d = noiseDoubt{}
			return true
		}
		d.heard, d.bunch = 0, 0
	}
	return false
}

// A quietDoubt compares refusals of operations that were idle, which had nothing
// to wait for, with those of others.
type quietDoubt struct {
	idle, busy float64 // shares of refusals of those that were, and those that were not
	some       float64 // falls as fewer are idle
}

func (d *quietDoubt) result(idle, refused bool) {
	share := &d.busy
	if idle {
		share = &d.idle
		d.some += (1 - d.some) / quietRise
	} else {
		d.some -= d.some / quietFade
	}
	if refused {
		*share += (1 - *share) / quietMemory
	} else {
		*share -= *share / quietMemory
	}
}

// noise returns the share of refusals that is noise, if it is.
func (d *quietDoubt) noise(used float64) (share float64, ok bool) {
	return d.idle, 0 < used && used < quietMost && d.some >= quietSome && d.idle <= mostNoise && d.busy <= quietSame*max(d.idle, leastAim)
}
