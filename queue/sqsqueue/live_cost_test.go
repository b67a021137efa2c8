package sqsqueue_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A counter is a proxy that counts requests.
type counter struct {
	*httptest.Server
	mu            sync.Mutex     // guards what is below
	calls         map[string]int // by operation
	open, maxOpen int            // receives
	wait          int            // seconds that the last receive asked for
}

func newCounter(t *testing.T, endpoint string) *counter {
	t.Helper()
	target, err := url.Parse(endpoint)
	require.NoError(t, err)
	if target.Scheme != "http" {
		t.Skip("counting requests needs a server that does not check their signatures, which name the host: Amazon's does")
	}
	c := &counter{calls: make(map[string]int)}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 500},
	}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		c.mu.Lock()
		c.calls[op]++
		if op == "ReceiveMessage" {
			var in struct{ WaitTimeSeconds int }
			if err := json.Unmarshal(body, &in); err != nil {
				t.Error(err)
			}
			c.wait = in.WaitTimeSeconds
			c.open++
			c.maxOpen = max(c.maxOpen, c.open)
		}
		c.mu.Unlock()
		proxy.ServeHTTP(w, r)
		if op == "ReceiveMessage" {
			c.mu.Lock()
			c.open--
			c.mu.Unlock()
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// count returns the requests so far.
func (c *counter) count() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, calls := range c.calls {
		n += calls
	}
	return n
}

// counted returns an empty queue, and the same one as a consumer gets at it
// through a counter.
func counted(t *testing.T) (direct, through *sqsqueue.Queue, count *counter) {
	t.Helper()
	count = newCounter(t, liveEndpoint(t))
	direct = liveQueue(t, liveClient(t), false)
	transport := &http.Transport{MaxIdleConnsPerHost: 500}
	t.Cleanup(transport.CloseIdleConnections)
	client := endpointClient(count.URL, withHTTPClient(&http.Client{Transport: transport}))
	through, err := sqsqueue.New(client, direct.URL(), sqsqueue.Config{})
	require.NoError(t, err)
	return direct, through, count
}

// stopIdle stops a consumer whose queue is empty, with a message for the poll that
// the drain would else wait for.
func stopIdle(t *testing.T, running *consumer, q *sqsqueue.Queue) {
	t.Helper()
	running.cancel()
	send(t, q, message("enough"))
	running.stop(t)
}

// Handlers of 10 ms, and more messages than they can do: how many requests are
// made for each, when the consumer has found its speed.
func TestLiveCostAtSaturation(t *testing.T) {
	liveEndpoint(t)
	for _, concurrency := range []int{10, 50, 200} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			direct, through, count := counted(t)
			n := 3000 + 50*concurrency
			var senders sync.WaitGroup
			for range 10 {
				senders.Go(func() {
					if err := direct.Send(t.Context(), messages(n/10)...); err != nil {
						t.Errorf("Send: %v", err)
					}
				})
			}
			senders.Wait()
			running := consume(t, through, works(10*time.Millisecond), queue.Config{Concurrency: concurrency})
			until := func(done int) (at time.Time, calls, messages int) {
				for limit := time.Now().Add(time.Minute); running.Stats().Done < int64(done) && time.Now().Before(limit); {
					time.Sleep(5 * time.Millisecond)
				}
				return time.Now(), count.count(), int(running.Stats().Done)
			}
			begin, before, first := until(n / 4)
			end, after, last := until(n * 9 / 10)
			spent := float64(after-before) / float64(last-first)
			_, all, done := until(n)
			t.Logf("%.3f calls per message, %.3f with start and end, %.0f messages a second",
				spent, float64(all)/float64(n), float64(last-first)/end.Sub(begin).Seconds())
			require.Equal(t, n, done)
			require.LessOrEqual(t, spent, 0.22)
			require.EqualValues(t, n, running.Stats().Received, "each was received once")
			stopIdle(t, running, direct)
		})
	}
}

func TestLiveCostOfTrickle(t *testing.T) {
	direct, through, count := counted(t)
	t.Parallel()
	running := consume(t, through, works(10*time.Millisecond), queue.Config{})
	const n = 300
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range n {
		<-tick.C
		send(t, direct, message("a"))
	}
	require.Eventually(t, func() bool { return running.Stats().Done == n }, 10*time.Second, 10*time.Millisecond)
	spent := float64(count.count()) / n
	t.Logf("%.3f calls per message", spent)
	require.LessOrEqual(t, spent, 1.2)
	stopIdle(t, running, direct)
}

// An idle consumer has one poll open, of 20 s, and so makes three requests a
// minute: no more than two begin within 22 s.
func TestLiveCostOfIdling(t *testing.T) {
	direct, through, count := counted(t)
	t.Parallel()
	running := consume(t, through, works(0), queue.Config{Concurrency: 200})
	time.Sleep(22 * time.Second)
	count.mu.Lock()
	require.Equal(t, map[string]int{"ReceiveMessage": 2}, count.calls)
	require.Equal(t, []int{1, 1, 20}, []int{count.open, count.maxOpen, count.wait})
	count.mu.Unlock()
	stopIdle(t, running, direct)
}

// A hundred messages in flight cost ten requests for each half of their lease.
func TestLiveCostOfHeartbeats(t *testing.T) {
	direct, through, count := counted(t)
	t.Parallel()
	const (
		n      = 100
		half   = 3 * time.Second
		halves = 5
	)
	send(t, direct, messages(n)...)
	running := consume(t, through, works((halves+4)*half), queue.Config{Concurrency: n, Lease: 2 * half})
	require.Eventually(t, func() bool { return running.Stats().Running == n }, 3*half, 10*time.Millisecond)
	beats := func() int {
		count.mu.Lock()
		defer count.mu.Unlock()
		return count.calls["ChangeMessageVisibilityBatch"]
	}
	before := beats()
	time.Sleep(halves * half)
	spent := beats() - before
	t.Logf("%.1f calls per half lease", float64(spent)/halves)
	require.Positive(t, spent)
	require.LessOrEqual(t, spent, 10*(halves+1), "there may be one more of them than halves")
	require.Eventually(t, func() bool { return running.Stats().Done == n }, 20*time.Second, 10*time.Millisecond)
	require.EqualValues(t, n, running.Stats().Received, "each was received once")
	stopIdle(t, running, direct)
}
