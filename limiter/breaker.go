package limiter

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// The defaults for a BreakerConfig's zero fields.
const (
	defaultMinFailures = 10
	defaultRatio       = 0.5
	defaultOpenFor     = time.Second
	defaultMaxOpen     = 5 * time.Minute
)

// Constants that need no setting.
const (
	failureWindow = 10 * time.Second // how far back results count, at least
	byChance      = 1e-12            // a row of failures less likely than this is not chance
	deviations    = 1.5              // times the square root of the results: three standard deviations of a share of a half

	ageShare   = 10               // the next probe comes after 1/ageShare of the outage's age
	minRamp    = 5                // the ramp goes up to at least this many operations in flight
	rampLength = 2 * time.Second  // an operation that starts this long after the ramp began may end it
	overdueBy  = 3                // a probe is overdue after this many times the longest recent success
	leastWait  = 10 * time.Second // the least wait where no success is known, or during a ramp
	abandoned  = 10 * time.Minute // a Keyed forgets an outage without use for this long
)

// A Breaker stops operations while the downstream is down, and probes with few of
// them whether it is up again. It learns from the errors passed to [Permit.Release],
// as [Classify] understands them: [ErrUnavailable] and [ErrMisconfigured] are
// failures.
//
// Closed, it lets everything pass. Open, it lets nothing pass until the next probe is
// due. Half-open, one probe at a time is in flight; after a success the load doubles
// each round-trip, until the breaker closes. The package documentation gives the
// exact rules.
//
// It ignores refusals ([ErrOverload]), which are about the pace, errors that say
// nothing about the downstream (a bad request, an undecodable body, our own
// cancellation) and operations that abstain ([Permit.Abstain]), as [Do] does for a
// panic. A probe that ends in one of these ways, or is cancelled, makes room for
// another at once.
type Breaker struct {
	cfg  BreakerConfig // with defaults filled in; never changes
	base time.Time     // the zero of durations in tokens and in recent

	mu         sync.Mutex // guards all below
	line       line.Line
	state      State
	generation uint64        // increases with every opening and every probe
	eldest     uint64        // a success counts in an outage if its operation is of this generation or a later one,
	from       time.Duration // or started at this time since base, or later
	inFlight   int           // operations of this generation
	out        int           // operations of any generation
	allowed    int           // in HalfOpen: how many may be in flight; 1 until a probe has succeeded
	target     int           // how many must be allowed for the breaker to close
	ramped     time.Duration // when the ramp began, since base
	until      time.Time     // Open: when the next probe may start
	probed     time.Time     // when the last probe started
	overdue    time.Time     // HalfOpen: when to stop waiting for the operations in flight
	first      time.Time     // failure of the outage
	last       time.Time     // failure of the outage
	probes     int           // of the outage
	cause      error         // the error that opened it last
	used       time.Time     // when an operation last started or ended
	recent     window
	changes    []breakerChange // changes not yet passed to OnChange
	telling    bool            // a goroutine is passing them
}

// BreakerConfig configures a [Breaker]. The zero value works.
type BreakerConfig struct {
	// Name identifies the breaker in Blocked. Default: none.
	Name string

	// MinFailures is how many operations must fail before the breaker opens. It
	// keeps a few requests that fail repeatedly, with some backoff in between,
	// from stopping the others. Default 10.
	MinFailures int
	// Ratio is the share of recent results above which [ErrUnavailable] opens the
	// breaker although other operations succeed. It must be above 0 and at most
	// 1, which means never. Default 0.5.
	Ratio float64

	// OpenFor is the shortest time between two probes. Default 1 s.
	OpenFor time.Duration
	// MaxOpen is the longest time between two probes, at least OpenFor. Default
	// 5 min, or OpenFor if that is longer.
	MaxOpen time.Duration

	// OnChange, if set, is called on every change of state with the previous
	// state and the breaker's stats right after the change. Calls come one at a
	// time and in order, from goroutines that use the breaker and wait for the
	// call to return. It may use the breaker itself, but should be quick.
	OnChange func(from State, now BreakerStats)
}

// A State is the state of a [Breaker].
type State int

// The states of a breaker.
const (
	Closed   State = iota // everything passes
	Open                  // nothing passes until the next probe is due
	HalfOpen              // one probe passes, and after its success a few more at a time
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

// MarshalText returns the result of String.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// BreakerStats is a snapshot of a [Breaker]. In JSON, State and Cause are
// strings.
type BreakerStats struct {
	State     State     `json:"state"`
	Cause     error     `json:"cause"`               // the error that opened it last; nil if it was never open
	Since     time.Time `json:"since,omitzero"`      // when the first failure of the outage started, or of the last one when Closed
	Probes    int       `json:"probes"`              // probes started in this outage, or in the last one when Closed
	NextProbe time.Time `json:"next_probe,omitzero"` // Open: when a probe may start, in the past while none has come; else zero
	Failures  int       `json:"failures"`            // Closed: recent operations that failed
	Allowed   int       `json:"allowed"`             // HalfOpen: operations that may be in flight
	InFlight  int       `json:"in_flight"`           // operations in flight, without overdue probes and those that started before it opened
	Waiting   int       `json:"waiting"`             // callers that wait in Acquire
}

// MarshalJSON returns the fields under their names in snake_case. Zero times
// and a nil Cause are left out.
func (s BreakerStats) MarshalJSON() ([]byte, error) {
	type fields BreakerStats
	v := struct {
		fields
		Cause string `json:"cause,omitempty"`
	}{fields: fields(s)}
	if s.Cause != nil {
		v.Cause = fmt.Sprint(s.Cause) // Error of a nil pointer may panic; Sprint does not
	}
	return json.Marshal(v)
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
// range, and names the field.
func NewBreaker(cfg BreakerConfig) (*Breaker, error) {
	refuse := func(field string, value any, must string) error {
		return fmt.Errorf("limiter: NewBreaker: %s is %v: must be %s", field, value, must)
	}
	switch {
	case cfg.MinFailures < 0:
		return nil, refuse("MinFailures", cfg.MinFailures, "at least 1, or 0 for the default")
	case !(cfg.Ratio >= 0 && cfg.Ratio <= 1): // not NaN either
		return nil, refuse("Ratio", cfg.Ratio, "above 0 and at most 1, or 0 for the default")
	case cfg.OpenFor < 0:
		return nil, refuse("OpenFor", cfg.OpenFor, "positive, or 0 for the default")
	}
	if cfg.MinFailures == 0 {
		cfg.MinFailures = defaultMinFailures
	}
	if cfg.Ratio == 0 {
		cfg.Ratio = defaultRatio
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
// one among its members: whether an outage continues, even if an operation could
// start now as a probe. For other limiters it goes by Blocked. For nil it is
// false.
func Tripped(l Limiter) bool {
	if nils.Is(l) {
		return false
	}
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

// Stats returns a snapshot.
func (b *Breaker) Stats() BreakerStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats()
}

func (b *Breaker) stats() BreakerStats {
	s := BreakerStats{
		State: b.state, Cause: b.cause, Since: b.first, Probes: b.probes,
		InFlight: b.inFlight, Waiting: b.line.Waiting(),
	}
	switch b.state {
	case Closed:
		s.Failures = b.recent.count(time.Since(b.base)).failed
	case Open:
		s.NextProbe = b.until
	case HalfOpen:
		s.Allowed = b.allowed
	}
	return s
}

// Reset closes the breaker and forgets the failures so far. Use it when the
// downstream is known to be up again and the next probe is far off. Results of
// operations in flight are ignored afterwards, unless the breaker was closed.
func (b *Breaker) Reset() {
	b.mu.Lock()
	defer b.unlock()
	b.recent.reset()
	if b.state != Closed {
		b.generation++
		b.inFlight = 0
		b.become(Closed)
	}
}

// Idle reports whether a [Keyed] may forget the breaker: no operation is in
// flight, nobody waits, and it is closed and remembers no failure, or no
// operation has come for ten minutes since a probe was due.
func (b *Breaker) Idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.out > 0 || !b.line.Empty():
		return false
	case b.state == Closed:
		return b.recent.count(time.Since(b.base)).failed == 0
	}
	return time.Since(b.used) > abandoned && time.Since(b.until) > abandoned
}

// Ready implements [Limiter]. When closed it returns max; when open, 1 once the
// next probe is due within the given time; when half-open, as many as there is
// room for now.
func (b *Breaker) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.line.Watch(ctx, &b.mu, max, func() (int, time.Duration) {
		n, retry := b.room(within)
		return n - b.line.Waiting(), retry
	})
}

// room returns how many operations could start within the given time,
// including those in line, or after how long to ask again.
func (b *Breaker) room(within time.Duration) (n int, retry time.Duration) {
	at := b.until
	switch {
	case b.state == Closed:
		return math.MaxInt, line.Never
	case b.state == HalfOpen && b.inFlight < b.allowed:
		return b.allowed - b.inFlight, line.Never
	case b.state == HalfOpen:
		at = b.overdue
	}
	if wait := time.Until(at); wait > within {
		return 0, wait - within
	}
	return 1, line.Never
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

// take takes a slot, or returns after how long to try again.
func (b *Breaker) take() (retry time.Duration, ok bool) {
	n, retry := b.room(0)
	if n < 1 {
		return retry, false
	}
	b.inFlight++
	b.out++
	if b.state == Closed {
		return 0, true
	}
	now := time.Now()
	if b.inFlight > b.allowed { // the operations in flight are overdue
		b.last = now
		if b.allowed > 1 {
			b.eldest = b.generation + 1 // the ramp has failed
			b.allowed = 1
		}
	}
	if b.allowed == 1 {
		b.generation++
		b.inFlight = 1
		b.probes++
		b.probed = now
		if b.state == Open {
			b.become(HalfOpen)
		}
	}
	b.use(now)
	return 0, true
}

// use records that an operation has started or ended during an outage.
func (b *Breaker) use(now time.Time) {
	b.used = now
	b.overdue = now.Add(b.patience())
}

// patience returns how long to wait for the operations in flight in HalfOpen.
func (b *Breaker) patience() time.Duration {
	longest := b.recent.longest
	d := overdueBy * min(longest, math.MaxInt64/overdueBy)
	if longest == 0 || b.allowed > 1 {
		d = max(d, leastWait)
	}
	return max(d, b.interval())
}

// interval returns the time between two probes at the outage's age.
func (b *Breaker) interval() time.Duration {
	shortest, longest := b.cfg.OpenFor, b.cfg.MaxOpen
	most := min(max(b.last.Sub(b.first)/ageShare, shortest+min(shortest/5, longest-shortest)), longest)
	least := max(most-most/6, shortest)
	return least + time.Duration(rand.Float64()*float64(most-least))
}

// Blocked implements [Limiter]. It does not know when a probe in flight will
// end.
func (b *Breaker) Blocked() Block {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n, _ := b.room(0); n > b.line.Waiting() {
		return Block{}
	}
	block := Block{Reason: ByBreaker, Name: b.cfg.Name, Cause: b.cause}
	if b.state == Open && time.Until(b.until) > 0 { // else the first waiter is about to probe
		block.Until = b.until
	}
	return block
}

// A permit's token holds when the operation started, in microseconds since
// base, with the generation above it. Both may wrap around: that matters only
// for an operation that runs for days, or through millions of generations.
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

// AbstainPermit implements [Releaser].
func (b *Breaker) AbstainPermit(token uint64) {
	b.mu.Lock()
	defer b.unlock()
	b.end(token)
}

// CancelPermit implements [Releaser].
func (b *Breaker) CancelPermit(token uint64) {
	b.mu.Lock()
	defer b.unlock()
	if b.end(token) == 0 && b.state == HalfOpen && b.allowed == 1 {
		b.probes-- // it did not start
	}
}

// ReleasePermit implements [Releaser].
func (b *Breaker) ReleasePermit(token uint64, err error) {
	class := Classify(err)
	b.mu.Lock()
	defer b.unlock()
	atOnce := b.inFlight
	age := b.end(token)
	at := time.Since(b.base).Truncate(time.Microsecond)
	lasted := took(token, at)
	switch {
	case err == nil:
		b.recent.succeeded(lasted)
	case class == nil, class == ErrOverload:
		return
	}
	if class != nil && b.state != Closed {
		b.last = b.base.Add(at)
	}
	switch {
	case age > 0 && (class != nil || b.state == Closed || age > b.generation-b.eldest || at-lasted < b.from):
		return // its result does not count
	case class != nil && b.state != Closed && b.allowed == 1: // the probe
		b.cause, b.until = err, b.probed.Add(b.interval())
		b.become(Open)
		return
	}
	b.recent.add(at, lasted, class)
	switch {
	case class != nil:
		if b.tooMany(at) {
			b.trip(atOnce, err)
		}
	case b.state == Closed:
	case b.allowed == 1:
		b.allowed = 2
		b.ramped = at
		b.use(b.base.Add(at))
		b.line.Stir()
		if b.state == Open {
			b.become(HalfOpen)
		}
	default:
		b.allowed++
		b.line.Stir()
		if b.allowed >= b.target || at-lasted-b.ramped >= rampLength {
			b.become(Closed)
		}
	}
}

// end removes an operation from the count, and returns how many generations ago
// it started.
func (b *Breaker) end(token uint64) (age uint64) {
	b.out--
	age = (b.generation - token>>startBits) & (1<<(64-startBits) - 1)
	if age > 0 {
		return age
	}
	if b.inFlight == 0 {
		panic("limiter: Breaker: a permit was returned twice")
	}
	b.inFlight--
	if b.state != Closed {
		b.use(time.Now())
		b.line.Stir()
	}
	return 0
}

// tooMany reports whether the recent failures are enough to open.
func (b *Breaker) tooMany(at time.Duration) bool {
	c := b.recent.count(at)
	all := float64(c.all)
	if c.unavailable >= b.cfg.MinFailures && float64(c.unavailable) >= b.cfg.Ratio*all+deviations*math.Sqrt(all) {
		return true
	}
	if b.recent.inARow < b.cfg.MinFailures || c.failed < b.cfg.MinFailures {
		return false
	}
	row := min(b.recent.inARow, c.failed) // a row that began before the window fills all of it
	before := float64(c.failed-row) / float64(max(1, c.all-row))
	return math.Pow(before, float64(row)) <= byChance
}

// trip opens the breaker because of err. atOnce is how many operations were in
// flight if it was closed.
func (b *Breaker) trip(atOnce int, err error) {
	b.last = time.Now()
	at := b.last.Sub(b.base)
	began := at // the first failure
	if b.recent.inARow > 0 {
		began = max(b.recent.since, at-b.recent.length())
	}
	if b.state == Closed {
		b.first = b.base.Add(began)
		b.probes = 0
		b.target = max(atOnce, minRamp)
	}
	if b.from = at; b.recent.inARow >= b.cfg.MinFailures {
		b.from = began // nothing that started since has succeeded yet
	}
	b.eldest = b.generation
	b.generation++
	b.inFlight, b.allowed = 0, 1
	b.cause, b.until = err, b.last.Add(b.interval())
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

// unlock unlocks mu, and passes the changes to OnChange. The first goroutine
// to get here passes all of them, so that calls are in order although mu is
// not held.
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

// A window counts recent results, in buckets of a tenth of the time it covers.
// Times are since the breaker's base.
type window struct {
	slots   [24]slot      // a ring: more than ten, since that time may grow
	at      int           // the current bucket
	inARow  int           // failures since the last success
	since   time.Duration // when the first of them started
	mean    float64       // mean duration of recent operations, in nanoseconds
	longest time.Duration // longest recent success
}

type slot struct {
	first, last time.Duration // when its first and last result came
	counts
}

type counts struct{ unavailable, failed, all int }

// length returns how far back results count.
func (w *window) length() time.Duration {
	return max(failureWindow, time.Duration(10*w.mean))
}

// add counts a result of that class.
func (w *window) add(now, took time.Duration, class error) {
	if w.mean == 0 {
		w.mean = float64(took)
	}
	w.mean += (float64(took) - w.mean) / 4
	s := &w.slots[w.at]
	if now-s.first >= w.length()/10 {
		w.at = (w.at + 1) % len(w.slots)
		s = &w.slots[w.at]
		*s = slot{first: now}
	}
	s.last = now
	s.all++
	if class == nil {
		w.inARow = 0
		return
	}
	if w.inARow == 0 {
		w.since = now - took
	}
	w.inARow++
	s.failed++
	if class == ErrUnavailable {
		s.unavailable++
	}
}

// succeeded records how long a success took. The longest one fades over some
// hundred others.
func (w *window) succeeded(took time.Duration) {
	w.longest = max(took, w.longest-(w.longest-took)/100)
}

// count returns the sums over the window.
func (w *window) count(now time.Duration) counts {
	var c counts
	oldest := now - w.length()
	for _, s := range w.slots {
		if s.all > 0 && s.last > oldest {
			c.unavailable += s.unavailable
			c.failed += s.failed
			c.all += s.all
		}
	}
	return c
}

// reset forgets the results, but not how long operations take.
func (w *window) reset() { *w = window{mean: w.mean, longest: w.longest} }
