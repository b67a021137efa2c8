package retry_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/retry"
)

var errFlaky = errors.New("flaky")

func TestZeroPolicy(t *testing.T) {
	var p retry.Policy
	require.NoError(t, p.Validate())
	for attempt := 1; attempt < 12; attempt++ {
		_, ok := p.Next(attempt, errFlaky)
		require.True(t, ok, "attempt %d", attempt)
	}
	for _, attempt := range []int{12, 13, math.MaxInt} {
		_, ok := p.Next(attempt, errFlaky)
		require.False(t, ok, "attempt %d", attempt)
	}
	full := p.WithDefaults()
	require.Equal(t, 12, full.MaxAttempts)
	require.Equal(t, time.Second, full.BaseDelay)
	require.Equal(t, 5*time.Minute, full.MaxDelay)
	require.Equal(t, 2.0, full.Multiplier)
	require.Equal(t, 1.0, full.Jitter)
}

func TestDefaultDelaysGiveWayToEachOther(t *testing.T) {
	require.Equal(t, 50*time.Millisecond, retry.Policy{MaxDelay: 50 * time.Millisecond}.WithDefaults().BaseDelay)
	require.Equal(t, time.Second, retry.Policy{MaxDelay: time.Hour}.WithDefaults().BaseDelay)
	require.Equal(t, time.Hour, retry.Policy{BaseDelay: time.Hour}.WithDefaults().MaxDelay)
	require.Equal(t, 5*time.Minute, retry.Policy{BaseDelay: time.Millisecond}.WithDefaults().MaxDelay)
}

func TestDelaysWithoutJitter(t *testing.T) {
	p := retry.Policy{BaseDelay: 100 * time.Millisecond, MaxDelay: time.Second, Multiplier: 3, Jitter: -1}
	for attempt, want := range map[int]time.Duration{
		math.MinInt: 100 * time.Millisecond,
		0:           100 * time.Millisecond,
		1:           100 * time.Millisecond,
		2:           300 * time.Millisecond,
		3:           900 * time.Millisecond,
		4:           time.Second,
		1_000_000:   time.Second,
		math.MaxInt: time.Second,
	} {
		require.Equal(t, want, p.Backoff(attempt), "attempt %d", attempt)
	}
	p.Multiplier = 1
	require.Equal(t, 100*time.Millisecond, p.Backoff(1_000_000))
	p.Multiplier = math.MaxFloat64
	require.Equal(t, time.Second, p.Backoff(2))
}

func TestLongestDelays(t *testing.T) {
	for _, jitter := range []float64{-1, math.SmallestNonzeroFloat64, 1e-9, 0.5, 1} {
		p := retry.Policy{BaseDelay: math.MaxInt64 - 1, MaxDelay: math.MaxInt64, Jitter: jitter}
		require.NoError(t, p.Validate())
		for attempt := range 100 {
			d := p.Backoff(attempt)
			require.GreaterOrEqual(t, d, time.Duration(0), "jitter %v", jitter)
			if jitter < 0.1 {
				require.Greater(t, d, time.Duration(math.MaxInt64/2), "jitter %v", jitter)
			}
		}
	}
}

// Any policy and any attempt: the delay is between (1-Jitter) of the whole and
// the whole, and a late attempt costs no more than an early one.
func TestDelayIsWithinTheRandomShare(t *testing.T) {
	seed := testrun.Seed(t)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		p := retry.Policy{
			BaseDelay:  1 + time.Duration(r.Int64N(int64(time.Hour))),
			Multiplier: 1 + 4*r.Float64(),
			Jitter:     1 - r.Float64(),
		}
		p.MaxDelay = p.BaseDelay + time.Duration(r.Int64N(int64(24*time.Hour)))
		if r.IntN(4) == 0 {
			p.BaseDelay, p.MaxDelay = 1+p.BaseDelay%10, 10+p.MaxDelay%100 // nanoseconds
		}
		require.NoError(t, p.Validate(), "seed %d: %+v", seed, p)
		attempt := 1 + r.IntN(1<<r.IntN(21))
		plain := p
		plain.Jitter = -1
		whole := plain.Backoff(attempt)
		d := p.Backoff(attempt)
		require.LessOrEqual(t, d, whole, "seed %d: %+v, attempt %d", seed, p, attempt)
		require.GreaterOrEqual(t, float64(d)+2, float64(whole)*(1-p.Jitter), "seed %d: %+v, attempt %d", seed, p, attempt)
	}
}

func TestJitterIsSpreadOverItsShare(t *testing.T) {
	for _, jitter := range []float64{0, 0.5} {
		p := retry.Policy{BaseDelay: time.Second, Jitter: jitter}
		low, n := 1-p.WithDefaults().Jitter, 8000
		var quarters [4]int
		for range n {
			share := (p.Backoff(1).Seconds() - low) / (1 - low)
			quarters[min(3, int(share*4))]++
		}
		for i, count := range quarters {
			// 2,000 expected; 300 is nearly 8 standard deviations.
			require.InDelta(t, n/4, count, 300, "jitter %v: quarter %d of %v", jitter, i, quarters)
		}
	}
}

func TestNextGoesByTheError(t *testing.T) {
	p := retry.Policy{MaxDelay: time.Minute}
	_, ok := p.Next(1, nil)
	require.False(t, ok, "nothing failed")
	_, ok = p.Next(1, fmt.Errorf("order 7: %w", retry.Permanent(errFlaky)))
	require.False(t, ok)

	d, ok := p.Next(1, fmt.Errorf("order 7: %w", retry.After(time.Hour, errFlaky)))
	require.True(t, ok)
	require.Equal(t, time.Hour, d, "beyond MaxDelay")

	p = retry.Policy{BaseDelay: time.Minute, Jitter: -1}
	d, ok = p.Next(1, retry.After(time.Second, errFlaky))
	require.True(t, ok)
	require.Equal(t, time.Minute, d, "the longer one")
	d, ok = p.Next(1, negativeAfter{})
	require.True(t, ok)
	require.Equal(t, time.Minute, d)
}

type negativeAfter struct{}

func (negativeAfter) Error() string             { return "negative" }
func (negativeAfter) RetryAfter() time.Duration { return -1 }

func TestRetryable(t *testing.T) {
	p := retry.Policy{Retryable: func(err error) bool { return errors.Is(err, errFlaky) }}
	_, ok := p.Next(1, errFlaky)
	require.True(t, ok)
	_, ok = p.Next(1, errors.New("other"))
	require.False(t, ok)
	_, ok = p.Next(1, retry.Permanent(errFlaky))
	require.False(t, ok, "permanent is stronger")
}

func TestNoLimit(t *testing.T) {
	_, ok := retry.Policy{MaxAttempts: -1}.Next(math.MaxInt, errFlaky)
	require.True(t, ok)
	_, ok = retry.Policy{MaxAttempts: 1}.Next(0, errFlaky)
	require.False(t, ok, "less than 1 counts as 1")
}

func TestValidateNamesTheField(t *testing.T) {
	for field, p := range map[string]retry.Policy{
		"BaseDelay is -1s":       {BaseDelay: -time.Second},
		"MaxDelay is -1s":        {MaxDelay: -time.Second},
		"MaxDelay is 1s":         {MaxDelay: time.Second, BaseDelay: time.Minute},
		"Multiplier is 0.5":      {Multiplier: 0.5},
		"Multiplier is -1":       {Multiplier: -1},
		"Multiplier is NaN":      {Multiplier: math.NaN()},
		"Multiplier is +Inf":     {Multiplier: math.Inf(1)},
		"Jitter is 1.1":          {Jitter: 1.1},
		"Jitter is NaN":          {Jitter: math.NaN()},
		"Jitter is -Inf":         {Jitter: math.Inf(-1)},
		"Jitter is 1.0000000001": {Jitter: 1.0000000001},
	} {
		err := p.Validate()
		require.ErrorContains(t, err, "retry: Policy: "+field+": must")
		require.NotPanics(t, func() {
			for attempt := range 100 {
				require.GreaterOrEqual(t, p.Backoff(attempt), time.Duration(0), field)
			}
		})
	}
	for _, p := range []retry.Policy{{Jitter: -1}, {Multiplier: 1}, {BaseDelay: time.Hour}, {MaxAttempts: -5}, {MaxDelay: 1}} {
		require.NoError(t, p.Validate(), "%+v", p)
	}
}

func BenchmarkNext(b *testing.B) {
	for _, attempt := range []int{1, 1_000_000} {
		b.Run(fmt.Sprint("attempt=", attempt), func(b *testing.B) {
			p := retry.Policy{MaxAttempts: -1}
			b.ReportAllocs()
			for b.Loop() {
				p.Next(attempt, errFlaky)
			}
		})
	}
}
