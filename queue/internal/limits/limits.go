// Package limits completes what a user knows about a downstream with what stands
// beside it in any case.
package limits

import (
	"slices"

	"github.com/rampmeter/rampmeter/limiter"
)

// Complete returns known with a Breaker beside it, unless breaker is false or one
// is in known or in gate already. A nil limiter is none.
func Complete(known, gate limiter.Limiter, breaker bool) (limiter.Limiter, error) {
	var all []limiter.Limiter
	if known != nil {
		all = append(all, known)
	}
	if breaker && !hasBreaker(known) && !hasBreaker(gate) {
		b, err := limiter.NewBreaker(limiter.BreakerConfig{})
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return limiter.All(all...)
}

func hasBreaker(l limiter.Limiter) bool {
	return l != nil && slices.ContainsFunc(limiter.Members(l), func(m limiter.Limiter) bool {
		_, ok := m.(*limiter.Breaker)
		return ok
	})
}
