package queue

import (
	"math"
	"slices"
	"time"
)

const (
	// batchSize is how many messages one call receives, acks, gives back or
	// extends: SQS's limit, and enough to make calls cheap elsewhere.
	batchSize = 10

	// gatherTime is the most that a free slot waits to be filled by the same
	// receive as the next one, and what the look-ahead plans for a message to
	// wait for its slot beyond the round-trip.
	gatherTime = 20 * time.Millisecond

	// paceMemory is how quickly the observed rate forgets. Shorter makes the
	// look-ahead jump about with every burst; longer makes it late when
	// handlers turn slow.
	paceMemory = 300 * time.Millisecond

	// minPace is of how much time, at least, a rate is observed.
	minPace = 50 * time.Millisecond

	// maxRoundTrip bounds what is believed of a receive's round-trip, since a
	// long poll on a quiet queue can't be told from a slow network.
	maxRoundTrip = time.Second
)

// A pace observes how fast handlers start and end and how long a receive
// takes, and computes from it how many messages to ask for beyond the free
// slots (Little's law): what will be started while the next receive is under
// way. All methods take the present time and are called under Consumer.mu.
type pace struct {
	starts fading    // one for each start
	since  time.Time // when starts began, after a pause
	ends   fading    // one for each end
	time   fading    // the handler's time, in seconds, for each end
	busy   fading    // the time in handlers, in seconds, of all that run or ran
	trips  [16]time.Duration
	nTrips int
	trip   time.Duration // the round-trip that trips suggest

	last   outlook // as computed at lastAt, good for outlookAge
	lastAt time.Time
}

func (p *pace) started(now time.Time) {
	if now.Sub(p.starts.at) > paceMemory {
		p.starts, p.since = fading{}, now
	}
	p.starts.add(now, 1)
	p.busy.flow(now, 1)
}

func (p *pace) ended(now time.Time, took time.Duration) {
	p.ends.add(now, 1)
	p.time.add(now, took.Seconds())
	p.busy.flow(now, -1)
}

// received notes the duration of a receive that brought something, and whether it
// brought several and all that was asked for. The round-trip is the lower quartile
// of the last ones: some of them waited for a message to arrive, and those say
// nothing of the network. What is full in a fraction of that time shows that all
// of them did.
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

// rates returns how many messages per second will be started as long as there
// are enough, and how many the slots could do at most. The first is what was
// seen, but no more than the second, which leaves out the moment in which empty
// slots were filled. A slot's time for a message is the mean of those that have
// ended, or, as the quick ones end first, the time in handlers for each end if
// that is more.
func (p *pace) rates(now time.Time, slots int) (rate, most float64) {
	ends := p.ends.sum(now)
	if ends <= 0 {
		return 0, 0
	}
	// After a pause there are fewer than paceMemory's worth of starts.
	age := max(now.Sub(p.since), minPace)
	seen := p.starts.sum(now) / paceMemory.Seconds() / -math.Expm1(-float64(age)/float64(paceMemory))
	most = float64(slots) * ends / max(p.time.sum(now), p.busy.sum(now), 1e-9)
	return min(seen, most), most
}

// An outlook is what a pace says of the near future.
type outlook struct {
	lookAhead int           // messages to have in hand or asked for beyond the slots
	starved   int           // the same while slots are free and nothing is in hand for them
	worth     int           // how many must be wanted for a receive to be worth its call
	gather    time.Duration // how long to wait for that many
	horizon   time.Duration // how far ahead the limits are asked
}

// outlookAge is how old an outlook may be: it is asked for at every message.
const outlookAge = time.Millisecond

func (p *pace) outlook(now time.Time, slots int) outlook {
	if p.lastAt.IsZero() || now.Sub(p.lastAt) >= outlookAge {
		p.last, p.lastAt = p.look(now, slots), now
	}
	return p.last
}

func (p *pace) look(now time.Time, slots int) outlook {
	rate, most := p.rates(now, slots)
	trip, gather := p.trip, gatherTime
	if rate > 0 {
		// Long enough for a full receive to be wanted, or for one to return.
		gather = min(gather, max(trip, time.Duration(batchSize/rate*float64(time.Second))))
	}
	ahead := rate * (trip + gather).Seconds()
	// While there is a backlog, the rate that was seen is what the receives brought:
	// too slow for slots that wait for them, where the round-trips are uneven. Each
	// slot may have a full receive under way, if all that they bring could be
	// started in gatherTime.
	starved := min(most*gatherTime.Seconds(), float64((batchSize-1)*slots))
	return outlook{
		lookAhead: int(ahead),
		starved:   int(max(ahead, starved)),
		worth:     int(min(batchSize, max(1, rate*gather.Seconds()+1e-3))), // gather is rounded, and 9.999 is a full receive
		gather:    gather,
		horizon:   trip + gather,
	}
}

// A fading sum forgets what was added by a factor of e every paceMemory.
type fading struct {
	value float64
	rate  float64 // is added every second
	at    time.Time
}

func (f *fading) sum(now time.Time) float64 {
	if f.value == 0 && f.rate == 0 || !now.After(f.at) {
		return f.value
	}
	x := float64(now.Sub(f.at)) / float64(paceMemory)
	kept := 1 - x // as good for a small x, and this is called for every message
	if x >= 1e-3 {
		kept = math.Exp(-x)
	}
	return f.value*kept + f.rate*paceMemory.Seconds()*(1-kept)
}

func (f *fading) add(now time.Time, x float64) {
	f.value = f.sum(now) + x
	if now.After(f.at) {
		f.at = now
	}
}

// flow changes what is added every second.
func (f *fading) flow(now time.Time, by float64) {
	f.add(now, 0)
	f.rate += by
}
