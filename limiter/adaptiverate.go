package limiter

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// How an AdaptiveRate moves. The comments say where the numbers come from.
const (
	rateCut      = 0.9 // what a refusal leaves of the rate
	rateCutAgain = 0.7 // and one that follows at once, which tells of a rate far too high: CUBIC's factor

	// The way back to the rate that was refused takes so long, and so many
	// operations, which keeps refusals near 1 %.
	recoveryTime   = 15 * time.Second
	recoveryStarts = 100

	// Before the first refusal the rate doubles in so long, and so many
	// operations.
	doublingTime   = 2 * time.Second
	doublingStarts = 10

	// The rate moves at the pace of its use, looked at after so long and so
	// many operations, and only if so much of it was used.
	lookTime   = 250 * time.Millisecond
	lookStarts = 4
	usedShare  = 0.8

	rampFrom = 1.0 / 8     // share of the rate after a pause
	rampTime = time.Second // in which it doubles

	// bunch is how far starts may bunch up: timers are not more exact than a
	// few milliseconds, and what they are late would be lost.
	bunch = 10 * time.Millisecond

	// So many cuts one upon another, with nothing accepted between them, are an
	// outage: the far side is down, and the rate is not what it refuses. They
	// leave a sixth of the rate, at which one that only was too high has some
	// operations accepted as a rule.
	outageCuts = 6

	// A refusal leaves no less than one operation in a minute, and the ramp
	// begins with no less, so that a far side that accepts again is noticed. But
	// a rate that is less by Initial, or because the far side told so, stays.
	leastRate = 1.0 / 60
)

// An AdaptiveRate limits how often operations start to what the far side
// accepts, which it finds out, and which may change. A hard cap stands above
// it. Starts are spread evenly, but for what timers are late: at most 10 ms
// worth of them come at once.
//
// It learns from [ErrOverload]. Until the first one the rate doubles every two
// seconds. Each lowers the rate by a tenth, once for all operations that had
// started by then, and by three tenths if the one before is not overcome. Then
// it goes back up along a cubic curve, as TCP CUBIC does (RFC 9438): soon near
// the rate that was refused, for long about there, and on from it the faster
// the longer nothing is refused. A rate of 5 a second and more is back where it
// was refused after 15 s, and at twice that after 50 s. It does not rise while
// less than four fifths of it are used.
//
// When everything is refused for a while, that is no rate to remember. The rate
// falls all the same, so that a far side that is down gets less and less, down
// to one operation in a minute, or Initial if that is less. But once it accepts
// again, the rate doubles with every operation, or every two seconds if that is
// longer, to seven tenths of what it was before, and goes on from there along
// the curve. So it is back within minutes, however long the outage was.
//
// An error that says nothing about the downstream, such as one about the request,
// is an answer, and counts as acceptance. Our own cancellation is none, nor is a
// run that abstains ([Permit.Abstain]). Nothing is learned from these, nor from
// [ErrUnavailable] and [ErrMisconfigured].
//
// An ErrOverload with a [RetryAfter] pauses everybody for that long, whichever
// operation it comes from. The rate is an eighth of what it was after a pause,
// or one operation in a minute if that is more, and doubles every second until
// it is whole again.
//
// What the far side tells of its quotas in a response's header is taken at its
// word, see [Permit.Observe]: while it tells, the rate is what is left of the
// quota over the time that is left, of the tightest where it tells of several,
// and there is no need to be refused to find it. Only where it tells of none
// what is left, the rate is what its policies have in a window over that. After
// an ErrOverload nothing that is told raises the rate for 15 s.
//
// After ten minutes without an operation it starts anew. A pause, and waiting
// for one's turn, are not disuse.
type AdaptiveRate struct {
	bucket       *TokenBucket  // has its own mutex, locked after mu
	max, initial float64       // never change
	base         time.Time     // what times are counted from; never changes
	cancelled    atomic.Uint64 // permits, which the bucket goes on counting

	mu     sync.Mutex // guards all below
	rate   float64    // without the ramp
	ramp   float64    // share of the rate that is in force
	rampAt time.Duration
	peak   float64       // the rate that was refused last; 0: none yet
	way    float64       // seconds of use since
	cutAt  time.Duration // when it was
	cuts   int           // one upon another, with nothing accepted between them
	lost   float64       // the rate before cuts that came one upon another
	from   uint64        // number of the first operation that started since
	told   time.Duration // until when the rate is what the far side told
	usedAt time.Duration // when it was last used, or a pause ends if that is later; 0: never
	lookAt time.Duration // when use was last looked at
	looked uint64        // the token of the next operation then
}

// AdaptiveRateConfig configures an [AdaptiveRate].
type AdaptiveRateConfig struct {
	// Max is the hard cap: the rate never exceeds it. In operations a second,
	// finite and above 0; there is no default.
	Max float64
	// Initial is the rate to begin with, above 0 and at most Max. Default 1,
	// or Max if that is less.
	Initial float64
}

// AdaptiveRateStats is a snapshot of an [AdaptiveRate].
type AdaptiveRateStats struct {
	Rate        float64   // starts a second that are allowed now
	Told        bool      // that is what the far side told, not what was found out
	Waiting     int       // callers that wait in Acquire
	PausedUntil time.Time // zero when it is not paused
}

var (
	_ Limiter  = (*AdaptiveRate)(nil)
	_ Releaser = (*AdaptiveRate)(nil)
	_ Observer = (*AdaptiveRate)(nil)
)

// NewAdaptiveRate returns a limiter whose rate is cfg.Initial to begin with. It
// fails when a field of cfg is out of its range, and names it.
func NewAdaptiveRate(cfg AdaptiveRateConfig) (*AdaptiveRate, error) {
	if !(cfg.Max > 0) || math.IsInf(cfg.Max, 1) { // not NaN either
		return nil, fmt.Errorf("limiter: NewAdaptiveRate: Max is %v: must be a finite number above 0", cfg.Max)
	}
	if !(cfg.Initial >= 0 && cfg.Initial <= cfg.Max) {
		return nil, fmt.Errorf("limiter: NewAdaptiveRate: Initial is %v: must be above 0 and at most Max, which is %v, or 0 for the default", cfg.Initial, cfg.Max)
	}
	if cfg.Initial == 0 {
		cfg.Initial = min(1, cfg.Max)
	}
	bucket, err := NewTokenBucket(cfg.Initial, bunched(cfg.Initial))
	if err != nil {
		return nil, fmt.Errorf("limiter: NewAdaptiveRate: %w", err)
	}
	a := &AdaptiveRate{bucket: bucket, max: cfg.Max, initial: cfg.Initial, base: time.Now()}
	a.start(0)
	return a, nil
}

// start begins anew, as if nothing had been learnt.
func (a *AdaptiveRate) start(now time.Duration) {
	a.rate, a.ramp = a.initial, 1
	a.peak, a.told, a.cuts = 0, 0, 0
	a.look(now)
}

// wake begins anew if there has been no operation for long.
func (a *AdaptiveRate) wake() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Since(a.base)
	if now-a.usedAt > adaptiveMemory && a.bucket.Stats().Waiting == 0 {
		a.start(now)
		a.apply()
	}
	a.use(now)
}

// use takes note that it is used now.
func (a *AdaptiveRate) use(now time.Duration) { a.usedAt = max(a.usedAt, now, 1) }

// Idle reports whether it is as good as new, and so may be forgotten by a
// [Keyed]: it has been neither used nor paused for ten minutes, or ever, and
// nobody waits.
func (a *AdaptiveRate) Idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	unused := a.usedAt == 0 || time.Since(a.base)-a.usedAt > adaptiveMemory
	return unused && a.bucket.Idle()
}

// bunched returns how many operations may start at once at that rate.
func bunched(rate float64) int {
	return max(1, int(min(rate*bunch.Seconds(), math.MaxInt32)))
}

// Rate returns how many operations may start a second now.
func (a *AdaptiveRate) Rate() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rate * a.ramp
}

// Stats returns the rate and who waits, at one instant.
func (a *AdaptiveRate) Stats() AdaptiveRateStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.bucket.Stats()
	return AdaptiveRateStats{
		Rate:        a.rate * a.ramp,
		Told:        time.Since(a.base) < a.told,
		Waiting:     b.Waiting,
		PausedUntil: b.PausedUntil,
	}
}

// Ready implements [Limiter], as [TokenBucket.Ready] does at the rate of now.
func (a *AdaptiveRate) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	return a.bucket.Ready(ctx, max, within)
}

// Acquire implements [Limiter].
func (a *AdaptiveRate) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil { // else it would count as use
		return Permit{}, context.Cause(ctx)
	}
	a.wake()
	p, err := a.bucket.Acquire(ctx)
	if err != nil {
		return Permit{}, err
	}
	return Permit{r: a, token: a.token(p.token)}, nil
}

// TryAcquire implements [Limiter].
func (a *AdaptiveRate) TryAcquire() (Permit, bool) {
	a.wake()
	p, ok := a.bucket.TryAcquire()
	if !ok {
		return Permit{}, false
	}
	return Permit{r: a, token: a.token(p.token)}, true
}

// The token of a permit is the operation's number in the bucket, and above it
// how many permits had been cancelled by then. Both wrap.
const numberBits = 40

func (a *AdaptiveRate) token(number uint64) uint64 {
	return a.cancelled.Load()<<numberBits | number&(1<<numberBits-1)
}

// number returns the number of the operation with that token.
func (a *AdaptiveRate) number(token uint64) uint64 {
	next := a.bucket.next()
	return next - (next-token)&(1<<numberBits-1)
}

// since returns how many operations have started from that token on, but for
// those that were cancelled.
func (a *AdaptiveRate) since(token uint64) uint64 {
	taken := (a.bucket.next() - token) & (1<<numberBits - 1)
	return taken - min(taken, (a.cancelled.Load()-token>>numberBits)&(1<<(64-numberBits)-1))
}

// Blocked implements [Limiter].
func (a *AdaptiveRate) Blocked() Block { return a.bucket.Blocked() }

// AbstainPermit implements [Releaser].
func (a *AdaptiveRate) AbstainPermit(uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.use(time.Since(a.base))
}

// CancelPermit implements [Releaser].
func (a *AdaptiveRate) CancelPermit(token uint64) {
	a.cancelled.Add(1)
	a.bucket.CancelPermit(a.number(token))
}

// ReleasePermit implements [Releaser].
func (a *AdaptiveRate) ReleasePermit(token uint64, err error) {
	class := Classify(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Since(a.base)
	a.use(now)
	switch {
	case answered(err):
		a.accepted(token, now)
	case class == ErrOverload:
		after, _ := RetryAfter(err)
		a.refused(token, after, now)
	}
}

// accepted moves the rate on, at the pace of its use.
func (a *AdaptiveRate) accepted(token uint64, now time.Duration) {
	outage, least := a.cuts >= outageCuts, uint64(lookStarts)
	if outage {
		least = 1 // it may be a minute until the next one
	} else {
		a.cuts = 0 // not everything is refused: the rate was too high
	}
	if a.ramp < 1 && a.number(token) >= a.from && now-a.rampAt >= rampTime {
		a.ramp, a.rampAt = min(1, 2*a.ramp), now
		a.apply()
	}
	since, starts := now-a.lookAt, a.since(a.looked)
	if since < lookTime || starts < least || a.ramp < 1 {
		return
	}
	a.look(now)
	if float64(starts) < usedShare*a.rate*since.Seconds() || now < a.told {
		return
	}
	a.way += since.Seconds()
	switch {
	case outage:
		a.double(since, 1)
		if a.rate >= rateCutAgain*a.lost {
			a.peak, a.way, a.cuts = a.lost, 0, 0
		}
	case a.peak == 0:
		a.double(since, doublingStarts)
	default:
		recovery := max(recoveryTime.Seconds(), recoveryStarts/a.peak)
		x := a.way/recovery - 1
		a.set(max(a.rate, a.peak*(1+(1-rateCut)*x*x*x)))
	}
}

// double raises the rate after some time of use, at the pace of doubling in the
// doubling time and that many starts.
func (a *AdaptiveRate) double(since time.Duration, starts float64) {
	doubling := max(doublingTime.Seconds(), starts/a.rate)
	a.set(a.rate * math.Exp2(min(1, since.Seconds()/doubling)))
}

// refused lowers the rate, unless the operation started before it was lowered
// last.
func (a *AdaptiveRate) refused(token uint64, after, now time.Duration) {
	if a.number(token) >= a.from {
		left := rateCut
		over := a.cuts >= outageCuts && a.way > 0 // accepted and then refused: an outage is over, and this is a rate
		if a.peak > 0 && a.way < recoveryTime.Seconds()/8 && !over {
			left = rateCutAgain
		} else {
			a.cuts, a.lost = 0, a.rate
		}
		a.cuts++
		a.peak, a.way = a.rate, 0
		a.cutAt, a.told = now, 0
		a.from = a.bucket.next()
		a.set(max(a.rate*left, min(a.rate, a.initial, leastRate)))
	}
	if after > 0 {
		a.pause(after, now)
		return
	}
	a.look(now)
}

// pause lets nothing start for that long, and little to begin with after it.
func (a *AdaptiveRate) pause(d, now time.Duration) {
	a.bucket.Pause(time.Now().Add(d))
	a.from = a.bucket.next() // what ends during the pause must not open the ramp
	a.use(now + d)
	a.ramp, a.rampAt = max(rampFrom, min(1, leastRate/a.rate)), now+d
	a.look(now + d)
	a.apply()
}

// look begins to measure use.
func (a *AdaptiveRate) look(now time.Duration) {
	a.lookAt, a.looked = now, a.token(a.bucket.next())
}

// set changes the rate.
func (a *AdaptiveRate) set(rate float64) {
	a.rate = min(rate, a.max)
	a.apply()
}

// apply puts the rate in force.
func (a *AdaptiveRate) apply() {
	a.bucket.set(a.rate*a.ramp, bunched(a.rate*a.ramp))
}

// ObservePermit implements [Observer].
func (a *AdaptiveRate) ObservePermit(token uint64, h http.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Those that started after this operation are not in what is left.
	later := float64(max(a.since(token), 1) - 1)
	rate, pause, until := quotasOf(h).allow(later)
	now := time.Since(a.base)
	if pause > 0 {
		a.pause(pause, now)
	}
	if rate == 0 {
		return
	}
	if a.peak > 0 && now-a.cutAt < recoveryTime {
		rate = min(rate, a.rate)
	}
	a.told = now + until
	a.peak, a.way, a.cutAt, a.cuts = min(rate, a.max), recoveryTime.Seconds(), now-recoveryTime, 0
	a.set(rate)
}
