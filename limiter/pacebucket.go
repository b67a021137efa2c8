package limiter

import (
	"math"
	"time"
)

// How a pace handles refusals that have a Retry-After.
const (
	// The share of the time that pauses may take: with a Retry-After of 1 s the
	// next refusal is due after 22 s. That is also about how long it takes to
	// notice that the downstream accepts more than before.
	pauseShare = 0.045

	// When a refusal is overdue by a tenth of that time, the pace rises, and
	// doubles in an eighth of it.
	overdue    = 1.1
	perDoubled = 8

	// The second estimate rests on a second's worth of requests. A pace that is
	// slightly low costs less than another pause.
	secondShare = 0.9

	// A refusal that comes early, before half of the time, lowers the pace: the
	// first one at most to earlyFirst, since another process may have emptied the
	// bucket; later ones at least to earlyLeast and at most to earlyMost.
	earlyFirst = 0.95
	earlyLeast = 0.95
	earlyMost  = 0.75

	// If the epoch is too short to measure, a refusal leaves blindLeaves of the
	// pace. As long as no refusal has come when it was due, it leaves at most
	// firstLeaves.
	blindLeaves = 0.8
	firstLeaves = 0.98

	// If the first of all operations is refused, the pace begins with unknownPace
	// operations a second, or one per pause if that is more, and doubles within
	// unknownDoubles seconds.
	unknownPace    = 1
	unknownDoubles = 3

	// An epoch measures the rate if it has at least this many acceptances.
	measurable = 20
)

// A bucketControl finds the rate that a downstream sustains which refuses with a
// Retry-After. It models the downstream as a token bucket.
//
// An epoch lasts from the end of a pause to the next refusal, when the bucket is
// empty. The operations accepted in it are what the bucket held at first, the
// burst, and what flowed in since. The burst is known from the first epoch, which
// is short. So the rest, divided by the epoch's length, is the sustained rate.
// The next pace is that rate, plus the burst spread over the time until the next
// refusal is due. If none comes by then, the pace rises until one does.
type bucketControl struct {
	stage   bucketStage
	settled bool    // a refusal came when it was due; since then the burst is known
	burst   float64 // operations
	early   int     // refusals in a row that came early
	firstN  float64 // acceptances in the first epoch
	firstT  float64 // its length, in seconds

	pending   bool          // the pause that ended an epoch is in force
	pausedAt  time.Duration // when it began
	rising    bool          // the rise caused the refusal
	alone     bool          // few were in flight when the refused operation started
	from      time.Duration // the epoch's first start, or before it the end of the pause
	fresh     bool          // the epoch has no start yet
	accepted  int
	pause     float64       // the pause before the epoch, in seconds
	waited    time.Duration // from the refusal before the epoch to from
	due       time.Duration // how long after from the pace begins to rise
	riseFrom  time.Duration // when it began to rise; 0: it has not
	risen     int           // acceptances since then
	up        float64       // the factor of the rise, or of a dip
	paused    time.Duration // time in pauses of this epoch that did not end it
	pausing   time.Duration // the same, since the last start
	probation time.Duration // stageFree: when the later half of the epoch began
	later     int           // acceptances in that half

	// If nothing is accepted in the next epoch, the downstream was down, and this
	// epoch's refusal taught nothing. Then these values are restored.
	rateBefore  float64
	earlyBefore int
	spent       float64 // this epoch's length, in seconds
	owed        float64 // time towards the next rise, spent in epochs that do not count

	inFlight int // the limit in flight; 0: none
	crowd    crowdDoubt
	doubt    noiseDoubt
}

func newBucketControl() bucketControl { return bucketControl{up: 1, fresh: true} }

// A bucketStage is how much a bucketControl knows.
type bucketStage int

const (
	stageFree  bucketStage = iota // no refusal yet
	stageFirst                    // one refusal, from which the rate is known within a factor of ten
	stageKnown
)

// period returns how long after a pause of that length the next refusal is due,
// in seconds. It is longer for a slower pace, since a refusal also costs one
// operation.
func (p *pace) period(after float64) float64 {
	return (after + 1/max(p.rate, leastPace)) / pauseShare
}

// doubles returns in how many seconds a rise doubles the pace.
func (c *bucketControl) doubles(p *pace) float64 {
	d := c.pause / 4
	switch {
	case c.stage == stageFirst && c.firstN == 0:
		d = min(d, unknownDoubles)
	case c.stage == stageKnown:
		d = max((c.due.Seconds()+c.owed)/overdue/perDoubled, 2*d)
	}
	return max(d, 3/p.rate)
}

// start records an operation that starts.
func (c *bucketControl) start(p *pace, now time.Duration, paced bool) {
	if p.bare {
		return
	}
	us := now.Truncate(time.Microsecond) // the precision of tokens
	last := p.last + c.pausing
	if c.paused += c.pausing; c.riseFrom > 0 {
		c.riseFrom += c.pausing
	}
	c.pausing = 0
	if c.fresh {
		c.fresh = false
		c.waited += now - c.from
		c.from, c.probation = us, us
	}
	c.crowd.start(p, now)
	switch {
	case c.stage == stageFree && now-c.probation >= time.Second:
		// Old starts say little. The epoch becomes the last second or two.
		c.from, c.accepted, c.paused = max(c.probation, us-2*time.Second), c.later, 0
		c.probation, c.later = us, 0
	case math.IsInf(p.rate, 1) || c.doubt.looking():
	case c.riseFrom == 0 && c.stage == stageFirst:
		c.riseFrom = us
	case c.riseFrom == 0 && now-c.from-c.paused >= c.due:
		c.riseFrom = c.from + c.paused + c.due
	case c.riseFrom > 0 && paced: // it rises no further than it is used
		d := (now - max(last, c.riseFrom)).Seconds()
		c.up *= math.Exp2(min(1, d/c.doubles(p)))
	}
}

// accept records that an operation which started at begin was accepted.
func (c *bucketControl) accept(p *pace, begin, now time.Duration) {
	if begin < c.from {
		return
	}
	c.accepted++
	if begin >= c.probation {
		c.later++
	}
	if c.riseFrom > 0 && begin >= c.riseFrom {
		c.risen++
	}
	if c.doubt.refuted(c.accepted, now) {
		p.fill(now)
		c.up = 1
	}
}

// refuse records that an operation which started at begin was refused with a
// Retry-After, which is in force already.
func (c *bucketControl) refuse(p *pace, begin, now time.Duration, flying int) {
	if c.pending || begin < c.from && c.stage != stageFree && !p.bare {
		return // old news: it only prolonged the pause
	}
	p.fill(now)
	if p.bare { // the pace is known, the rest is not
		*c = newBucketControl()
		p.bare, c.stage = false, stageKnown
	}
	c.pending, c.pausedAt = true, now
	c.rising = c.riseFrom > 0 && begin > c.riseFrom && c.up > 1
	c.alone = flying <= 2 || float64(flying) <= quietCrowd*p.crowd
	c.crowd.refuse(p, flying)
}

// An epoch is the result of one epoch.
type epoch struct {
	n     float64 // acceptances
	t     float64 // from the first to the last start, in seconds
	after float64 // the pause that ended it, in seconds
	least float64 // the sustained rate is at least this, whatever the burst: the bucket was empty when the pause before began
}

// resume ends a pause once it is over, and the epoch with it. The operations in
// flight when the pause began have ended by then.
func (p *pace) resume(now time.Duration) {
	c := &p.bucket
	if !c.pending || now < p.until {
		return
	}
	p.fill(now)
	c.pending = false
	e := epoch{
		n:     float64(c.accepted),
		t:     (p.last - c.from - c.paused).Seconds(),
		after: (p.until - c.pausedAt).Seconds(),
	}
	waited := e.after
	if c.stage != stageFree {
		waited = min(waited, c.waited.Seconds())
	}
	e.least = e.n / (e.t + waited)

	before, early := p.rate, c.early
	switch {
	case c.inFlight > 0:
		c.crowd.refused(p, e)
	case c.doubt.looking():
	case c.accepted == 0:
		c.down(p, e)
		before, early, e.t = 0, c.early, 0
	case c.stage == stageFree:
		c.flooded(p, e)
		before = 0
	case c.crowd.certain():
		c.crowd.limit(p)
	case c.rising:
		c.rose(p, e)
		before = 0
	default:
		c.held(p, e)
	}
	if _, ok := p.quiet.noise(p.used); ok {
		p.rate = max(p.rate, quietLeast*p.used)
	} else {
		c.doubt.refused(p, before, now)
	}
	if c.doubt.deaf {
		*c = newBucketControl()
		c.doubt.deaf, p.rate = true, math.Inf(1)
		return
	}

	if c.accepted > 0 {
		c.owed = 0
	}
	c.rateBefore, c.earlyBefore, c.spent = before, early, e.t
	c.begin(p, now, e.after)
}

// begin begins an epoch after a pause.
func (c *bucketControl) begin(p *pace, now time.Duration, after float64) {
	c.from, c.fresh, c.accepted = p.until.Truncate(time.Microsecond), true, 0
	c.waited, c.pause = p.until-c.pausedAt, after
	c.due = time.Duration((overdue*p.period(after) - c.owed) * float64(time.Second))
	c.riseFrom, c.risen, c.up = 0, 0, c.doubt.dip(now)
	c.paused, c.pausing = 0, 0
	c.crowd.begin(p.until + c.due)
	p.credit = p.cost()
}

// down ends an epoch in which nothing was accepted. The downstream was down:
// after a pause, a bucket has something in it.
func (c *bucketControl) down(p *pace, e epoch) {
	switch {
	case c.stage == stageFree: // this says nothing about the rate
		p.rate, c.stage = max(unknownPace, 1/(e.t+e.after)), stageFirst
	case c.rateBefore > 0:
		p.rate, c.early = max(p.rate, c.rateBefore), c.earlyBefore
		c.owed = min(c.owed+c.spent, 0.9*overdue*p.period(e.after))
	}
}

// flooded ends the first epoch, in which there was no limit. The rate is at least
// e.least, and at most e.n over the epoch's time. These are far apart; their
// geometric mean is within a factor of the square root of their ratio.
func (c *bucketControl) flooded(p *pace, e epoch) {
	c.firstN, c.firstT = e.n, e.t
	took := max((c.pausedAt - c.from).Seconds(), 1e-4)
	p.rate = e.n / math.Sqrt((took+e.after)*took)
	used := p.used
	if used == 0 {
		used = e.n / took
	}
	if c.alone && used < quietMost { // that was the work available, not what the downstream accepts
		p.rate = max(p.rate, quietLeast*used)
	}
	c.stage = stageFirst
}

// rose ends an epoch in which the pace rose until an operation was refused.
func (c *bucketControl) rose(p *pace, e epoch) {
	if c.stage == stageKnown && !c.settled {
		c.burst = min(max(1, c.firstN-p.rate*c.firstT), p.rate*e.after)
	}
	r := max(c.sustained(p), e.least)
	if c.stage == stageFirst {
		c.burst = max(1, c.firstN-r*c.firstT)
		r *= secondShare
	}
	c.stage, c.early = stageKnown, 0
	p.rate = r + min(c.burst, r*e.after)/p.period(e.after)
}

// sustained returns the rate at which a rise just empties the bucket. The bucket
// was full until the pace passed the rate r, at the time x of the rise. So the
// number accepted is the integral of the pace up to x, plus the burst, plus r for
// the rest of the time.
func (c *bucketControl) sustained(p *pace) float64 {
	n, t := float64(c.risen), (p.last - c.riseFrom).Seconds()
	tau := c.doubles(p) / math.Ln2
	low, high := p.rate, p.rate*c.up
	for range 30 {
		r := (low + high) / 2
		burst := c.burst
		if c.stage == stageFirst {
			burst = max(0, c.firstN-r*c.firstT)
		}
		x := tau * math.Log(r/p.rate)
		if tau*(r-p.rate)+burst+r*(t-x) < n {
			low = r
		} else {
			high = r
		}
	}
	return low
}

// held ends an epoch in which the pace did not rise.
func (c *bucketControl) held(p *pace, e epoch) {
	c.stage = stageKnown
	period := p.period(e.after)
	var r float64 // the sustained rate
	switch {
	case c.settled && c.accepted >= measurable:
		r = max((e.n-c.burst)/e.t, e.least)
	case !c.settled && e.t >= 2*c.firstT && e.n >= c.firstN+measurable/2:
		r = max((e.n-c.firstN)/(e.t-c.firstT), e.least) // the burst is the same in both epochs, whatever it is
	}
	early := e.t < period/2
	if !early && !c.settled && r > 0 {
		c.settled, c.burst = true, max(1, e.n-r*e.t)
	}
	next := blindLeaves * p.rate
	if r > 0 {
		next = r + (e.n-r*e.t)/period
	}
	if c.early++; !early {
		c.early = 0
	}
	switch {
	case c.settled && c.early <= 1:
		next = max(next, earlyFirst*p.rate)
	case c.settled:
		next = min(max(next, earlyMost*p.rate), earlyLeast*p.rate)
	default:
		next = min(max(next, earlyMost*p.rate), firstLeaves*p.rate)
	}
	p.rate = min(max(next, e.least, leastPace), p.rate)
}
