package main

import (
	"context"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// A Kind is a limiter and its name.
type Kind struct {
	Name    string
	Limiter limiter.Limiter
}

// Limiters returns one of each kind.
func Limiters(s Settings) ([]Kind, error) {
	fixed, err := limiter.NewSemaphore(s.Fixed)
	if err != nil {
		return nil, err
	}
	adaptive, err := limiter.NewAdaptive(limiter.AdaptiveConfig{Max: 10 * s.Capacity, Initial: min(s.Fixed, 10*s.Capacity)})
	if err != nil {
		return nil, err
	}
	breaker, err := limiter.NewBreaker(limiter.BreakerConfig{})
	if err != nil {
		return nil, err
	}
	none, err := limiter.All()
	if err != nil {
		return nil, err
	}
	both, err := limiter.All(adaptive, breaker)
	if err != nil {
		return nil, err
	}
	return []Kind{{"no limiter", none}, {"fixed limit", fixed}, {"Adaptive and Breaker", both}}, nil
}

// again is how all clients retry an operation: with backoff, until the end of the
// story. A client without a limiter does that much, too.
var again = retry.Policy{MaxDelay: 10 * time.Second, MaxAttempts: -1}

// A Client does operations by calling the downstream.
type Client struct {
	Limiter limiter.Limiter
	Far     *Downstream
}

// Run does one operation at each of these times, counted from now, until ctx
// ends.
func (c Client) Run(ctx context.Context, arrivals []time.Duration) {
	var all sync.WaitGroup
	defer all.Wait()
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for _, at := range arrivals {
		timer.Reset(at - time.Since(began))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return // also when both were ready
		}
		c.Far.Offer(at)
		all.Go(func() { c.do(ctx) })
	}
	<-ctx.Done()
}

// do does one operation, with as many calls as it needs.
func (c Client) do(ctx context.Context) {
	for attempt := 1; ; attempt++ {
		err := limiter.Do(ctx, c.Limiter, c.Far.Call)
		if err == nil || ctx.Err() != nil {
			return
		}
		delay, ok := again.Next(attempt, err)
		if !ok || sleep(ctx, delay, nil) != nil {
			return
		}
	}
}
