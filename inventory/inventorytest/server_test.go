package inventorytest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
)

func newServer(t *testing.T, cfg inventorytest.Config) *inventorytest.Server {
	t.Helper()
	s, err := inventorytest.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// get asks for the level of A and returns the status, 0 for a dropped
// connection, and the Retry-After.
func get(ctx context.Context, rt http.RoundTripper, url string) (status int, after string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/levels/A", nil)
	if err != nil {
		return 0, "", err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Header.Get("Retry-After"), errors.Join(err, res.Body.Close())
}

func ask(t *testing.T, s *inventorytest.Server) (status int, after string) {
	t.Helper()
	status, after, _ = get(t.Context(), s.Transport(), "http://x")
	return status, after
}

func post(t *testing.T, s *inventorytest.Server, key, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/v1/adjustments", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Idempotency-Key", key)
	res, err := s.Transport().RoundTrip(req)
	if err != nil {
		return 0, ""
	}
	answer, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(answer)
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 1}, Rate: 0.25, Burst: 2})
		for i, want := range []int{200, 200, 429} {
			status, after := ask(t, s)
			require.Equal(t, want, status, i)
			if want == 429 {
				require.Equal(t, "4", after)
			}
		}
		time.Sleep(2500 * time.Millisecond)
		status, after := ask(t, s)
		require.Equal(t, 429, status)
		require.Equal(t, "2", after, "rounded up")
		time.Sleep(1500 * time.Millisecond)
		status, _ = ask(t, s)
		require.Equal(t, 200, status, "what Retry-After promised")

		stats := s.Stats()
		require.Equal(t, 5, stats.Requests)
		require.Equal(t, 3, stats.Admitted)
		require.Equal(t, 2, stats.RejectedByRate)
		require.Equal(t, 2, stats.MaxOverRate, "5 arrivals in 4 s, where 2 + 4*0.25 are allowed")
		require.Zero(t, stats.MaxAdmittedOverRate)
		require.Equal(t, 3, stats.PeakRate)
		require.Equal(t, map[int]int{200: 3, 429: 2}, stats.Status)
	})
}

func TestConcurrencyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 1}, Concurrency: 3, Latency: time.Second, Rate: 100, Burst: 4})
		var wg sync.WaitGroup
		var mu sync.Mutex
		count := make(map[int]int)
		for range 5 {
			wg.Go(func() {
				status, _, err := get(t.Context(), s.Transport(), "http://x")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				count[status]++
			})
		}
		wg.Wait()
		require.Equal(t, map[int]int{200: 3, 429: 2}, count)
		stats := s.Stats()
		require.Equal(t, 2, stats.RejectedByConcurrency)
		require.Zero(t, stats.RejectedByRate, "who finds no place takes no token")
		require.Equal(t, 3, stats.PeakInFlight)
		require.Equal(t, 1, stats.MaxOverRate, "5 arrived at once, 4 are allowed")
		status, _ := ask(t, s)
		require.Equal(t, 200, status)
	})
}

func TestOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := func(from, to time.Duration, f inventorytest.Fault, after time.Duration) inventorytest.Outage {
			return inventorytest.Outage{From: from * time.Second, To: to * time.Second, Fault: f, RetryAfter: after * time.Second}
		}
		s := newServer(t, inventorytest.Config{Token: "t", Stock: map[string]int{"A": 1}, Outages: []inventorytest.Outage{
			at(10, 20, inventorytest.Refuse, 0),
			at(20, 30, inventorytest.Unavailable, 0),
			at(25, 35, inventorytest.Unavailable, 7),
			at(40, 50, inventorytest.Revoked, 0),
			at(50, 60, inventorytest.Throttle, 0),
			at(60, 70, inventorytest.Throttle, 99),
			at(70, 80, inventorytest.LoseReply, 0),
		}})
		ask := func() (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/v1/levels/A", nil)
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer t")
			res, err := s.Transport().RoundTrip(req)
			if err != nil {
				return 0, ""
			}
			return res.StatusCode, res.Header.Get("Retry-After")
		}
		type answer struct {
			status int
			after  string
		}
		for i, want := range []answer{ // every 5 s
			{200, ""},
			{200, ""},
			{0, ""},
			{0, ""},
			{503, ""},
			{503, ""},
			{503, "7"},
			{200, ""},
			{401, ""},
			{401, ""},
			{429, "10"},
			{429, "5"},
			{429, "99"},
			{429, "99"},
			{0, ""},
			{0, ""},
			{200, ""},
		} {
			status, after := ask()
			require.Equal(t, want, answer{status, after}, "after %d s", 5*i)
			time.Sleep(5 * time.Second)
		}
		stats := s.Stats()
		require.Equal(t, map[int]int{200: 4, 0: 4, 503: 3, 401: 2, 429: 4}, stats.Status)
		require.Equal(t, 11, stats.FailedByOutage)
		require.Equal(t, 6, stats.Admitted, "lost replies were worked on")

		s.Break(inventorytest.Outage{Fault: inventorytest.Throttle})
		status, after := ask()
		require.Equal(t, answer{429, "1"}, answer{status, after})
		s.Mend()
		status, _ = ask()
		require.Equal(t, 200, status)
	})
}

func TestIdempotency(t *testing.T) {
	for _, off := range []bool{false, true} {
		s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 5}, NoIdempotency: off})
		const body = `{"sku":"A","delta":-2,"reference":"order-1"}`
		s.Break(inventorytest.Outage{Fault: inventorytest.LoseReply})
		status, _ := post(t, s, "k", body)
		require.Zero(t, status)
		require.Equal(t, 3, s.Stock()["A"], "applied, though no reply says so")
		s.Mend()
		status, answer := post(t, s, "k", body)
		require.Equal(t, 200, status)
		if off {
			require.JSONEq(t, `{"sku":"A","available":1,"etag":"\"2\""}`, answer)
			require.Equal(t, 1, s.Stats().AppliedTwice)
			continue
		}
		require.JSONEq(t, `{"sku":"A","available":3,"etag":"\"1\""}`, answer)
		status, answer = post(t, s, "k", `{"sku":"A","delta":-1,"reference":"order-1"}`)
		require.Equal(t, 409, status)
		require.Contains(t, answer, `"code":"conflict"`)

		// A refusal is an answer like any other.
		status, _ = post(t, s, "l", `{"sku":"A","delta":-4,"reference":"order-2"}`)
		require.Equal(t, 422, status)
		status, _ = post(t, s, "m", `{"sku":"A","delta":7,"reference":"delivery"}`)
		require.Equal(t, 200, status)
		status, _ = post(t, s, "l", `{"sku":"A","delta":-4,"reference":"order-2"}`)
		require.Equal(t, 422, status)
		status, _ = post(t, s, "n", `{"sku":"A","delta":9223372036854775807,"reference":"r"}`)
		require.Equal(t, 400, status)

		stats := s.Stats()
		require.Equal(t, 2, stats.AppliedOnce)
		require.Zero(t, stats.AppliedTwice)
		require.Equal(t, 2, stats.Replayed)

		// Another key for the same reference is what the judge looks for.
		_, _ = post(t, s, "o", body)
		require.Equal(t, 1, s.Stats().AppliedTwice)
	}
}

// The figures of the record match their definition: all windows, counted one by
// one.
func TestMaxOverRateIsExact(t *testing.T) {
	seed := testrun.Seed(t)
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 60 {
		synctest.Test(t, func(t *testing.T) {
			rate, burst := []float64{0.5, 3, 10, 100}[r.IntN(4)], 1+r.IntN(5)
			s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 1}, Rate: rate, Burst: burst})
			for range 60 {
				if r.IntN(3) > 0 {
					time.Sleep(time.Duration(r.ExpFloat64() / rate * float64(time.Second)))
				}
				_, _ = ask(t, s)
			}
			arrivals := s.Arrivals()
			require.Len(t, arrivals, 60)
			worst := func(admitted bool) int {
				var over float64
				for i := range arrivals {
					n := 0
					for j := i; j < len(arrivals); j++ {
						if admitted && (arrivals[j].Status != 200 || arrivals[i].Status != 200) {
							continue
						}
						n++
						over = max(over, float64(n)-float64(burst)-rate*(arrivals[j].At-arrivals[i].At).Seconds())
					}
				}
				return int(math.Ceil(over - 1e-6))
			}
			peak := 0
			for i := range arrivals {
				n := 0
				for j := i; j < len(arrivals) && arrivals[j].At-arrivals[i].At < time.Second; j++ {
					n++
				}
				peak = max(peak, n)
			}
			stats := s.Stats()
			require.Equal(t, worst(false), stats.MaxOverRate, "seed %d round %d", seed, round)
			require.Equal(t, worst(true), stats.MaxAdmittedOverRate, "seed %d round %d", seed, round)
			require.Zero(t, stats.MaxAdmittedOverRate, "seed %d round %d", seed, round)
			require.Equal(t, peak, stats.PeakRate, "seed %d round %d", seed, round)
		})
	}
}

func TestArrivalsAreBounded(t *testing.T) {
	for keep, want := range map[int]int{-1: 0, 2: 2} {
		s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 1}, KeepArrivals: keep})
		for range 5 {
			status, _ := ask(t, s)
			require.Equal(t, 200, status)
		}
		require.Len(t, s.Arrivals(), want)
		require.Equal(t, 5, s.Stats().Requests)
	}
}

func TestServerWorksOnForClientsThatHaveGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 1}, Latency: time.Minute, Concurrency: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := get(ctx, s.Transport(), "http://x")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		status, _ := ask(t, s)
		require.Equal(t, 429, status, "the place is still taken")
		time.Sleep(time.Minute)
		status, _ = ask(t, s)
		require.Equal(t, 200, status)
		_, _, err = get(ctx, s.Transport(), "http://x")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3, s.Stats().Requests, "nothing is sent for a context that is over")
	})
}

func TestCloseCutsLatenciesShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 1}, Latency: time.Hour})
		start := time.Now()
		go func() { _, _, _ = get(t.Context(), s.Transport(), "http://x") }()
		synctest.Wait()
		require.NoError(t, s.Close())
		require.NoError(t, s.Close())
		require.Zero(t, time.Since(start))
		status, _ := ask(t, s)
		require.Zero(t, status, "closed")
		_, err := s.Start()
		require.Error(t, err)
	})
}

func TestLoopback(t *testing.T) {
	s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 1}})
	url, err := s.Start()
	require.NoError(t, err)
	_, err = s.Start()
	require.ErrorContains(t, err, "started or closed before")
	rt := &http.Transport{}
	defer rt.CloseIdleConnections()
	status, _, err := get(t.Context(), rt, url)
	require.NoError(t, err)
	require.Equal(t, 200, status)
	s.Break(inventorytest.Outage{Fault: inventorytest.LoseReply})
	_, _, err = get(t.Context(), &http.Transport{DisableKeepAlives: true}, url)
	require.Error(t, err)
	s.Mend()
	res, err := rt.RoundTrip(mustRequest(t, url+"/nowhere"))
	require.NoError(t, err)
	defer func() { require.NoError(t, res.Body.Close()) }()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, 404, res.StatusCode)
	require.Contains(t, string(body), "no_such_page")
}

func mustRequest(t *testing.T, url string) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	return req
}

func TestConfigIsRefused(t *testing.T) {
	for want, cfg := range map[string]inventorytest.Config{
		"Rate is -1":             {Rate: -1},
		"Rate is NaN":            {Rate: math.NaN()},
		"Rate is +Inf":           {Rate: math.Inf(1)},
		"Burst is -1":            {Rate: 1, Burst: -1},
		"Burst is 3 without":     {Burst: 3},
		"Concurrency is -1":      {Concurrency: -1},
		"Latency is -1ns":        {Latency: -1},
		"Quota is -1":            {Quota: -1},
		"Quota is 5 and Window":  {Quota: 5},
		"Quota is 0 and Window":  {Window: time.Second},
		"Window is 1.5s: must":   {Quota: 5, Window: 1500 * time.Millisecond},
		"QuotaHeaders is 9":      {QuotaHeaders: 9},
		"QuotaHeaders without":   {QuotaHeaders: inventorytest.XHeaders},
		`Stock has -1 of "A"`:    {Stock: map[string]int{"A": -1}},
		`Stock has 1 of ""`:      {Stock: map[string]int{"": 1}},
		"Outages[1]: Fault is":   {Outages: []inventorytest.Outage{{Fault: inventorytest.Refuse}, {}}},
		"Outages[0]: it is from": {Outages: []inventorytest.Outage{{Fault: inventorytest.Refuse, From: 2, To: 1}}},
		"Outages[0]: RetryAfter": {Outages: []inventorytest.Outage{{Fault: inventorytest.Throttle, RetryAfter: -1}}},
	} {
		_, err := inventorytest.New(cfg)
		require.ErrorContains(t, err, "inventorytest: Config: "+want)
	}
	require.Panics(t, func() { newServer(t, inventorytest.Config{}).Break(inventorytest.Outage{}) })
	require.Equal(t, "lose reply Fault(9)", fmt.Sprint(inventorytest.LoseReply, " ", inventorytest.Fault(9)))
}

// send is ask with more to it: it returns the status, the header and the body.
func send(t *testing.T, s *inventorytest.Server, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.Transport().RoundTrip(req)
	require.NoError(t, err)
	answer, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, res.Header, string(answer)
}

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		draft := newServer(t, inventorytest.Config{Quota: 2, Window: 10 * time.Second, QuotaHeaders: inventorytest.DraftHeaders, Stock: map[string]int{"A": 1}})
		old := newServer(t, inventorytest.Config{Quota: 2, Window: 10 * time.Second, QuotaHeaders: inventorytest.XHeaders})
		silent := newServer(t, inventorytest.Config{Quota: 2, Window: 10 * time.Second})
		time.Sleep(2500 * time.Millisecond)
		for i, want := range []struct{ status, left, reset int }{
			{200, 1, 8}, {200, 0, 8}, {429, 0, 8}, {200, 1, 10}, {200, 0, 10}, {429, 0, 10},
		} {
			if i == 3 {
				time.Sleep(7500 * time.Millisecond) // the next window begins
			}
			status, h, _ := send(t, draft, "GET", "/v1/levels/A", "")
			require.Equal(t, want.status, status, i)
			require.Equal(t, `"quota";q=2;w=10`, h.Get("RateLimit-Policy"))
			require.Equal(t, fmt.Sprintf(`"quota";r=%d;t=%d`, want.left, want.reset), h.Get("RateLimit"), i)
			if status == 429 {
				require.Equal(t, fmt.Sprint(want.reset), h.Get("Retry-After"), i)
			}
			status, h, _ = send(t, old, "GET", "/v1/levels/none", "")
			require.Equal(t, want.status == 429, status == 429)
			require.Equal(t, []string{"2", fmt.Sprint(want.left), fmt.Sprint(want.reset)},
				[]string{h.Get("X-RateLimit-Limit"), h.Get("X-RateLimit-Remaining"), h.Get("X-RateLimit-Reset")}, i)
			_, h, _ = send(t, silent, "GET", "/v1/levels/none", "")
			require.Empty(t, h.Get("RateLimit")+h.Get("X-RateLimit-Limit"))
		}
		require.Equal(t, 2, draft.Stats().RejectedByQuota)
		require.Zero(t, draft.Stats().RejectedByRate)
	})
}

func TestConditions(t *testing.T) {
	s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 5}})
	const path, body = "/v1/levels/A", `{"sku":"A","delta":-2,"reference":"r"}`
	status, h, _ := send(t, s, "GET", path, "")
	require.Equal(t, 200, status)
	require.Equal(t, `"0"`, h.Get("ETag"))
	for list, want := range map[string]int{`"0"`: 304, `"7","0"`: 304, "*": 304, `"7"`: 200, "0": 200, "": 200} {
		status, h, answer := send(t, s, "GET", path, "", "If-None-Match", list)
		require.Equal(t, want, status, list)
		require.Equal(t, want == 304, answer == "", list)
		require.Equal(t, `"0"`, h.Get("ETag"))
	}
	post := func(key, match string) (int, http.Header) {
		status, h, _ := send(t, s, "POST", "/v1/adjustments", body, "Idempotency-Key", key, "If-Match", match)
		return status, h
	}
	status, _ = post("k", `"1"`)
	require.Equal(t, 412, status)
	require.Equal(t, 5, s.Stock()["A"])
	status, h = post("l", `"0"`)
	require.Equal(t, 200, status)
	require.Equal(t, `"1"`, h.Get("ETag"))
	require.Equal(t, path, h.Get("Content-Location"))
	status, h = post("l", `"0"`)
	require.Equal(t, 200, status, "its answer, though the level has changed since")
	require.Equal(t, `"1"`, h.Get("ETag"))
	status, _ = post("k", `"1"`)
	require.Equal(t, 412, status, "its answer, too")
	status, _ = post("l", `"1"`)
	require.Equal(t, 409, status)
	require.Equal(t, 3, s.Stock()["A"])
}

func TestTransactions(t *testing.T) {
	s := newServer(t, inventorytest.Config{Stock: map[string]int{"A": 5, "B": 5}, Transactions: true})
	transact := func(key, lines string) (int, string) {
		status, _, answer := send(t, s, "POST", "/v1/transactions", `{"reference":"r-`+key+`","lines":[`+lines+`]}`, "Idempotency-Key", key)
		return status, answer
	}
	const lines = `{"sku":"B","delta":-2},{"sku":"A","delta":1}`
	for range 2 {
		status, answer := transact("k", lines)
		require.Equal(t, 200, status)
		require.JSONEq(t, `{"levels":[{"sku":"B","available":3,"etag":"\"1\""},{"sku":"A","available":6,"etag":"\"1\""}]}`, answer)
	}
	for want, lines := range map[int]string{
		404: `{"sku":"A","delta":-1},{"sku":"C","delta":-1}`,
		422: `{"sku":"A","delta":-1},{"sku":"B","delta":-4}`,
		400: `{"sku":"A","delta":-1},{"sku":"B","delta":0}`,
	} {
		for range 2 {
			status, _ := transact(fmt.Sprint(want), lines)
			require.Equal(t, want, status)
		}
	}
	status, _ := transact("two", `{"sku":"A","delta":-1},{"sku":"A","delta":-1}`)
	require.Equal(t, 400, status)
	status, _ = transact("k", `{"sku":"A","delta":-1}`)
	require.Equal(t, 409, status)
	status, _ = post(t, s, "k", `{"sku":"A","delta":1,"reference":"r-k"}`)
	require.Equal(t, 409, status, "keys are for both")
	require.Equal(t, map[string]int{"A": 6, "B": 3}, s.Stock())
	require.Equal(t, 2, s.Stats().AppliedOnce)
	require.Zero(t, s.Stats().AppliedTwice)

	s = newServer(t, inventorytest.Config{})
	status, _, answer := send(t, s, "POST", "/v1/transactions", "{}")
	require.Equal(t, 404, status)
	require.Contains(t, answer, "no_such_page")
}
