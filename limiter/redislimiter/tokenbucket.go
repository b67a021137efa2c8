package redislimiter

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/internal/line"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

// How a TokenBucket predicts what it will need.
const (
	// refill is the share of the horizon after which the next slots are
	// leased.
	refill = 0.6
	// ahead is how many times its use a process leases while no process is
	// short, so that a slot is available when a caller comes: slots that are
	// not used in time are void. aheadTight applies while some process is
	// short.
	ahead, aheadTight = 4.0, 1.1
	// keep is the share of its own share that a process leases for that at
	// most.
	keep = 0.9
	// nearBy is the part of the horizon in which a process leases all free
	// slots while some process is short.
	nearBy = 0.4
	// demandMemory is how long a start counts in the demand; demandRise applies
	// while the demand rises.
	demandMemory, demandRise = 400 * time.Millisecond, 100 * time.Millisecond
	// idleAfter is how long after the last caller everything is returned.
	idleAfter = 250 * time.Millisecond
	// callGap is the least time between two calls without failures.
	callGap = 2 * time.Millisecond
	// slotMin is the least time that a slot can be used, however uncertain
	// the store's clock is.
	slotMin = 10 * time.Millisecond
)

// A TokenBucket limits how often operations start across all processes that
// share its name: at most burst + rate*t of them in any span of time t. The
// package documentation says how exact that is, and what happens without Redis.
//
// It holds slots that Redis has leased to this process: times, each for one
// start. A slot can be used from its time on, for as long as the burst allows,
// and is void after that.
//
// Invariants:
//   - A slot is used at most once, in this process (it is popped under the
//     mutex) and in the fleet (the script leases it once).
//   - By the store's clock, wherever within its bounds that is, a slot is used
//     neither before its time nor after its width, except for slotMin; and not
//     after the end of the lease.
//   - A slot is removed before the call that returns it is made.
type TokenBucket struct {
	link
	store store.Rate

	// The link's mutex guards all below.
	slots  []slot // sorted by from
	meter  meter  // hands out the share during an outage
	gen    int64  // generation of the cells in slots
	origin int64
	rate   float64

	horizon time.Duration // as last reported
	share   float64       // starts a second, as last reported
	tight   bool          // whether some process is short, as last reported
	again   time.Duration // there is no use in asking for more before then
	wish    int           // slots that Ready wanted and did not find

	starts  int     // since sampled
	demand  float64 // starts a second
	sampled time.Duration
	missed  uint64
}

// A slot allows one start.
type slot struct {
	cell        int64         // of the grid; own: made here
	from, until time.Duration // local time
}

// Values for cells that are not of the current grid.
const (
	own = -1 // the slot is of this process's share during an outage
	old = -2 // the slot is of the previous grid
)

// TokenBucketStats is a snapshot of a [TokenBucket].
type TokenBucketStats struct {
	State       State
	Rate        float64   // starts a second, of the fleet
	Burst       int       // starts at once, of the fleet
	Share       float64   // starts a second that this process gets, as last reported; while away, those it may use
	Processes   int       // live processes, as last reported
	Held        int       // slots that this process holds
	Waiting     int       // callers that wait in Acquire
	PausedUntil time.Time // zero when it is not paused
	Missed      uint64    // slots that expired unused
	Calls       uint64    // calls to Redis
	Failures    uint64    // those of them that failed
	Err         error     // of the last call; nil when it succeeded
}

var (
	_ limiter.Limiter  = (*TokenBucket)(nil)
	_ limiter.Releaser = (*TokenBucket)(nil)
)

// maxBurst is the highest burst, in cells: the store remembers that many.
const maxBurst = 20_000

// NewTokenBucket returns a bucket for the operations of all processes that use
// the same name on the same Redis. It makes no call yet, and has no goroutine
// while it is not in use.
//
// Rate and burst should be the same in all processes. If a process comes with
// values that differ from the last declared ones, its values become the fleet's;
// see [TokenBucket.SetRate].
//
// It fails when the rate is not a finite number above 0, burst is below 1 or
// above 20,000 (or two seconds' worth, if that is more), or cfg or the name is
// out of range: 1 to 200 bytes, without braces, spaces or control characters.
func NewTokenBucket(client redis.UniversalClient, name string, ratePerSecond float64, burst int, cfg Config) (*TokenBucket, error) {
	if err := cfg.check("NewTokenBucket", client, name); err != nil {
		return nil, err
	}
	return newTokenBucket(store.NewRedisRate(timed(client), name), name, ratePerSecond, burst, cfg)
}

func newTokenBucket(s store.Rate, name string, ratePerSecond float64, burst int, cfg Config) (*TokenBucket, error) {
	if err := checkRate(ratePerSecond, burst); err != nil {
		return nil, fmt.Errorf("redislimiter: NewTokenBucket: %w", err)
	}
	b := &TokenBucket{store: s}
	b.init("TokenBucket", name, limiter.ByRate, cfg, store.Limit{Value: ratePerSecond, Burst: int64(burst)}, b)
	return b, nil
}

func checkRate(perSecond float64, burst int) error {
	if !(perSecond > 0) || math.IsInf(perSecond, 1) { // not NaN either
		return fmt.Errorf("ratePerSecond is %v: must be a finite number above 0", perSecond)
	}
	if most := maxBurst * store.Grain(perSecond); burst < 1 || int64(burst) > most {
		return fmt.Errorf("burst is %d: must be at least 1 and, at that rate, at most %d", burst, most)
	}
	return nil
}

// SetRate changes the rate of the fleet, and waits until Redis has it. Every
// other process in use learns of it within half a second. The rate applies until
// it is changed again, or a process is made with a different rate or burst than
// the processes before: the last deployment wins.
//
// It fails, changing nothing, when ratePerSecond is out of range. When Redis
// can't be reached, or ctx ends, the rate may have changed nevertheless, or may
// change later.
func (b *TokenBucket) SetRate(ctx context.Context, ratePerSecond float64) error {
	b.mu.Lock()
	burst := b.reported.Limit.Burst
	b.mu.Unlock()
	err := checkRate(ratePerSecond, int(burst))
	if err == nil {
		err = b.set(ctx, ratePerSecond)
	}
	if err != nil {
		return fmt.Errorf("redislimiter: TokenBucket.SetRate: %w", err)
	}
	return nil
}

// Pause lets nothing start before until. It takes effect now in this process,
// and in each other one at its next call to Redis, which is within half a
// second while it is in use. Tokens keep accumulating. Of two pauses the one
// that ends later applies; [TokenBucket.Resume] ends both. No pause is longer
// than 100 years.
func (b *TokenBucket) Pause(until time.Time) { b.pause(until) }

// Stats returns a snapshot.
func (b *TokenBucket) Stats() TokenBucketStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.void(now)
	s := TokenBucketStats{
		State: b.state(now),
		Rate:  b.reported.Limit.Value, Burst: int(b.reported.Limit.Burst),
		Share: b.share, Processes: b.processes(),
		Held: len(b.slots), Waiting: b.line.Waiting(), PausedUntil: b.pausedUntil(now),
		Missed: b.missed, Calls: b.calls, Failures: b.failures, Err: b.err,
	}
	switch {
	case b.sharing(now):
		s.Share = b.ownRate()
	case s.State == Away:
		s.Share = 0
	}
	return s
}

// Ready implements [limiter.Limiter]: the held slots whose time comes within
// the given time, and this process's share of the time beyond the horizon (250
// ms to 1 s). If these are too few, it asks Redis for more: as many as were
// recently used and one more. They are returned if nobody uses them.
func (b *TokenBucket) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = asked(max, within)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.line.Watch(ctx, &b.mu, max, func() (int, time.Duration) {
		now := b.now()
		b.lastUse = now
		n, retry := b.count(now, within)
		if n < max && !b.closed {
			b.wish = min(max-n, 1+int(2*b.demand*b.horizon.Seconds()))
			b.call(now)
		}
		return n, retry
	})
}

// count returns how many operations of new callers could start within the
// given time. If none could, it returns after how long to check again.
func (b *TokenBucket) count(now, within time.Duration) (n int, retry time.Duration) {
	if b.closed {
		return 0, line.Never
	}
	if pause := b.paused - now; pause > within {
		return 0, pause - within
	}
	b.void(now)
	if b.sharing(now) {
		return b.meter.count(now, within, b.line.Waiting())
	}
	if !b.leased(now) {
		return 0, line.Never
	}
	for n < len(b.slots) && b.slots[n].from <= now+within {
		n++
	}
	if far := within - b.horizon; far > 0 && b.horizon > 0 {
		n = int(min(float64(n)+b.share*far.Seconds(), math.MaxInt32))
	}
	if n > b.line.Waiting() {
		return n - b.line.Waiting(), 0
	}
	if b.line.Waiting() < len(b.slots) {
		return 0, max(1, b.slots[b.line.Waiting()].from-within-now)
	}
	return 0, line.Never
}

// Acquire implements [limiter.Limiter].
func (b *TokenBucket) Acquire(ctx context.Context) (limiter.Permit, error) {
	if ctx.Err() != nil {
		return limiter.Permit{}, context.Cause(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var got slot
	err := b.line.Join(ctx, &b.mu, func() (retry time.Duration, ok bool) {
		got, retry, ok = b.take(b.now())
		return retry, ok
	}, func() { b.call(b.now()) })
	b.lastUse = b.now()
	if err != nil {
		return limiter.Permit{}, err
	}
	return b.permit(got), nil
}

// TryAcquire implements [limiter.Limiter]. It never waits for Redis: if this
// process holds no usable slot, it returns false, and asks for one in the
// background.
func (b *TokenBucket) TryAcquire() (limiter.Permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.lastUse = now
	if b.line.Waiting() == 0 {
		if s, _, ok := b.take(now); ok {
			return b.permit(s), true
		}
		b.wish = max(b.wish, 1)
		b.call(now)
	}
	return limiter.Permit{}, false
}

// Blocked implements [limiter.Limiter]: [limiter.ByRate] while this process holds
// no slot that can be used now, which is also the case when it is idle;
// [limiter.ByPause], [ByOutage] or [ByClosed].
func (b *TokenBucket) Blocked() limiter.Block {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if block := b.blocked(now); block.Reason != "" {
		return block
	}
	n, retry := b.count(now, 0)
	if n > 0 {
		return limiter.Block{}
	}
	block := limiter.Block{Reason: b.by, Name: b.name}
	if retry < line.Never {
		block.Until = b.time(now + retry)
	}
	return block
}

// ReleasePermit implements [limiter.Releaser]. A rate limits starts: how and
// when an operation ends changes nothing, except that an error that is
// [limiter.ErrOverload] with a [limiter.RetryAfter] pauses the fleet as
// [TokenBucket.Pause] does.
func (b *TokenBucket) ReleasePermit(_ uint64, err error) { b.learn(err) }

// AbstainPermit implements [limiter.Releaser].
func (b *TokenBucket) AbstainPermit(uint64) {}

// CancelPermit implements [limiter.Releaser]: another operation can use the
// slot, until it would have expired.
func (b *TokenBucket) CancelPermit(token uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.slotOf(token)
	if !ok || slices.ContainsFunc(b.slots, func(o slot) bool { return o == s && s.cell != own && b.grain() == 1 }) {
		return
	}
	b.starts--
	at, _ := slices.BinarySearchFunc(b.slots, s, byFrom)
	b.slots = slices.Insert(b.slots, at, s)
	b.line.Stir()
}

// A permit's token holds the cell, with the lowest bits of its generation
// above it, or, for a slot of the process's own share, its time below the
// highest bit.
const (
	cellBits = 48
	ownBit   = 1 << 63
)

func (b *TokenBucket) permit(s slot) limiter.Permit {
	b.starts++
	switch s.cell {
	case own:
		return limiter.NewPermit(b, ownBit|uint64(s.from))
	case old:
		return limiter.NewPermit(b, ownBit) // which is void already
	}
	gen := uint64(b.gen) & (1<<(63-cellBits) - 1)
	return limiter.NewPermit(b, gen<<cellBits|uint64(s.cell))
}

// slotOf returns the slot with that token, if it is of the current grid.
func (b *TokenBucket) slotOf(token uint64) (slot, bool) {
	if token&ownBit != 0 {
		from := time.Duration(token &^ ownBit)
		return slot{cell: own, from: from, until: from + store.MinWidth*time.Microsecond}, true
	}
	if token>>cellBits != uint64(b.gen)&(1<<(63-cellBits)-1) {
		return slot{}, false
	}
	return b.slot(int64(token & (1<<cellBits - 1))), true
}

// slot returns the slot of a cell.
func (b *TokenBucket) slot(cell int64) slot {
	start := store.Start(b.origin, cell, b.rate)
	from := b.clock.after(start)
	return slot{cell: cell, from: from, until: max(b.clock.before(start+store.Width(b.reported.Limit)), from+slotMin)}
}

func byFrom(a, c slot) int {
	switch {
	case a.from < c.from:
		return -1
	case a.from > c.from:
		return 1
	}
	return 0
}

func (b *TokenBucket) grain() int64 { return store.Grain(b.reported.Limit.Value) }

// take takes a slot, or returns after how long to try again.
func (b *TokenBucket) take(now time.Duration) (s slot, retry time.Duration, ok bool) {
	if b.closed {
		return s, line.Never, false
	}
	if b.paused > now {
		return s, b.paused - now, false
	}
	b.void(now)
	sharing := b.sharing(now)
	if !sharing && !b.leased(now) {
		return s, line.Never, false
	}
	retry = line.Never
	if len(b.slots) > 0 {
		if s = b.slots[0]; s.from <= now {
			b.slots = b.slots[1:]
			return s, 0, true
		}
		retry = s.from - now
	}
	if sharing {
		at, wait := b.meter.take(now)
		if wait == 0 {
			return slot{cell: own, from: at}, 0, true
		}
		retry = min(retry, wait)
		if b.shareTil > now {
			retry = min(retry, b.shareTil-now)
		}
	} else if b.failing > 0 {
		retry = min(retry, b.leaseEnd-now+1)
	}
	return s, retry, false
}

// void drops the slots that can no longer be used: expired ones, those of the
// fleet without a lease, and those of the own share with one.
func (b *TokenBucket) void(now time.Duration) {
	n := 0
	for n < len(b.slots) && b.slots[n].until < now {
		n++
	}
	b.missed += uint64(n)
	b.slots = b.slots[n:]
	sharing := b.sharing(now)
	if sharing != b.meter.on {
		b.meter = meter{on: sharing, next: now}
		b.slots = slices.DeleteFunc(b.slots, func(s slot) bool { return (s.cell == own) != sharing })
	}
	if sharing {
		b.meter.set(b.ownRate(), float64(b.reported.Limit.Burst)/float64(b.processes()))
	} else if !b.leased(now) && len(b.slots) > 0 {
		b.slots = nil
	}
}

// ownRate is the share during an outage.
func (b *TokenBucket) ownRate() float64 { return b.reported.Limit.Value / float64(b.processes()) }

// sample adds the starts since the last sample to the demand.
func (b *TokenBucket) sample(now time.Duration) {
	since := now - b.sampled
	if since < callGap {
		return
	}
	rate := max(0, float64(b.starts)) / since.Seconds()
	memory := demandMemory
	if rate > b.demand {
		memory = demandRise
	}
	b.demand += (rate - b.demand) * -math.Expm1(-since.Seconds()/memory.Seconds())
	b.starts, b.sampled = 0, now
}

// near returns how many of the held slots are as good as those that could be
// leased now: all of them while some process is short.
func (b *TokenBucket) near(now time.Duration) int {
	if b.tight {
		return len(b.slots)
	}
	n := 0
	for n < len(b.slots) && b.slots[n].from <= now+callGap {
		n++
	}
	return n
}

// wanted returns how many slots could be used now.
func (b *TokenBucket) wanted() int { return b.line.Waiting() + b.wish }

// due implements caller.
func (b *TokenBucket) due(now time.Duration) (at time.Duration, idle bool) {
	b.void(now)
	if b.line.Empty() && now-b.lastUse >= idleAfter {
		// It is idle, but first returns what it holds.
		if len(b.slots) > 0 && b.leased(now) && b.failing == 0 && !b.meter.on {
			return now, false
		}
		return line.Never, true
	}
	if b.failing > 0 {
		return now, false // the link decides when
	}
	at = b.triedAt + b.spread(beat)
	if !b.leased(now) {
		at = b.triedAt + callGap
		if b.wanted() == 0 {
			at = line.Never
		}
	}
	if b.horizon > 0 && b.demand*b.horizon.Seconds() >= 1 {
		at = min(at, b.triedAt+b.spread(time.Duration(refill*float64(b.horizon))))
	}
	if b.wanted() > b.near(now) && b.paused <= now+b.horizon {
		more := max(b.again, b.triedAt+callGap)
		if len(b.slots) > 0 && b.tight {
			more = max(more, b.slots[len(b.slots)-1].from-2*slotMin)
		}
		at = min(at, more)
	}
	if b.line.Empty() { // check then whether it is idle
		at = min(at, b.lastUse+idleAfter)
	}
	return at, false
}

// busy implements caller.
func (b *TokenBucket) busy() bool { return false }

// dropped implements caller.
func (b *TokenBucket) dropped() {
	b.slots, b.wish, b.demand, b.starts = nil, 0, 0, 0
}

// prepare implements caller.
func (b *TokenBucket) prepare(now time.Duration, c store.Call) exchange {
	b.sample(now)
	b.void(now)
	rest := c.Leave || (b.line.Empty() && now-b.lastUse >= idleAfter)
	r := store.RateCall{Call: c}
	if rest {
		r.Rest = true
		for _, s := range b.slots {
			if s.cell >= 0 && b.grain() == 1 {
				r.Return = append(r.Return, s.cell)
			}
		}
		b.slots = nil
	} else {
		b.want(now, &r)
	}
	b.wish = 0
	return func(ctx context.Context) (store.State, func(time.Duration), error) {
		st, err := b.store.Lease(ctx, r)
		return st.State, func(now time.Duration) { b.apply(now, st) }, err
	}
}

// want fills in the slots to ask for.
func (b *TokenBucket) want(now time.Duration, r *store.RateCall) {
	held := len(b.slots)
	horizon := b.horizon
	if horizon == 0 {
		horizon = store.MinHorizon * time.Microsecond
	}
	h := horizon.Seconds()
	demand := b.demand + float64(b.line.Waiting())/h
	r.Demand = int64(min(demand*1000, 1e15))
	r.Held = int64(held)
	r.Lead = int64((b.clock.width() + 2*callGap) / time.Microsecond)
	near := b.near(now)
	r.Fresh = int64(max(0, b.wish-max(0, near-b.line.Waiting())))
	defer func() { // convert starts to cells
		grain := b.grain()
		for _, n := range []*int64{&r.Held, &r.Soon, &r.Fresh, &r.Spread} {
			*n = (*n + grain - 1) / grain
		}
	}()

	use := b.demand * h // expected starts within a horizon
	many := aheadTight*use + math.Sqrt(use)
	if b.tight {
		// Near slots would be lost, so all of them are leased. Far ones are
		// leased at even distances: slots in a row would find too few
		// operations if another limit applies too.
		many = max(many, float64(b.line.Waiting()))
		r.Soon = int64(math.Ceil(max(0, many-float64(held))))
		r.Spread = r.Soon
		far := b.clock.store(now + time.Duration(nearBy*float64(horizon)))
		r.Before, r.After = far, far
		return
	}
	if soon := b.line.Waiting() - near; soon > 0 {
		if near < held { // the held slots come later: is there anything sooner?
			r.Before = b.clock.store(b.slots[near].from - callGap)
		}
		// And a few for callers that are about to come.
		r.Soon = int64(soon) + int64(b.demand*store.MinWidth/1e6)
	}
	if use < 1 {
		return
	}
	many = max(many, min(ahead*use, keep*b.share*h))
	// At an even spacing the held slots take up their part of the horizon; the
	// new ones take up the rest.
	more := many - float64(held) - float64(r.Soon+r.Fresh)
	if more <= 0 {
		return
	}
	r.Spread = int64(math.Ceil(more))
	r.After = b.clock.store(now + time.Duration(float64(horizon)*(1-more/many)))
}

// apply records what was leased.
func (b *TokenBucket) apply(now time.Duration, st store.RateState) {
	if st.Gen != b.gen || st.Origin != b.origin {
		// Slots of the old grid are valid up to one cell before the new one
		// begins. (Slightly less: cells begin at whole microseconds.)
		begin := b.clock.after(st.Origin)
		if b.rate > 0 {
			begin -= time.Duration(0.999 * store.Cell(b.rate) * float64(time.Microsecond))
		}
		b.slots = slices.DeleteFunc(b.slots, func(s slot) bool { return s.cell == own || s.from >= begin })
		for i := range b.slots {
			b.slots[i].cell = old
		}
		b.gen, b.origin = st.Gen, st.Origin
	}
	b.rate = st.Limit.Value
	if st.Horizon > 0 { // else the process is idle
		b.horizon = time.Duration(st.Horizon) * time.Microsecond
		b.share, b.tight = float64(st.Share)/1000, st.Tight
	}
	b.again = 0
	if st.Again > 0 {
		b.again = b.clock.after(st.Again)
	}
	for _, cell := range st.Cells {
		s := b.slot(cell)
		for range b.grain() {
			b.slots = append(b.slots, s)
		}
	}
	slices.SortStableFunc(b.slots, byFrom)
	b.void(now)
}

// A meter hands out the share during an outage: it makes slots, evenly, and
// begins empty.
type meter struct {
	on       bool
	next     time.Duration // when the bucket is full again: a GCRA
	interval time.Duration
	depth    time.Duration
}

// set sets how many slots it makes a second, and how many at once.
func (m *meter) set(rate, burst float64) {
	m.interval = time.Duration(min(1e9/rate, math.MaxInt64/4))
	m.depth = time.Duration(min(max(0, burst-1)*float64(m.interval), math.MaxInt64/4))
}

// take makes a slot, or returns after how long it could.
func (m *meter) take(now time.Duration) (at, wait time.Duration) {
	if m.next > now+m.depth {
		return 0, m.next - m.depth - now
	}
	m.next = max(m.next, now) + m.interval
	return now, 0
}

// count returns how many slots it could make within the given time, without
// those for waiters; if none, it returns after how long it could make one.
func (m *meter) count(now, within time.Duration, waiting int) (n int, retry time.Duration) {
	room := now + within + m.depth - max(m.next, now)
	if room < 0 {
		return 0, -room + time.Duration(waiting)*m.interval
	}
	n = int(min(room/m.interval+1, math.MaxInt32)) - waiting
	if n > 0 {
		return n, 0
	}
	return 0, max(1, time.Duration(1-n)*m.interval-room%m.interval)
}
