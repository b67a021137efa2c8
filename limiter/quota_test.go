package limiter_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func header(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(kv); i += 2 {
		h.Add(kv[i], kv[i+1])
	}
	return h
}

func TestAdaptiveRateQuotas(t *testing.T) {
	const none = 1000 // the cap
	date := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		header []string
		rate   float64
		pause  time.Duration
	}{
		{nil, none, 0},
		{[]string{"RateLimit", `"default";r=50;t=30`}, 50.0 / 30, 0},
		{[]string{"RateLimit", `"default";r=0;t=30`}, none, 30 * time.Second},
		{[]string{"RateLimit", `"default";r=999;pk=:dHJpYWwxMjEzMjM=:`}, none, 0},
		{[]string{"RateLimit", `"default";r=10;t=0`}, none, 0},
		{[]string{"RateLimit-Policy", `"burst";q=100;w=60,"daily";q=1000;w=86400`}, 1000.0 / 86400, 0},
		{[]string{"RateLimit-Policy", `"burst";q=100;w=60`, "RateLimit", `"burst";r=90;t=10`}, 9, 0},
		{[]string{"RateLimit-Policy", `"burst";q=100;w=60, "daily";q=1000;w=86400`, "RateLimit", `"burst";r=50;t=30`}, 50.0 / 30, 0},
		{[]string{"RateLimit-Policy", `"burst";q=100;w=60, "daily";q=1000;w=86400`, "RateLimit", `"burst";r=50;t=30, "daily";r=360;t=3600`}, 0.1, 0},
		{[]string{"RateLimit-Policy", `"burst";q=100;w=50`, "RateLimit", `"burst";r=50`}, 2, 0},
		{[]string{"RateLimit-Policy", `"burst";q=100;w=50, "bytes";q=9;w=9;qu="content-bytes"`, "RateLimit", `"bytes";r=0;t=30`}, 2, 0},
		{[]string{"RateLimit-Policy", `"none";q=0;w=60`}, none, 0},
		{[]string{"RateLimit-Policy", `"little";q=0.0000001;w=50`}, 1.0 / 50, 0}, // one at least
		// The examples of draft 10.
		{[]string{"RateLimit-Policy", `"default";q=100;w=10`}, 10, 0},
		{[]string{"RateLimit-Policy", `"permin";q=50;w=60,"perhr";q=1000;w=3600`}, 1000.0 / 3600, 0},
		{[]string{"RateLimit-Policy", `"peruser";q=100;w=60;pk=:cHsdsRa894==:`}, 100.0 / 60, 0},
		{[]string{"RateLimit-Policy", `"peruser";q=65535;qu="content-bytes";w=10;pk=:sdfjLJUOUH==:`}, none, 0},
		{[]string{"RateLimit", `"default";r=300000000;t=60;pk=:QXBwLTk5OQ==:`}, 1000, 0}, // Max
		{[]string{"RateLimit", `"problemPolicy";r=0;t=10`}, none, 10 * time.Second},
		{[]string{"RateLimit", `"default";r=1;t=7`}, 1.0 / 7, 0},
		{[]string{"RateLimit", `"dayLimit";r=100;t=36000`}, 100.0 / 36000, 0},
		{[]string{"RateLimit-Policy", `"basic";q=100;w=60`, "RateLimit", `"basic";r=60;t=58`}, 60.0 / 58, 0},
		{[]string{"RateLimit-Policy", `"basic";q=100;w=60`, "RateLimit", `"basic";r=20;t=56`}, 20.0 / 56, 0},
		{[]string{"RateLimit-Policy", `"fixedwindow";q=100;w=60`, "RateLimit", `"fixedwindow";r=99;t=50`}, 99.0 / 50, 0},
		{[]string{"RateLimit-Policy", `"dynamic";q=100;w=60`, "RateLimit", `"dynamic";r=9;t=50`}, 9.0 / 50, 0},
		{[]string{"RateLimit-Policy", `"burst";q=100;w=60`, "RateLimit", `"burst";r=5;t=50`}, 0.1, 0},
		{[]string{"RateLimit", `"a";r=50;t=30`, "RateLimit", `"b";r=30;t=60`}, 0.5, 0},
		{[]string{"RateLimit-Policy", `"a,b;c\"d";q=100;w=50`}, 2, 0},
		{[]string{"RateLimit-Policy", `"bytes";q=65535;qu="content-bytes";w=10`, "RateLimit", `"bytes";r=300;t=10`}, none, 0},
		{[]string{"RateLimit-Policy", `"calls";q=60;qu="requests";w=20`}, 3, 0},
		{[]string{"RateLimit", `limit=100, remaining=50, reset=10`}, 5, 0},
		{[]string{"RateLimit-Policy", `100;w=25`}, 4, 0},
		{[]string{"RateLimit-Limit", "100, 100;w=60", "RateLimit-Remaining", "50", "RateLimit-Reset", "20"}, 2.5, 0},
		{[]string{"X-RateLimit-Remaining", "30", "X-RateLimit-Reset", "10"}, 3, 0},
		{[]string{"X-Rate-Limit-Remaining", "30", "X-Rate-Limit-Reset", "10"}, 3, 0},
		{[]string{"X-RateLimit-Remaining", "30", "X-RateLimit-Reset", fmt.Sprint(date.Unix() + 15), "Date", date.Format(http.TimeFormat)}, 2, 0},
		{[]string{"X-RateLimit-Remaining", "30", "X-RateLimit-Reset", fmt.Sprint(date.UnixMilli() + 15000), "Date", date.Format(http.TimeFormat)}, 2, 0},
		{[]string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "99999999"}, none, 99999999 * time.Microsecond},
		{[]string{"X-RateLimit-Remaining", "30"}, none, 0},
		{[]string{"RateLimit-Remaining", "1", "X-RateLimit-Remaining", "30", "X-RateLimit-Reset", "10"}, 3, 0},
		{[]string{"X-Shopify-Shop-Api-Call-Limit", "32/40"}, 48.0 / 20, 0},
		{[]string{"X-RateLimit-Remaining-Requests", "59", "X-RateLimit-Reset-Requests", "6m0s"}, 59.0 / 360, 0},
		{[]string{"RateLimit", `"default";r=50;t=30`, "Age", "3"}, none, 0},
		{[]string{"RateLimit", `"default";r=-50;t=30`}, none, 0},
		{[]string{"RateLimit", `"default";r=many;t=30`}, none, 0},
		{[]string{"RateLimit", `;;;,,,=";`, "RateLimit-Policy", `"`}, none, 0},
		{[]string{"RateLimit", `"default";r=1e9;t=30`}, none, 0},
		{[]string{"RateLimit", `"default";r=99999999999999999999;t=1`}, 1000, 0}, // Max
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000})
			p := tryAcquire(t, a)
			p.Observe(header(test.header...))
			require.InDelta(t, test.rate, a.Rate(), 1e-9, "%v", test.header)
			until := a.Stats().PausedUntil
			if test.pause == 0 {
				require.Zero(t, until, "%v", test.header)
			} else {
				require.Equal(t, test.pause, time.Until(until), "%v", test.header)
			}
			require.Equal(t, test.rate != none && test.pause == 0, a.Stats().Quota, "%v", test.header)
			p.Release(nil)
		})
	}
}

// What is left when a response is sent is no longer there for requests that
// are already in flight.
func TestAdaptiveRateCountsThoseOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 100})
		first := acquire(t, a)
		for range 10 {
			acquire(t, a)
		}
		first.Observe(header("RateLimit", `"x";r=30;t=10`))
		require.InDelta(t, 2, a.Rate(), 1e-9)
		first.Observe(header("RateLimit", `"x";r=3;t=10`))
		require.InDelta(t, 0.1, a.Rate(), 1e-9, "one at least")
	})
}

// A downstream with a fixed window that reports its quota refuses nothing, and
// nearly all of its quota is used.
func TestAdaptiveRateKeepsToATransportsQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quota, window, windows = 100, 10 * time.Second, 30
		begin := time.Now()
		used, of, refused, served := 0, 0, 0, 0
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: 1000})
		client := transport(t, all(t, a, newSemaphore(t, 5)), roundTripper(func(*http.Request) (*http.Response, error) {
			time.Sleep(20 * ms)
			at := time.Since(begin)
			if w := int(at / window); w != of {
				used, of = 0, w
			}
			left := window - at%window
			status := http.StatusOK
			if used++; used > quota {
				status = http.StatusTooManyRequests
				refused++
			} else {
				served++
			}
			return &http.Response{StatusCode: status, Body: http.NoBody, Header: header(
				"RateLimit", fmt.Sprintf(`"w";r=%d;t=%d`, max(0, quota-used), int(left.Seconds())+1))}, nil
		}))
		for time.Since(begin) < windows*window {
			res, err := get(t, client)
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, res.Body)
		}
		require.Zero(t, refused)
		require.Greater(t, served, quota*windows*9/10)
	})
}

// A quota caps the learned pace, and holds as long as it says.
func TestAdaptiveRateQuotaIsACap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{})
		hear := func(left string) {
			p := acquire(t, a)
			p.Observe(header("RateLimit", `"x";r=`+left+`;t=10`))
			p.Release(nil)
		}
		hear("1000")
		require.Equal(t, 100.0, a.Rate())
		require.True(t, a.Stats().Quota)
		p := acquire(t, a)
		time.Sleep(100 * ms)
		p.Release(limiter.ErrOverload)
		learned := a.Rate()
		require.Less(t, learned, 20.0, "one in 100 ms")
		hear("100000")
		require.InDelta(t, learned, a.Rate(), 0.1)
		require.False(t, a.Stats().Quota)
		hear("1")
		require.Equal(t, 0.1, a.Rate())
		pass(10 * time.Second)
		acquire(t, a).Abstain()
		require.InDelta(t, learned, a.Rate(), 0.1, "it was for ten seconds")
	})
}

func TestObserveWithoutAnObserver(t *testing.T) {
	h := header("RateLimit", `"x";r=0;t=10`)
	limiter.Permit{}.Observe(h)
	s := newSemaphore(t, 1)
	tryAcquire(t, s).Observe(h)
	require.Equal(t, 1, s.Stats().InUse)
}

func FuzzObserve(f *testing.F) {
	f.Add(`"default";r=50;t=30`, `"default";q=100;w=60`, "10", "1700000000")
	f.Add(`limit=100, remaining=50, reset=30`, `100;w=60`, "0", "99999999999999")
	f.Add(`"a\",b";r=0;t=1`, `"`, "1.5", ".")
	f.Fuzz(func(t *testing.T, limit, policy, remaining, reset string) {
		const most = 1000
		a := newAdaptiveRate(t, limiter.AdaptiveRateConfig{Max: most})
		p := tryAcquire(t, a)
		p.Observe(header("RateLimit", limit, "RateLimit-Policy", policy, "X-RateLimit-Remaining", remaining, "X-RateLimit-Reset", reset))
		p.Release(nil)
		rate := a.Rate()
		require.Positive(t, rate)
		require.LessOrEqual(t, rate, float64(most))
		require.LessOrEqual(t, time.Until(a.Stats().PausedUntil), 24*time.Hour)
	})
}
