package limiter

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// A Semaphore limits how many operations are in flight at once. It is fair:
// slots go to waiters in the order in which they came. The limit can be
// changed while the semaphore is in use.
//
// Releasing more often than acquiring is a bug in the caller, and panics if
// the semaphore can detect it: when no slot is in use.
type Semaphore struct {
	mu       sync.Mutex // guards all below
	limit    int
	inUse    int
	line     line.Line // nobody waits in Acquire while inUse < limit
	released uint64    // permits returned after a run, so far
	resized  bool
	rate     releaseRate
}

// SemaphoreStats is a snapshot of a [Semaphore].
type SemaphoreStats struct {
	Limit   int // number of slots
	InUse   int // slots taken; above Limit for a while after the limit was lowered
	Waiting int // callers that wait in Acquire
}

var (
	_ Limiter  = (*Semaphore)(nil)
	_ Releaser = (*Semaphore)(nil)
)

// NewSemaphore returns a semaphore with n slots. It fails when n is below 1.
func NewSemaphore(n int) (*Semaphore, error) {
	if n < 1 {
		return nil, fmt.Errorf("limiter: NewSemaphore: n is %d: must be at least 1", n)
	}
	return &Semaphore{limit: n, rate: releaseRate{at: time.Now()}}, nil
}

// Resize changes the number of slots to n. It fails, changing nothing, when n
// is below 1. Operations in flight continue: after the limit was lowered,
// nothing starts until fewer than n are in flight. Raising it starts waiters
// at once.
func (s *Semaphore) Resize(n int) error {
	if n < 1 {
		return fmt.Errorf("limiter: Semaphore.Resize: n is %d: must be at least 1", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit, s.resized = n, true
	s.pass()
	return nil
}

// Stats returns the limit, the slots in use and the waiters, at one instant.
func (s *Semaphore) Stats() SemaphoreStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SemaphoreStats{Limit: s.limit, InUse: s.inUse, Waiting: s.line.Waiting()}
}

// Idle reports whether the semaphore is as good as new, so that a [Keyed] may
// forget it: no slot is taken, nobody waits, and it was never resized.
func (s *Semaphore) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inUse == 0 && s.line.Empty() && !s.resized
}

// Ready implements [Limiter]. With within 0 it is exact: the slots free now.
// Otherwise it adds the slots expected to be returned within that time, at
// the recent rate of releases. That expectation fades in about a second when
// none is returned.
func (s *Semaphore) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.line.Watch(ctx, &s.mu, max, func() (int, time.Duration) {
		n := s.limit - s.inUse - s.line.Waiting()
		if within > 0 {
			s.rate.sample(time.Now(), s.released)
			n = s.rate.more(n, within)
		}
		// Only a release, a resize or a waiter that gives up can increase it,
		// and each of them alerts the watchers.
		return n, line.Never
	})
}

// Acquire implements [Limiter].
func (s *Semaphore) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	s.mu.Lock()
	if ctx.Err() != nil { // it may have ended before there was a slot
		s.mu.Unlock()
		return Permit{}, context.Cause(ctx)
	}
	if s.inUse < s.limit {
		s.inUse++
		s.mu.Unlock()
		return Permit{r: s}, nil
	}
	w := s.line.Enter()
	s.mu.Unlock()

	granted := w.Granted(ctx)
	if granted && ctx.Err() == nil {
		return Permit{r: s}, nil // without locking mu, for which a crowd would queue up once more
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if granted || s.line.Withdraw(w) {
		s.inUse-- // it goes to the next waiter
	}
	s.pass()
	return Permit{}, context.Cause(ctx)
}

// TryAcquire implements [Limiter].
func (s *Semaphore) TryAcquire() (Permit, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse >= s.limit {
		return Permit{}, false
	}
	s.inUse++
	return Permit{r: s}, true
}

// Blocked implements [Limiter]. It does not know when a slot will be free.
func (s *Semaphore) Blocked() Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inUse >= s.limit {
		return Block{Reason: ByConcurrency}
	}
	return Block{}
}

// ReleasePermit implements [Releaser].
func (s *Semaphore) ReleasePermit(uint64, error) { s.giveBack(1) }

// AbstainPermit implements [Releaser].
func (s *Semaphore) AbstainPermit(uint64) { s.giveBack(1) }

// CancelPermit implements [Releaser].
func (s *Semaphore) CancelPermit(uint64) { s.giveBack(0) }

// giveBack returns one slot, and adds releases to the count of releases.
func (s *Semaphore) giveBack(releases uint64) {
	s.mu.Lock()
	if s.inUse == 0 {
		s.mu.Unlock()
		panic("limiter: Semaphore: a permit was returned twice")
	}
	s.inUse--
	s.released += releases
	s.pass()
	s.mu.Unlock()
}

// pass hands free slots to waiters. It takes the slot on the waiter's behalf,
// so that nobody can come between.
func (s *Semaphore) pass() {
	for s.inUse < s.limit && s.line.First() != nil {
		s.line.Grant()
		s.inUse++
	}
	s.line.Alert()
}

// rateMemory is how long a release counts in the rate of releases.
const rateMemory = 250 * time.Millisecond

// A releaseRate is the rate of an event, computed from samples of its count.
// An event's weight falls by e^-1 for each rateMemory.
type releaseRate struct {
	at        time.Time // when it was last sampled
	count     uint64    // the count then
	perSecond float64
}

// sample takes a new count into the rate. It assumes that the events since
// the last sample were evenly spread.
func (r *releaseRate) sample(now time.Time, count uint64) {
	age := now.Sub(r.at).Seconds() / rateMemory.Seconds()
	weight := 1.0 // per event; its limit for age 0
	if age > 0 {
		weight = -math.Expm1(-age) / age
	}
	r.perSecond = r.perSecond*math.Exp(-age) + float64(count-r.count)*weight/rateMemory.Seconds()
	r.at, r.count = now, count
}

// more returns n plus the number of events expected within d, at most
// math.MaxInt.
func (r *releaseRate) more(n int, d time.Duration) int {
	expected := int(min(r.perSecond*d.Seconds(), math.MaxInt32))
	return min(n, math.MaxInt-expected) + expected
}
