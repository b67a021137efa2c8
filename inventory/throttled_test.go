package inventory_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// A trip adds a network's delay to each request, and records it.
type trip struct {
	base http.RoundTripper

	mu       sync.Mutex // guards what follows
	inFlight int
	peaks    []peak
	refused  []time.Time // when 429s had come back
}

// A peak is how many requests were in flight when one started.
type peak struct {
	at       time.Time
	inFlight int
}

const oneWay = 10 * time.Millisecond

func (n *trip) RoundTrip(req *http.Request) (*http.Response, error) {
	n.mu.Lock()
	n.inFlight++
	n.peaks = append(n.peaks, peak{time.Now(), n.inFlight})
	n.mu.Unlock()
	time.Sleep(oneWay)
	res, err := n.base.RoundTrip(req)
	time.Sleep(oneWay)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inFlight--
	if err == nil && res.StatusCode == http.StatusTooManyRequests {
		n.refused = append(n.refused, time.Now())
	}
	return res, err
}

// starts returns how many requests started after from and before to, and their peak
// number in flight.
func (n *trip) starts(from, to time.Time) (count, most int) {
	for _, p := range n.peaks {
		if p.at.After(from) && p.at.Before(to) {
			count++
			most = max(most, p.inFlight)
		}
	}
	return count, most
}

// The first 429 with a Retry-After stops everyone who shares the client's limiter:
// requests in flight still arrive, then nothing for that long, then requests ramp up;
// and no order is lost or applied twice.
func TestTheFirst429StopsEverybody(t *testing.T) {
	const (
		concurrency = 20
		latency     = 80 * time.Millisecond // 100 ms with the trips: 200 requests a second
		after       = 30 * time.Second
	)
	orders := 4000
	if testing.Short() {
		orders = 1500
	}
	limiters := map[string]func(t *testing.T) limiter.Limiter{
		"Adaptive": func(t *testing.T) limiter.Limiter {
			a, err := limiter.NewAdaptive(limiter.AdaptiveConfig{Max: concurrency, Initial: concurrency})
			require.NoError(t, err)
			return a
		},
		"AdaptiveRate": func(t *testing.T) limiter.Limiter {
			a, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{Max: 200})
			require.NoError(t, err)
			return a
		},
	}
	drivers := map[string]func(t *testing.T, l limiter.Limiter, cfg inventory.Config){
		// A handler that just returns the client's error.
		"Consumer": func(t *testing.T, l limiter.Limiter, cfg inventory.Config) {
			client, err := inventory.New(cfg)
			require.NoError(t, err)
			q, err := memqueue.New(memqueue.Config{Wait: time.Second})
			require.NoError(t, err)
			dead, err := memqueue.New(memqueue.Config{})
			require.NoError(t, err)
			for i := range orders {
				require.NoError(t, q.Send(t.Context(), &queue.Message{Body: fmt.Append(nil, i)}))
			}
			q.Close() // Run ends when all is done
			handle := func(ctx context.Context, m *queue.Message) error {
				id := string(m.Body)
				_, err := client.Adjust(ctx, inventory.Adjustment{SKU: "A", Delta: -1, Reference: id, IdempotencyKey: id})
				return err
			}
			consumer, err := queue.NewConsumer(q, queue.HandlerFunc(handle), queue.Config{
				Concurrency: concurrency, Gate: l, DeadLetter: dead,
				Retry:  retry.Policy{MaxAttempts: 2},
				Logger: slog.New(slog.DiscardHandler),
			})
			require.NoError(t, err)
			require.NoError(t, consumer.Run(t.Context()))
			stats := consumer.Stats()
			require.EqualValues(t, orders, stats.Done)
			require.Zero(t, stats.DeadLettered+stats.Retried)
			require.Positive(t, stats.Reruns)
			require.LessOrEqual(t, stats.Reruns, int64(concurrency))
			require.Zero(t, dead.Stats().Sent)
		},
		// Goroutines without a queue, and the client's own retries.
		"retries": func(t *testing.T, _ limiter.Limiter, cfg inventory.Config) {
			cfg.Retry = &retry.Policy{MaxAttempts: 2}
			client, err := inventory.New(cfg)
			require.NoError(t, err)
			next := make(chan string)
			var wg sync.WaitGroup
			for range concurrency {
				wg.Go(func() {
					for id := range next {
						_, err := client.Adjust(t.Context(), inventory.Adjustment{SKU: "A", Delta: -1, Reference: id, IdempotencyKey: id})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			for i := range orders {
				next <- fmt.Sprint(i)
			}
			close(next)
			wg.Wait()
		},
	}
	for by, newLimiter := range limiters {
		for through, drive := range drivers {
			t.Run(by+"/"+through, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					api, err := inventorytest.New(inventorytest.Config{
						Stock: map[string]int{"A": orders}, Latency: latency,
						Outages: []inventorytest.Outage{{From: 5 * time.Second, To: 5*time.Second + after, Fault: inventorytest.Throttle, RetryAfter: after}},
					})
					require.NoError(t, err)
					defer func() { require.NoError(t, api.Close()) }()
					net := &trip{base: api.Transport()}
					l := newLimiter(t)
					drive(t, l, inventory.Config{BaseURL: "http://inventory.test", Token: token, Limiter: l, Transport: net})

					require.Equal(t, map[string]int{"A": 0}, api.Stock())
					require.Equal(t, orders, api.Stats().AppliedOnce)
					require.Zero(t, api.Stats().AppliedTwice)

					first, last := net.refused[0], net.refused[len(net.refused)-1]
					resumed := last.Add(after)
					arrived := 0 // after the first that was refused
					for _, a := range api.Arrivals() {
						if a.Status == http.StatusTooManyRequests {
							arrived++
						}
					}
					require.LessOrEqual(t, arrived-1, concurrency-1, "already in flight")
					count, _ := net.starts(first, resumed)
					require.Zero(t, count, "while it has to wait")

					// A ramp, and not all at once.
					full := latency + 2*oneWay
					count, most := net.starts(resumed.Add(-1), resumed.Add(full))
					require.Positive(t, count)
					require.LessOrEqual(t, most, concurrency/4, "at first")
					require.LessOrEqual(t, count, concurrency/4, "at first")
					count, _ = net.starts(resumed.Add(-1), resumed.Add(time.Minute))
					require.GreaterOrEqual(t, count, orders/4, "and then in full")
				})
			})
		}
	}
}

// The quota in the responses keeps the client within it, without a single refusal,
// and lets it use the quota up.
func TestQuotaHeadersAreHeeded(t *testing.T) {
	for headers, wanted := range map[inventorytest.QuotaHeaders]bool{
		inventorytest.DraftHeaders: true, inventorytest.XHeaders: true, inventorytest.NoHeaders: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			const quota, window, windows = 300, 30 * time.Second, 4
			rate, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{Max: 1000})
			require.NoError(t, err)
			api, client := newServer(t, inventorytest.Config{
				Quota: quota, Window: window, QuotaHeaders: headers, Latency: 50 * time.Millisecond,
			}, inventory.Config{Limiter: rate})
			ctx, cancel := context.WithTimeout(t.Context(), windows*window)
			defer cancel()
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() {
					for ctx.Err() == nil {
						_, _ = client.Level(ctx, "A")
					}
				})
			}
			wg.Wait()
			stats := api.Stats()
			t.Logf("%v: %d requests, %d admitted, %d refused", headers, stats.Requests, stats.Admitted, stats.RejectedByQuota)
			if !wanted {
				require.Positive(t, stats.RejectedByQuota, "or this shows nothing")
				return
			}
			require.Zero(t, stats.RejectedByQuota)
			require.GreaterOrEqual(t, stats.Admitted, quota*windows*8/10)
		})
	}
}

// The limiter gets the header of each response, whatever its status and body, once
// and before the permit is released.
func TestLimiterSeesTheHeaders(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{
		{200, `{"sku":"A","available":1}`},
		{200, `{`},
		{304, ``},
		{404, `{"code":"not_found"}`},
		{429, ``},
		{500, ``},
	} {
		o := &observer{}
		client, err := inventory.New(inventory.Config{
			BaseURL: "http://inventory.test", Token: token, Limiter: o,
			Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: c.status, Header: http.Header{"Ratelimit": {c.body}}, Body: bodyOf(c.body)}, nil
			}),
		})
		require.NoError(t, err)
		_, _ = client.Level(t.Context(), "A")
		require.Equal(t, []string{"observe " + c.body, "release"}, o.events, c.status)
	}
}

// An observer is a limiter that records the headers reported to it.
type observer struct {
	hearing
	events []string
}

func (o *observer) Acquire(context.Context) (limiter.Permit, error) {
	return limiter.NewPermit(o, math.MaxUint64), nil
}

func (o *observer) ObservePermit(token uint64, h http.Header) {
	if token == math.MaxUint64 {
		o.events = append(o.events, "observe "+h.Get("RateLimit"))
	}
}

func (o *observer) ReleasePermit(uint64, error) { o.events = append(o.events, "release") }
