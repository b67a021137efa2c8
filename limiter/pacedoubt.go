package limiter

import (
	"math"
	"time"
)

// When refusals with a Retry-After do not depend on the pace.
const (
	// They depend on the operations in flight if crowdRefusals in a row came
	// when more than usual were in flight: by crowdSigmas standard deviations.
	crowdRefusals = 4
	crowdSigmas   = 0.85
	crowdMemory   = 300 // starts
	crowdTries    = 3   // refusals in a row that refute the limit in flight
	crowdRest     = 100 // refusals before such a limit is considered again

	// They are noise if their share is about the same at a quarter of the pace,
	// noiseDips times running: once when the pace has fallen that far by itself,
	// then when it is set to a quarter of that for a moment. Each time noiseRefusals
	// refusals are counted. They are not noise if their share is a sixth of what it
	// was, or if they do not come within five minutes.
	noiseDips     = 3
	noiseDip      = 0.25
	noiseRefusals = 4
	noiseSame     = 6
	noisePatience = 5 * time.Minute
	noiseRest     = 10 * time.Second // before noise is considered again

	// Below quietMost operations a second there is no time for dips. If some
	// operations then start only when work arrives, with few in flight, and are
	// refused about as often as the others, that is noise too. The pace stays at
	// quietLeast times what is used, since it is not used up.
	quietMost   = 20
	quietLeast  = 10
	quietMemory = 100 // results
	quietRise   = 40  // results of idle operations
	quietFade   = 200 // results of others
	quietSome   = 0.3
	quietCrowd  = 0.75
	quietSame   = 5

	// Noise has bunched if more than half of bunchResults results are
	// refusals.
	bunchResults = 64
)

// A crowdDoubt asks whether the downstream limits operations in flight, rather
// than their rate. A Retry-After costs a second, and at a rate near the limit
// chance alone brings too many together.
type crowdDoubt struct {
	variance float64       // of the operations in flight at a start
	refusals int           // consecutive refusals with unusually many in flight
	least    int           // the fewest other operations in flight at one of them
	rate     float64       // the pace before the limit in flight
	raiseAt  time.Duration // when the limit is next raised by one
	raised   bool          // the limit has been raised above that of the previous epoch
	tries    int           // refusals in a row despite the limit in flight
}

// start records an operation that starts.
func (d *crowdDoubt) start(p *pace, now time.Duration) {
	x := float64(p.flying) - p.crowd
	d.variance += (x*x - d.variance) / crowdMemory
	if p.bucket.inFlight > 0 && now >= d.raiseAt {
		p.bucket.inFlight++
		d.raised = true
		d.raiseAt = now + p.bucket.due/perDoubled
	}
}

// begin begins an epoch, in which the limit rises from raiseAt on.
func (d *crowdDoubt) begin(raiseAt time.Duration) { d.raised, d.raiseAt = false, raiseAt }

// refuse records the refusal of an operation that started with flying
// operations in flight.
func (d *crowdDoubt) refuse(p *pace, flying int) {
	switch {
	case p.bucket.stage != stageKnown || p.bucket.inFlight > 0:
	case float64(flying) > p.crowd+max(1, crowdSigmas*math.Sqrt(d.variance)):
		if d.refusals++; d.refusals == 1 {
			d.least = flying
		}
		d.least = min(d.least, flying-1)
	case !p.bucket.rising: // during a rise more are in flight anyway
		d.refusals = min(d.refusals, 0)
	}
}

// certain reports whether a limit in flight is to be tried.
func (d *crowdDoubt) certain() bool { return d.refusals >= crowdRefusals }

// limit replaces the pace by a limit in flight.
func (d *crowdDoubt) limit(p *pace) {
	p.bucket.inFlight = max(1, d.least)
	d.rate, p.rate = p.rate, math.Inf(1)
	d.refusals, d.tries = 0, 0
}

// refused ends an epoch with that limit.
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

// A noiseDoubt decides whether refusals with a Retry-After are independent of
// the pace: one endpoint, or a few at random. Obeying each of them would then
// stop everything for nothing.
type noiseDoubt struct {
	rate      float64       // the pace in the first count
	share     float64       // of refusals in that count; 0: not counted yet
	accepted  int           // acceptances in the current count
	refusals  int           // refusals in it
	dips      int           // times that the share was the same at a quarter of the pace
	sunk      bool          // the pace has fallen to a quarter by itself and is held there
	dipping   bool          // the pace is set to a quarter
	dipUntil  time.Duration // when the dip ends at the latest
	restUntil time.Duration // nothing is counted before

	deaf         bool // they are noise: no Retry-After is obeyed
	heard, bunch int  // results since, and refusals among them
}

// refused counts an epoch that ended with a refusal at that pace.
func (d *noiseDoubt) refused(p *pace, rate float64, now time.Duration) {
	c := &p.bucket
	switch {
	case c.stage != stageKnown || c.inFlight > 0 || now < d.restUntil:
		return
	case p.row >= downRefusals: // no time for tests
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

// looking reports whether refusals are being counted at a low pace, which is
// held meanwhile.
func (d *noiseDoubt) looking() bool { return d.sunk || d.dipping }

// dip returns the factor for the pace of an epoch that begins now.
func (d *noiseDoubt) dip(now time.Duration) float64 {
	if d.looking() && d.accepted+d.refusals == 0 {
		d.dipUntil = now + noisePatience
	}
	if d.dipping {
		return noiseDip
	}
	return 1
}

// refuted reports whether that many acceptances in this epoch show that
// refusals become fewer at a lower pace, and ends the dip.
func (d *noiseDoubt) refuted(accepted int, now time.Duration) bool {
	if !d.looking() || float64(d.accepted+accepted)*d.share <= noiseSame*noiseRefusals && now <= d.dipUntil {
		return false
	}
	d.rest(now)
	return true
}

// rest starts afresh after noiseRest.
func (d *noiseDoubt) rest(now time.Duration) { *d = noiseDoubt{restUntil: now + noiseRest} }

// listen records a result, and reports whether a Retry-After is obeyed.
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

// A quietDoubt compares refusals of idle operations, which started as soon as
// there was work, with those of the others.
type quietDoubt struct {
	idle, busy float64 // shares of refusals of idle operations and of the others
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

// noise returns the share of refusals that is noise, if they are noise.
func (d *quietDoubt) noise(used float64) (share float64, ok bool) {
	return d.idle, 0 < used && used < quietMost && d.some >= quietSome && d.idle <= mostNoise && d.busy <= quietSame*max(d.idle, leastAim)
}
