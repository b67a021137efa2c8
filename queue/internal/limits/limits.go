// Package limits adds limits that learn about a downstream to those that a user
// configures.
package limits

import (
	"slices"

	"github.com/rampmeter/rampmeter/limiter"
)

// Defaults says which limits Complete adds.
type Defaults struct{ Breaker, Pace bool }

// missing returns the defaults that are in none of the limiters.
func (d Defaults) missing(among ...limiter.Limiter) Defaults {
	return Defaults{
		Breaker: d.Breaker && !has[*limiter.Breaker](among...),
		Pace:    d.Pace && !has[*limiter.AdaptiveRate](among...) && !has[*limiter.Adaptive](among...),
	}
}

// make returns the limiters that are wanted.
func (d Defaults) make() (breaker, pace []limiter.Limiter, err error) {
	if d.Breaker {
		b, err := limiter.NewBreaker(limiter.BreakerConfig{})
		if err != nil {
			return nil, nil, err
		}
		breaker = append(breaker, b)
	}
	if d.Pace {
		p, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{})
		if err != nil {
			return nil, nil, err
		}
		pace = append(pace, p)
	}
	return breaker, pace, nil
}

// Complete returns known with a Breaker and a pace (an AdaptiveRate), as far as
// they are wanted and neither known nor gate has one of that kind; an Adaptive is
// a pace, too. A nil limiter is none.
//
// The breaker is acquired first and the pace last: when a limit refuses, the
// permits acquired before it are cancelled, so the pace counts the fewest starts
// in vain.
func Complete(known, gate limiter.Limiter, d Defaults) (limiter.Limiter, error) {
	all, pace, err := d.missing(known, gate).make()
	if err != nil {
		return nil, err
	}
	if known != nil {
		all = append(all, known)
	}
	return limiter.All(append(all, pace...)...)
}

// Keys completes the limiters of keys. The limits that it adds to one are
// forgotten when they have not been used for long.
type Keys struct {
	defaults Defaults
	added    *limiter.Keyed[key]
}

type key struct {
	of    any // the identity of the key's limiter
	added Defaults
}

// NewKeys returns Keys that add the limits in d.
func NewKeys(d Defaults) (*Keys, error) {
	added, err := limiter.NewKeyed(func(k key) (limiter.Limiter, error) {
		breaker, pace, err := k.added.make()
		if err != nil {
			return nil, err
		}
		return limiter.All(append(breaker, pace...)...)
	})
	return &Keys{defaults: d, added: added}, err
}

// Complete returns own with the limits of its key added.
func (k *Keys) Complete(own limiter.Limiter) limiter.Limiter {
	missing := k.defaults.missing(own)
	if missing == (Defaults{}) {
		return own
	}
	all, err := limiter.All(own, k.added.For(key{limiter.Identity(own), missing}))
	if err != nil { // All fails for nil limiters only
		return own
	}
	return all
}

func has[L limiter.Limiter](among ...limiter.Limiter) bool {
	return len(Of[L](among...)) > 0
}

// Of returns the limiters of type L, those among the members of Alls included.
func Of[L limiter.Limiter](among ...limiter.Limiter) []L {
	var found []L
	for _, l := range among {
		if l == nil {
			continue
		}
		for m := range limiter.Members(l) {
			if m, ok := m.(L); ok && !slices.ContainsFunc(found, func(f L) bool { return any(f) == any(m) }) {
				found = append(found, m)
			}
		}
	}
	return found
}

// Any reports whether is holds for a limiter of type L, the limiter itself or one
// of its members.
func Any[L limiter.Limiter](limit limiter.Limiter, is func(L) bool) bool {
	for m := range limiter.Members(limit) {
		if m, ok := m.(L); ok && is(m) {
			return true
		}
	}
	return false
}
