package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/internal/line"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

// How a limiter calls the store.
const (
	// lease is how long leased slots are valid after the last answered call was
	// sent. The store counts from when it receives the call, which is later,
	// and allows a little more, for clocks that run at another speed.
	lease = store.Lease*time.Microsecond - 50*time.Millisecond

	// beat is the maximum time between calls to the store while anything is
	// held or waited for. One call may be lost before the lease is.
	beat = 400 * time.Millisecond

	// callTimeout is how long a call may take before it counts as failed.
	callTimeout = 300 * time.Millisecond

	// retryMin and retryMax bound the delay after a failed call.
	retryMin = 100 * time.Millisecond
	retryMax = 200 * time.Millisecond

	// touch is how recently a process must have been in touch with the store,
	// when that became unreachable, to have a share. It is less than the store's
	// memory of who is live, so every process with a share was counted by the
	// others.
	touch = 5 * time.Second

	// maxPause is the longest pause. A later end would be too far from 1970
	// for a time.Duration.
	maxPause = 100 * 365 * 24 * time.Hour

	// maxStuck is how many calls that ignore their context may hang before the
	// next one waits for them.
	maxStuck = 8
)

// A link is a limiter's connection to its store: one goroutine that makes one
// call after the other, and only while there is a reason to call.
//
// Invariants, with all times on this process's monotonic clock:
//   - Leased slots are used until the lease ends and no longer, whatever has
//     happened to calls since.
//   - While the lease is valid, no share is used.
//   - A share is used only after a lease has ended because calls failed, and
//     until a call succeeds; or, if that call's answer says that nothing is
//     leased before some later time, until then.
type link struct {
	what string // the type, for errors
	name string
	id   string
	cfg  Config
	base time.Time      // the zero of local times
	by   limiter.Reason // the reason to block when the limit is used up

	mu       sync.Mutex // guards all below, and the limiter's own fields
	line     line.Line
	self     caller
	clock    clock
	reported store.State // from the answer to the last successful call
	declared store.Limit
	number   int64
	calls    uint64
	failures uint64
	failing  int   // failed calls since the last success
	err      error // of the last one

	leaseEnd time.Duration // the end of the lease; 0: never had one
	heardAt  time.Duration // when the last successful call was answered
	triedAt  time.Duration // when the last call was sent
	jitter   float64       // jitter of the delays that follow that call
	retryAt  time.Duration // when to try again after a failure
	entitled bool          // to a share, if the lease ends
	shareTil time.Duration // the share remains in use until then although calls succeed
	peers    int64         // live processes
	peersMin time.Duration // peers does not fall before then: the store is finding out who is live

	paused    time.Duration // nothing starts before
	pauseOp   pauseOp       // not yet sent to the store
	sets      []*setting    // not yet sent to the store
	lastUse   time.Duration // when the last caller came
	running   bool          // whether the goroutine runs
	wakesAt   time.Duration // when it will check again by itself
	closed    bool
	leaving   bool          // whether the call in flight says that this process leaves
	left      bool          // that call was made, or failed
	deserted  bool          // Close has given up
	done      chan struct{} // closed when the goroutine ends
	wake      chan struct{} // wakes it; holds one wake-up
	stuck     atomic.Int32  // calls that hang although their context has ended
	stuckGone sync.WaitGroup
}

// asked brings the arguments of Ready into their ranges.
func asked(max int, within time.Duration) (int, time.Duration) {
	max, within = line.Asked(max, within)
	// A quarter of the maximum leaves room for additions.
	return min(max, math.MaxInt32), min(within, math.MaxInt64/4)
}

// A caller is the limiter's side of its link. Its methods are called with the
// mutex held.
type caller interface {
	// due returns when to make the next call, apart from the link's own
	// reasons; never if there is no reason. It reports idle when nothing is
	// held or waited for.
	due(now time.Duration) (at time.Duration, idle bool)
	// prepare returns the next call. c has the fields that all calls share.
	prepare(now time.Duration, c store.Call) exchange
	// busy reports whether operations in flight hold leased slots.
	busy() bool
	// dropped is called when everything leased is gone.
	dropped()
}

// An exchange makes a call, and returns the function that applies the answer
// with the mutex held.
type exchange func(ctx context.Context) (st store.State, apply func(now time.Duration), err error)

// A pauseOp is a pause or the end of one.
type pauseOp int

const (
	noPause pauseOp = iota
	pauseFleet
	resumeFleet
)

// A setting is a change of the fleet's limit on its way to the store.
type setting struct {
	value float64
	done  chan error // takes one
}

func (l *link) init(what, name string, by limiter.Reason, cfg Config, declared store.Limit, self caller) {
	l.what, l.name, l.id, l.cfg, l.base = what, name, newID(), cfg, time.Now()
	l.by, l.declared, l.self = by, declared, self
	l.reported.Limit = declared
	l.wake = make(chan struct{}, 1)
}

// now returns the local time, which is never 0.
func (l *link) now() time.Duration { return time.Since(l.base) + 1 }

// leased reports whether the lease is still valid.
func (l *link) leased(now time.Duration) bool { return now <= l.leaseEnd }

// away reports whether Redis can't be reached.
func (l *link) away(now time.Duration) bool { return l.failing > 0 && !l.leased(now) }

// sharing reports whether the share for an outage is in use.
func (l *link) sharing(now time.Duration) bool {
	return l.entitled && l.cfg.OnOutage == Share && (l.away(now) || now < l.shareTil)
}

// processes returns the number of live processes, as last reported.
func (l *link) processes() int { return max(1, int(l.peers)) }

func (l *link) state(now time.Duration) State {
	switch {
	case l.away(now):
		return Away
	case l.reported.Gen == 0:
		return Joining
	}
	return Connected
}

// time converts a local time to a time.Time.
func (l *link) time(t time.Duration) time.Time { return l.base.Add(t - 1) }

// spread returns d or up to a tenth less, so that the processes of a fleet do
// not call in step.
func (l *link) spread(d time.Duration) time.Duration {
	return d - time.Duration(l.jitter*float64(d))
}

// pausedUntil returns the end of the pause, or zero.
func (l *link) pausedUntil(now time.Duration) time.Time {
	if l.paused <= now {
		return time.Time{}
	}
	return l.time(l.paused)
}

// blocked returns the Block for everything but the limit itself.
func (l *link) blocked(now time.Duration) limiter.Block {
	switch {
	case l.closed:
		return limiter.Block{Reason: ByClosed, Name: l.name}
	case l.paused > now:
		return limiter.Block{Reason: limiter.ByPause, Name: l.name, Until: l.time(l.paused)}
	case l.away(now) && !l.sharing(now):
		return limiter.Block{Reason: ByOutage, Name: l.name, Cause: l.err}
	}
	return limiter.Block{}
}

// pause stops this process now, and the fleet with the next call.
func (l *link) pause(until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if at := min(until.Sub(l.base), now+maxPause) + 1; at > l.paused && at > now {
		l.paused, l.pauseOp = at, pauseFleet
		l.line.Stir()
		l.call(now)
	}
}

// Resume ends a pause: in this process now, and in each other process at its
// next call.
func (l *link) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused, l.pauseOp = 0, resumeFleet
	l.line.Stir()
	l.call(l.now())
}

// learn pauses the fleet if an operation's error is an overload with a
// RetryAfter.
func (l *link) learn(err error) {
	if err == nil || !errors.Is(err, limiter.ErrOverload) {
		return
	}
	if after, ok := limiter.RetryAfter(err); ok && after > 0 {
		l.pause(time.Now().Add(after))
	}
}

// set changes the fleet's limit, and waits until the store has it.
func (l *link) set(ctx context.Context, value float64) error {
	s := &setting{value: value, done: make(chan error, 1)}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return errClosed
	}
	l.sets = append(l.sets, s)
	l.call(l.now())
	l.mu.Unlock()
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		for i := range l.sets {
			if l.sets[i] == s {
				l.sets = append(l.sets[:i], l.sets[i+1:]...)
				break
			}
		}
		return context.Cause(ctx)
	}
}

var errClosed = errors.New("the limiter is closed")

// Idle reports whether the limiter is idle: nothing is held, nobody waits, it
// is not paused, and it has no goroutine.
func (l *link) Idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.running && l.line.Empty() && l.paused <= l.now()
}

// Close returns what is held and removes this process from the fleet. Once it
// is called nothing starts: Acquire and Ready wait for their contexts to end.
// A Semaphore waits for operations in flight, and keeps their slots until
// then. Close returns when no goroutine of the limiter is left, or with
// context.Cause(ctx). In that case the lease expires by itself, and goroutines
// end within half a second, or when the client returns from their calls. Close
// does not close the client.
func (l *link) Close(ctx context.Context) error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		l.line.Stir()
		if l.reported.Gen > 0 {
			l.start()
		}
	}
	running, done := l.running, l.done
	l.mu.Unlock()
	if running {
		l.poke() // it plans again
		select {
		case <-done:
		case <-ctx.Done():
			l.mu.Lock()
			l.deserted = true
			l.mu.Unlock()
			l.poke()
			return context.Cause(ctx)
		}
	}
	gone := make(chan struct{})
	go func() { l.stuckGone.Wait(); close(gone) }()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// call makes sure that a call is made when it is due.
func (l *link) call(now time.Duration) {
	if !l.running {
		if l.closed {
			return
		}
		l.start()
		return
	}
	if at, _ := l.plan(now); at < l.wakesAt {
		l.wakesAt = at
		l.poke()
	}
}

// start starts the goroutine if it does not run.
func (l *link) start() {
	if !l.running {
		l.running, l.done, l.wakesAt = true, make(chan struct{}), 0
		go l.run(l.done)
	}
}

func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// plan returns when the next call is due. It reports idle when there is no
// reason for one, and nothing to return either.
func (l *link) plan(now time.Duration) (at time.Duration, idle bool) {
	switch {
	case l.left, l.deserted:
		return now, true
	case l.closed && !l.self.busy():
		return now, false
	}
	at, idle = l.self.due(now)
	if l.pauseOp != noPause || len(l.sets) > 0 {
		at, idle = now, false
	}
	if l.failing > 0 {
		at = max(at, l.retryAt)
	}
	return at, idle
}

// run makes the calls until there is no reason for another.
func (l *link) run(done chan struct{}) {
	defer close(done)
	timer := time.NewTimer(line.Never)
	defer timer.Stop()
	for {
		l.mu.Lock()
		now := l.now()
		at, idle := l.plan(now)
		if idle {
			l.self.dropped()
			for _, s := range l.sets { // the limiter is closed
				s.done <- errClosed
			}
			l.sets = nil
			l.running = false
			l.mu.Unlock()
			return
		}
		if at > now {
			l.wakesAt = at
			l.mu.Unlock()
			timer.Reset(at - now)
			select {
			case <-timer.C:
			case <-l.wake:
			}
			continue
		}
		l.wakesAt = 0
		l.exchange(now)
		l.mu.Unlock()
	}
}

// exchange makes one call. The caller holds mu, which is unlocked meanwhile.
func (l *link) exchange(now time.Duration) {
	l.number++
	l.calls++
	c := store.Call{
		ID: l.id, Number: l.number, Gen: l.reported.Gen, Seq: l.reported.Seq,
		Away: l.away(now), Join: l.reported.Gen == 0, Declared: l.declared,
		Version: l.reported.Version, Limit: l.reported.Limit, Leave: l.closed && !l.self.busy(),
	}
	if c.Version == 0 {
		c.Limit = store.Limit{}
	}
	op := l.pauseOp
	l.pauseOp = noPause
	switch {
	case op == pauseFleet && l.paused > now:
		c.Pause = int64((l.paused - now) / time.Microsecond)
	case op == resumeFleet:
		c.Pause = -1
	}
	var s *setting
	if len(l.sets) > 0 {
		s, l.sets = l.sets[0], l.sets[1:]
		c.Set = s.value
	}
	l.leaving = c.Leave
	ask := l.self.prepare(now, c)
	l.triedAt, l.jitter = now, 0.1*rand.Float64()
	l.mu.Unlock()
	st, apply, err := l.ask(ask)
	l.mu.Lock()

	if s != nil {
		s.done <- err
	}
	if err != nil {
		if op != noPause && l.pauseOp == noPause {
			l.pauseOp = op // send it again
		}
		l.failed(err)
		return
	}
	l.heard(now, st)
	apply(l.now())
	l.line.Stir()
}

// ask makes a call, and abandons it if it takes too long.
func (l *link) ask(ask exchange) (st store.State, apply func(now time.Duration), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	type result struct {
		st    store.State
		apply func(now time.Duration)
		err   error
	}
	got := make(chan result, 1)
	l.stuckGone.Add(1)
	l.stuck.Add(1)
	go func() {
		defer l.stuckGone.Done()
		defer l.stuck.Add(-1)
		st, apply, err := ask(ctx)
		got <- result{st, apply, err}
	}()
	over := ctx.Done()
	if l.stuck.Load() > maxStuck {
		over = nil
	}
	select {
	case r := <-got:
		return r.st, r.apply, r.err
	case <-over:
		return st, nil, fmt.Errorf("no answer within %v", callTimeout)
	}
}

// failed records that a call has failed.
func (l *link) failed(err error) {
	now := l.now()
	if l.failing == 0 {
		// Before the origin of its generation the store does not know all
		// live processes, so a newcomer does not either.
		known := l.reported.Gen > 0 && (l.peersMin > 0 || l.heardAt > l.clock.after(l.reported.Origin))
		l.entitled = l.sharing(now) || (known && now-l.heardAt <= touch)
	}
	l.failing++
	l.failures++
	l.err = err
	l.retryAt = now + retryMin + rand.N(retryMax-retryMin)
	l.left = l.left || l.leaving // its lease will expire
	l.line.Stir()
}

// heard applies what all answers have in common.
func (l *link) heard(sent time.Duration, st store.State) {
	now := l.now()
	l.clock.hear(sent, now, st.Now)
	wasSharing := l.sharing(now)
	renewed := st.Gen != l.reported.Gen
	if renewed && l.reported.Gen > 0 {
		l.peersMin = now + touch
	}
	if now < l.peersMin {
		l.peers = max(l.peers, st.Live)
	} else {
		l.peers = st.Live
	}
	l.reported, l.failing, l.err = st, 0, nil
	l.leaseEnd, l.heardAt = sent+lease, now
	l.shareTil = 0
	if origin := l.clock.after(st.Origin); wasSharing && origin > now {
		l.shareTil = origin
	}
	l.left = l.leaving
	if l.pauseOp != noPause {
		return // what this process is about to send is newer
	}
	paused := time.Duration(0)
	if st.Pause > 0 {
		paused = l.clock.after(st.Pause)
	}
	if renewed && l.paused > now && paused < l.paused {
		l.pauseOp = pauseFleet // the store has forgotten it
		return
	}
	l.paused = paused
}
