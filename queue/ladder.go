package queue

import (
	"math"
	"time"
)

// A ladder limits the receives in flight to as many as raise the throughput. Each
// rung allows twice as many as the one below; the lowest allows what fills all
// slots at once, which needs no proof. While all that a rung allows are in flight,
// the next one is tried. It is kept if full receives take less than 1.4 times as
// long there, so that twice as many bring at least 1.4 times as much, and left
// otherwise. A network's round-trip does not depend on how many share it, so on a
// long one the ladder is climbed as quickly as receives return; where the server,
// or this process, has no more to give, one rung more makes all receives slower.
//
// Within the rung the limit follows what receives bring: one more for each full
// one, up to what the wanted messages need; one less when one brings a single
// message and fewer would do; a single long poll when the queue is empty.
//
// All methods are called under Consumer.mu; the zero ladder is ready.
type ladder struct {
	limit int // receives in flight, 0 for 1
	rung  int
	trips [32]roundTrips // of full receives, by rung
	tryAt time.Time      // when the next rung may be tried
	pause time.Duration  // between tries that fail
}

const (
	// leastMore is how many times as many must have been in flight, on average, for
	// a verdict: the first ones of a rung meet what the rung below has caused.
	leastMore = 1.5

	// tripsKept is how many round-trips of a rung count, fewTrips how many it
	// needs for a verdict, and tripsAge for how long they are good.
	tripsKept = 256
	fewTrips  = 4
	tripsAge  = 10 * time.Second

	// A rung that brought too little is tried again after minTry, then after twice
	// as long each time, up to tripsAge.
	minTry = 100 * time.Millisecond
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
	most := l.most(l.rung, r.slots)
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

// most is how many receives a rung allows.
func (l *ladder) most(rung, slots int) int { return max(2, receivesFor(slots)) << rung }

// full moves the ladder, if all the receives that it allows are in flight.
func (l *ladder) full(now time.Time, r arrival) {
	for rung := range l.rung + 1 {
		if most := l.most(rung, r.slots); r.began <= most {
			if r.began > most/2 {
				l.trips[rung].add(now, r)
			}
			break
		}
	}
	if r.inFlight < l.most(l.rung, r.slots) {
		return
	}
	here := l.known(l.rung, now)
	if l.rung == 0 {
		if here.n < fewTrips {
			return
		}
	} else {
		below := l.known(l.rung-1, now)
		switch gain := gain(below, here); {
		case gain < 0:
			l.trips[l.rung] = roundTrips{} // to be measured anew the next time
			l.rung--
			l.pause = min(max(2*l.pause, minTry), tripsAge)
			l.tryAt = now.Add(l.pause)
			return
		case gain == 0 && here.n >= 2*below.n && here.n >= fewTrips:
			l.rung-- // to measure more of it
			return
		case gain == 0:
			return
		}
		l.pause = 0
	}
	if !now.Before(l.tryAt) && l.rung+1 < len(l.trips) && here.n >= min(tripsKept, l.known(l.rung+1, now).n) {
		l.rung++
	}
}

// known is what is known of a rung's round-trips.
func (l *ladder) known(rung int, now time.Time) roundTrips {
	if t := l.trips[rung]; now.Sub(t.at) <= tripsAge {
		return t
	}
	return roundTrips{}
}

// gain is 1 if more receives surely bring enough more, -1 if they surely do not,
// and 0 as long as round-trips that differ leave it open. They may take longer by
// the square root of how many more there are.
func gain(below, here roundTrips) int {
	if below.n < fewTrips || here.n < fewTrips || here.inFlight < leastMore*below.inFlight {
		return 0
	}
	factor := math.Sqrt(here.inFlight / below.inFlight)
	excess := here.mean - factor*below.mean
	doubt := 2 * math.Sqrt(here.variance/here.n+factor*factor*below.variance/below.n)
	switch {
	case excess > doubt:
		return -1
	case excess < -doubt:
		return 1
	}
	return 0
}

// roundTrips is the mean and the variance of the last tripsKept or so, in seconds,
// and how many were in flight at once.
type roundTrips struct {
	n, mean, variance float64
	inFlight          float64
	at                time.Time // of the last one
}

func (t *roundTrips) add(now time.Time, r arrival) {
	if now.Sub(t.at) > tripsAge {
		*t = roundTrips{}
	}
	t.at = now
	t.n = min(t.n+1, tripsKept)
	off := r.took.Seconds() - t.mean
	average(&t.mean, r.took.Seconds(), t.n)
	average(&t.variance, off*off*(1-1/t.n), t.n)
	average(&t.inFlight, float64(r.began), t.n)
}
