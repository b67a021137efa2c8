package queue

import (
	"math"
	"time"
)

// A ladder limits the receives in flight to as many as raise the throughput. Each
// rung allows twice as many as the one below; the lowest allows what fills all
// slots at once, which needs no proof. While all the receives that its rung allows
// are in flight, the ladder tries the next rung, first at once and then less and
// less often, and keeps it if twice as many receives bring 1.7 times as much there,
// and as long as they bring 1.4 times as much.
// A network's round-trip does not depend on how many share it, so over a long one
// the ladder is climbed as quickly as receives return. Where the server or this
// process has no more to give, receives only take longer.
//
// Where round-trips differ, a few of them say little. The two rungs are then used in
// turns, and the means of both become more and more exact, until one has surely won.
//
// Up to its rung's limit the ladder follows what receives bring: one more is
// allowed after each full one, as long as the messages wanted need it; one less
// when one brings a single message and fewer would do; and a single long poll when
// the queue is empty.
//
// All methods are called under Consumer.mu; the zero ladder is ready.
type ladder struct {
	limit int // receives in flight; 0 is 1

	base  int        // the rung that has proved its worth
	rung  int        // the one in use: base or, in a comparison, a neighbour of it
	trips roundTrips // on rung
	n     float64    // as many of them since the rung was last taken
	since time.Time  // when the first of those began
	until time.Time  // when the last one returned
	from  time.Time  // none that began before counts

	// The comparison; there is one unless other is empty.
	beside int        // the rung compared with the one in use
	other  roundTrips // on beside
	turns  int        // how often one of the two was taken
	began  time.Time

	pause   time.Duration // how long base is used before the next trial
	checked time.Time     // when base was last found better than the rung below
	least   float64       // the shortest mean round-trip on any rung, as a logarithm
	warm    bool          // trips of the very first receives have been left out
}

const (
	// minSpan is how long a rung is used at least, each time.
	minSpan = 50 * time.Millisecond

	// nearTrip is a round-trip so short that other processes and the opening of
	// connections may matter more than how many receives there are. The first
	// minSpan is then left out, manyTrips are needed each time, and a rung is
	// compared with what comes after it as well as with what was before.
	nearTrip  = 12 * time.Millisecond
	manyTrips = 16
	fewTrips  = 4

	// leastMore is how many times as many receives must have been in flight, on
	// average: the first ones on a rung still meet what the rung below has caused.
	leastMore = 1.5

	// maxPause is the longest time between trials. A rung is compared with the one
	// below that often as well, and what is known is good for as long.
	maxPause = 10 * time.Second

	// A rung is climbed to, or kept, if its receives bring as much more as such a
	// power of how many more there are.
	climbPower = 0.75
	stayPower  = 0.5

	// A gain or a loss of more than decisive times its variance decides a comparison.
	// Where round-trips do not depend on how many share them there is a gain; where
	// they depend on nothing else there is a loss, and a difference of log(2) between
	// the two. To take one for the other in no more than one of ten cases, Wald's
	// sequential test asks for log(9)/log(2) times the variance. Short of that, the
	// sign decides once each mean has a standard error of at most maxDoubt, or after
	// maxSpan.
	decisive = 3.2
	maxDoubt = 0.12
	maxSpan  = 2 * time.Second
)

// allowed is how many receives may be in flight.
func (l *ladder) allowed() int { return max(1, l.limit) }

// restart allows one receive: the queue is empty, or receives fail.
func (l *ladder) restart() { l.limit = 1 }

// halve allows half as many: a receive has failed.
func (l *ladder) halve() { l.limit /= 2 }

// An arrival is a receive that brought something.
type arrival struct {
	asked, got int
	took       time.Duration
	began      int // receives in flight when it began, itself included
	inFlight   int // the same now
	slots      int
	look       outlook
}

// landed notes a receive that brought something.
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
		l.limit-- // the queue runs dry: fewer would bring as much
	}
}

// receivesFor is how many receives so many messages may need.
func receivesFor(messages int) int { return messages/batchSize + 1 }

// most is how many receives the rung allows.
func (l *ladder) most(slots int) int { return max(2, receivesFor(slots)) << l.rung }

// full notes a full receive, and goes on with a comparison or begins one.
func (l *ladder) full(now time.Time, r arrival) {
	if !l.until.IsZero() && now.Sub(l.until) > maxPause {
		l.settle(l.base, now, r)
	}
	most := l.most(r.slots)
	if r.began > most/2 && r.began <= most && !now.Add(-r.took).Before(l.from) {
		if l.n == 0 {
			l.since = now.Add(-r.took)
		}
		l.trips.add(r)
		l.n, l.until = l.n+1, now
	}
	if l.least == 0 {
		l.least = l.trips.mean
	}
	span := l.until.Sub(l.since)
	near := min(l.trips.mean, l.least) < math.Log(float64(nearTrip)) || l.trips.mean > l.least+0.1
	if r.inFlight < most || span < minSpan || l.n < fewTrips || near && l.n < float64(max(manyTrips, 2*most)) {
		return // there is nothing to tell yet, or it is not the ladder that limits the receives
	}
	if near && !l.warm {
		l.warm = true
		l.settle(l.rung, now, r)
		return
	}
	if l.other.n > 0 && !l.compared(now, r, span, near) || span < l.pause {
		return
	}
	l.least = min(l.least+0.01, l.trips.mean)
	l.beside, l.turns, l.began = l.base+1, 0, now
	if l.base > 0 && now.Sub(l.checked) > maxPause {
		l.beside = l.base - 1
	}
	l.swap(now, r)
}

// compared ends a comparison or goes on with it, and reports whether the next rung
// may be tried at once: the rung in use is the higher one, and has won.
func (l *ladder) compared(now time.Time, r arrival, span time.Duration, near bool) bool {
	low, high := l.other, l.trips
	if l.rung < l.beside {
		low, high = high, low
	}
	trial := max(l.rung, l.beside) > l.base
	enough := high.inFlight >= leastMore*low.inFlight
	power := stayPower
	if trial {
		power = climbPower
	}
	gain, doubt := high.gain(low, power)
	exact := low.precise() && high.precise() || now.Sub(l.began) >= maxSpan+l.pause
	undecided := gain >= -doubt && (near && l.turns < 2 || gain <= doubt && !exact)
	switch {
	case trial && l.rung > l.base && (span < l.pause/2 || !enough):
		return false
	case trial && !enough, enough && undecided:
		l.swap(now, r)
		return false
	}

	higher := gain > 0 || !enough
	switch {
	case trial && higher:
		l.base, l.pause, l.checked = l.base+1, 0, now
		if l.rung < l.base {
			l.swap(now, r)
		}
		l.other = roundTrips{}
		return l.n > 0
	case trial:
		l.pause = min(max(2*l.pause, minSpan), maxPause)
	case higher:
		l.checked = now
	default:
		l.base, l.pause, l.checked = l.base-1, minSpan, now
	}
	l.settle(l.base, now, r)
	return false
}

// swap takes the other rung of a comparison.
func (l *ladder) swap(now time.Time, r arrival) {
	l.turns++
	rung, trips := l.beside, l.other
	l.beside, l.other = l.rung, l.trips
	l.take(rung, trips, now, r)
}

// settle ends a comparison and takes a rung anew.
func (l *ladder) settle(rung int, now time.Time, r arrival) {
	l.other = roundTrips{}
	l.take(rung, roundTrips{}, now, r)
}

// take changes the rung. The receives that begin at once still meet what the other
// rung has caused. Those of a higher rung over a long round-trip do not wait for it.
func (l *ladder) take(rung int, trips roundTrips, now time.Time, r arrival) {
	if rung < l.rung || r.took < nearTrip {
		l.from = now.Add(2 * r.took)
	}
	l.rung, l.trips, l.n = rung, trips, 0
}

// roundTrips is what is known of the round-trips of full receives. Logarithms are
// averaged, so that a stall of the network or of this machine counts for one.
type roundTrips struct {
	n, mean, variance float64 // of their logarithms
	inFlight          float64 // mean
}

func (t *roundTrips) add(r arrival) {
	t.n++
	log := math.Log(float64(max(r.took, 1)))
	off := log - t.mean
	average(&t.mean, log, t.n)
	average(&t.variance, off*off*(1-1/t.n), t.n)
	average(&t.inFlight, float64(r.began), t.n)
}

// precise reports whether the mean is exact enough to be believed.
func (t *roundTrips) precise() bool { return t.variance <= maxDoubt*maxDoubt*t.n }

// gain is by how much more, as a logarithm, so many receives bring than a lower
// rung's brought, beyond a power of how many more they are, and doubt how great a
// gain or a loss decides.
func (t *roundTrips) gain(lower roundTrips, power float64) (gain, doubt float64) {
	more := math.Log(t.inFlight / lower.inFlight)
	return lower.mean - t.mean + (1-power)*more, decisive * (t.variance/t.n + lower.variance/lower.n)
}
