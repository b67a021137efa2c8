package queue

import (
	"math"
	"time"
)

// A ladder limits the receives in flight to the number that still raises the
// throughput. Each rung allows twice as many as the one below; the lowest allows
// enough to fill all slots at once, which needs no proof. While all the receives
// that its rung allows are in flight, the ladder tries the next rung, at once at
// first and then less and less often. It keeps the rung if receives there take
// longer by a factor of at most the square root of the increase in their number:
// twice as many then bring at least 1.4 times as much. A network's round-trip
// does not depend on how many receives share it, so over a long one the ladder is
// climbed as quickly as receives return. Where the server or this process is at
// its limit, receives only take longer.
//
// See landed for the number of receives up to the rung's limit.
//
// All methods are called under Consumer.mu; the zero ladder is ready for use.
type ladder struct {
	limit int // receives in flight; 0 is 1

	rung    int           // in use
	base    int           // the rung last proved: rung or, during a trial, a neighbour of it
	trips   roundTrips    // on rung, of receives that began at from or later
	from    time.Time     //
	prior   roundTrips    // on base, before the trial
	pause   time.Duration // how long base is used before the next trial
	checked time.Time     // when base was last found better than the rung below
	least   float64       // the shortest mean round-trip on any rung, as a logarithm
	warm    bool          // trips of the very first receives have been left out
}

const (
	// minSpan is how long a rung is used at least.
	minSpan = 50 * time.Millisecond

	// nearTrip is a round-trip so short that other processes and the opening of
	// connections may matter more than the number of receives. Then the first
	// minSpan is left out, a verdict needs manyTrips, and a rung has to win
	// twice: once against the period before and once against the one after.
	nearTrip  = 12 * time.Millisecond
	manyTrips = 16
	fewTrips  = 4

	// leastMore is the factor by which more receives must have been in flight, on
	// average: the first ones on a rung still suffer from the load of the rung
	// below.
	leastMore = 1.5

	// maxPause is the longest time between trials. It is also how often a rung is
	// compared with the one below, and how long measurements stay valid.
	maxPause = 10 * time.Second

	maxRung = 20
)

// allowed is how many receives may be in flight.
func (l *ladder) allowed() int { return max(1, l.limit) }

// restart allows one receive: the queue is empty, or receives fail.
func (l *ladder) restart() { l.limit = 1 }

// halve allows half as many: a receive has failed.
func (l *ladder) halve() { l.limit /= 2 }

// An arrival is a receive that returned messages.
type arrival struct {
	asked, got int
	took       time.Duration
	began      int // receives in flight when it began, itself included
	inFlight   int // the same now
	slots      int
	look       outlook
}

// landed records a receive that returned messages. Up to its rung's limit the
// ladder follows the receives: it allows one more after each full one, as long as
// the wanted messages need it; one less when a receive returns a single message
// and fewer receives would do; and a single long poll when the queue is empty
// (restart).
func (l *ladder) landed(now time.Time, r arrival) {
	if r.got >= batchSize {
		l.full(now, r)
	}
	most := l.most(r.slots)
	l.limit = min(l.allowed(), most)
	switch {
	case r.got >= r.asked: // the queue may hold more than one receive at a time brings
		l.limit = min(l.limit+1, most, receivesFor(r.slots+r.look.starved))
	case r.got == 1 && l.limit > receivesFor(r.slots+r.look.limited):
		l.limit-- // the queue runs dry: fewer would return as much
	}
}

// receivesFor is how many receives that many messages may need.
func receivesFor(messages int) int { return messages/batchSize + 1 }

// most is how many receives the rung allows.
func (l *ladder) most(slots int) int { return max(2, receivesFor(slots)) << l.rung }

// full records a full receive, and begins or ends a trial.
func (l *ladder) full(now time.Time, r arrival) {
	if l.trips.n > 0 && now.Sub(l.trips.until) > maxPause {
		l.use(l.base, now, r)
	}
	most := l.most(r.slots)
	if r.began > most/2 && r.began <= most && !now.Add(-r.took).Before(l.from) {
		l.trips.add(now, r)
	}
	span := l.trips.until.Sub(l.trips.since)
	if l.least == 0 {
		l.least = l.trips.mean
	}
	near := min(l.trips.mean, l.least) < math.Log(float64(nearTrip)) || l.trips.mean > l.least+0.1
	if r.inFlight < most || span < minSpan || l.trips.n < fewTrips || near && l.trips.n < float64(max(manyTrips, 2*most)) {
		return // too early to judge, or the ladder is not the limit
	}
	if l.rung > l.base && (span < l.pause/2 || l.trips.inFlight < leastMore*l.prior.inFlight) {
		return
	}
	l.least = min(l.least+0.01, l.trips.mean)

	switch {
	case near && !l.warm:
		l.warm = true
		l.use(l.rung, now, r)
		return
	case l.rung > l.base && !l.trips.worth(l.prior):
		l.pause = min(max(2*l.pause, minSpan), maxPause)
		l.use(l.base, now, r)
		return
	case l.rung > l.base:
		l.base, l.pause, l.checked = l.rung, 0, now
		if near {
			l.checked = time.Time{}
		}
	case l.rung < l.base && (l.prior.inFlight < leastMore*l.trips.inFlight || l.prior.worth(l.trips)):
		l.checked = now
		l.use(l.base, now, r)
		return
	case l.rung < l.base:
		l.base, l.pause, l.checked = l.rung, minSpan, now
	}
	if span < l.pause {
		return
	}
	l.prior = l.trips
	if l.base > 0 && now.Sub(l.checked) > maxPause {
		l.use(l.base-1, now, r)
	} else if l.base < maxRung {
		l.use(l.base+1, now, r)
	}
}

// use changes the rung. On a lower rung, the receives that begin at once are
// still slowed down by those that were in flight before.
func (l *ladder) use(rung int, now time.Time, r arrival) {
	if rung < l.rung {
		l.from = now.Add(2 * r.took)
	}
	l.rung, l.trips = rung, roundTrips{}
}

// roundTrips has the statistics of the round-trips of full receives. It averages
// logarithms, so that a stall of the network or of this machine counts only once.
type roundTrips struct {
	n, mean, variance float64 // of their logarithms
	inFlight          float64 // mean
	since, until      time.Time
}

func (t *roundTrips) add(now time.Time, r arrival) {
	if t.n == 0 {
		t.since = now.Add(-r.took)
	}
	t.until = now
	t.n++
	log := math.Log(float64(max(r.took, 1)))
	off := log - t.mean
	average(&t.mean, log, t.n)
	average(&t.variance, off*off*(1-1/t.n), t.n)
	average(&t.inFlight, float64(r.began), t.n)
}

// worth reports whether the receives of this rung return enough more than those
// of a lower rung, with a margin of a standard error, since round-trips vary.
func (t roundTrips) worth(lower roundTrips) bool {
	doubt := math.Sqrt(t.variance/t.n + lower.variance/lower.n)
	return t.mean+doubt < lower.mean+math.Log(t.inFlight/lower.inFlight)/2
}
