package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

const token = "s3cr3t-t0ken"

// newServer returns a server and a client of it without a network.
func newServer(t *testing.T, cfg inventorytest.Config, with inventory.Config) (*inventorytest.Server, *inventory.Client) {
	t.Helper()
	cfg.Token = token
	if cfg.Stock == nil {
		cfg.Stock = map[string]int{"A": 10}
	}
	api, err := inventorytest.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	with.BaseURL = "http://inventory.test"
	if with.Transport == nil {
		with.Transport = api.Transport()
	}
	if with.TokenSource == nil {
		with.Token = token
	}
	client, err := inventory.New(with)
	require.NoError(t, err)
	return api, client
}

// startServer returns a server and a client of it over loopback.
func startServer(t *testing.T, cfg inventorytest.Config, with inventory.Config) (*inventorytest.Server, *inventory.Client) {
	t.Helper()
	cfg.Token = token
	api, err := inventorytest.New(cfg)
	require.NoError(t, err)
	url, err := api.Start()
	require.NoError(t, err)
	with.BaseURL, with.Token = url, token
	client, err := inventory.New(with)
	require.NoError(t, err)
	t.Cleanup(func() {
		client.CloseIdleConnections()
		require.NoError(t, api.Close())
	})
	return api, client
}

func take(n int) inventory.Adjustment {
	return inventory.Adjustment{SKU: "A", Delta: -n, Reference: "order-1", IdempotencyKey: "key-1"}
}

func TestOverLoopback(t *testing.T) {
	stock := map[string]int{"a/b": 1, "a//b?c#d%2F": 2, "ünï 世": 3, "...": 4, "A": 10}
	api, client := startServer(t, inventorytest.Config{Stock: stock}, inventory.Config{})
	for sku, n := range stock {
		level, err := client.Level(t.Context(), sku)
		require.NoError(t, err)
		require.Equal(t, inventory.Level{SKU: sku, Available: n, ETag: `"0"`}, level)
	}
	level, err := client.Adjust(t.Context(), take(3))
	require.NoError(t, err)
	require.Equal(t, 7, level.Available)
	level, err = client.Adjust(t.Context(), take(3))
	require.NoError(t, err)
	require.Equal(t, 7, level.Available, "the same key")
	_, err = client.Adjust(t.Context(), take(4))
	require.ErrorIs(t, err, inventory.ErrConflict)
	a := take(8)
	a.IdempotencyKey = "key-2"
	_, err = client.Adjust(t.Context(), a)
	require.ErrorIs(t, err, inventory.ErrOutOfStock)
	require.ErrorIs(t, err, retry.ErrPermanent)
	var e *inventory.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, `only 7 of "A" are left`, e.Message)
	require.NotEmpty(t, e.RequestID)
	_, err = client.Level(t.Context(), "nope")
	require.ErrorIs(t, err, inventory.ErrNotFound)
	require.Equal(t, 7, api.Stock()["A"])
	stats := api.Stats()
	require.Equal(t, 1, stats.AppliedOnce)
	require.Zero(t, stats.AppliedTwice)
	require.Equal(t, 1, stats.Replayed)
}

func TestLevels(t *testing.T) {
	stock := make(map[string]int)
	for i := range 25 {
		stock[fmt.Sprintf("sku-%02d", i)] = i
	}
	for size, requests := range map[int]int{0: 1, 1: 25, 10: 3, 25: 1, 1000: 1} {
		api, client := newServer(t, inventorytest.Config{Stock: stock}, inventory.Config{})
		n := 0
		for level, err := range client.Levels(t.Context(), inventory.LevelsOptions{PageSize: size}) {
			require.NoError(t, err)
			require.Equal(t, inventory.Level{SKU: fmt.Sprintf("sku-%02d", n), Available: n, ETag: `"0"`}, level)
			n++
		}
		require.Equal(t, 25, n)
		require.Equal(t, requests, api.Stats().Requests, "page size %d", size)
	}

	api, client := newServer(t, inventorytest.Config{Stock: stock}, inventory.Config{})
	for level, err := range client.Levels(t.Context(), inventory.LevelsOptions{PageSize: 5}) {
		require.NoError(t, err)
		if level.SKU == "sku-03" {
			break
		}
	}
	require.Equal(t, 1, api.Stats().Requests, "no page that nobody wants")
	for _, size := range []int{-1, 1001} {
		for level, err := range client.Levels(t.Context(), inventory.LevelsOptions{PageSize: size}) {
			require.Zero(t, level)
			require.ErrorIs(t, err, inventory.ErrInvalid)
			require.ErrorContains(t, err, "PageSize")
		}
	}
	require.Equal(t, 1, api.Stats().Requests)

	api.Break(inventorytest.Outage{Fault: inventorytest.Unavailable})
	yields := 0
	for _, err := range client.Levels(t.Context(), inventory.LevelsOptions{}) {
		yields++
		require.ErrorIs(t, err, inventory.ErrUnavailable)
	}
	require.Equal(t, 1, yields)

	_, client = newServer(t, inventorytest.Config{Stock: map[string]int{}}, inventory.Config{})
	for level, err := range client.Levels(t.Context(), inventory.LevelsOptions{}) {
		t.Errorf("there is none, but %+v, %v", level, err)
	}
}

func TestRefusedWithoutARequest(t *testing.T) {
	api, client := newServer(t, inventorytest.Config{}, inventory.Config{Limiter: refusing{}})
	for _, sku := range []string{"", ".", "..", "\xff"} {
		_, err := client.Level(t.Context(), sku)
		require.ErrorIs(t, err, inventory.ErrInvalid, "%q", sku)
		require.ErrorIs(t, err, retry.ErrPermanent)
		require.ErrorContains(t, err, "sku is")
	}
	for want, a := range map[string]inventory.Adjustment{
		"sku":                  {Delta: 1, Reference: "r", IdempotencyKey: "k"},
		"delta":                {SKU: "A", Reference: "r", IdempotencyKey: "k"},
		"reference is empty":   {SKU: "A", Delta: 1, IdempotencyKey: "k"},
		"reference is not":     {SKU: "A", Delta: 1, Reference: "\xff", IdempotencyKey: "k"},
		"key is empty":         {SKU: "A", Delta: 1, Reference: "r"},
		"key is longer than":   {SKU: "A", Delta: 1, Reference: "r", IdempotencyKey: strings.Repeat("k", 256)},
		"all printable ASCII ": {SKU: "A", Delta: 1, Reference: "r", IdempotencyKey: "a\r\nb"},
	} {
		_, err := client.Adjust(t.Context(), a)
		require.ErrorIs(t, err, inventory.ErrInvalid)
		require.ErrorContains(t, err, want)
		require.Equal(t, "invalid", retry.Reason(err))
	}
	require.Zero(t, api.Stats().Requests)
}

// refusing is a limiter that fails, as a limiter in another process may.
type refusing struct{ limiter.Limiter }

func (refusing) Acquire(context.Context) (limiter.Permit, error) {
	return limiter.Permit{}, errors.New("no connection to the limiter")
}

func TestLimiterThatFails(t *testing.T) {
	api, client := newServer(t, inventorytest.Config{}, inventory.Config{Limiter: refusing{}})
	_, err := client.Level(t.Context(), "A")
	require.EqualError(t, err, `inventory: level "A": wait for the limiter: no connection to the limiter`)
	require.Zero(t, api.Stats().Requests)
}

// hearing is a limiter that records the results reported to it.
type hearing struct {
	mu       sync.Mutex // guards what follows
	acquired int
	heard    []error
}

func (h *hearing) Ready(context.Context, int, time.Duration) (int, error) { return 1, nil }
func (h *hearing) TryAcquire() (limiter.Permit, bool)                     { return limiter.Permit{}, false }
func (h *hearing) Blocked() limiter.Block                                 { return limiter.Block{} }

func (h *hearing) Acquire(ctx context.Context) (limiter.Permit, error) {
	if ctx.Err() != nil {
		return limiter.Permit{}, context.Cause(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acquired++
	return limiter.NewPermit(h, 0), nil
}

func (h *hearing) ReleasePermit(_ uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.heard = append(h.heard, err)
}

func (h *hearing) AbstainPermit(uint64) { h.ReleasePermit(0, errAbstained) }

func (h *hearing) CancelPermit(uint64) { h.ReleasePermit(0, errors.New("cancelled")) }

// errAbstained represents in heard a permit that abstained.
var errAbstained = errors.New("abstained")

func (h *hearing) last(t *testing.T) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	require.NotEmpty(t, h.heard)
	require.Equal(t, h.acquired, len(h.heard), "permits not given back exactly once")
	return h.heard[len(h.heard)-1]
}

func TestLimiterHearsTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hearing{}
		api, client := newServer(t, inventorytest.Config{Latency: time.Second}, inventory.Config{Limiter: h, Timeout: 2 * time.Second})
		_, err := client.Level(t.Context(), "A")
		require.NoError(t, err)
		require.NoError(t, h.last(t))

		_, err = client.Level(t.Context(), "nope")
		require.Equal(t, err, h.last(t))
		require.NoError(t, limiter.Classify(h.last(t)))

		for _, c := range []struct {
			o       inventorytest.Outage
			verdict error
			after   time.Duration
		}{
			{inventorytest.Outage{Fault: inventorytest.Refuse}, limiter.ErrUnavailable, 0},
			{inventorytest.Outage{Fault: inventorytest.LoseReply}, limiter.ErrUnavailable, 0},
			{inventorytest.Outage{Fault: inventorytest.Unavailable}, limiter.ErrUnavailable, 0},
			{inventorytest.Outage{Fault: inventorytest.Unavailable, RetryAfter: 7 * time.Second}, limiter.ErrOverload, 7 * time.Second},
			{inventorytest.Outage{Fault: inventorytest.Throttle, RetryAfter: 1500 * time.Millisecond}, limiter.ErrOverload, 2 * time.Second},
			{inventorytest.Outage{Fault: inventorytest.Revoked}, limiter.ErrMisconfigured, 0},
		} {
			api.Break(c.o)
			_, err := client.Level(t.Context(), "A")
			require.Equal(t, err, h.last(t), c.o.Fault)
			require.Equal(t, c.verdict, limiter.Classify(err), c.o.Fault)
			after, _ := limiter.RetryAfter(err)
			require.Equal(t, c.after, max(after, 0), c.o.Fault)
		}
		api.Mend()

		// The end of the caller's context says nothing about the API.
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second/2, func() { cancel(stop) })
		_, err = client.Level(ctx, "A")
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, stop)
		require.NotErrorIs(t, err, inventory.ErrUnavailable)
		require.NoError(t, limiter.Classify(h.last(t)))
		before := api.Stats().Requests
		_, err = client.Level(ctx, "A")
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, before, api.Stats().Requests)
		require.Equal(t, before, h.acquired, "no permit without a request")
	})
}

func TestPanickingTransportGivesItsPermitBack(t *testing.T) {
	h := &hearing{}
	_, client := newServer(t, inventorytest.Config{}, inventory.Config{
		Limiter:   h,
		Transport: roundTripper(func(*http.Request) (*http.Response, error) { panic("boom") }),
	})
	require.Panics(t, func() { _, _ = client.Level(t.Context(), "A") })
	require.Equal(t, errAbstained, h.last(t))
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, client := newServer(t, inventorytest.Config{Latency: time.Minute}, inventory.Config{})
		start := time.Now()
		_, err := client.Adjust(t.Context(), take(1))
		require.Equal(t, 10*time.Second, time.Since(start))
		require.ErrorIs(t, err, inventory.ErrUnavailable)
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "no answer within 10s")
		time.Sleep(time.Minute)
		require.Equal(t, 9, api.Stock()["A"], "the server did not notice that nobody waits")

		// The caller's own deadline is not the API's fault.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = client.Level(ctx, "A")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var e *inventory.Error
		require.False(t, errors.As(err, &e), "%v", err)
	})
}

func TestTimeoutDoesNotCoverTheLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sem, err := limiter.NewSemaphore(1)
		require.NoError(t, err)
		p, err := sem.Acquire(t.Context())
		require.NoError(t, err)
		time.AfterFunc(time.Hour, func() { p.Release(nil) })
		_, client := newServer(t, inventorytest.Config{Latency: time.Second}, inventory.Config{Limiter: sem})
		_, err = client.Level(t.Context(), "A")
		require.NoError(t, err)

		p, err = sem.Acquire(t.Context())
		require.NoError(t, err)
		defer p.Release(nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = client.Level(ctx, "A")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, `inventory: level "A": `)
	})
}

// Whatever is lost on the way, retries apply an adjustment once.
func TestRetriesAreIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := make(map[string]int)
		var api *inventorytest.Server
		rt := roundTripper(func(r *http.Request) (*http.Response, error) {
			keys[r.Header.Get("Idempotency-Key")]++
			return api.Transport().RoundTrip(r)
		})
		api, client := newServer(t, inventorytest.Config{Outages: []inventorytest.Outage{
			{From: 0, To: 10 * time.Second, Fault: inventorytest.LoseReply},
			{From: 10 * time.Second, To: 20 * time.Second, Fault: inventorytest.Throttle},
			{From: 20 * time.Second, To: 30 * time.Second, Fault: inventorytest.Refuse},
		}}, inventory.Config{Retry: &retry.Policy{Jitter: -1}, Transport: rt})
		level, err := client.Adjust(t.Context(), take(1))
		require.NoError(t, err)
		require.Equal(t, 9, level.Available)
		require.Equal(t, 1, api.Stats().AppliedOnce)
		require.Zero(t, api.Stats().AppliedTwice)
		require.Len(t, keys, 1)
		require.Greater(t, keys["key-1"], 4)
	})
}

func TestRetriesAreOffByDefault(t *testing.T) {
	api, client := newServer(t, inventorytest.Config{}, inventory.Config{})
	api.Break(inventorytest.Outage{Fault: inventorytest.Unavailable})
	_, err := client.Level(t.Context(), "A")
	require.ErrorIs(t, err, inventory.ErrUnavailable)
	require.NotErrorIs(t, err, retry.ErrExhausted)
	require.Equal(t, 1, api.Stats().Requests)
}

func TestWhatIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, client := newServer(t, inventorytest.Config{}, inventory.Config{Retry: &retry.Policy{MaxAttempts: 3}})
		_, err := client.Level(t.Context(), "nope")
		require.ErrorIs(t, err, inventory.ErrNotFound)
		api.Break(inventorytest.Outage{Fault: inventorytest.Revoked})
		_, err = client.Level(t.Context(), "A")
		require.ErrorIs(t, err, inventory.ErrUnauthorized)
		require.Equal(t, 2, api.Stats().Requests)
		api.Break(inventorytest.Outage{Fault: inventorytest.Unavailable})
		_, err = client.Level(t.Context(), "A")
		require.ErrorIs(t, err, retry.ErrExhausted)
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		require.Equal(t, 5, api.Stats().Requests)
	})
}

// The transport does not resend a request when a kept connection breaks after it was
// sent: one permit, one arrival.
func TestOnePermitOneRequest(t *testing.T) {
	h := &hearing{}
	api, client := startServer(t, inventorytest.Config{Stock: map[string]int{"A": 1000}}, inventory.Config{Limiter: h})
	for i := range 20 {
		_, err := client.Level(t.Context(), "A") // so that there is a connection to reuse
		require.NoError(t, err)
		api.Break(inventorytest.Outage{Fault: inventorytest.Refuse})
		if i%2 == 0 {
			_, err = client.Level(t.Context(), "A")
		} else {
			_, err = client.Adjust(t.Context(), take(1))
		}
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		api.Mend()
	}
	require.Equal(t, 40, h.acquired)
	require.Equal(t, 40, api.Stats().Requests)
}

// The client keeps to the server's limits, exactly, by its limiter alone.
func TestNeverOverTheServersLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := testrun.Seed(t)
		r := rand.New(rand.NewPCG(seed, 0))
		latency := make([]time.Duration, 64)
		for i := range latency {
			latency[i] = time.Duration(r.IntN(400)) * time.Millisecond
		}
		var n atomic.Int64
		sem, err := limiter.NewSemaphore(4)
		require.NoError(t, err)
		bucket, err := limiter.NewTokenBucket(20, 3)
		require.NoError(t, err)
		both, err := limiter.All(sem, bucket)
		require.NoError(t, err)
		api, client := newServer(t, inventorytest.Config{
			Rate: 20, Burst: 3, Concurrency: 4, Stock: map[string]int{"A": 1000},
			LatencyFunc: func(*http.Request) time.Duration { return latency[int(n.Add(1))%len(latency)] },
		}, inventory.Config{Limiter: both})
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				a := inventory.Adjustment{SKU: "A", Delta: -1, Reference: fmt.Sprint(i), IdempotencyKey: fmt.Sprint(i)}
				if _, err := client.Adjust(t.Context(), a); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			})
		}
		wg.Wait()
		stats := api.Stats()
		require.Equal(t, 300, stats.AppliedOnce, "seed %d", seed)
		require.Zero(t, stats.MaxOverRate, "seed %d", seed)
		require.Zero(t, stats.RejectedByRate+stats.RejectedByConcurrency, "seed %d", seed)
		require.LessOrEqual(t, stats.PeakInFlight, 4, "seed %d", seed)
	})
}

func TestTokenSource(t *testing.T) {
	h := &hearing{}
	answer, problem := token, error(nil)
	api, client := newServer(t, inventorytest.Config{}, inventory.Config{Limiter: h, TokenSource: func(ctx context.Context) (string, error) {
		_, ok := ctx.Deadline()
		require.True(t, ok, "within the timeout")
		return answer, problem
	}})
	_, err := client.Level(t.Context(), "A")
	require.NoError(t, err)

	answer = "revoked"
	_, err = client.Level(t.Context(), "A")
	require.ErrorIs(t, err, inventory.ErrUnauthorized)

	for _, bad := range []string{"", "a b", "a\r\nX-Evil: 1"} {
		answer = bad
		_, err = client.Level(t.Context(), "A")
		require.ErrorIs(t, err, limiter.ErrMisconfigured)
		require.Equal(t, err, h.last(t))
		require.NotContains(t, err.Error(), "a b")
	}
	problem = fmt.Errorf("secret is gone: %w", limiter.ErrMisconfigured)
	_, err = client.Level(t.Context(), "A")
	require.ErrorIs(t, err, problem)
	require.EqualError(t, h.last(t), `inventory: level "A": get a token: `+problem.Error())
	require.Equal(t, 2, api.Stats().Requests)
}

func TestConfigIsRefused(t *testing.T) {
	ok := inventory.Config{BaseURL: "https://inventory.test", Token: token}
	source := func(context.Context) (string, error) { return "", nil }
	for want, change := range map[string]func(*inventory.Config){
		"BaseURL is empty":                       func(c *inventory.Config) { c.BaseURL = "" },
		"BaseURL must begin with http":           func(c *inventory.Config) { c.BaseURL = "ftp://hunter2.test" },
		"BaseURL must begin with":                func(c *inventory.Config) { c.BaseURL = "hunter2.test/" },
		"BaseURL has no host":                    func(c *inventory.Config) { c.BaseURL = "https://:80/hunter2" },
		"BaseURL is not a URL":                   func(c *inventory.Config) { c.BaseURL = "https://user:hunter2@x:y%zz" },
		"BaseURL must not have a user":           func(c *inventory.Config) { c.BaseURL = "https://user:hunter2@inventory.test" },
		"BaseURL must not have a query":          func(c *inventory.Config) { c.BaseURL = "https://inventory.test?key=hunter2" },
		"BaseURL must not have a query or":       func(c *inventory.Config) { c.BaseURL = "https://inventory.test?" },
		"BaseURL must not have a query or a":     func(c *inventory.Config) { c.BaseURL = "https://inventory.test#hunter2" },
		"Token is empty and TokenSource is nil":  func(c *inventory.Config) { c.Token = "" },
		"Token and TokenSource are both set":     func(c *inventory.Config) { c.TokenSource = source },
		"Token has a character that is":          func(c *inventory.Config) { c.Token = "hunter2\n" },
		"Timeout is -1s: must not be negative":   func(c *inventory.Config) { c.Timeout = -time.Second },
		"MaxBody is -1: must be from 1 to 10737": func(c *inventory.Config) { c.MaxBody = -1 },
		"MaxBody is 1073741825: must be from 1 ": func(c *inventory.Config) { c.MaxBody = 1<<30 + 1 },
		"Limiter is nil (a *limiter.Breaker): l": func(c *inventory.Config) { c.Limiter = (*limiter.Breaker)(nil) },
		"Transport is nil (a *http.Transport): ": func(c *inventory.Config) { c.Transport = (*http.Transport)(nil) },
		"WithTransport: wrap returned nil (a *h": func(c *inventory.Config) {
			*c = c.WithTransport(func(http.RoundTripper) http.RoundTripper { return (*http.Transport)(nil) })
		},
		"WithTransport: wrap is nil": func(c *inventory.Config) { *c = c.WithTransport(nil) },
		"WithTransport: wrap returned nil": func(c *inventory.Config) {
			*c = c.WithTransport(func(http.RoundTripper) http.RoundTripper { return nil })
		},
		"Retry: retry: Policy: Jitter is 3: mus": func(c *inventory.Config) { c.Retry = &retry.Policy{Jitter: 3} },
	} {
		cfg := ok
		change(&cfg)
		_, err := inventory.New(cfg)
		require.ErrorContains(t, err, "inventory: Config: "+want)
		require.NotContains(t, err.Error(), "hunter2")
	}
	for _, base := range []string{"http://127.0.0.1:8080", "https://inventory.test/api/", "https://[::1]:443/a%2Fb"} {
		cfg := ok
		cfg.BaseURL = base
		_, err := inventory.New(cfg)
		require.NoError(t, err, base)
	}
}

func TestBasePathIsKept(t *testing.T) {
	var paths []string
	client, err := inventory.New(inventory.Config{
		BaseURL: "https://inventory.test/api//", Token: token,
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			paths = append(paths, r.URL.String())
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(`{"sku":"../a b","available":1}`))}, nil
		}),
	})
	require.NoError(t, err)
	_, err = client.Level(t.Context(), "../a b")
	require.NoError(t, err)
	require.Equal(t, []string{"https://inventory.test/api/v1/levels/..%2Fa%20b"}, paths)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A token may be part of a code that decides what an error means.
func TestAShortTokenDoesNotChangeTheVerdict(t *testing.T) {
	api, err := inventorytest.New(inventorytest.Config{Token: "t"})
	require.NoError(t, err)
	defer func() { require.NoError(t, api.Close()) }()
	client, err := inventory.New(inventory.Config{BaseURL: "http://inventory.test", Token: "t", Transport: api.Transport()})
	require.NoError(t, err)
	_, err = client.Level(t.Context(), "nothing")
	require.ErrorIs(t, err, inventory.ErrNotFound)
	require.ErrorIs(t, err, retry.ErrPermanent)
}

func bodyOf(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }
