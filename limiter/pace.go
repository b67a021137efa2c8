package limiter

import (
	"math"
	"time"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// Constants that both controllers of a pace share.
const (
	// Starts may lag this far behind the schedule and catch up: timers are only
	// exact to a few milliseconds, and the time they fire late would be lost.
	paceLate = 10 * time.Millisecond

	// Starts are spread unevenly, by a quarter of the distance to either side: evenly
	// spread starts of several processes fall into step with the downstream's bucket,
	// which then refuses some of the processes forever.
	paceUneven = 0.5

	// The pace never falls below one operation in ten minutes.
	leastPace = 1.0 / 600

	// Refusals are an outage once nothing was accepted for outageAfter and
	// outageRefusals operations. Each probe then starts a tenth of the outage
	// after the one before, within these bounds.
	outageAfter    = 10 * time.Second
	outageRefusals = 20
	probeShare     = 10
	leastProbe     = time.Second
	mostProbe      = 5 * time.Minute

	// After this many bare refusals without one that has a Retry-After, the
	// downstream has stopped sending it.
	mostBares = 8

	// A row of downRefusals refusals, in a time in which downAccepted operations
	// would have been accepted, means that the downstream was down, not that the
	// pace was too high.
	downRefusals = 8
	downAccepted = 10
)

// A pace decides when operations start, from what the downstream accepts and
// refuses. It has no clock, no mutex and no randomness: the caller passes the
// time since an instant of its choice, which never runs backwards.
//
// There is no limit until something is refused. Then one of two controllers sets
// the rate, since the two kinds of refusals cost different things. One with a
// Retry-After costs a pause: the bucketControl measures what the downstream
// sustains, and is refused rarely. A bare one costs a request: the shareControl
// is refused all the time, a little.
type pace struct {
	most  float64       // starts a second, a hard cap; +Inf: none
	clock time.Duration // time 0 on the wall clock, since the last multiple of mostChecked

	rate   float64       // starts a second, before a rise or a dip; +Inf: no limit
	credit float64       // starts that may come at once
	filled time.Duration // when credit was brought up to date
	until  time.Duration // nothing starts before: a Retry-After, or a used-up quota
	quota  float64       // the rate that quota headers allow; +Inf: any
	quoted time.Duration // when that rate expires

	last   time.Duration // when an operation last started
	starts uint64        // without those that were cancelled
	full   uint64        // the last of them that found the credit at its maximum
	flying int           // operations in flight
	crowd  float64       // mean number in flight at a start

	usedFrom time.Duration // the window in which use is measured
	usedN    int           // starts in it
	used     float64       // starts a second in the window before; 0: not known

	acceptedAt time.Duration // the last acceptance
	delivered  float64       // recent acceptances a second, as of acceptedAt
	row        int           // refusals since acceptedAt
	rowFrom    time.Duration // the first of them
	rowTo      time.Duration // and the last
	rowBefore  float64       // delivered before the first of them

	quiet  quietDoubt
	bares  int  // bare refusals since the last one with a Retry-After
	bare   bool // the shareControl sets the rate
	bucket bucketControl
	share  shareControl
}

func newPace(most float64, clock time.Duration) pace {
	return pace{
		most: most, clock: clock,
		rate: math.Inf(1), credit: 1, quota: math.Inf(1),
		bucket: newBucketControl(),
	}
}

// limit returns how many operations may start a second.
func (p *pace) limit() float64 {
	r := p.rate
	if p.bare {
		r *= p.share.dip()
	} else {
		r *= p.bucket.up
	}
	return min(r, p.most, p.quota)
}

// fill brings the credit up to date. It comes before each change of the limit.
func (p *pace) fill(now time.Duration) {
	r := p.limit()
	if math.IsInf(r, 1) {
		p.credit = p.cost()
	} else {
		p.credit = min(p.credit+r*(now-p.filled).Seconds(), 1+paceUneven/2+r*paceLate.Seconds())
	}
	p.filled = now
	if now >= p.quoted {
		p.quota = math.Inf(1)
	}
}

// limited must be called before a limit is set where there may have been none: no
// credit remains from before.
func (p *pace) limited(now time.Duration) {
	p.fill(now)
	if math.IsInf(p.limit(), 1) {
		p.credit = 0
	}
}

// outage returns how long nothing has been accepted, and whether that is an
// outage.
func (p *pace) outage() (time.Duration, bool) {
	d := p.rowTo - p.rowFrom
	return d, p.row >= outageRefusals && d >= outageAfter
}

// probe returns when the next probe of an outage of that length may start.
func (p *pace) probe(outage time.Duration) time.Duration {
	return p.last + min(max(outage/probeShare, leastProbe), mostProbe)
}

// next returns when an operation may start: now, later, or line.Never if that
// depends on the end of one in flight.
func (p *pace) next(now time.Duration) time.Duration {
	if now < p.until {
		return p.until
	}
	p.resume(now)
	if d, ok := p.outage(); ok {
		return max(now, p.probe(d))
	}
	if n := p.bucket.inFlight; n > 0 && p.flying >= n {
		return line.Never
	}
	p.fill(now)
	if lacks := p.cost() - p.credit; lacks > 0 {
		return now + p.takes(lacks)
	}
	return now
}

// takes returns how long the limit takes to gain that much credit.
func (p *pace) takes(credit float64) time.Duration {
	return max(1, time.Duration(math.Ceil(min(credit/p.limit()*float64(time.Second), 1e18))))
}

// ready returns how many operations may start within the given time, during which
// ends operations are expected to end, not counting those that wait; or after how
// long to ask again.
func (p *pace) ready(now, within time.Duration, waiting, ends int) (n int, retry time.Duration) {
	if p.until > now+within {
		return 0, p.until - within - now
	}
	at, later := max(now, p.until), *p
	later.resume(at) // what is known now about the pace after a pause
	if d, ok := later.outage(); ok {
		if wait := later.probe(d) - now; wait > within {
			return 0, wait - within
		}
		return 1 - waiting, line.Never
	}
	later.fill(at)
	n = math.MaxInt32
	if r := later.limit(); !math.IsInf(r, 1) {
		const rounding = 1e-9 // of sums that would be whole
		credit := later.credit + r*(now+within-at).Seconds() - float64(waiting) + rounding
		if lacks := later.cost() - credit; lacks > 0 {
			return 0, later.takes(lacks)
		}
		n = max(1, int(min(credit-paceUneven, math.MaxInt32)))
	} else {
		n -= waiting
	}
	if c := later.bucket.inFlight; c > 0 {
		n = min(n, c-p.flying-waiting+ends)
	}
	return n, line.Never
}

// start starts an operation that next allows, and returns its token.
func (p *pace) start(now time.Duration) uint64 {
	p.resume(now)
	p.fill(now)
	full := p.credit >= 1+paceUneven/2+p.limit()*paceLate.Seconds()
	p.credit = max(0, p.credit-p.cost())
	p.starts++
	if full {
		p.full = p.starts
	}
	p.flying++
	p.crowd += (float64(p.flying) - p.crowd) / crowdMemory
	idle := full && (p.flying == 1 || float64(p.flying) <= quietCrowd*p.crowd)
	if p.usedN++; p.usedN >= 8 && now-p.usedFrom >= 200*time.Millisecond {
		p.used = float64(p.usedN) / (now - p.usedFrom).Seconds()
		p.usedFrom, p.usedN = now, 0
	}
	p.bucket.start(p, now, !full)
	p.last = now
	return packStart(now, p.flying, idle, p.starts)
}

// A token holds when its operation started, in microseconds, how many were in
// flight then, including itself, whether it was idle, and the number of its
// start. Numbers wrap around.
const (
	numberBits = 18
	flyingBits = 10
	timeBits   = 64 - flyingBits - 1 - numberBits

	idleBit    = 1 << numberBits
	flyingFrom = numberBits + 1
	timeFrom   = flyingFrom + flyingBits
)

func packStart(now time.Duration, flying int, idle bool, number uint64) uint64 {
	token := uint64(now/time.Microsecond)<<timeFrom | uint64(min(flying, 1<<flyingBits-1))<<flyingFrom | number&(1<<numberBits-1)
	if idle {
		token |= idleBit
	}
	return token
}

// unpackStart returns the contents of a token. An operation was idle if it
// started later than the pace allowed, with few in flight: there had been no
// work to do.
func unpackStart(token uint64, now time.Duration) (begin time.Duration, flying int, idle bool) {
	us := (uint64(now/time.Microsecond) - token>>timeFrom) & (1<<timeBits - 1)
	begin = now.Truncate(time.Microsecond) - time.Duration(us)*time.Microsecond
	return begin, int(token >> flyingFrom & (1<<flyingBits - 1)), token&idleBit != 0
}

// since returns how many operations have started after the one with that token.
func (p *pace) since(token uint64) uint64 { return (p.starts - token) & (1<<numberBits - 1) }

// cancel records that an operation did not start.
func (p *pace) cancel(token uint64, now time.Duration) {
	p.flying--
	p.fill(now)
	since := p.since(token)
	p.starts--
	switch {
	case since == 0:
		p.credit += p.cost()
	case p.full <= p.starts+1-since: // there has been room for it ever since
		p.credit += 1 - paceUneven/2
	default:
		return
	}
	p.full = p.starts
}

// abstain records that an operation has ended without saying anything about the
// downstream. It counts as accepted because it started: a pace measured from
// acceptances would otherwise fall short by the share of operations that
// abstain, at each measurement.
func (p *pace) abstain(token uint64, now time.Duration) {
	p.flying--
	if begin, _, _ := unpackStart(token, now); p.bare {
		p.share.abstained++
	} else {
		p.bucket.accept(p, begin, now)
	}
}

// fail records that an operation has ended without saying anything about the
// pace: a downstream that is unavailable would fail at any rate.
func (p *pace) fail() { p.flying-- }

// again records that an operation was refused only for its own sake, while others
// were accepted. Its Retry-After stops all starts, but it says nothing about the
// pace. If it has none, earlier refusals of this kind may have lowered the pace
// before that was known. So the pace rises again until it is not used up, and
// then there is no limit.
func (p *pace) again(token uint64, after, now time.Duration) {
	if after <= 0 {
		p.abstain(token, now)
		switch {
		case !p.bare || p.used == 0:
		case p.rate < usedMost*p.used:
			p.fill(now)
			p.rate = max(p.rate*(1+againStep), p.share.best)
		default:
			p.unlearn(now)
		}
		return
	}
	p.fail()
	c := &p.bucket
	if until := now + after; until > p.until && !c.doubt.deaf {
		if !p.bare && !c.pending {
			c.pausing += until - max(p.until, now)
		}
		p.until = until
	}
}

// accept records that an operation was accepted.
func (p *pace) accept(token uint64, now time.Duration) {
	p.flying--
	begin, _, idle := unpackStart(token, now)
	if p.row >= downRefusals {
		p.fill(now)
		p.recover(now)
	}
	p.row = 0
	p.delivered = p.lately(now) + 1/p.memory()
	p.acceptedAt = now
	p.bucket.doubt.listen(false)
	p.quiet.result(idle, false)
	if p.bare {
		p.share.result(p, begin, now, false)
	} else {
		p.bucket.accept(p, begin, now)
	}
}

// recover handles the first acceptance after a row of refusals. If the
// downstream was down, it restores the pace from before.
func (p *pace) recover(now time.Duration) {
	_, outage := p.outage()
	switch silence := now - p.acceptedAt; {
	case !p.bare: // a refusal that follows a pause has changed nothing
	case outage && p.rowBefore < leastPace: // nothing was accepted before the outage, and nothing learned
		p.unlearn(now)
	case silence.Seconds() >= max(1, downAccepted/p.rowBefore):
		p.rate = max(p.rate, p.rowBefore)
	}
}

// unlearn removes the limit again.
func (p *pace) unlearn(now time.Duration) {
	p.rate, p.bare = math.Inf(1), false
	p.bucket = newBucketControl()
	p.usedFrom, p.usedN, p.used = now, 0, 0
}

// memory returns for how many seconds acceptances count in delivered.
func (p *pace) memory() float64 { return max(1, 10/p.rate) }

// lately returns the recent number of acceptances a second.
func (p *pace) lately(now time.Duration) float64 {
	return p.delivered * math.Exp(-(now-p.acceptedAt).Seconds()/p.memory())
}

// refuse records that an operation was refused, with a Retry-After of after,
// or 0 for a bare refusal.
func (p *pace) refuse(token uint64, after, now time.Duration) {
	p.flying--
	begin, flying, idle := unpackStart(token, now)
	if p.row++; p.row == 1 {
		p.rowFrom, p.rowBefore = now, p.lately(now)
	}
	p.rowTo = now
	p.quiet.result(idle, true)
	switch {
	case after <= 0:
		// A few bare refusals among others with a Retry-After change nothing.
		if p.bares++; p.bare || p.bucket.stage == stageFree || p.bares >= mostBares && !p.bucket.pending {
			p.share.result(p, begin, now, true)
		}
	case p.bucket.doubt.listen(true):
		p.bares = 0
		p.until = max(p.until, now+after)
		p.bucket.refuse(p, begin, now, flying)
	}
}

// allow applies quota headers: rate starts a second (0: unknown) for the time
// holds, and none during pause.
func (p *pace) allow(rate float64, holds, pause, now time.Duration) {
	p.until = max(p.until, now+pause)
	if rate > 0 {
		p.limited(now)
		p.quota, p.quoted = rate, now+holds
	}
}

// mode returns what determines the pace.
func (p *pace) mode() PaceMode {
	if _, ok := p.outage(); ok {
		return PaceOutage
	}
	switch {
	case p.bucket.doubt.deaf:
		return PaceNoise
	case p.bare:
		return PaceBare
	case p.bucket.inFlight > 0:
		return PaceInFlight
	case p.bucket.stage != stageFree:
		return PaceRetryAfter
	}
	return PaceFree
}

// noise returns the share of bare refusals that is treated as noise.
func (p *pace) noise() float64 {
	if !p.bare {
		return 0
	}
	share, ok := p.quiet.noise(p.used)
	if !ok {
		return p.share.floor
	}
	return max(share, p.share.floor)
}

// cost returns the credit that the next start costs: 1 on average. The multiples
// of the golden ratio spread evenly and repeat no pattern.
func (p *pace) cost() float64 {
	_, x := math.Modf(float64(p.starts&0xffff) * (math.Phi - 1))
	return 1 + paceUneven*(x-0.5)
}
