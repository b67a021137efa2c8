package main

import (
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/platinummonkey/go-concurrency-limits/core"
	"github.com/platinummonkey/go-concurrency-limits/limit"
	platinum "github.com/platinummonkey/go-concurrency-limits/limiter"
	"github.com/platinummonkey/go-concurrency-limits/strategy"

	"github.com/rampmeter/rampmeter/internal/downstream"
	"github.com/rampmeter/rampmeter/limiter"
)

// hardCap is the cap of every limiter that supports one.
const hardCap = 1000

// contenders are the compared limiters, set up as their documentation shows: with
// their defaults, except for the hard cap and a minimum limit of 1 where they support
// them.
var contenders = []struct {
	name string
	make func(downstream.Config) downstream.Client
}{
	{"capacity known", downstream.Known},
	{"rampmeter Adaptive", func(downstream.Config) downstream.Client { return newOurs() }},
	{"failsafe-go", func(downstream.Config) downstream.Client { return newFailsafe() }},
	{"AIMD", func(downstream.Config) downstream.Client {
		return newPlatinum(limit.NewDefaultAIMDLimit("aimd", core.EmptyMetricRegistryInstance))
	}},
	{"Vegas", func(downstream.Config) downstream.Client {
		return newPlatinum(limit.NewDefaultVegasLimit("vegas", limit.NoopLimitLogger{}, core.EmptyMetricRegistryInstance))
	}},
	{"Gradient2", func(downstream.Config) downstream.Client {
		l, err := limit.NewGradient2Limit("gradient2", 20, hardCap, 1, nil, 0.2, 600, limit.NoopLimitLogger{}, core.EmptyMetricRegistryInstance)
		if err != nil {
			panic(err)
		}
		return newPlatinum(l)
	}},
}

type ours struct{ *limiter.Adaptive }

func newOurs() ours {
	a, err := limiter.NewAdaptive(limiter.AdaptiveConfig{Max: hardCap})
	if err != nil {
		panic(err)
	}
	return ours{a}
}

func (o ours) Try() (end func(refused bool), ok bool) {
	p, ok := o.TryAcquire()
	return func(refused bool) {
		if refused {
			p.Release(limiter.ErrOverload)
		} else {
			p.Release(nil)
		}
	}, ok
}

type failsafe struct {
	adaptivelimiter.AdaptiveLimiter[any]
}

func newFailsafe() failsafe {
	return failsafe{adaptivelimiter.NewBuilder[any]().WithLimits(1, hardCap, 20).Build()}
}

func (f failsafe) Try() (end func(refused bool), ok bool) {
	p, ok := f.TryAcquirePermit()
	return func(refused bool) {
		if refused {
			p.Drop() // its API has no other way to report it
		} else {
			p.Record()
		}
	}, ok
}

type platinummonkey struct {
	limit   core.Limit
	limiter *platinum.DefaultLimiter
}

// newPlatinum wraps the limit in the library's limiter, with its default
// window.
func newPlatinum(l core.Limit) platinummonkey {
	const second, threshold, samples = 1e9, 1e5, 100
	d, err := platinum.NewDefaultLimiter(l, second, second, threshold, samples,
		strategy.NewSimpleStrategy(l.EstimatedLimit()), limit.NoopLimitLogger{}, core.EmptyMetricRegistryInstance)
	if err != nil {
		panic(err)
	}
	return platinummonkey{l, d}
}

func (p platinummonkey) Limit() int { return p.limit.EstimatedLimit() }

func (p platinummonkey) Try() (end func(refused bool), ok bool) {
	l, ok := p.limiter.Acquire(background)
	return func(refused bool) {
		if refused {
			l.OnDropped()
		} else {
			l.OnSuccess()
		}
	}, ok
}
