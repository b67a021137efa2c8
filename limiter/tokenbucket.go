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

// A TokenBucket limits how often operations start: in any span of time t at
// most burst + rate*t of them do. Rate and burst can be changed while it is in
// use, and it can be paused.
//
// Those who wait stand in one line, and only its head sleeps. A token is taken
// at the instant at which its operation starts, never ahead, so a pause or a
// lower rate holds for everybody from that instant on, and somebody who gives
// up waiting costs nothing. [Permit.Cancel] leaves the bucket as if the token
// had never been taken, unless a thousand others have been taken since; then it
// leaves it as it is.
type TokenBucket struct {
	mu      sync.Mutex // guards all below
	bucket  *rate.Limiter
	ahead   time.Duration // how far the bucket's time is ahead, for what was put back
	history history
	paused  time.Time // no operation starts before; zero: not paused
	changed bool      // its rate or burst was
	line    line.Line
}

// TokenBucketStats is a snapshot of a [TokenBucket].
type TokenBucketStats struct {
	Rate        float64   // tokens per second
	Burst       int       // tokens it holds at most
	Tokens      float64   // tokens in it now
	Waiting     int       // callers that wait in Acquire
	PausedUntil time.Time // zero when it is not paused
}

var (
	_ Limiter  = (*TokenBucket)(nil)
	_ Releaser = (*TokenBucket)(nil)
)

// NewTokenBucket returns a full bucket that holds burst tokens, each good for
// the start of one operation, and gains ratePerSecond of them a second. It
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

// SetRate changes the rate, for those who wait already too. It fails, changing
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

// SetBurst changes how many tokens the bucket holds at most. Raising it adds
// room, not tokens; tokens that no longer fit are lost. It fails, changing
// nothing, when burst is below 1.
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

// Pause lets no operation start before until. Tokens go on gathering, up to
// the burst. A pause is never shortened by another one: of two, the one that
// ends later stands. [TokenBucket.Resume] ends it.
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

// Stats returns the settings, the tokens and who waits, at one instant.
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

// Idle reports whether it is as good as new, and so may be forgotten by a
// [Keyed]: it is full and not paused, nobody waits, and its settings were
// never changed.
func (b *TokenBucket) Idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	return b.room(now) <= 0 && b.pause(now) == 0 && b.line.Empty() && !b.changed
}

// Ready implements [Limiter]: the tokens there are and those that come within
// that time, but none before the end of a pause.
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

// count returns how many operations of newcomers could start from now on
// within that time. When that is none, it says after how long one could.
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

// ReleasePermit implements [Releaser]. A rate is about starts: how and when an
// operation ends changes nothing.
func (b *TokenBucket) ReleasePermit(uint64, error) {}

// AbstainPermit implements [Releaser].
func (b *TokenBucket) AbstainPermit(uint64) {}

// CancelPermit implements [Releaser].
func (b *TokenBucket) CancelPermit(token uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Time is what the bucket takes tokens back in, and it keeps to the burst.
	// There are 292 years of that, which a rate of few tokens would use up.
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

// take takes a token, or says after how long to try again.
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

// pause returns how long the pause goes on.
func (b *TokenBucket) pause(now time.Time) time.Duration {
	if b.paused.IsZero() {
		return 0
	}
	return max(0, b.paused.Sub(now))
}

// gain returns how long the bucket takes to gain that many tokens, in whole
// nanoseconds: like the bucket itself, it takes less than one for none.
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
// To put a whole token back would be too much when the bucket has been near
// full since it was taken: left in, the token would have made it flow over.
// Take one of one, wait until there is one again, take that, and put the first
// back: two operations would start at once with a burst of one. So what is put
// back is what would not have flowed over: one token, or the least room that
// there has been since, if that is less. Between takes the room only shrinks,
// so it is enough to know it before each.
type history struct {
	first uint64    // number of the first take in rooms
	rooms []float64 // the room before each
}

// add appends a take, or a change of the burst, which is one of nothing.
func (h *history) add(room float64) {
	switch {
	case room <= 0: // full: whatever was taken before, there is no room for it
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

// undo makes the take with that number one of nothing, and returns how much
// of its token can be put back, if there is room for it now.
func (h *history) undo(number uint64) float64 {
	if number < h.first || number > h.last() {
		return 0
	}
	back := 1.0
	later := h.rooms[number-h.first+1:]
	for i, room := range later {
		back = min(back, room)
		later[i] -= back // it has been in the bucket all the time
	}
	return back
}
