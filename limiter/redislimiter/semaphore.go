package redislimiter

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/internal/line"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

// linger is the least time that a slot stays with its process after it was
// last needed, if no other process wants it.
const linger = 500 * time.Millisecond

// A Semaphore limits the operations in flight across all processes that share
// its name. See the package documentation for how exact that is, and for what
// happens without Redis.
//
// It holds slots that Redis has leased to this process, and passes them from one
// operation to the next.
//
// Invariants:
//   - No operation starts unless fewer are in flight here than slots are held,
//     and the lease is valid.
//   - The number of slots that it reports as held is never below the number in
//     flight here.
//   - A slot is never used again once the call that returns it has been sent.
//
// Releasing more often than acquiring is a bug in the caller, and panics if the
// semaphore can detect it: when no slot is in use.
type Semaphore struct {
	link
	store store.Places

	// The link's mutex guards all below.
	held  int           // slots
	yield int           // those of them that Redis wants back
	inUse int           // operations in flight
	again time.Duration // there is no use in asking for more before then
	wish  int           // slots that Ready wanted and did not find
	asked int           // slots wanted at the last call
	peaks [2]int        // the most wanted in this linger period and the one before
	turn  time.Duration // when this period began

	released float64 // recently returned slots
	sampled  time.Duration
}

// SemaphoreStats is a snapshot of a [Semaphore].
type SemaphoreStats struct {
	State       State
	Limit       int       // slots of the fleet
	Share       int       // slots that this process holds; while away, those it may use
	InUse       int       // operations in flight here
	Waiting     int       // callers that wait in Acquire
	Processes   int       // live processes, as last reported
	PausedUntil time.Time // zero when it is not paused
	Calls       uint64    // calls to Redis
	Failures    uint64    // those of them that failed
	Err         error     // of the last call; nil when it succeeded
}

var (
	_ limiter.Limiter  = (*Semaphore)(nil)
	_ limiter.Releaser = (*Semaphore)(nil)
)

// NewSemaphore returns a semaphore for the operations of all processes that use
// the same name on the same Redis. It makes no call yet, and has no goroutine
// while it is not in use.
//
// n should be the same in all processes. If a process comes with an n that
// differs from the last declared one, its n becomes the fleet's; see
// [Semaphore.SetLimit].
//
// It fails when n is below 1, or cfg or the name is out of range: 1 to 200
// bytes, without braces, spaces or control characters.
func NewSemaphore(client redis.UniversalClient, name string, n int, cfg Config) (*Semaphore, error) {
	if err := cfg.check("NewSemaphore", client, name); err != nil {
		return nil, err
	}
	return newSemaphore(store.NewRedisPlaces(timed(client), name), name, n, cfg)
}

func newSemaphore(s store.Places, name string, n int, cfg Config) (*Semaphore, error) {
	if err := checkLimit(n); err != nil {
		return nil, fmt.Errorf("redislimiter: NewSemaphore: %w", err)
	}
	l := &Semaphore{store: s}
	l.init("Semaphore", name, limiter.ByConcurrency, cfg, store.Limit{Value: float64(n)}, l)
	return l, nil
}

func checkLimit(n int) error {
	if n < 1 || n > math.MaxInt32 {
		return fmt.Errorf("n is %d: must be at least 1 and at most %d", n, math.MaxInt32)
	}
	return nil
}

// SetLimit changes the number of slots of the fleet, and waits until Redis has
// it. Every other process in use learns of it within half a second. Operations in
// flight continue: after the limit was lowered, nothing starts until fewer are in
// flight. The limit applies until it is changed again, or a process is made with
// a different n than the processes before: the last deployment wins.
//
// It fails, changing nothing, when n is out of range. When Redis can't be
// reached, or ctx ends, the limit may have changed nevertheless, or may change
// later.
func (s *Semaphore) SetLimit(ctx context.Context, n int) error {
	err := checkLimit(n)
	if err == nil {
		err = s.set(ctx, float64(n))
	}
	if err != nil {
		return fmt.Errorf("redislimiter: Semaphore.SetLimit: %w", err)
	}
	return nil
}

// Pause lets nothing start before until. It takes effect now in this process,
// and in each other one at its next call to Redis, which is within half a
// second while it is in use. Of two pauses the one that ends later applies;
// [Semaphore.Resume] ends both. No pause is longer than 100 years.
func (s *Semaphore) Pause(until time.Time) { s.pause(until) }

// Stats returns a snapshot.
func (s *Semaphore) Stats() SemaphoreStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	return SemaphoreStats{
		State: s.state(now), Limit: int(s.reported.Limit.Value), Share: s.places(now),
		InUse: s.inUse, Waiting: s.line.Waiting(), Processes: s.processes(),
		PausedUntil: s.pausedUntil(now), Calls: s.calls, Failures: s.failures, Err: s.err,
	}
}

// places returns how many operations may be in flight here.
func (s *Semaphore) places(now time.Duration) int {
	switch {
	case s.sharing(now):
		return s.ownPlaces()
	case s.leased(now):
		return s.held - s.yield
	}
	return 0
}

// ownPlaces is the share during an outage.
func (s *Semaphore) ownPlaces() int { return int(s.reported.Limit.Value) / s.processes() }

// Ready implements [limiter.Limiter]: the free slots among those that this
// process holds and, unless within is 0, those expected to be returned within
// that time, at the recent rate of releases. If these are fewer than max, it
// asks Redis for more: as many as were recently in use and one more. They are
// returned if nobody uses them.
func (s *Semaphore) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = asked(max, within)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.line.Watch(ctx, &s.mu, max, func() (int, time.Duration) {
		now := s.now()
		s.lastUse = now
		n, retry := s.count(now, within)
		if n < max && !s.closed {
			s.wish = min(max-n, 1+s.inUse)
			s.call(now)
		}
		return n, retry
	})
}

// count returns how many operations of new callers could start within the
// given time. If none could, it returns after how long to check again.
func (s *Semaphore) count(now, within time.Duration) (n int, retry time.Duration) {
	if s.closed {
		return 0, line.Never
	}
	if pause := s.paused - now; pause > within {
		return 0, pause - within
	}
	places := s.places(now)
	n = places - s.inUse - s.line.Waiting()
	if within > 0 && places > 0 {
		s.fade(now)
		n = int(min(float64(n)+s.released/releaseMemory.Seconds()*within.Seconds(), math.MaxInt32))
	}
	if s.shareTil > now {
		return n, s.shareTil - now
	}
	return n, line.Never
}

// releaseMemory is how long a release counts in the rate of releases.
const releaseMemory = 250 * time.Millisecond

// fade reduces the weight of past releases, by their age.
func (s *Semaphore) fade(now time.Duration) {
	s.released *= math.Exp(-(now - s.sampled).Seconds() / releaseMemory.Seconds())
	s.sampled = now
}

// Acquire implements [limiter.Limiter].
func (s *Semaphore) Acquire(ctx context.Context) (limiter.Permit, error) {
	if ctx.Err() != nil {
		return limiter.Permit{}, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.line.Join(ctx, &s.mu, func() (time.Duration, bool) { return s.take(s.now()) }, func() { s.call(s.now()) })
	s.lastUse = s.now()
	if err != nil {
		return limiter.Permit{}, err
	}
	return limiter.NewPermit(s, 0), nil
}

// TryAcquire implements [limiter.Limiter]. It never waits for Redis: if this
// process holds no free slot, it returns false, and asks for one in the
// background.
func (s *Semaphore) TryAcquire() (limiter.Permit, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.lastUse = now
	if s.line.Waiting() == 0 {
		if _, ok := s.take(now); ok {
			return limiter.NewPermit(s, 0), true
		}
		s.wish = max(s.wish, 1)
		s.call(now)
	}
	return limiter.Permit{}, false
}

// Blocked implements [limiter.Limiter]: [limiter.ByConcurrency] while this
// process holds no free slot, which is also the case when it is idle;
// [limiter.ByPause], [ByOutage] or [ByClosed].
func (s *Semaphore) Blocked() limiter.Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	b := s.blocked(now)
	if b.Reason == "" && s.inUse >= s.places(now) {
		b = limiter.Block{Reason: s.by, Name: s.name}
	}
	return b
}

// ReleasePermit implements [limiter.Releaser]. An error that is
// [limiter.ErrOverload] with a [limiter.RetryAfter] pauses the fleet as
// [Semaphore.Pause] does.
func (s *Semaphore) ReleasePermit(_ uint64, err error) {
	s.giveBack(1)
	s.learn(err)
}

// AbstainPermit implements [limiter.Releaser].
func (s *Semaphore) AbstainPermit(uint64) { s.giveBack(1) }

// CancelPermit implements [limiter.Releaser].
func (s *Semaphore) CancelPermit(uint64) { s.giveBack(0) }

// giveBack returns one slot, and adds releases to the count of releases.
func (s *Semaphore) giveBack(releases float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse == 0 {
		panic("redislimiter: Semaphore: a permit was returned twice")
	}
	now := s.now()
	s.fade(now)
	s.released += releases
	s.note(now)
	s.inUse--
	s.lastUse = now
	s.line.Stir()
	if s.yield > 0 || s.closed {
		s.call(now)
	}
}

// take takes a slot, or returns after how long to try again.
func (s *Semaphore) take(now time.Duration) (retry time.Duration, ok bool) {
	switch {
	case s.closed:
		return line.Never, false
	case s.paused > now:
		return s.paused - now, false
	case s.inUse < s.places(now):
		s.inUse++
		return 0, true
	case s.shareTil > now:
		return s.shareTil - now, false
	case s.failing > 0 && s.leased(now):
		return s.leaseEnd - now + 1, false
	}
	return line.Never, false
}

// wanted returns how many slots could be used now.
func (s *Semaphore) wanted() int { return s.inUse + s.line.Waiting() + s.wish }

// note records the number of slots wanted now in the peaks.
func (s *Semaphore) note(now time.Duration) {
	if now-s.turn >= linger {
		s.peaks[1] = s.peaks[0]
		if now-s.turn >= 2*linger {
			s.peaks[1] = 0
		}
		s.peaks[0], s.turn = 0, now
	}
	s.peaks[0] = max(s.peaks[0], s.wanted())
}

// due implements caller.
func (s *Semaphore) due(now time.Duration) (at time.Duration, idle bool) {
	busy := s.inUse > 0 || !s.line.Empty()
	if !busy && now-s.lastUse >= idleAfter {
		if s.held > 0 && s.leased(now) && s.failing == 0 {
			return now, false
		}
		return line.Never, true
	}
	if s.failing > 0 {
		return now, false // the link decides when
	}
	gap := s.triedAt + callGap
	wanted := s.wanted()
	if !s.leased(now) {
		at = gap
		if wanted == 0 {
			at = line.Never
		}
	} else {
		at = s.triedAt + s.spread(beat)
		switch {
		case s.yield > 0 && s.inUse < s.held:
			at = min(at, gap)
		case wanted > s.held && wanted > s.asked:
			at = min(at, gap)
			if s.held > 0 {
				at = max(at, s.triedAt+4*callGap)
			}
		case wanted > s.held && s.again > 0:
			at = min(at, max(gap, s.again))
		}
	}
	if !busy { // check then whether it is idle
		at = min(at, s.lastUse+idleAfter)
	}
	return at, false
}

// busy implements caller.
func (s *Semaphore) busy() bool { return s.inUse > 0 }

// dropped implements caller.
func (s *Semaphore) dropped() {
	s.held, s.yield, s.wish, s.asked, s.peaks = 0, 0, 0, 0, [2]int{}
}

// prepare implements caller.
func (s *Semaphore) prepare(now time.Duration, c store.Call) exchange {
	s.note(now)
	r := store.PlacesCall{Call: c}
	switch {
	case c.Leave, s.inUse == 0 && s.line.Empty() && now-s.lastUse >= idleAfter:
		r.Rest = true
		s.held, s.yield = 0, 0
	default:
		want := max(s.wanted(), s.peaks[0], s.peaks[1])
		s.asked = want
		r.Want = int64(want)
		switch {
		case s.sharing(now): // up to its share it may start operations meanwhile
			s.held = max(s.inUse, s.ownPlaces())
		case !s.leased(now): // other processes may have the rest by now
			s.held = s.inUse
		default:
			s.held = max(s.inUse, min(s.held-s.yield, want))
		}
		s.yield = 0
		r.Held = int64(s.held)
	}
	s.wish = 0
	return func(ctx context.Context) (store.State, func(time.Duration), error) {
		st, err := s.store.Lease(ctx, r)
		return st.State, func(time.Duration) { s.apply(st) }, err
	}
}

// apply records what was leased.
func (s *Semaphore) apply(st store.PlacesState) {
	s.held, s.yield = int(st.Held), int(st.Yield)
	s.again = 0
	if st.Again > 0 {
		s.again = s.clock.after(st.Again)
	}
}
