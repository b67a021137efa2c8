package limiter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// What a BreakerConfig's zero fields mean, and what is not worth a setting.
const (
	defaultMinFailures = 10
	defaultRatio       = 0.5
	defaultWindow      = 10 * time.Second
	defaultOpenFor     = time.Second
	defaultMaxOpen     = 30 * time.Second

	minRamp    = 5   // probes in flight that the ramp reaches before the breaker closes, at least
	openJitter = 0.2 // share of the open time that may be cut off
)

// A Breaker stops operations while the far side is in trouble, and finds out
// with few of them when it is well again. It learns from the errors that are
// given to [Permit.Release], as [Classify] understands them.
//
// Closed, it lets everything pass. It opens
//   - at once on [ErrOverload], for exactly the time that [RetryAfter] tells;
//     where it tells none, or zero, for the open time,
//   - at once on [ErrMisconfigured], for the open time,
//   - on [ErrUnavailable] for the open time when there were MinFailures of them
//     within the Window, and either they were at least Ratio of the results in
//     it or the last MinFailures came without a success between them.
//
// Errors that say nothing about the downstream (a bad request, an undecodable
// body, our own cancellation) count neither for it nor against it. Nor does an
// operation that abstains ([Permit.Abstain]), as [Do] does for a panic.
//
// Open, it lets nothing pass. The open time begins with OpenFor, doubles with
// every probe that fails, up to MaxOpen, and begins anew after the breaker has
// closed.
//
// When the open time is over, the first operation that comes is the probe, and
// the breaker is half-open: while the probe is in flight nothing else passes,
// and every success lets one more be in flight, so that the load doubles from
// round to round. When as many may be in flight as were when the breaker
// opened, and five at least, it closes. Any of the three errors opens it again.
// A probe that ends with an error that says nothing, abstains or is cancelled,
// makes room for another.
//
// What was in flight when the breaker opened has no say afterwards, but for
// one thing: an ErrOverload with a RetryAfter counts, whichever operation it comes from.
type Breaker struct {
	cfg  BreakerConfig // with defaults filled in; never changes
	base time.Time     // what times in tokens and in recent are counted from

	mu         sync.Mutex // guards all below
	line       line.Line
	state      State
	generation uint64 // how often it has opened
	inFlight   int    // operations of this generation
	out        int    // operations of any generation
	allowed    int    // how many may be in flight, in HalfOpen
	ramp       int    // how many must be allowed before it closes
	openFor    time.Duration
	until      time.Time // end of the open time
	cause      error     // why it opened last
	recent     window
	changes    []breakerChange // not yet told to OnChange
	telling    bool            // a goroutine is at it
}

// BreakerConfig configures a [Breaker]. The zero value works.
type BreakerConfig struct {
	// Name tells breakers apart in Blocked. Default: none.
	Name string

	// MinFailures is how many operations at least must end with
	// [ErrUnavailable] within the Window before the breaker opens for it. It
	// keeps single requests that fail again and again, with some backoff
	// between, from stopping the others. Default 10.
	MinFailures int
	// Ratio is which share of the results within the Window these must be,
	// above 0 and at most 1. Default 0.5.
	Ratio float64
	// Window is how far back results count. Where operations take long, it is
	// ten times as long as their recent mean, if that is more, so that slow
	// timeouts of few operations add up too. Default 10 s.
	Window time.Duration

	// OpenFor is how long the breaker stays open the first time. Up to a fifth
	// of it, at random, is cut off, so that a fleet does not probe in step.
	// Default 1 s.
	OpenFor time.Duration
	// MaxOpen is the longest that this time grows to, at least OpenFor. A
	// RetryAfter may be longer. Default 30 s, or OpenFor if that is longer.
	MaxOpen time.Duration

	// OnChange, if set, is told every change of state: the state before, and
	// how the breaker was right after. Calls come one at a time and in order,
	// from goroutines that use the breaker, and these wait for it; it may use
	// the breaker itself, but should be quick.
	OnChange func(from State, now BreakerStats)
}

// A State is what a [Breaker] is in.
type State int

// The states of a breaker.
const (
	Closed   State = iota // everything passes
	Open                  // nothing passes until the open time is over and a probe comes
	HalfOpen              // probes pass, a few at a time
)

// String returns "closed", "open" or "half-open".
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// BreakerStats is a snapshot of a [Breaker].
type BreakerStats struct {
	State    State
	Until    time.Time // Open: the end of the open time, in the past while no probe has come; else zero
	Failures int       // Closed: operations that ended with ErrUnavailable within the window
	Cause    error     // the error that opened it last; nil if it never was open
	Allowed  int       // HalfOpen: operations that may be in flight
	InFlight int       // operations in flight, without those that started before it last opened
	Waiting  int       // callers that wait in Acquire
}

type breakerChange struct {
	from State
	now  BreakerStats
}

var (
	_ Limiter  = (*Breaker)(nil)
	_ Releaser = (*Breaker)(nil)
)

// NewBreaker returns a closed breaker. It fails when a field of cfg is out of
// its range, and names it.
func NewBreaker(cfg BreakerConfig) (*Breaker, error) {
	refuse := func(field string, value any, must string) error {
		return fmt.Errorf("limiter: NewBreaker: %s is %v: must be %s", field, value, must)
	}
	switch {
	case cfg.MinFailures < 0:
		return nil, refuse("MinFailures", cfg.MinFailures, "at least 1, or 0 for the default")
	case !(cfg.Ratio >= 0 && cfg.Ratio <= 1): // not NaN either
		return nil, refuse("Ratio", cfg.Ratio, "above 0 and at most 1, or 0 for the default")
	case cfg.Window < 0:
		return nil, refuse("Window", cfg.Window, "positive, or 0 for the default")
	case cfg.OpenFor < 0:
		return nil, refuse("OpenFor", cfg.OpenFor, "positive, or 0 for the default")
	}
	if cfg.MinFailures == 0 {
		cfg.MinFailures = defaultMinFailures
	}
	if cfg.Ratio == 0 {
		cfg.Ratio = defaultRatio
	}
	if cfg.Window == 0 {
		cfg.Window = defaultWindow
	}
	if cfg.OpenFor == 0 {
		cfg.OpenFor = defaultOpenFor
		if 0 < cfg.MaxOpen && cfg.MaxOpen < cfg.OpenFor {
			return nil, refuse("MaxOpen", cfg.MaxOpen, fmt.Sprintf("at least OpenFor, which is %v by default", cfg.OpenFor))
		}
	}
	switch {
	case cfg.MaxOpen == 0:
		cfg.MaxOpen = max(defaultMaxOpen, cfg.OpenFor)
	case cfg.MaxOpen < cfg.OpenFor:
		return nil, refuse("MaxOpen", cfg.MaxOpen, fmt.Sprintf("at least OpenFor, which is %v", cfg.OpenFor))
	}
	return &Breaker{cfg: cfg, base: time.Now()}, nil
}

// Tripped reports whether l is a breaker that is not closed, or an [All] with
// one among its members: whether an outage goes on, even if an operation
// could start now as a probe. Of a limiter of another kind it knows what Blocked
// answers.
func Tripped(l Limiter) bool {
	switch l := l.(type) {
	case *Breaker:
		return l.State() != Closed
	case *all:
		return slices.ContainsFunc(l.members, Tripped)
	case interface{ inner() Limiter }:
		return Tripped(l.inner())
	}
	return l.Blocked().Reason == ByBreaker
}

// State returns the state.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

// Stats returns the state and what it rests on, at one instant.
func (b *Breaker) Stats() BreakerStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats()
}

func (b *Breaker) stats() BreakerStats {
	s := BreakerStats{State: b.state, Cause: b.cause, InFlight: b.inFlight, Waiting: b.line.Waiting()}
	switch b.state {
	case Closed:
		s.Failures, _ = b.recent.count(time.Since(b.base), b.cfg.Window)
	case Open:
		s.Until = b.until
	case HalfOpen:
		s.Allowed = b.allowed
	}
	return s
}

// Idle reports whether it is as good as new, and so may be forgotten by a
// [Keyed]: it is closed and remembers no failure, no operation is in flight and
// nobody waits.
func (b *Breaker) Idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	failed, _ := b.recent.count(time.Since(b.base), b.cfg.Window)
	return b.state == Closed && failed == 0 && b.out == 0 && b.line.Empty()
}

// Ready implements [Limiter]. Closed, it is max; open, one operation could
// start when the open time ends; half-open, as many as there is room for now.
func (b *Breaker) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.line.Watch(ctx, &b.mu, max, func() (int, time.Duration) {
		switch b.state {
		case Open:
			if wait := time.Until(b.until); wait > within {
				return 0, wait - within
			}
			return 1 - b.line.Waiting(), line.Never
		case HalfOpen:
			return b.allowed - b.inFlight - b.line.Waiting(), line.Never
		}
		return max, line.Never
	})
}

// Acquire implements [Limiter].
func (b *Breaker) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	b.mu.Lock()
	err := b.line.Join(ctx, &b.mu, b.take, nil)
	var p Permit
	if err == nil {
		p = b.permit()
	}
	b.unlock()
	return p, err
}

// TryAcquire implements [Limiter].
func (b *Breaker) TryAcquire() (Permit, bool) {
	b.mu.Lock()
	defer b.unlock()
	if b.line.Waiting() > 0 {
		return Permit{}, false
	}
	if _, ok := b.take(); !ok {
		return Permit{}, false
	}
	return b.permit(), true
}

// take takes a place, or says after how long to try again.
func (b *Breaker) take() (retry time.Duration, ok bool) {
	switch b.state {
	case Open:
		if wait := time.Until(b.until); wait > 0 {
			return wait, false
		}
		b.allowed = 1
		b.become(HalfOpen)
	case HalfOpen:
		if b.inFlight >= b.allowed {
			return line.Never, false
		}
	}
	b.inFlight++
	b.out++
	return 0, true
}

// Blocked implements [Limiter]. When a probe in flight will end is not known.
func (b *Breaker) Blocked() Block {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == Open && time.Until(b.until) > 0:
		return Block{Reason: ByBreaker, Name: b.cfg.Name, Until: b.until, Cause: b.cause}
	case b.state == Open && b.line.Waiting() > 0, // whose head is about to probe
		b.state == HalfOpen && b.inFlight+b.line.Waiting() >= b.allowed:
		return Block{Reason: ByBreaker, Name: b.cfg.Name, Cause: b.cause}
	}
	return Block{}
}

// The token of a permit is when the operation started, in microseconds since
// base, with the generation above it. Both may wrap: an operation would have
// to last for days, or through millions of generations, for that to matter.
const startBits = 40

func (b *Breaker) permit() Permit {
	start := uint64(time.Since(b.base)/time.Microsecond) & (1<<startBits - 1)
	return Permit{r: b, token: b.generation<<startBits | start}
}

// took returns how long the operation with that token has run.
func took(token uint64, now time.Duration) time.Duration {
	us := (uint64(now/time.Microsecond) - token) & (1<<startBits - 1)
	return time.Duration(us) * time.Microsecond
}

// current reports whether the operation started since the breaker last opened.
func (b *Breaker) current(token uint64) bool {
	return token>>startBits == b.generation&(1<<(64-startBits)-1)
}

// AbstainPermit implements [Releaser].
func (b *Breaker) AbstainPermit(token uint64) { b.CancelPermit(token) }

// CancelPermit implements [Releaser].
func (b *Breaker) CancelPermit(token uint64) {
	b.mu.Lock()
	defer b.unlock()
	b.out--
	if b.current(token) {
		b.end()
	}
}

// ReleasePermit implements [Releaser].
func (b *Breaker) ReleasePermit(token uint64, err error) {
	class := Classify(err)
	now := time.Since(b.base)
	b.mu.Lock()
	defer b.unlock()
	b.out--
	if !b.current(token) {
		if after, ok := RetryAfter(err); ok && after > 0 && class == ErrOverload {
			b.extend(time.Now().Add(after), err)
		}
		return
	}
	atOnce := b.inFlight
	b.end()
	if class == nil && err != nil {
		return
	}
	switch b.state {
	case Closed:
		failed := class == ErrUnavailable
		b.recent.add(now, took(token, now), failed, b.cfg.Window)
		if class != nil && (!failed || b.tooMany(now)) {
			b.openFor, b.ramp = b.cfg.OpenFor, max(atOnce, minRamp)
			b.trip(class, err)
		}
	case HalfOpen:
		if class != nil {
			b.openFor += min(b.openFor, b.cfg.MaxOpen-b.openFor)
			b.trip(class, err)
			return
		}
		b.allowed++
		if b.allowed >= b.ramp {
			b.become(Closed)
		}
	}
}

// end takes an operation off the count.
func (b *Breaker) end() {
	if b.inFlight == 0 {
		panic("limiter: Breaker: a permit was given back twice")
	}
	b.inFlight--
	if b.state != Closed {
		b.line.Stir()
	}
}

// tooMany reports whether the failures of late are enough to open.
func (b *Breaker) tooMany(now time.Duration) bool {
	failed, all := b.recent.count(now, b.cfg.Window)
	return failed >= b.cfg.MinFailures &&
		(b.recent.inARow >= b.cfg.MinFailures || float64(failed) >= b.cfg.Ratio*float64(all))
}

// trip opens the breaker because of err.
func (b *Breaker) trip(class, err error) {
	d := b.openFor - time.Duration(openJitter*rand.Float64()*float64(b.openFor))
	if class == ErrOverload {
		if after, ok := RetryAfter(err); ok && after > 0 {
			d = after
		}
	}
	b.open(time.Now().Add(d), err)
}

// extend keeps the breaker open until then, or opens it for that, on the word
// of an operation from before it last opened.
func (b *Breaker) extend(until time.Time, err error) {
	if b.state != Open {
		if b.state == Closed {
			b.openFor, b.ramp = b.cfg.OpenFor, max(b.inFlight, minRamp)
		}
		b.open(until, err)
	} else if until.After(b.until) {
		b.until, b.cause = until, err
		b.line.Stir()
	}
}

func (b *Breaker) open(until time.Time, err error) {
	b.generation++ // what is in flight has no say any more
	b.inFlight = 0
	b.until, b.cause = until, err
	b.recent.reset()
	b.become(Open)
}

func (b *Breaker) become(s State) {
	from := b.state
	b.state = s
	b.line.Stir()
	if b.cfg.OnChange != nil {
		b.changes = append(b.changes, breakerChange{from: from, now: b.stats()})
	}
}

// unlock unlocks mu, and tells OnChange what has changed. Whoever comes first
// tells everything, so that calls are in order though mu is not held.
func (b *Breaker) unlock() {
	if len(b.changes) == 0 || b.telling {
		b.mu.Unlock()
		return
	}
	b.telling = true
	defer func() {
		b.telling = false
		b.mu.Unlock()
	}()
	for len(b.changes) > 0 {
		c := b.changes[0]
		b.changes = b.changes[1:]
		b.tell(c)
	}
}

func (b *Breaker) tell(c breakerChange) {
	b.mu.Unlock()
	defer b.mu.Lock()
	b.cfg.OnChange(c.from, c.now)
}

// A window counts the results of late, in slots of a tenth of the time that it
// looks back. Times are since the breaker's base.
type window struct {
	slots  [24]slot // a ring: more than ten, for when the time gets longer
	at     int      // the slot of now
	inARow int      // failures since the last success
	mean   float64  // of how long operations took of late, in nanoseconds
}

type slot struct {
	first, last time.Duration // when its first and last result came
	failed, all int
}

// length returns how far back results count.
func (w *window) length(min time.Duration) time.Duration {
	return max(min, time.Duration(10*w.mean))
}

// add counts a result.
func (w *window) add(now, took time.Duration, failed bool, min time.Duration) {
	if w.mean == 0 {
		w.mean = float64(took)
	}
	w.mean += (float64(took) - w.mean) / 4
	s := &w.slots[w.at]
	if now-s.first >= w.length(min)/10 {
		w.at = (w.at + 1) % len(w.slots)
		s = &w.slots[w.at]
		*s = slot{first: now}
	}
	s.last = now
	s.all++
	w.inARow++
	if failed {
		s.failed++
	} else {
		w.inARow = 0
	}
}

// count returns how many of the results that count have failed, and how many
// there are.
func (w *window) count(now, min time.Duration) (failed, all int) {
	oldest := now - w.length(min)
	for _, s := range w.slots {
		if s.all > 0 && s.last > oldest {
			failed += s.failed
			all += s.all
		}
	}
	return failed, all
}

// reset forgets the results, but not how long operations take.
func (w *window) reset() { *w = window{mean: w.mean} }
