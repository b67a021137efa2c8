package limiter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/again"
	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// How an Adaptive runs its trials, and constants that need no setting.
const (
	// A step is the largest of one slot, a tenth of the limit and half its
	// square root: small enough to stay within a tenth of the knee, large
	// enough to stand out from chance within seconds.
	stepShare = 0.1
	stepRoot  = 0.5

	// A step up is kept if latency rises by less, and a step down if latency
	// falls by more, than this share of the change to expect if the
	// downstream's throughput stays the same. (By Little's law, latency then
	// changes in proportion to the operations in flight.)
	kneeShare = 0.75

	// The number of operations in a trial, within bounds: perStep times the
	// variance of the logarithm of latency, divided by the squared logarithm
	// of the step. The standard deviation of the mean is then 0.4 steps.
	perStep    = 5
	minTrial   = 16
	maxTrial   = 2000
	anyScatter = math.Pi * math.Pi / 6 // that variance for exponential latencies, until it is known

	holdTrials = 1.5  // times as many operations between two trials as in one
	trialShare = 0.9  // share of a trial's operations that have ended when it is over: one that hangs must not hold it up
	sureAt     = 2.5  // standard deviations at which a trial ends early
	memory     = 4    // trials averaged in the latency at the limit
	alarm      = 0.35 // rise of the logarithm of latency at the limit, to 1.4 times, at which the limit is lowered at once
	downEvery  = 6    // every downEvery-th trial goes down

	cutTenths = 9 // tenths of the limit that remain after a refusal: the usual factor of such limiters, as 0.5 is for TCP

	// The level at which the downstream refused last is tried again after
	// clearAfter accepted operations, which keeps refusals below 1 %, after
	// clearTime, and after clearPauses times the pause that it cost. The
	// factor doubles with each refusal that follows, up to clearMost: a
	// single refusal may have had another reason.
	clearAfter  = 150
	clearTime   = 5 * time.Second
	clearPauses = 2
	clearMost   = 20

	// Refusals far below the limit, and timeouts, lower the limit when they
	// are more than one in ten.
	lateShare = 0.1
	lateCut   = 2

	// adaptiveMemory is how long learned values stay valid without use.
	adaptiveMemory = 10 * time.Minute
)

// An Adaptive limits how many operations are in flight to what the downstream can
// handle at once. It finds that number itself, follows it when it changes, and never
// exceeds a hard cap. The package documentation explains how.
//
// Higher latency and timeouts lower the limit. An [ErrOverload] lowers it by a tenth
// or, if a larger limit was on trial, back to where it was. With a [RetryAfter] it
// also pauses all operations for that long. After a pause operations start one at a
// time, and each one that is accepted allows one more in flight, up to the limit.
//
// The limit is never below 1. Latency changes it only while nine tenths of it are in
// flight. When it falls, operations in flight continue, and nothing starts until
// fewer are in flight. After ten minutes without an operation or a pause it starts
// afresh.
type Adaptive struct {
	max, initial int       // never change
	base         time.Time // the zero of all durations; never changes

	mu       sync.Mutex // guards all below
	line     line.Line
	inFlight int
	released uint64 // permits returned after a run, so far
	rate     releaseRate
	used     time.Duration // when an operation last started or ended; 0: never
	fullAt   time.Duration // when about as many were in flight as the limit allows
	paused   time.Time     // no operation starts before; zero: not paused

	limit   int     // the limit between trials
	tried   int     // the limit on trial
	ramp    int     // how far the ramp towards tried has come; the limit in force is the lower of the two
	trial   trial   // the current trial
	round   uint32  // number of the trial, of roundBits bits
	cut     uint32  // number of the first trial after the limit last fell for an error, or of one long after that
	step    float64 // the next step as a share of the limit, if larger than the least step
	turn    int     // trials since the last step down
	latency float64 // mean logarithm of latency at the limit, in nanoseconds
	weight  float64 // number of operations in that mean; 0: not known
	scatter float64 // variance of the logarithm of latency

	ceiling   int           // the level at which the downstream refused last; 0: none
	cleared   int           // operations accepted since
	clearFrom time.Duration // when it may be tried again
	clearing  int           // clearFrom is this many times the pause that the refusal cost
	late      float64       // balance of timeouts, and refusals far below the limit
}

// AdaptiveConfig configures an [Adaptive].
type AdaptiveConfig struct {
	// Max is the hard cap: the limit never exceeds it. At least 1; there is no
	// default.
	Max int
	// Initial is the limit to begin with, from 1 to Max. While nothing fails
	// it doubles with every few dozen operations. Default 1.
	Initial int
}

// AdaptiveStats is a snapshot of an [Adaptive].
type AdaptiveStats struct {
	Limit       int           // how many operations may be in flight now
	InFlight    int           // how many are in flight; above Limit for a while after it has fallen
	Waiting     int           // callers that wait in Acquire
	Latency     time.Duration // geometric mean of the latency at the limit; 0: not known yet
	PausedUntil time.Time     // zero when it is not paused
}

var (
	_ Limiter  = (*Adaptive)(nil)
	_ Releaser = (*Adaptive)(nil)
)

// NewAdaptive returns a limiter whose initial limit is cfg.Initial. It fails
// when a field of cfg is out of range, and names the field.
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

// start forgets everything learned and begins afresh.
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

// Stats returns the limit and the values behind it, at one instant.
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

// Idle reports whether the limiter is as good as new, so that a [Keyed] may
// forget it: no operation is in flight, nobody waits, and it has been neither
// used nor paused for ten minutes, or ever.
func (a *Adaptive) Idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return (a.used == 0 || a.unused()) && a.inFlight == 0 && a.line.Empty()
}

// unused reports whether the learned values are too old. A pause does not count
// as disuse: it may be as long as that, and the start after it must still be
// gentle.
func (a *Adaptive) unused() bool {
	last := max(a.used, a.paused.Sub(a.base))
	return time.Since(a.base)-last > adaptiveMemory
}

// Ready implements [Limiter]: the slots free now, and those expected to be
// returned within the given time, as [Semaphore.Ready] counts them. None is
// free before the end of a pause.
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

// take takes a slot, or returns after how long to try again.
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

// Blocked implements [Limiter]. It does not know when a slot will be free.
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

// use records that the limiter is used now, and whether all of its limit is.
func (a *Adaptive) use() {
	a.used = max(1, time.Since(a.base))
	if a.full(a.inFlight) {
		a.fullAt = a.used
	}
}

// inForce returns the limit in force.
func (a *Adaptive) inForce() int { return min(a.tried, a.ramp) }

// A permit's token holds when the operation started, in microseconds since base;
// above it the number of its trial, and above that whether the trial counts it.
// Numbers wrap around. A wrong one is taken for right only if it recurs while an
// operation of the earlier trial with that number is still in flight.
const (
	roundBits = 23
	counted   = 1 << 63

	// A number is later than another if it is less than half of all numbers
	// ahead of it. So cut must not fall that far behind the current trial.
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

// full reports whether n operations in flight are about as many as the limit
// allows.
func (a *Adaptive) full(n int) bool { return n*10 >= a.inForce()*9 }

// give returns the slot of the permit with that token. It reports whether its
// operation started since the limit last fell for an error, and whether the
// current trial counts it.
func (a *Adaptive) give(token uint64) (current, counts bool) {
	if a.inFlight == 0 {
		panic("limiter: Adaptive: a permit was returned twice")
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
		if current && !again.Is(err) {
			a.refused(atOnce, after)
		}
		a.pause(after)
	case class == ErrUnavailable && timedOut(err) && current:
		a.tooLate()
	}
	a.end(token, counts && a.round == round) // else its trial is over
}

// end ends an operation that ran. If counted is still true, the operation gave
// its trial no latency, and another one is counted instead.
func (a *Adaptive) end(token uint64, counted bool) {
	if counted {
		a.trial.started--
	}
	if a.trial.kind == up && took(token, a.used) < a.used-a.fullAt {
		a.hold() // more is not needed: slots were free all that time
	}
	a.line.Stir()
}

// timedOut reports whether err means that the downstream took too long.
func timedOut(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// accepted records that an operation was accepted, with atOnce operations in
// flight.
func (a *Adaptive) accepted(atOnce int) {
	a.cleared++
	a.late = max(0, a.late-lateShare)
	if a.ramp < a.tried && a.full(atOnce) {
		a.ramp++
	}
}

// refused lowers the limit after the downstream refused an operation with
// atOnce operations in flight.
func (a *Adaptive) refused(atOnce int, after time.Duration) {
	level := min(atOnce, a.inForce())
	if 2*level <= a.inForce() {
		a.tooLate() // a lower limit would not have prevented it
		return
	}
	low := level * cutTenths / 10
	if a.trial.kind == up {
		low = max(low, min(a.limit, level-1))
	}
	if level > 1 { // a refusal of one operation alone has another reason
		if a.clearing = min(2*a.clearing, clearMost); a.ceiling == 0 {
			a.clearing = clearPauses
		}
		a.ceiling, a.cleared = level, 0
		a.clearFrom = time.Since(a.base) + max(clearTime, min(time.Duration(a.clearing)*after, adaptiveMemory))
	}
	a.fall(low)
}

// tooLate counts a timeout, or a refusal that the limit did not cause, and
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

// pause stops all starts for that long, and then begins with one at a time.
func (a *Adaptive) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	if until := time.Now().Add(d); until.After(a.paused) {
		a.paused = until
	}
	a.ramp = 1
	a.hold()
	a.cut = a.round // operations that end during the pause must not open the ramp
}
