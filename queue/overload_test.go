package queue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// ----- the first 429 -----

// A throttle is an API that answers 429 with a Retry-After for a while, now and
// then: to whatever reaches it from the beginning of each of its closures. It
// is an [http.RoundTripper] that takes no network.
type throttle struct {
	closed []time.Time // the beginnings

	mu       sync.Mutex // guards all below
	rng      *rand.Rand
	inFlight int // on their way there, served, or on their way back
	starts   []time.Time
	arrivals []time.Time
	refusals []time.Time // when they had come back
	answers  []time.Time // of what was served, when these had come back
	most     []int       // the most in flight at each start
}

const (
	retryAfter = 30 * time.Second
	trip       = 10 * time.Millisecond // there, or back
	quickest   = 20 * time.Millisecond // of what is served
	slowest    = 80 * time.Millisecond
)

// RoundTrip implements [http.RoundTripper].
func (a *throttle) RoundTrip(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.inFlight++
	a.starts = append(a.starts, time.Now())
	a.most = append(a.most, a.inFlight)
	a.mu.Unlock()

	time.Sleep(trip)
	res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}
	now := time.Now()
	refused := slices.ContainsFunc(a.closed, func(t time.Time) bool { return !now.Before(t) && now.Before(t.Add(retryAfter)) })
	a.mu.Lock()
	a.arrivals = append(a.arrivals, now)
	took := quickest + time.Duration(a.rng.Int64N(int64(slowest-quickest)))
	a.mu.Unlock()
	if refused {
		res.StatusCode = http.StatusTooManyRequests
		res.Header.Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
	} else {
		time.Sleep(took)
	}
	time.Sleep(trip)

	a.mu.Lock()
	defer a.mu.Unlock()
	a.inFlight--
	if refused {
		a.refusals = append(a.refusals, time.Now())
	} else {
		a.answers = append(a.answers, time.Now())
	}
	return res, nil
}

// within counts the times that are after from and not after to.
func within(times []time.Time, from, to time.Time) (n int) {
	for _, t := range times {
		if t.After(from) && !t.After(to) {
			n++
		}
	}
	return n
}

// since counts the times from then on, and before to.
func since(times []time.Time, from, to time.Time) (n int) {
	for _, t := range times {
		if !t.Before(from) && t.Before(to) {
			n++
		}
	}
	return n
}

// adaptive returns a limiter that has found that all of the consumer's handlers
// may run at once.
func adaptive(t *testing.T, most int) *limiter.Adaptive {
	t.Helper()
	a, err := limiter.NewAdaptive(limiter.AdaptiveConfig{Max: most, Initial: most})
	require.NoError(t, err)
	return a
}

func adaptiveRate(t *testing.T) *limiter.AdaptiveRate {
	t.Helper()
	a, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{})
	require.NoError(t, err)
	return a
}

// After the first 429 no more requests arrive than were in flight, then none for
// as long as it said, then a ramp; and all of that costs no message a receive.
func TestTheFirst429PausesEverybody(t *testing.T) {
	for name, c := range map[string]struct {
		limiter func(t *testing.T, concurrency int) limiter.Limiter
		client  bool // it is the client's own, and the consumer only checks it
		byRate  bool // it ramps up by time, not by successes
	}{
		"by default": {limiter: func(*testing.T, int) limiter.Limiter { return nil }, byRate: true},
		"Adaptive":   {limiter: func(t *testing.T, n int) limiter.Limiter { return adaptive(t, n) }},
		"Adaptive and Breaker": {limiter: func(t *testing.T, n int) limiter.Limiter {
			return all(t, adaptive(t, n), breaker(t))
		}},
		"AdaptiveRate": {limiter: func(t *testing.T, _ int) limiter.Limiter { return adaptiveRate(t) }, byRate: true},
		"AdaptiveRate and Breaker": {limiter: func(t *testing.T, _ int) limiter.Limiter {
			return all(t, adaptiveRate(t), breaker(t))
		}, byRate: true},
		"the client's Adaptive": {limiter: func(t *testing.T, n int) limiter.Limiter { return adaptive(t, n) }, client: true},
	} {
		for _, concurrency := range []int{1, 20} {
			bubble(t, fmt.Sprintf("%s, %d at once", name, concurrency), func(t *testing.T) {
				messages, closures, began := 10_000, 3, time.Now()
				switch {
				case !testrun.Long():
					messages, closures = 1500, 1
				case concurrency == 1:
					messages = 1500
				}
				api := &throttle{rng: rand.New(rand.NewPCG(1, 1))}
				for i := range closures {
					api.closed = append(api.closed, began.Add(time.Duration(i)*40*time.Second+2*time.Second))
				}
				l := c.limiter(t, concurrency)
				cfg := queue.Config{Concurrency: concurrency, Limiter: l, Retry: retry.Policy{MaxAttempts: 2}}
				client := &http.Client{Transport: api}
				if c.client {
					transport, err := limiter.NewTransport(l, api)
					require.NoError(t, err)
					client.Transport = transport
					cfg.Limiter, cfg.Gate = nil, l
				}
				own, dead := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				q := newQueue(t, memqueue.Config{MaxReceives: 3, DeadLetter: own})
				fill(t, q, messages)
				cfg.DeadLetter = dead
				src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
				receives := map[int]int{} // messages by how often they were received, when they were done
				var mu sync.Mutex
				r := start(t, src, cfg, func(ctx context.Context, m *queue.Message) error {
					req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://api.test/", http.NoBody)
					if err != nil {
						return err
					}
					res, err := client.Do(req)
					if err != nil {
						return err
					}
					_ = res.Body.Close()
					if err := limiter.ResponseError(res); err != nil {
						return err
					}
					mu.Lock()
					defer mu.Unlock()
					receives[m.Attempt]++
					return nil
				})
				for q.Stats().Acked < uint64(messages) {
					require.Less(t, time.Since(began), 2*time.Hour, "%+v", r.Stats())
					time.Sleep(time.Second)
				}
				require.NoError(t, r.drain())

				for _, closed := range api.closed {
					requirePause(t, api, closed, concurrency, c.byRate)
				}
				s := r.Stats()
				t.Logf("messages by receives: %v; runs again: %d; refused: %d in %d closures", receives, s.Reruns, len(api.refusals), closures)
				require.EqualValues(t, messages, s.Done)
				require.Zero(t, own.Stats().Sent+dead.Stats().Sent, "nothing is dead-lettered")
				require.Equal(t, map[int]int{1: messages}, receives, "what was in hand stayed there")
				require.LessOrEqual(t, len(api.refusals), closures*concurrency)
			})
		}
	}
}

// requirePause checks the three phases after the API has closed.
func requirePause(t *testing.T, api *throttle, closed time.Time, concurrency int, byRate bool) {
	t.Helper()
	at := func(when time.Time) time.Duration { return when.Sub(closed) }
	i := slices.IndexFunc(api.refusals, func(t time.Time) bool { return !t.Before(closed) })
	require.GreaterOrEqual(t, i, 0, "the API was called when it closed")
	first := api.refusals[i]
	last := first
	for _, refusal := range api.refusals[i:] {
		if refusal.Before(closed.Add(retryAfter)) {
			last = refusal
		}
	}

	// The requests that were in flight when the first 429 came back, and no more.
	arrived := within(api.arrivals, first.Add(-trip), closed.Add(retryAfter))
	require.LessOrEqual(t, arrived, concurrency-1, "requests that reached the API after the first that it refused")

	// Nothing starts until the pause is over, by the last of them.
	reopens := last.Add(retryAfter)
	require.Zero(t, within(api.starts, first, reopens.Add(-time.Nanosecond)), "requests in the %v after the first 429, up to %v", retryAfter, at(reopens))
	n := slices.IndexFunc(api.starts, func(t time.Time) bool { return !t.Before(reopens) })
	require.GreaterOrEqual(t, n, 0)
	require.LessOrEqual(t, api.starts[n].Sub(reopens), time.Second, "and then it goes on")

	// A ramp: the steady rate is what there was in the second before.
	steady := since(api.starts, closed.Add(-time.Second), closed)
	var ramp []int
	const slice = 100 * time.Millisecond
	for k := range 10 {
		ramp = append(ramp, since(api.starts, reopens.Add(time.Duration(k)*slice), reopens.Add(time.Duration(k+1)*slice)))
	}
	t.Logf("first 429 after %v; %d more, the last after %v; steady %d/s; starts by 100 ms from %v on: %v", at(first), arrived, at(last), steady, at(reopens), ramp)
	if byRate {
		// Requests continue at once, and slower than before, unless there was
		// hardly a pace to lower.
		require.LessOrEqual(t, since(api.starts, reopens, reopens.Add(time.Second)), max(60, steady/2), "starts in the first second")
		return
	}
	// One at first, and one more at a time for each success, up to about as many as
	// there were: a breaker counts them when the 429 has come back, not when it is
	// sent.
	before := since(api.starts, api.starts[0], first) - since(api.answers, api.starts[0], first)
	for j, began := range api.starts[n:] {
		succeeded := since(api.answers, reopens, began.Add(time.Nanosecond))
		if 1+succeeded >= max(5, before*3/4) {
			break
		}
		require.LessOrEqual(t, api.most[n+j], 1+succeeded, "in flight %v after the pause", began.Sub(reopens))
	}
	require.LessOrEqual(t, since(api.starts, reopens, reopens.Add(2*trip+quickest)), 1, "starts in the first round trip")
	require.LessOrEqual(t, ramp[0], steady/10/2+3, "about half as many at most in the first 100 ms")
}
