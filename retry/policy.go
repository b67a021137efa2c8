package retry

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The defaults for a [Policy]'s zero fields.
const (
	DefaultMaxAttempts = 12
	DefaultBaseDelay   = time.Second
	DefaultMaxDelay    = 5 * time.Minute
	DefaultMultiplier  = 2.0
	DefaultJitter      = 1.0
)

// A Policy decides whether and when to try again. It has no state: copy it,
// share it, use it from many goroutines. The zero Policy makes 12 attempts
// with delays of up to 1 s, 2 s, 4 s and so on up to 5 min, fully jittered.
type Policy struct {
	// MaxAttempts is how many attempts are made, including the first one.
	// Negative: no limit. Default 12.
	MaxAttempts int

	// BaseDelay is the delay after the first attempt, before jitter. It must
	// not be negative or above MaxDelay. Default 1 s, or MaxDelay if that is set
	// and shorter.
	BaseDelay time.Duration

	// MaxDelay bounds the delay. Only a longer RetryAfter exceeds it. It must
	// not be negative. Default 5 min, or BaseDelay if that is longer.
	MaxDelay time.Duration

	// Multiplier is the ratio of each delay to the one before, 1 (all the
	// same) or more. Default 2.
	Multiplier float64

	// Jitter is the share of the delay that is random, up to 1: with 0.5 a
	// delay is between half of the full delay and all of it. Negative: none.
	// Default 1, full jitter: anything between 0 and the full delay.
	Jitter float64

	// Retryable reports whether an error is worth another attempt. It is not
	// called for errors that are [ErrPermanent], which never are. It may be
	// called concurrently. Default: all other errors are.
	Retryable func(error) bool
}

// Validate returns an error that names the first field whose value is out of
// range, or nil. Constructors that take a Policy call it.
func (p Policy) Validate() error {
	switch {
	case p.BaseDelay < 0:
		return fmt.Errorf("retry: Policy: BaseDelay is %v: must not be negative", p.BaseDelay)
	case p.MaxDelay < 0:
		return fmt.Errorf("retry: Policy: MaxDelay is %v: must not be negative", p.MaxDelay)
	case p.MaxDelay != 0 && p.MaxDelay < p.BaseDelay:
		return fmt.Errorf("retry: Policy: MaxDelay is %v: must not be below BaseDelay, %v", p.MaxDelay, p.BaseDelay)
	case p.Multiplier != 0 && !(p.Multiplier >= 1 && p.Multiplier <= math.MaxFloat64):
		return fmt.Errorf("retry: Policy: Multiplier is %v: must be a number of at least 1", p.Multiplier)
	case !(p.Jitter >= -math.MaxFloat64 && p.Jitter <= 1):
		return fmt.Errorf("retry: Policy: Jitter is %v: must be a number of at most 1", p.Jitter)
	}
	return nil
}

// WithDefaults returns p with the defaults in place of zero fields, except for
// Retryable. The result behaves exactly like p.
func (p Policy) WithDefaults() Policy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = DefaultMaxAttempts
	}
	switch {
	case p.BaseDelay == 0 && p.MaxDelay == 0:
		p.BaseDelay, p.MaxDelay = DefaultBaseDelay, DefaultMaxDelay
	case p.BaseDelay == 0:
		p.BaseDelay = min(DefaultBaseDelay, p.MaxDelay)
	case p.MaxDelay == 0:
		p.MaxDelay = max(DefaultMaxDelay, p.BaseDelay)
	}
	if p.Multiplier == 0 {
		p.Multiplier = DefaultMultiplier
	}
	if p.Jitter == 0 {
		p.Jitter = DefaultJitter
	}
	return p
}

// Next returns whether to try again after attempt number attempt (1 is the
// first; less counts as 1) failed with err, and how long to wait before that.
// Only the jitter makes two calls with the same arguments differ.
//
// The delay is that of [Policy.Backoff], or err's RetryAfter if that is
// longer, even beyond MaxDelay. ok is false, and the delay 0, when the
// attempts are used up, when err is not worth another one, and when err is
// nil.
func (p Policy) Next(attempt int, err error) (delay time.Duration, ok bool) {
	if !p.retries(err) || p.exhausted(attempt) {
		return 0, false
	}
	return p.delay(attempt, err), true
}

// exhausted reports whether attempt is the last one.
func (p Policy) exhausted(attempt int) bool {
	limit := p.WithDefaults().MaxAttempts
	return limit > 0 && max(attempt, 1) >= limit
}

// delay returns how long to wait after attempt failed with err.
func (p Policy) delay(attempt int, err error) time.Duration {
	delay := p.Backoff(attempt)
	if after, said := retryAfter(err); said {
		delay = max(delay, after)
	}
	return delay
}

// retries reports whether err is worth another attempt, however many were made.
func (p Policy) retries(err error) bool {
	if err == nil || errors.Is(err, ErrPermanent) {
		return false
	}
	return p.Retryable == nil || p.Retryable(err)
}

// Backoff returns the jittered delay after attempt n (1 is the first; less
// counts as 1), whether or not there is to be another attempt. The result is
// between (1 - Jitter) of the full delay and all of it. The time it takes does
// not depend on n.
func (p Policy) Backoff(n int) time.Duration {
	p = p.WithDefaults()
	whole := p.MaxDelay
	// In floating point a late attempt is +Inf instead of an overflow; the
	// comparison is false for that, and for NaN.
	if d := float64(p.BaseDelay) * math.Pow(p.Multiplier, float64(max(n, 1)-1)); d >= 0 && d < float64(p.MaxDelay) {
		whole = time.Duration(d)
	}
	if !(p.Jitter > 0) || whole <= 0 {
		return max(whole, 0)
	}

	// backoff jitters to both sides of an interval, so the interval is placed
	// in the middle of the random part. It computes one delay only, because
	// calling it n times for the n-th one would not take constant time.
	half := time.Duration(float64(whole) * (p.Jitter / 2))
	middle := whole - half
	b := backoff.ExponentialBackOff{
		InitialInterval:     middle,
		RandomizationFactor: float64(half) / float64(middle),
		Multiplier:          1,
		MaxInterval:         middle,
		MaxElapsedTime:      0, // never stop: MaxAttempts decides
		Clock:               backoff.SystemClock,
	}
	b.Reset()
	// The result may be a nanosecond too long, which at the end of the range
	// is an overflow.
	if d := b.NextBackOff(); d >= 0 && d < whole {
		return d
	}
	return whole
}
