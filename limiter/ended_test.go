package limiter_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// A late context calls then once, after the first call of its Err: so it can
// end, and something can happen, between the first check of it and the next.
type late struct {
	context.Context
	then func()
}

func (c *late) Err() error {
	err := c.Context.Err()
	if then := c.then; then != nil {
		c.then = nil
		then()
	}
	return err
}

// full returns limiters under which nothing can start, each with a function
// that frees one slot.
func full(t *testing.T) map[string]func() (l limiter.Limiter, free func()) {
	taken := func(l limiter.Limiter) (limiter.Limiter, func()) {
		p := tryAcquire(t, l)
		return l, func() { p.Release(nil) }
	}
	paused := func(d time.Duration) *limiter.TokenBucket {
		b := newBucket(t, 1, 1)
		b.Pause(time.Now().Add(d))
		return b
	}
	return map[string]func() (limiter.Limiter, func()){
		"semaphore":    func() (limiter.Limiter, func()) { return taken(newSemaphore(t, 1)) },
		"adaptive":     func() (limiter.Limiter, func()) { return taken(newAdaptive(t, limiter.AdaptiveConfig{Max: 1})) },
		"token bucket": func() (limiter.Limiter, func()) { b := paused(time.Hour); return b, b.Resume },
		"adaptive rate": func() (limiter.Limiter, func()) {
			a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1})
			p := tryAcquire(t, a)
			return a, p.Cancel
		},
		"breaker": func() (limiter.Limiter, func()) {
			b := newBreaker(t, limiter.BreakerConfig{})
			trip(t, b, 1)
			return b, tryAcquire(t, b).Cancel
		},
		"keyed": func() (limiter.Limiter, func()) {
			k, err := limiter.NewKeyed(func(string) (limiter.Limiter, error) { return limiter.NewSemaphore(1) })
			require.NoError(t, err)
			return taken(k.For("a"))
		},
		"valve":                func() (limiter.Limiter, func()) { v := &limiter.Valve{}; v.Close(""); return v, v.Open },
		"all":                  func() (limiter.Limiter, func()) { return taken(all(t, newSemaphore(t, 1), newBucket(t, 1e9, 5))) },
		"all in another order": func() (limiter.Limiter, func()) { return taken(all(t, newBucket(t, 1e9, 5), newSemaphore(t, 1))) },
		"all of a paused": func() (limiter.Limiter, func()) {
			b := paused(time.Hour)
			return all(t, newSemaphore(t, 1), b), b.Resume
		},
	}
}

// A context that has ended before a slot was free gets no permit, whenever
// Acquire checks it, and leaves the limiter as if it had never been called.
func TestAContextThatHasEndedGetsNoPermit(t *testing.T) {
	for name := range full(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				create := full(t)[name] // in the bubble
				l, free := create()
				refused(t, l)
				ctx, cancel := context.WithCancelCause(t.Context())
				_, err := l.Acquire(&late{Context: ctx, then: func() { cancel(errGaveUp); free() }})
				require.Equal(t, errGaveUp, err)
				tryAcquire(t, l).Cancel()

				_, err = l.Acquire(ctx)
				require.Equal(t, errGaveUp, err)
				_, err = l.Ready(ctx, 1, 0)
				require.Equal(t, errGaveUp, err, "though one could start")
				tryAcquire(t, l).Cancel()

				l, free = create()
				ctx, cancel = context.WithCancelCause(t.Context())
				c := newCrowd()
				c.join(ctx, l, 0)
				cancel(errGaveUp)
				free()
				c.wg.Wait()
				require.Equal(t, map[int]error{0: errGaveUp}, c.errs, "in line")
				tryAcquire(t, l).Cancel()
			})
		})
	}
}

// Nothing runs for a context that has ended, whichever way the limiter is
// acquired.
func TestNothingRunsForAContextThatHasEnded(t *testing.T) {
	broken, err := limiter.NewKeyed(func(string) (limiter.Limiter, error) { return nil, errors.New("no such tenant") })
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGaveUp)
	for name, l := range map[string]limiter.Limiter{
		"no limit": all(t), "no limiter": broken.For("a"), "free": newSemaphore(t, 1),
	} {
		require.Equal(t, errGaveUp, limiter.Do(ctx, l, func(context.Context) error { return errPoison }), name)
		_, err := l.Ready(ctx, 1, 0)
		require.Equal(t, errGaveUp, err, name)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://inventory.test", strings.NewReader("x"))
		require.NoError(t, err)
		_, err = transport(t, l, respond(200, nil)).RoundTrip(req)
		require.Equal(t, errGaveUp, err, name)
	}
}

// Acquire with a context that has ended is no use of an AdaptiveRate.
func TestAContextThatHasEndedIsNoUse(t *testing.T) {
	a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.Acquire(ctx)
	require.Equal(t, context.Canceled, err)
	require.True(t, a.Idle())
}
