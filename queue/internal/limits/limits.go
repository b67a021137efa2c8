// Package limits completes what a user knows about a downstream with the limits
// that learn about it.
package limits

import (
	"slices"

	"github.com/rampmeter/rampmeter/limiter"
)

// Defaults says which limits Complete adds.
type Defaults struct{ Breaker, Pace bool }

// Complete returns known with a Breaker and a pace, an AdaptiveRate, as far as
// they are wanted and none of that kind is in known or in gate already; an
// Adaptive is a pace, too. A nil limiter is none.
//
// The breaker is the first to be acquired and the pace the last: what a limit
// behind it refuses is cancelled, and a pace counts the fewest starts in vain.
func Complete(known, gate limiter.Limiter, d Defaults) (limiter.Limiter, error) {
	var all []limiter.Limiter
	if d.Breaker && !has[*limiter.Breaker](known, gate) {
		b, err := limiter.NewBreaker(limiter.BreakerConfig{})
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	if known != nil {
		all = append(all, known)
	}
	if d.Pace && !has[*limiter.AdaptiveRate](known, gate) && !has[*limiter.Adaptive](known, gate) {
		p, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{})
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return limiter.All(all...)
}

func has[L limiter.Limiter](among ...limiter.Limiter) bool {
	return len(Of[L](among...)) > 0
}

// Of returns those of a kind among the limiters and the members of Alls.
func Of[L limiter.Limiter](among ...limiter.Limiter) []L {
	var found []L
	for _, l := range among {
		if l == nil {
			continue
		}
		for _, m := range limiter.Members(l) {
			if m, ok := m.(L); ok && !slices.ContainsFunc(found, func(f L) bool { return any(f) == any(m) }) {
				found = append(found, m)
			}
		}
	}
	return found
}
