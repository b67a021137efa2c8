package limiter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// How an Adaptive tries, and what is not worth a setting. The comments say
// where the numbers come from.
const (
	// A trial's step is the most of one place, a tenth of the limit and half
	// its square root: small enough to stay within a tenth of the knee, large
	// enough to be told from chance in seconds.
	stepShare = 0.1
	stepRoot  = 0.5

	// A step up is kept if latency rises by less, and one down if it falls by
	// more, than this share of what it would where the downstream does no more
	// work for more operations at once. (Little's law: it then rises as the
	// operations in flight do.)
	kneeShare = 0.75

	// How many operations a trial takes: so many variances of the logarithm of
	// latency for each squared logarithm of the step, which makes the mean's
	// standard deviation 0.4 steps; within bounds.
	perStep    = 5
	minTrial   = 16
	maxTrial   = 2000
	anyScatter = math.Pi * math.Pi / 6 // that variance for exponential times, until it is known

	holdTrials = 1.5  // as many as it takes between two trials
	trialShare = 0.9  // of a trial's operations have ended when it is over: one that hangs must not hold it up
	sureAt     = 2.5  // standard deviations at which a trial ends early
	memory     = 4    // trials that the latency at the limit is the mean of
	alarm      = 0.35 // rise of the logarithm of latency at the limit that has it lowered at once: to 1.4 times as much
	downEvery  = 6    // every which trial goes down

	cutTenths = 9 // what a refusal leaves of the limit: the usual factor of limiters of this kind, as 0.5 is TCP's

	// The level at which the downstream refused last is tried again after so
	// many operations that it accepted, which keeps refusals below 1 %, after
	// so long, and after twice the pause that it cost. If it is refused then,
	// too, that is four times, and so on: one refusal may have had another
	// reason.
	clearAfter  = 150
	clearTime   = 5 * time.Second
	clearPauses = 2
	clearMost   = 20

	// Refusals far below the limit, and timeouts, lower the limit when there
	// are more than one in ten.
	lateShare = 0.1
	lateCut   = 2

	// adaptiveMemory is how long what was learnt is good for without use.
	adaptiveMemory = 10 * time.Minute
)

// An Adaptive limits how many operations are in flight at once to what the far
// side can do at once, which it finds out, and which may change. A hard cap
// stands above it.
//
// It needs no latency to aim at. By Little's law, operations in flight are
// throughput times latency. As long as the downstream has room, one more in
// flight is that much more throughput, and latency stays; from the knee on,
// throughput stays, and latency grows as the number in flight does. So it
// tries, now a little more and now a little less, holding its limit in
// between: a larger limit that leaves latency as it was is kept, and so is a
// smaller one that brings latency down. Steps double while they are kept. How
// many operations a trial takes depends on how much their latencies scatter; of
// these it takes the geometric mean, on which a few very slow ones have no
// hold. This is the idea of TCP Vegas, to read a queue from latency, without a
// fixed base latency, for which the least seen is no estimate where times
// scatter. When latency at the limit itself jumps, the limit goes down at
// once, if that is what helps.
//
// A downstream may also refuse what is too much, at once and without any rise of
// latency. On an [ErrOverload] the limit falls by a tenth, or, if it was being
// tried, back to where it was; once for all operations that were in flight. The
// level of the refusal is tried again after 150 operations that were accepted, and
// 5 s or twice the pause at least; longer, if it was refused before.
//
// Timeouts, that is errors which are [ErrUnavailable] and have a method
// Timeout() bool that reports true, as 503 and 504 of a [Transport] do, lower
// it in the same way when they are more than one in ten, and so do refusals
// while not half of the limit was in use. [ErrMisconfigured] and other
// ErrUnavailable teach it nothing.
//
// An ErrOverload with a [RetryAfter] pauses everybody for that long, whichever
// operation it comes from. After a pause the ramp starts with one operation at
// a time, and every one that is accepted lets one more be in flight, up to the
// limit.
//
// An operation is accepted if it succeeds, and also if it ends with an error
// that says nothing of the downstream ([Classify] returns nil for it), such as
// that something is out of stock: a downstream that answers so works. How long
// such an answer takes says nothing of how long the work does, so only
// successes raise the limit itself. Our own cancellation is no answer, nor is a
// run that abstains ([Permit.Abstain]), and nothing is learned from them. (A [Breaker] is stricter: it asks
// whether the downstream is in trouble, where an early refusal of a request proves
// little, so errors that say nothing neither open it nor help to close it.)
//
// The limit is never below 1. It neither rises nor falls for latency while it is
// not used: only operations count during which nine tenths of it were in flight.
// When the limit falls, operations in flight go on, and nothing starts until
// fewer are. After ten minutes without an operation or a pause it starts anew.
type Adaptive struct {
	max, initial int       // never change
	base         time.Time // what times are counted from; never changes

	mu       sync.Mutex // guards all below
	line     line.Line
	inFlight int
	released uint64 // places given back so far
	rate     releaseRate
	used     time.Duration // when an operation last started or ended; 0: never
	fullAt   time.Duration // when about as many were in flight as may be
	paused   time.Time     // no operation starts before; zero: not paused

	limit   int     // the limit that is kept between trials
	tried   int     // the limit of the trial
	ramp    int     // how far the way up to tried has come; the limit in force is the lower one
	trial   trial   // what goes on now
	round   uint32  // number of the trial, in roundBits
	cut     uint32  // number of the first trial after the limit last fell for an error, or of one long after that
	step    float64 // the next step as a share of the limit, if larger than the least
	turn    int     // trials begun since the last one down
	latency float64 // mean logarithm of latency at the limit, in nanoseconds
	weight  float64 // operations that it is the mean of; 0: not known
	scatter float64 // variance of the logarithm of latency

	ceiling   int           // the level at which the downstream refused last; 0: none
	cleared   int           // operations accepted since
	clearFrom time.Duration // when it may be tried again
	clearing  int           // that is after so many times the pause that it cost
	late      float64       // balance of timeouts, and refusals far below the limit
}

// AdaptiveConfig configures an [Adaptive].
type AdaptiveConfig struct {
	// Max is the hard cap: the limit never exceeds it. At least 1; there is no
	// default.
	Max int
	// Initial is the limit to begin with, from 1 to Max. Without trouble it
	// doubles with every few dozen operations. Default 1.
	Initial int
}

// AdaptiveStats is a snapshot of an [Adaptive].
type AdaptiveStats struct {
	Limit       int           // how many operations may be in flight now
	InFlight    int           // how many are; above Limit for a while after it has fallen
	Waiting     int           // callers that wait in Acquire
	Latency     time.Duration // geometric mean of how long operations take at the limit; 0: not known yet
	PausedUntil time.Time     // zero when it is not paused
}

var (
	_ Limiter  = (*Adaptive)(nil)
	_ Releaser = (*Adaptive)(nil)
)

// NewAdaptive returns a limiter whose limit is cfg.Initial to begin with. It
// fails when a field of cfg is out of its range, and names it.
func NewAdaptive(cfg AdaptiveConfig) (*Adaptive, error) {
	if cfg.Max < 1 {
		return nil, fmt.Errorf("limiter: NewAdaptive: Max is %d: must be at least 1", cfg.Max)
	}
	if cfg.Initial < 0 || cfg.Initial > cfg.Max {
		return nil, fmt.Errorf("limiter: NewAdaptive: Initial is %d: must be from 1 to Max, which is %d, or 0 for the default", cfg.Initial, cfg.Max)
	}
	now := time.Now()
	a := &Adaptive{max: cfg.Max, initial: max(1, cfg.Initial), base: now, rate: releaseRate{at: now}}
	a.start()
	return a, nil
}

// start begins anew, as if nothing had been learnt.
func (a *Adaptive) start() {
	a.limit, a.ramp = a.initial, a.initial
	a.step, a.turn = 1, 0
	a.latency, a.weight, a.scatter = 0, 0, anyScatter
	a.ceiling, a.cleared, a.clearing, a.late = 0, 0, 0, 0
	a.hold()
}

// Limit returns how many operations may be in flight now.
func (a *Adaptive) Limit() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.inForce()
}

// Stats returns the limit and what it rests on, at one instant.
func (a *Adaptive) Stats() AdaptiveStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := AdaptiveStats{Limit: a.inForce(), InFlight: a.inFlight, Waiting: a.line.Waiting()}
	if a.weight > 0 {
		s.Latency = time.Duration(math.Exp(a.latency))
	}
	if time.Until(a.paused) > 0 {
		s.PausedUntil = a.paused
	}
	return s
}

// Idle reports whether it is as good as new, and so may be forgotten by a
// [Keyed]: no operation is in flight, nobody waits, and it has been neither used
// nor paused for ten minutes, or ever.
func (a *Adaptive) Idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return (a.used == 0 || a.unused()) && a.inFlight == 0 && a.line.Empty()
}

// unused reports whether what was learnt is too long ago. A pause is not
// disuse: it may be as long as that, and a start after it must still be gentle.
func (a *Adaptive) unused() bool {
	last := max(a.used, a.paused.Sub(a.base))
	return time.Since(a.base)-last > adaptiveMemory
}

// Ready implements [Limiter]: the places free now, and those that will be given
// back within that time, as [Semaphore.Ready] counts them. None is free before
// the end of a pause.
func (a *Adaptive) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.line.Watch(ctx, &a.mu, max, func() (int, time.Duration) {
		if pause := time.Until(a.paused); pause > within {
			return 0, pause - within
		}
		n := a.inForce() - a.inFlight - a.line.Waiting()
		if within > 0 {
			a.rate.sample(time.Now(), a.released)
			n = a.rate.more(n, within)
		}
		return n, line.Never
	})
}

// Acquire implements [Limiter].
func (a *Adaptive) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.line.Join(ctx, &a.mu, a.take, nil); err != nil {
		return Permit{}, err
	}
	return a.permit(), nil
}

// TryAcquire implements [Limiter].
func (a *Adaptive) TryAcquire() (Permit, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.line.Waiting() > 0 {
		return Permit{}, false
	}
	if _, ok := a.take(); !ok {
		return Permit{}, false
	}
	return a.permit(), true
}

// take takes a place, or says after how long to try again.
func (a *Adaptive) take() (retry time.Duration, ok bool) {
	if !a.paused.IsZero() {
		if pause := time.Until(a.paused); pause > 0 {
			return pause, false
		}
	}
	if a.inFlight >= a.inForce() {
		return line.Never, false
	}
	if a.inFlight == 0 && a.unused() {
		a.start()
	}
	a.paused = time.Time{}
	a.inFlight++
	a.use()
	return 0, true
}

// Blocked implements [Limiter]. When a slot will come free is not known.
func (a *Adaptive) Blocked() Block {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case time.Until(a.paused) > 0:
		return Block{Reason: ByPause, Until: a.paused}
	case a.inFlight+a.line.Waiting() >= a.inForce():
		return Block{Reason: ByConcurrency}
	}
	return Block{}
}

// use takes note that it is used now, and whether all of it is.
func (a *Adaptive) use() {
	a.used = max(1, time.Since(a.base))
	if a.full(a.inFlight) {
		a.fullAt = a.used
	}
}

// inForce returns the limit in force.
func (a *Adaptive) inForce() int { return min(a.tried, a.ramp) }

// The token of a permit is when the operation started, in microseconds since
// base, above it the number of its trial, and above that whether the trial
// counts it. Numbers wrap round. One would have to come again while an operation
// of the trial before is in flight for a wrong one to be taken for right.
const (
	roundBits = 23
	counted   = 1 << 63

	// A number is later than another if it is less than half of all numbers
	// ahead of it. So the cut must not fall back that far behind the trials.
	roundsAhead = 1 << (roundBits - 1)
)

// rounds returns how many trials later one number is than another.
func rounds(later, than uint32) uint32 { return (later - than) & (1<<roundBits - 1) }

func (a *Adaptive) permit() Permit {
	token := uint64(time.Since(a.base)/time.Microsecond)&(1<<startBits-1) | uint64(a.round)<<startBits
	if a.ramp >= a.tried && a.trial.started < a.trial.want {
		a.trial.started++
		token |= counted
	}
	return Permit{r: a, token: token}
}

// full reports whether n operations in flight are about as many as may be.
func (a *Adaptive) full(n int) bool { return n*10 >= a.inForce()*9 }

// give takes the place with that token back, and reports what is to know of its
// operation: whether it started since the limit last fell for an error, and
// whether the trial that goes on counts it.
func (a *Adaptive) give(token uint64) (current, counts bool) {
	if a.inFlight == 0 {
		panic("limiter: Adaptive: a permit was given back twice")
	}
	a.use()
	a.inFlight--
	round := uint32(token>>startBits) & (1<<roundBits - 1)
	current = rounds(round, a.cut) < roundsAhead
	return current, token&counted != 0 && round == a.round
}

// AbstainPermit implements [Releaser].
func (a *Adaptive) AbstainPermit(token uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, counts := a.give(token)
	a.released++
	a.end(token, counts)
}

// CancelPermit implements [Releaser].
func (a *Adaptive) CancelPermit(token uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, counts := a.give(token); counts {
		a.trial.started--
	}
	a.line.Stir()
}

// ReleasePermit implements [Releaser].
func (a *Adaptive) ReleasePermit(token uint64, err error) {
	class := Classify(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	atOnce := a.inFlight
	current, counts := a.give(token)
	round := a.round
	a.released++
	switch {
	case answered(err):
		if current {
			a.accepted(atOnce)
		}
		if err != nil {
			break
		}
		if d := took(token, a.used); counts && d >= a.used-a.fullAt {
			counts = false
			a.trial.add(math.Log(float64(d) + 1))
			a.learn()
		}
	case class == ErrOverload:
		after, _ := RetryAfter(err)
		if current {
			a.refused(atOnce, after)
		}
		a.pause(after)
	case class == ErrUnavailable && timedOut(err) && current:
		a.tooLate()
	}
	a.end(token, counts && a.round == round) // else its trial is over
}

// end ends an operation that ran. In the trial, another one takes the place of
// one that is still counted: it says nothing about latency at this limit.
func (a *Adaptive) end(token uint64, counted bool) {
	if counted {
		a.trial.started--
	}
	if a.trial.kind == up && took(token, a.used) < a.used-a.fullAt {
		a.hold() // more is not needed: all that time there were slots left
	}
	a.line.Stir()
}

// timedOut reports whether err is that of a downstream that took too long.
func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// accepted takes note that an operation was, when so many were in flight.
func (a *Adaptive) accepted(atOnce int) {
	a.cleared++
	a.late = max(0, a.late-lateShare)
	if a.ramp < a.tried && a.full(atOnce) {
		a.ramp++
	}
}

// refused lowers the limit, because the downstream refused one of so many
// operations in flight.
func (a *Adaptive) refused(atOnce int, after time.Duration) {
	level := min(atOnce, a.inForce())
	if 2*level <= a.inForce() {
		a.tooLate() // another limit would not have prevented it
		return
	}
	low := level * cutTenths / 10
	if a.trial.kind == up {
		low = max(low, min(a.limit, level-1))
	}
	if level > 1 { // one operation alone is refused for another reason
		if a.clearing = min(2*a.clearing, clearMost); a.ceiling == 0 {
			a.clearing = clearPauses
		}
		a.ceiling, a.cleared = level, 0
		a.clearFrom = time.Since(a.base) + max(clearTime, min(time.Duration(a.clearing)*after, adaptiveMemory))
	}
	a.fall(low)
}

// tooLate counts a timeout, or a refusal that the limit has no part in, and
// lowers the limit if there are too many.
func (a *Adaptive) tooLate() {
	if a.late++; a.late < lateCut {
		return
	}
	a.late = 0
	a.fall(a.inForce() * cutTenths / 10)
}

// fall lowers the limit for an error.
func (a *Adaptive) fall(to int) {
	a.limit = max(1, to)
	a.step = 0
	a.hold()
	a.cut = a.round
}

// pause lets nothing start for that long, and after it, one at a time to begin
// with.
func (a *Adaptive) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	if until := time.Now().Add(d); until.After(a.paused) {
		a.paused = until
	}
	a.ramp = 1
	a.hold()
	a.cut = a.round // what ends during the pause must not open the ramp
}
