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

// An AdaptiveRate limits how often operations start to what the downstream
// accepts, which nobody needs to know. It learns from refusals, which are errors
// that are [ErrOverload]. Each rule in a sentence:
//
//   - There is no limit until the first refusal.
//   - A refusal with a [RetryAfter] is obeyed to the letter, whichever operation it
//     comes from: nothing starts until that time is over. Then work goes on at
//     once, at the pace that was measured to be sustained, and such that the next
//     refusal is due when the pauses take 4.5 % of the time: after 22 s where the
//     Retry-After is 1 s.
//   - If that refusal does not come, the pace rises, doubling in 3 s, until it does.
//     So twice the capacity is found within half a minute.
//   - If nothing was accepted before the first refusal, work goes on with one
//     operation a second, and the pace rises at once, in the same way.
//   - A bare refusal lowers the pace by 2.5 %, and an acceptance raises it by as
//     much less as the share of refusals that is aimed at: 1.2 % for a fast process,
//     up to 6 % for a slow one.
//   - Bare refusals that become no fewer when the pace is halved for a moment are
//     noise, up to a quarter of all. Then the pace returns, and lets them be. This is
//     looked at again every minute.
//   - Refusals with a Retry-After that keep their share at a quarter of the pace,
//     three times running, are noise too. From then on a Retry-After is no longer
//     obeyed here, until more than half of 64 results are refusals. The caller still
//     delays the message that it belongs to.
//   - If four of them in a row come when unusually many operations are in flight, the
//     downstream limits those, and so does the AdaptiveRate, in place of the pace.
//   - If nothing is accepted for 10 s and 20 refusals, that is an outage. The next
//     probe comes after a tenth of the outage so far, but 1 s at least and 5 min at
//     most. The first acceptance ends it, and the pace is what it was before.
//   - A quota in the headers of a response is a limit, too, while it holds; see
//     [Permit.Observe].
//   - The pace rises no further than it is used, so that a [TokenBucket] in series
//     ([All]) that is set right stays the one that decides.
//   - What was learned is forgotten after ten minutes without an operation. A pause,
//     and waiting for one's turn, are not disuse.
//
// Starts are spread evenly, but for what timers are late: at most one and 10 ms
// worth of them come at once.
//
// An error that says nothing about the downstream, such as one about the request,
// is an answer, and counts as an acceptance. Our own cancellation,
// [ErrUnavailable] and [ErrMisconfigured] say nothing about the pace; an operation
// that abstains, only that it started.
type AdaptiveRate struct {
	most float64   // never changes
	base time.Time // what times are counted from; never changes

	mu      sync.Mutex // guards all below
	line    line.Line
	pace    pace
	taken   uint64        // the token of the operation that started last
	used    time.Duration // when it was last used; 0: never
	cause   error         // of the last pause or refusal
	refused uint64        // in all
	share   float64       // of refusals, lately
	ended   uint64        // operations
	ends    releaseRate   // of these
}

// AdaptiveRateConfig configures an [AdaptiveRate]. The zero value works.
type AdaptiveRateConfig struct {
	// Max is a hard cap, in operations a second: the pace never exceeds it. Finite
	// and above 0, or 0 for none, which is the default.
	Max float64
}

// A PaceMode says what an [AdaptiveRate] goes by.
type PaceMode string

// The modes of an AdaptiveRate.
const (
	PaceFree       PaceMode = "free"        // nothing has been refused: there is no limit
	PaceRetryAfter PaceMode = "Retry-After" // refusals have a Retry-After: the pace is what is sustained
	PaceBare       PaceMode = "bare"        // refusals are bare: the pace keeps them at a small share
	PaceInFlight   PaceMode = "in flight"   // refusals are about operations in flight
	PaceNoise      PaceMode = "noise"       // refusals do not depend on the pace: their Retry-After is not obeyed
	PaceOutage     PaceMode = "outage"      // nothing is accepted: a probe from time to time
)

// AdaptiveRateStats is a snapshot of an [AdaptiveRate]. In JSON, times that are zero
// are left out.
type AdaptiveRateStats struct {
	Mode         PaceMode  `json:"mode"`
	Pace         float64   `json:"pace"`                  // operations that may start a second, in a pause: that will; 0: any number
	Quota        bool      `json:"quota"`                 // that is what quota headers allow
	MaxInFlight  int       `json:"max_in_flight"`         // operations that may be in flight, in PaceInFlight; 0: any number
	InFlight     int       `json:"in_flight"`             // operations in flight
	Waiting      int       `json:"waiting"`               // callers that wait in Acquire
	PausedUntil  time.Time `json:"paused_until,omitzero"` // zero when it is not paused
	NextProbe    time.Time `json:"next_probe,omitzero"`   // in PaceOutage: when the next probe may start; else zero
	Refused      uint64    `json:"refused"`               // refusals since it was made
	RefusedShare float64   `json:"refused_share"`         // their share of the results lately, which are about 50
	Noise        float64   `json:"noise"`                 // the share of bare refusals that is taken for noise
}

var (
	_ Limiter  = (*AdaptiveRate)(nil)
	_ Releaser = (*AdaptiveRate)(nil)
	_ Observer = (*AdaptiveRate)(nil)
)

// errQuota is the cause of a pause that quota headers ask for.
var errQuota = errors.New("limiter: the quota in the response's headers is used up")

// NewAdaptiveRate returns a limiter that has learned nothing yet. It fails when a
// field of cfg is out of its range, and names it.
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

// forget has it begin anew, but for the operations in flight.
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

// use takes note that it is used now. It begins anew if it has not been for long.
func (a *AdaptiveRate) use(now time.Duration) {
	if a.unused(now) && a.pace.flying == 0 && a.line.Waiting() == 0 {
		a.forget()
	}
	a.used = max(now, 1)
}

// unused reports whether what was learned is too long ago.
func (a *AdaptiveRate) unused(now time.Duration) bool {
	return a.used == 0 || now-max(a.used, a.pace.until) > adaptiveMemory
}

// Idle reports whether it is as good as new, and so may be forgotten by a
// [Keyed]: no operation is in flight, nobody waits, and it has been neither used
// nor paused for ten minutes, or ever.
func (a *AdaptiveRate) Idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unused(a.now()) && a.pace.flying == 0 && a.line.Empty()
}

// Rate returns how many operations may start a second, in a pause how many will;
// +Inf if there is no limit.
func (a *AdaptiveRate) Rate() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.ahead()
	return p.limit()
}

// ahead returns the pace after the pause, if there is one, as far as is known by
// now.
func (a *AdaptiveRate) ahead() pace {
	p := a.pace
	at := max(a.now(), p.until)
	p.resume(at)
	p.fill(at)
	return p
}

// Stats returns the pace and what it rests on, at one instant.
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

// Ready implements [Limiter]: as many as the pace allows within that time, but
// none before the end of a pause, and one at a time in an outage. Where operations in
// flight are limited, those that can be expected to end within that time are counted.
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

// take starts an operation, or says after how long to try again.
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
	return Block{Reason: ByPause, Cause: a.cause} // a probe, for which others wait
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
	// Those that started after this operation are not in what is left.
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
