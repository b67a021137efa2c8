package queue

import (
	"math"
	"slices"
	"time"
)

// How receives are decided.
//
// A message is asked for when a slot will be free for it by the time it arrives.
// A handler that has run for long says little about when it will end, so each
// running handler counts less the longer it has run (e^-age/memory): only the
// slots that turn over matter. Each of them comes free once in the mean time that
// handlers count for, which gives a rate. By Little's law the look-ahead is that
// rate times the round-trip and up to 20 ms, plus one standard deviation. In the
// long run this is the mean rate, but at any moment it follows the handlers:
// while slow ones occupy all slots, nothing is asked for ahead of them, however
// short the mean time is. A second bound, safe, limits the wait where a few
// handlers take much longer than the others: it asks for no more than will almost
// surely start before slow handlers occupy so many slots that a message waits
// longer than a round-trip and 250 ms. The receives in flight are bounded by the
// messages wanted, and by a ladder that is climbed only as long as more receives
// return more messages (see ladder). Everything is observed and nothing is
// configured.
//
// Invariants:
//
//   - Running, waiting and asked for, together, never exceed the slots and the
//     look-ahead at the time of asking. A look-ahead that shrinks recalls
//     nothing, and nothing more is asked for until fewer messages are in flight
//     than it allows.
//   - The look-ahead is zero until the first handler has ended.
//   - Every method takes constant time and allocates nothing.

const (
	// batchSize is how many messages one call receives, acks, nacks or extends:
	// SQS's limit, and enough to make calls cheap elsewhere.
	batchSize = 10

	// gatherTime is how long, at most, a free slot waits to share a receive with
	// the next one, and how long beyond the round-trip a message may wait for its
	// slot in the plan of the look-ahead.
	gatherTime = 20 * time.Millisecond

	// patience is how long a message may wait for its slot beyond the round-trip,
	// in 99 of 100 cases.
	patience = 250 * time.Millisecond

	// deviations is how many standard deviations more slow handlers than expected
	// the safe look-ahead allows for. A normal distribution would need 2.3 for 99
	// of 100; where few slots turn over, the tail is longer.
	deviations = 3

	// paceMemory is how quickly the rate of starts forgets, and minPace the
	// shortest time it is measured over.
	paceMemory = 300 * time.Millisecond
	minPace    = 50 * time.Millisecond

	// No slot is credited with more than one start per leastTime, or handlers
	// that do nothing would look infinitely fast. No memory is shorter than
	// minMemory.
	leastTime = time.Millisecond
	minMemory = 5 * time.Millisecond

	// The mean time covers about the last timesKept handlers, and the shares of
	// slow ones about the last sharesKept; with many slots, keptPerSlot of each
	// slot.
	timesKept   = 64
	sharesKept  = 1024
	keptPerSlot = 16

	// maxRoundTrip is the longest credible round-trip of a receive, since a long
	// poll on a quiet queue can't be distinguished from a slow network.
	maxRoundTrip = time.Second
)

// A pace observes how handlers start and end and how long a receive takes, and
// computes from it how many messages to ask for beyond the free slots. All
// methods take the present time and are called under Consumer.mu.
type pace struct {
	starts fading    // one for each start
	since  time.Time // when starts began, after a pause

	// The handlers that run. memory is the time scale on which slots are expected
	// to turn over: a few mean times, at most the time that is planned for.
	memory  time.Duration
	running int
	turning float64 // sum of e^-age/memory
	at      time.Time

	// The handlers that have ended: means, in which each one counts for less the
	// longer ago it was.
	ends     float64 // how many
	each     float64 // seconds for which a handler was turning
	late     float64 // share that took longer than memory
	stuck    float64 // share that took longer than a message may wait
	stuckFor float64 // seconds that those took

	trips  [16]time.Duration
	nTrips int
	trip   time.Duration // the round-trip that trips suggest

	last   outlook // as computed at lastAt, valid for outlookAge
	lastAt time.Time
}

func (p *pace) started(now time.Time) {
	if now.Sub(p.starts.at) > paceMemory {
		p.starts, p.since = fading{}, now
	}
	p.starts.add(now, 1)
	p.fade(now)
	p.running++
	p.turning++
}

// ended records the end of a handler; slots is the number of slots.
func (p *pace) ended(now time.Time, took time.Duration, slots int) {
	p.fade(now)
	left := faded(took, p.memory)
	p.running--
	p.turning = max(0, p.turning-left)

	p.ends++
	average(&p.each, (1-left)*p.memory.Seconds(), p.kept(timesKept, slots))
	late, stuck := 0.0, 0.0
	if took > p.memory {
		late = 1
	}
	if took > p.longest() {
		stuck = 1
		if p.stuckFor == 0 {
			p.stuckFor = took.Seconds()
		}
		average(&p.stuckFor, took.Seconds(), timesKept)
	}
	n := p.kept(sharesKept, slots)
	average(&p.late, late, n)
	average(&p.stuck, stuck, n)
}

// kept is how many handlers the means cover, if at most that many count.
func (p *pace) kept(most, slots int) float64 {
	return min(p.ends, float64(max(most, keptPerSlot*slots)))
}

// average adds x to the mean of n values, x included.
func average(mean *float64, x, n float64) { *mean += (x - *mean) / n }

// fade brings turning up to date.
func (p *pace) fade(now time.Time) {
	if p.memory == 0 {
		p.memory = gatherTime
	}
	if now.After(p.at) {
		p.turning *= faded(now.Sub(p.at), p.memory)
		p.at = now
	}
}

// longest is how long a handler may take if a message that is asked for when it
// starts is to wait no longer than a round-trip and patience for its slot.
func (p *pace) longest() time.Duration { return 2*p.trip + patience }

// received records the duration of a receive that returned messages, and whether
// it returned several and all that was asked for. The round-trip is the lower
// quartile of the last ones: some of them waited for a message to arrive, and say
// nothing about the network. A receive that is full in a fraction of that time
// shows that all of them waited.
func (p *pace) received(took time.Duration, full bool) {
	if full && took < p.trip/10 {
		p.nTrips = 0
	}
	p.trips[p.nTrips%len(p.trips)] = min(took, maxRoundTrip)
	p.nTrips++
	n := min(p.nTrips, len(p.trips))
	trips := p.trips
	slices.Sort(trips[:n])
	p.trip = trips[(n-1)/4]
}

// An outlook is a pace's forecast.
type outlook struct {
	lookAhead int           // messages to have waiting or asked for beyond the slots while all slots are taken
	starved   int           // the same while slots are free and nothing waits for them
	limited   int           // the same while slots are free and the waiting messages may not start
	worth     int           // how many must be wanted for a receive to be worth its call
	gather    time.Duration // how long to wait for that many
	horizon   time.Duration // how far ahead the limits must admit messages
	unsettled int           // four times the results that are in flight at the rate of starts
}

// outlookAge is how old an outlook may be: every message needs one.
const outlookAge = time.Millisecond

func (p *pace) outlook(now time.Time, slots int) outlook {
	if p.lastAt.IsZero() || now.Sub(p.lastAt) >= outlookAge {
		p.last, p.lastAt = p.look(now, slots), now
	}
	return p.last
}

func (p *pace) look(now time.Time, slots int) outlook {
	if p.ends == 0 {
		return outlook{worth: 1, gather: gatherTime, horizon: p.trip + gatherTime}
	}
	p.fade(now)
	each := p.turnover(slots)
	p.memory = max(minMemory, min(p.trip+gatherTime, time.Duration(4*each*float64(time.Second))))

	// A free slot turns over as soon as there is a message.
	turning := p.turning + float64(max(0, slots-p.running))
	each = max(each, leastTime.Seconds())
	possible := turning / each
	age := max(now.Sub(p.since), minPace) // after a pause there are fewer than paceMemory's worth of starts
	seen := min(possible, p.starts.sum(now)/paceMemory.Seconds()/-math.Expm1(-float64(age)/float64(paceMemory)))

	safe := p.safe(turning, slots)
	trip, gather := p.trip.Seconds(), gatherTime.Seconds()
	if seen > 0 {
		// Long enough for a full receive to be wanted, or for one to return.
		full := batchSize / seen
		gather = min(gather, max(trip, full))
		// Over a long round-trip, gather for as long as the round-trip if the
		// look-ahead lasts until then and calls are saved.
		if longer := min(trip, full, safe/seen); seen*longer >= 2 {
			gather = max(gather, longer)
		}
	}
	spread := math.Sqrt(possible * trip)
	return outlook{
		lookAhead: int(min(possible*(trip+gather)+spread, safe)),
		starved:   int(min(possible*(trip+max(gather, gatherTime.Seconds()))+spread, safe)),
		limited:   int(min(seen*(trip+gather), safe)),
		worth:     int(min(batchSize, max(1, seen*gather+1e-3))), // 9.999 is a full receive
		gather:    time.Duration(gather * float64(time.Second)),
		horizon:   p.trip + time.Duration(gather*float64(time.Second)),
		unsettled: int(4 * seen * trip),
	}
}

// turnover is the mean time in seconds for which a handler counts as turning,
// over the handlers that have ended. The time of those that still run is
// included, as the quick ones end first.
func (p *pace) turnover(slots int) float64 {
	return p.each + (float64(p.running)-p.turning)*p.memory.Seconds()/p.kept(timesKept, slots)
}

// safe is how many messages may be asked for ahead so that at most one in a
// hundred waits longer than a round-trip and patience. A share of the handlers
// that start takes longer than that; a handler that is already late counts as one
// of them to the extent that late handlers have turned out to be. The messages
// asked for all start in time unless every slot that turns over gets such a
// handler first. Some of the slots that do not turn over come free as well; each
// is good for a message.
func (p *pace) safe(turning float64, slots int) float64 {
	late := max(0, float64(p.running)-p.turning)
	n := p.kept(sharesKept, slots)
	suspects := late * (p.stuck*n + 1) / (p.late*n + 1)
	share := (p.stuck*n + suspects + 1) / (n + suspects + 1)
	safe := max(0, surely(turning)/share-turning)
	if p.stuckFor > 0 {
		safe += surely(late * p.longest().Seconds() / p.stuckFor)
	}
	return safe
}

// surely is the mean of a Poisson distribution that exceeds most no more often
// than deviations allow: x + deviations*sqrt(x) = most.
func surely(most float64) float64 {
	root := (math.Sqrt(deviations*deviations+4*most) - deviations) / 2
	return root * root
}

// A fading sum forgets what was added by a factor of e every paceMemory.
type fading struct {
	value float64
	at    time.Time
}

func (f *fading) sum(now time.Time) float64 {
	return f.value * faded(now.Sub(f.at), paceMemory)
}

func (f *fading) add(now time.Time, x float64) {
	f.value = f.sum(now) + x
	if now.After(f.at) {
		f.at = now
	}
}

// faded is what is left of 1 after d: e^-d/memory.
func faded(d, memory time.Duration) float64 {
	x := float64(d) / float64(memory)
	switch {
	case x <= 0:
		return 1
	case x < 1e-3:
		return 1 - x // accurate enough, and cheap: this is called for every message
	}
	return math.Exp(-x)
}
