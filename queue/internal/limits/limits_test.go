package limits_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/limits"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		require.NoError(t, err)
		return v
	}
}

func TestOneOfTheUsersOwnTakesTheDefaultsPlace(t *testing.T) {
	both := limits.Defaults{Breaker: true, Pace: true}
	bucket := must[*limiter.TokenBucket](t)(limiter.NewTokenBucket(1, 1))
	breaker := must[*limiter.Breaker](t)(limiter.NewBreaker(limiter.BreakerConfig{}))
	pace := must[*limiter.AdaptiveRate](t)(limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{}))
	adaptive := must[*limiter.Adaptive](t)(limiter.NewAdaptive(limiter.AdaptiveConfig{Max: 10}))
	all := must[limiter.Limiter](t)(limiter.All(bucket, breaker))
	keyed := must[*limiter.Keyed[int]](t)(limiter.NewKeyed(func(int) (limiter.Limiter, error) { return pace, nil }))
	const aBreaker, aPace, theirs = "breaker", "pace", "theirs"
	for name, c := range map[string]struct {
		known, gate limiter.Limiter
		d           limits.Defaults
		want        []string
	}{
		"nothing":             {nil, nil, both, []string{aBreaker, aPace}},
		"nothing, no breaker": {nil, nil, limits.Defaults{Pace: true}, []string{aPace}},
		"nothing, no pace":    {nil, nil, limits.Defaults{Breaker: true}, []string{aBreaker}},
		"nothing, neither":    {nil, nil, limits.Defaults{}, nil},
		"a bucket":            {bucket, nil, both, []string{aBreaker, theirs, aPace}},
		"a breaker":           {breaker, nil, both, []string{theirs, aPace}},
		"a breaker in an All": {all, nil, both, []string{theirs, theirs, aPace}},
		"a pace":              {pace, nil, both, []string{aBreaker, theirs}},
		"a pace of a Keyed":   {keyed.For(1), nil, both, []string{aBreaker, theirs}},
		"an Adaptive":         {adaptive, nil, both, []string{aBreaker, theirs}},
		"a breaker in Gate":   {bucket, breaker, both, []string{theirs, aPace}},
		"a pace in Gate":      {nil, pace, both, []string{aBreaker}},
		"an All in Gate":      {nil, all, both, []string{aPace}},
	} {
		t.Run(name, func(t *testing.T) {
			l := must[limiter.Limiter](t)(limits.Complete(c.known, c.gate, c.d))
			var got []string
			for m := range limiter.Members(l) {
				switch m := m.(type) {
				case *limiter.Breaker:
					got = append(got, map[bool]string{true: theirs, false: aBreaker}[m == breaker])
				case *limiter.AdaptiveRate:
					got = append(got, map[bool]string{true: theirs, false: aPace}[m == pace])
				default:
					got = append(got, theirs)
				}
			}
			require.Equal(t, c.want, got)
		})
	}
}

// When a rate is used up, the others' permits are returned as if they had never
// been acquired, and its block ranks after a pause and an outage.
func TestWhatALaterLimitRefusesDoesNotCount(t *testing.T) {
	bucket := must[*limiter.TokenBucket](t)(limiter.NewTokenBucket(0.001, 1))
	breaker := must[*limiter.Breaker](t)(limiter.NewBreaker(limiter.BreakerConfig{MinFailures: 1}))
	pace := must[*limiter.AdaptiveRate](t)(limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{}))
	l := must[limiter.Limiter](t)(limiter.All(breaker, bucket, pace))
	p, ok := l.TryAcquire()
	require.True(t, ok)
	require.Equal(t, limiter.ByRate, l.Blocked().Reason)
	_, ok = l.TryAcquire()
	require.False(t, ok)
	require.Equal(t, 1, breaker.Stats().InFlight)
	require.Equal(t, 1, pace.Stats().InFlight)

	p.Release(refused{})
	require.Equal(t, limiter.ByPause, l.Blocked().Reason)
	q, ok := breaker.TryAcquire()
	require.True(t, ok)
	q.Release(limiter.ErrUnavailable)
	require.Equal(t, limiter.ByBreaker, l.Blocked().Reason)
}

type refused struct{}

func (refused) Error() string             { return "429" }
func (refused) Is(err error) bool         { return err == limiter.ErrOverload }
func (refused) RetryAfter() time.Duration { return time.Minute }

// Each key gets a breaker and a pace of its own, in addition to its limiter.
func TestKeysAreCompletedEachForItself(t *testing.T) {
	keys := must[*limits.Keys](t)(limits.NewKeys(limits.Defaults{Breaker: true, Pace: true}))
	bucket := func() limiter.Limiter { return must[*limiter.TokenBucket](t)(limiter.NewTokenBucket(1000, 1000)) }
	a, b := bucket(), bucket()
	p, ok := keys.Complete(a).TryAcquire()
	require.True(t, ok)
	p.Release(refused{})
	require.Equal(t, limiter.ByPause, keys.Complete(a).Blocked().Reason, "and it is remembered")
	require.Empty(t, keys.Complete(b).Blocked().Reason)
	require.Len(t, slices.Collect(limiter.Members(keys.Complete(b))), 3)

	breaker := must[*limiter.Breaker](t)(limiter.NewBreaker(limiter.BreakerConfig{}))
	require.Len(t, slices.Collect(limiter.Members(keys.Complete(breaker))), 2)
	none := must[*limits.Keys](t)(limits.NewKeys(limits.Defaults{}))
	require.Same(t, a, none.Complete(a))
}
