package limiter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/again"
	"github.com/rampmeter/rampmeter/internal/quota"
	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// An AdaptiveRate limits how often operations start to what the downstream accepts.
// It needs no configuration: it learns the pace from refusals, which are errors
// that are [ErrOverload].
//
// There is no limit until the first refusal. A refusal with a [RetryAfter] stops
// all starts until that time is over, whichever operation it comes from; after that
// the pace is what the downstream was measured to sustain. A refusal without one
// lowers the pace a little. While nothing is refused the pace rises, as far as it
// is used. The package documentation lists all rules.
//
// An error that says nothing about the downstream, such as one about the request,
// is an answer and counts as an acceptance. Our own cancellation, [ErrUnavailable]
// and [ErrMisconfigured] say nothing about the pace. An operation that abstains
// counts only as a start.
type AdaptiveRate struct {
	most float64   // never changes
	base time.Time // the zero of all durations; never changes

	mu      sync.Mutex // guards all below
	line    line.Line
	pace    pace
	taken   uint64        // the token of the operation that started last
	used    time.Duration // when it was last used; 0: never
	cause   error         // of the last pause or refusal
	refused uint64        // refusals in all
	share   float64       // share of refusals among recent results
	ended   uint64        // operations that have ended
	ends    releaseRate   // the rate of ended
}

// AdaptiveRateConfig configures an [AdaptiveRate]. The zero value works.
type AdaptiveRateConfig struct {
	// Max is a hard cap, in operations a second: the pace never exceeds it. Finite
	// and above 0, or 0 for none, which is the default.
	Max float64
}

// A PaceMode is what determines the pace of an [AdaptiveRate].
type PaceMode string

// The modes of an AdaptiveRate.
const (
	PaceFree       PaceMode = "free"        // nothing has been refused: there is no limit
	PaceRetryAfter PaceMode = "Retry-After" // refusals have a Retry-After: the pace is what the downstream sustains
	PaceBare       PaceMode = "bare"        // refusals are bare: the pace keeps their share small
	PaceInFlight   PaceMode = "in flight"   // refusals depend on the operations in flight, which are limited
	PaceNoise      PaceMode = "noise"       // refusals do not depend on the pace: their Retry-After is not obeyed
	PaceOutage     PaceMode = "outage"      // nothing is accepted: one probe now and then
)

// AdaptiveRateStats is a snapshot of an [AdaptiveRate]. In JSON, times that are zero
// are left out.
type AdaptiveRateStats struct {
	Mode         PaceMode  `json:"mode"`
	Pace         float64   `json:"pace"`                  // starts allowed a second, during a pause: after it; 0: no limit
	Quota        bool      `json:"quota"`                 // whether the pace is what quota headers allow
	MaxInFlight  int       `json:"max_in_flight"`         // most operations in flight, in PaceInFlight; 0: no limit
	InFlight     int       `json:"in_flight"`             // operations in flight
	Waiting      int       `json:"waiting"`               // callers that wait in Acquire
	PausedUntil  time.Time `json:"paused_until,omitzero"` // zero when it is not paused
	NextProbe    time.Time `json:"next_probe,omitzero"`   // in PaceOutage: when the next probe may start; else zero
	Refused      uint64    `json:"refused"`               // refusals since the limiter was made
	RefusedShare float64   `json:"refused_share"`         // their share of about the last 50 results
	Noise        float64   `json:"noise"`                 // share of bare refusals that is treated as noise
}

var (
	_ Limiter  = (*AdaptiveRate)(nil)
	_ Releaser = (*AdaptiveRate)(nil)
	_ Observer = (*AdaptiveRate)(nil)
)

// errQuota is the cause of a pause due to quota headers.
var errQuota = errors.New("limiter: the quota in the response's headers is used up")

// NewAdaptiveRate returns a limiter that has learned nothing yet. It fails when a
// field of cfg is out of range, and names the field.
func NewAdaptiveRate(cfg AdaptiveRateConfig) (*AdaptiveRate, error) {
	if !(cfg.Max >= 0) || math.IsInf(cfg.Max, 1) { // not NaN either
		return nil, fmt.Errorf("limiter: NewAdaptiveRate: Max is %v: must be a finite number above 0, or 0 for none", cfg.Max)
	}
	if cfg.Max == 0 {
		cfg.Max = math.Inf(1)
	}
	now := time.Now()
	a := &AdaptiveRate{most: cfg.Max, base: now, ends: releaseRate{at: now}}
	a.forget()
	return a, nil
}

// forget discards everything learned; operations in flight remain.
func (a *AdaptiveRate) forget() {
	starts, flying := a.pace.starts, a.pace.flying
	a.pace = newPace(a.most, a.base.Sub(a.base.Truncate(mostChecked)))
	a.pace.starts, a.pace.flying = starts, flying
	a.cause, a.share = nil, 0
}

// Reset forgets what was learned, and ends a pause or an outage, whatever the
// downstream has asked for. The next refusal is obeyed again.
func (a *AdaptiveRate) Reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forget()
	a.line.Stir()
}

// now returns the time since base.
func (a *AdaptiveRate) now() time.Duration { return time.Since(a.base) }

// use records that the limiter is used now, and starts afresh if it was unused
// for long.
func (a *AdaptiveRate) use(now time.Duration) {
	if a.unused(now) && a.pace.flying == 0 && a.line.Waiting() == 0 {
		a.forget()
	}
	a.used = max(now, 1)
}

// unused reports whether the learned values are too old.
func (a *AdaptiveRate) unused(now time.Duration) bool {
	return a.used == 0 || now-max(a.used, a.pace.until) > adaptiveMemory
}

// Idle reports whether the limiter is as good as new, so that a [Keyed] may
// forget it: no operation is in flight, nobody waits, and it has been neither
// used nor paused for ten minutes, or ever.
func (a *AdaptiveRate) Idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unused(a.now()) && a.pace.flying == 0 && a.line.Empty()
}

// Rate returns how many operations may start a second, during a pause the number
// after it; +Inf if there is no limit.
func (a *AdaptiveRate) Rate() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.ahead()
	return p.limit()
}

// ahead returns the pace after the current pause, if any, as far as it is known
// now.
func (a *AdaptiveRate) ahead() pace {
	p := a.pace
	at := max(a.now(), p.until)
	p.resume(at)
	p.fill(at)
	return p
}

// Stats returns the pace and the values behind it, at one instant.
func (a *AdaptiveRate) Stats() AdaptiveRateStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.ahead()
	s := AdaptiveRateStats{
		Mode:         p.mode(),
		Quota:        p.quota < math.Inf(1) && p.limit() == p.quota,
		MaxInFlight:  p.bucket.inFlight,
		InFlight:     p.flying,
		Waiting:      a.line.Waiting(),
		Refused:      a.refused,
		RefusedShare: a.share,
		Noise:        p.noise(),
	}
	if r := p.limit(); !math.IsInf(r, 1) {
		s.Pace = r
	}
	if p.until > a.now() {
		s.PausedUntil = a.base.Add(p.until)
	}
	if d, ok := p.outage(); ok {
		s.NextProbe = a.base.Add(max(p.probe(d), p.until))
	}
	return s
}

// Ready implements [Limiter]: as many as the pace allows within the given time, none
// before the end of a pause, and one at a time in an outage. If operations in flight
// are limited, it includes the slots expected to be returned within that time.
func (a *AdaptiveRate) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.line.Watch(ctx, &a.mu, max, func() (int, time.Duration) {
		ends := 0
		if within > 0 {
			a.ends.sample(time.Now(), a.ended)
			ends = a.ends.more(0, within)
		}
		return a.pace.ready(a.now(), within, a.line.Waiting(), ends)
	})
}

// Acquire implements [Limiter].
func (a *AdaptiveRate) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil { // else it would count as use
		return Permit{}, context.Cause(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.use(a.now())
	if err := a.line.Join(ctx, &a.mu, a.take, nil); err != nil {
		return Permit{}, err
	}
	return Permit{r: a, token: a.taken}, nil
}

// TryAcquire implements [Limiter].
func (a *AdaptiveRate) TryAcquire() (Permit, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	a.use(now)
	if a.line.Waiting() > 0 {
		return Permit{}, false
	}
	if _, ok := a.takeAt(now); !ok {
		return Permit{}, false
	}
	return Permit{r: a, token: a.taken}, true
}

// take starts an operation, or returns after how long to try again.
func (a *AdaptiveRate) take() (retry time.Duration, ok bool) { return a.takeAt(a.now()) }

func (a *AdaptiveRate) takeAt(now time.Duration) (retry time.Duration, ok bool) {
	switch at := a.pace.next(now); {
	case at == line.Never:
		return line.Never, false
	case at > now:
		return at - now, false
	}
	a.taken = a.pace.start(now)
	a.used = max(now, 1)
	return 0, true
}

// Blocked implements [Limiter]. The wait for the next probe of an outage is a
// pause.
func (a *AdaptiveRate) Blocked() Block {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, p := a.now(), a.ahead()
	if d, ok := p.outage(); ok || p.until > now {
		until := p.until
		if ok {
			until = max(until, p.probe(d))
		}
		if until > now {
			return Block{Reason: ByPause, Until: a.base.Add(until), Cause: a.cause}
		}
	}
	switch n, retry := p.ready(now, 0, a.line.Waiting(), 0); {
	case n > 0:
		return Block{}
	case retry < line.Never:
		return Block{Reason: ByRate, Until: a.base.Add(now + retry)}
	case p.bucket.inFlight > 0:
		return Block{Reason: ByConcurrency}
	}
	return Block{Reason: ByPause, Cause: a.cause} // others wait for a probe already
}

// end begins to return a permit.
func (a *AdaptiveRate) end() (now time.Duration) {
	if a.pace.flying == 0 {
		panic("limiter: AdaptiveRate: a permit was returned twice")
	}
	now = a.now()
	a.used = max(now, 1)
	a.ended++
	return now
}

// CancelPermit implements [Releaser].
func (a *AdaptiveRate) CancelPermit(token uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pace.cancel(token, a.end())
	a.line.Stir()
}

// AbstainPermit implements [Releaser].
func (a *AdaptiveRate) AbstainPermit(token uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pace.abstain(token, a.end())
	a.line.Stir()
}

// ReleasePermit implements [Releaser].
func (a *AdaptiveRate) ReleasePermit(token uint64, err error) {
	class := Classify(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.end()
	const memory = 50 // results
	switch {
	case answered(err):
		a.pace.accept(token, now)
		a.share -= a.share / memory
	case class == ErrOverload:
		after, _ := RetryAfter(err)
		a.cause = err
		a.refused++
		if again.Is(err) {
			a.pace.again(token, after, now)
			break
		}
		a.share += (1 - a.share) / memory
		a.pace.refuse(token, after, now)
	default:
		a.pace.fail()
	}
	a.line.Stir()
}

// ObservePermit implements [Observer].
func (a *AdaptiveRate) ObservePermit(token uint64, h http.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Operations that started after this one are not in what is left.
	rate, pause, holds := allowed(quota.Of(h, time.Now()), float64(a.pace.since(token)))
	if rate == 0 && pause == 0 {
		return
	}
	now := a.now()
	if now+pause > a.pace.until && pause > 0 {
		a.cause = errQuota
	}
	a.pace.allow(rate, holds, pause, now)
	a.line.Stir()
}
