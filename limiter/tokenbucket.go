package limiter

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// A TokenBucket limits how often operations start: at most burst + rate*t of
// them in any span of time t. Rate and burst can be changed while it is in use,
// and it can be paused.
//
// Waiters stand in one line, and only the first one sleeps. A token is taken at
// the instant at which its operation starts, never in advance, so a pause or a
// lower rate takes effect for everybody at once, and a waiter that gives up
// costs nothing. [Permit.Cancel] leaves the bucket as if the token had never
// been taken, unless a thousand others have been taken since; then it has no
// effect.
type TokenBucket struct {
	mu      sync.Mutex // guards all below
	bucket  *rate.Limiter
	ahead   time.Duration // how far the bucket's time is ahead, because of returned tokens
	history history
	paused  time.Time // no operation starts before; zero: not paused
	changed bool      // its rate or burst was changed
	line    line.Line
}

// TokenBucketStats is a snapshot of a [TokenBucket].
type TokenBucketStats struct {
	Rate        float64   // tokens per second
	Burst       int       // tokens it can hold
	Tokens      float64   // tokens in it now
	Waiting     int       // callers that wait in Acquire
	PausedUntil time.Time // zero when it is not paused
}

var (
	_ Limiter  = (*TokenBucket)(nil)
	_ Releaser = (*TokenBucket)(nil)
)

// NewTokenBucket returns a full bucket that holds burst tokens, each good for
// the start of one operation, and gains ratePerSecond tokens a second. It
// fails when the rate is not a finite number above 0, or burst is below 1.
func NewTokenBucket(ratePerSecond float64, burst int) (*TokenBucket, error) {
	if err := checkRate(ratePerSecond); err != nil {
		return nil, fmt.Errorf("limiter: NewTokenBucket: %w", err)
	}
	if err := checkBurst(burst); err != nil {
		return nil, fmt.Errorf("limiter: NewTokenBucket: %w", err)
	}
	return &TokenBucket{bucket: rate.NewLimiter(rate.Limit(ratePerSecond), burst)}, nil
}

func checkRate(perSecond float64) error {
	if !(perSecond > 0) || math.IsInf(perSecond, 1) { // not NaN either
		return fmt.Errorf("ratePerSecond is %v: must be a finite number above 0", perSecond)
	}
	return nil
}

func checkBurst(n int) error {
	if n < 1 {
		return fmt.Errorf("burst is %d: must be at least 1", n)
	}
	return nil
}

// SetRate changes the rate, for current waiters too. It fails, changing
// nothing, when ratePerSecond is not a finite number above 0.
func (b *TokenBucket) SetRate(ratePerSecond float64) error {
	if err := checkRate(ratePerSecond); err != nil {
		return fmt.Errorf("limiter: TokenBucket.SetRate: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bucket.SetLimitAt(b.time(time.Now()), rate.Limit(ratePerSecond))
	b.changed = true
	b.line.Stir()
	return nil
}

// SetBurst changes how many tokens the bucket can hold. Raising it adds room,
// not tokens; tokens that no longer fit are lost. It fails, changing nothing,
// when burst is below 1.
func (b *TokenBucket) SetBurst(burst int) error {
	if err := checkBurst(burst); err != nil {
		return fmt.Errorf("limiter: TokenBucket.SetBurst: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.history.add(b.room(now))
	b.bucket.SetBurstAt(b.time(now), burst)
	b.changed = true
	b.line.Stir()
	return nil
}

// Pause lets no operation start before until. Tokens keep accumulating, up to
// the burst. Another pause never shortens it: of two, the one that ends later
// applies. [TokenBucket.Resume] ends it.
func (b *TokenBucket) Pause(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until.After(b.paused) {
		b.paused = until
		b.line.Stir()
	}
}

// Resume ends a pause now.
func (b *TokenBucket) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = time.Time{}
	b.line.Stir()
}

// Stats returns the settings, the tokens and the waiters, at one instant.
func (b *TokenBucket) Stats() TokenBucketStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	s := TokenBucketStats{
		Rate:    float64(b.bucket.Limit()),
		Burst:   b.bucket.Burst(),
		Tokens:  b.tokens(now),
		Waiting: b.line.Waiting(),
	}
	if b.pause(now) > 0 {
		s.PausedUntil = b.paused
	}
	return s
}

// Idle reports whether the bucket is as good as new, so that a [Keyed] may
// forget it: it is full and not paused, nobody waits, and its settings were
// never changed.
func (b *TokenBucket) Idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	return b.room(now) <= 0 && b.pause(now) == 0 && b.line.Empty() && !b.changed
}

// Ready implements [Limiter]: the tokens in the bucket and those gained
// within the given time, but none before the end of a pause.
func (b *TokenBucket) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.line.Watch(ctx, &b.mu, max, func() (int, time.Duration) {
		now := time.Now()
		pause := b.pause(now)
		if pause > within {
			return 0, pause - within
		}
		return b.count(now.Add(pause), within-pause)
	})
}

// count returns how many operations of new callers could start from now on
// within the given time. If none could, it returns after how long one could.
func (b *TokenBucket) count(now time.Time, within time.Duration) (n int, retry time.Duration) {
	perSecond := float64(b.bucket.Limit())
	tokens := b.tokens(now) + perSecond*within.Seconds() - float64(b.line.Waiting())
	if retry = b.gain(1 - tokens); retry > 0 {
		return 0, retry
	}
	const rounding = 1e-9 // of sums that would be whole
	return max(1, int(min(tokens+rounding, math.MaxInt32))), 0
}

// Acquire implements [Limiter].
func (b *TokenBucket) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.line.Join(ctx, &b.mu, b.take, nil); err != nil {
		return Permit{}, err
	}
	return b.permit(), nil
}

// TryAcquire implements [Limiter].
func (b *TokenBucket) TryAcquire() (Permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line.Waiting() > 0 {
		return Permit{}, false
	}
	if _, ok := b.take(); !ok {
		return Permit{}, false
	}
	return b.permit(), true
}

// Blocked implements [Limiter].
func (b *TokenBucket) Blocked() Block {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.pause(now) > 0 {
		return Block{Reason: ByPause, Until: b.paused}
	}
	if n, retry := b.count(now, 0); n == 0 {
		return Block{Reason: ByRate, Until: now.Add(retry)}
	}
	return Block{}
}

// ReleasePermit implements [Releaser]. A rate limits starts: how and when an
// operation ends changes nothing.
func (b *TokenBucket) ReleasePermit(uint64, error) {}

// AbstainPermit implements [Releaser].
func (b *TokenBucket) AbstainPermit(uint64) {}

// CancelPermit implements [Releaser].
func (b *TokenBucket) CancelPermit(token uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// The bucket takes tokens back in the form of time, and keeps to the
	// burst. It has 292 years of time, which a rate of few tokens would use
	// up.
	back, limit := b.history.undo(token), b.bucket.Limit()
	now := time.Now()
	if limit < 1 {
		b.bucket.SetLimitAt(b.time(now), 1)
	}
	b.ahead += min(b.gain(back), line.Never-b.ahead)
	if limit < 1 {
		b.bucket.SetLimitAt(b.time(now), limit)
	}
	b.line.Stir()
}

// permit returns the permit for the token just taken.
func (b *TokenBucket) permit() Permit { return Permit{r: b, token: b.history.last()} }

// take takes a token, or returns after how long to try again.
func (b *TokenBucket) take() (retry time.Duration, ok bool) {
	now := time.Now()
	if pause := b.pause(now); pause > 0 {
		return pause, false
	}
	room := b.room(now)
	if !b.bucket.AllowN(b.time(now), 1) {
		return max(1, b.gain(1-b.tokens(now))), false
	}
	b.history.add(room)
	return 0, true
}

// time returns the bucket's time, which never runs backwards: now is read
// under mu.
func (b *TokenBucket) time(now time.Time) time.Time { return now.Add(b.ahead) }

func (b *TokenBucket) tokens(now time.Time) float64 { return b.bucket.TokensAt(b.time(now)) }

// room returns how many tokens the bucket lacks to be full.
func (b *TokenBucket) room(now time.Time) float64 {
	return float64(b.bucket.Burst()) - b.tokens(now)
}

// pause returns how long the pause still lasts.
func (b *TokenBucket) pause(now time.Time) time.Duration {
	if b.paused.IsZero() {
		return 0
	}
	return max(0, b.paused.Sub(now))
}

// gain returns how long the bucket takes to gain that many tokens, in whole
// nanoseconds: like the bucket itself, it treats less than one as none.
func (b *TokenBucket) gain(tokens float64) time.Duration {
	d := tokens / float64(b.bucket.Limit()) * float64(time.Second)
	switch {
	case d <= 0:
		return 0
	case d >= float64(line.Never-1):
		return line.Never - 1
	}
	return time.Duration(d)
}

// maxHistory is how many of the last takes can be undone.
const maxHistory = 1024

// A history remembers how much room there was in a bucket before each take.
//
// Returning a whole token would be too much if the bucket has been nearly full
// since it was taken: had the token stayed in, the bucket would have
// overflowed. For example, take one of one, wait until there is one again,
// take that, and return the first: two operations would start at once with a
// burst of one. So the amount returned is what would not have overflowed: one
// token, or the least room that there has been since, if that is less. Between
// takes the room only shrinks, so it is enough to know it before each.
type history struct {
	first uint64    // number of the first take in rooms
	rooms []float64 // the room before each
}

// add appends a take, or a change of the burst, which is a take of no token.
func (h *history) add(room float64) {
	switch {
	case room <= 0: // full: there is no room for any token taken before
		h.first += uint64(len(h.rooms))
		h.rooms = h.rooms[:0]
	case len(h.rooms) == 2*maxHistory:
		h.first += maxHistory
		h.rooms = h.rooms[:copy(h.rooms, h.rooms[maxHistory:])]
	}
	h.rooms = append(h.rooms, room)
}

// last returns the number of the last take.
func (h *history) last() uint64 { return h.first + uint64(len(h.rooms)) - 1 }

// undo turns the take with that number into one of no token, and returns how
// much of its token can be returned, if there is room for it now.
func (h *history) undo(number uint64) float64 {
	if number < h.first || number > h.last() {
		return 0
	}
	back := 1.0
	later := h.rooms[number-h.first+1:]
	for i, room := range later {
		back = min(back, room)
		later[i] -= back // as if it had never left the bucket
	}
	return back
}
