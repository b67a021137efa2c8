//go:build unix

package sqsqueue_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A toxiproxy is a proxy in front of the SQS server, and the address of the API
// of the toxiproxy server that runs it.
type toxiproxy struct {
	t         *testing.T
	api, name string
	address   string // of the proxy
}

// toxiproxyAPI returns the address of the API of the server that
// RAMPMETER_TOXIPROXY names, and that of the SQS server, host and port.
func toxiproxyAPI(t *testing.T) (api, upstream string) {
	t.Helper()
	api = os.Getenv("RAMPMETER_TOXIPROXY")
	u, err := url.Parse(liveEndpoint(t))
	require.NoError(t, err)
	if api == "" || u.Scheme != "http" {
		t.Skip("needs toxiproxy: run its server (github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0) beside the SQS server, " +
			"which must be a local one without TLS, and set RAMPMETER_TOXIPROXY=http://127.0.0.1:8474, the address of its API")
	}
	return api, u.Host
}

// newToxiproxy makes a proxy in front of the SQS server.
func newToxiproxy(t *testing.T) *toxiproxy {
	t.Helper()
	api, upstream := toxiproxyAPI(t)
	p := &toxiproxy{t: t, api: api, name: "rampmeter-" + rand.Text()}
	var made struct{ Listen string }
	p.call(http.MethodPost, "/proxies", map[string]any{
		"name": p.name, "listen": "127.0.0.1:0", "upstream": upstream, "enabled": true,
	}, &made)
	p.address = "http://" + made.Listen
	t.Cleanup(func() { p.call(http.MethodDelete, "/proxies/"+p.name, nil, nil) })
	return p
}

// call makes a request of the server's API.
func (p *toxiproxy) call(method, path string, in, out any) {
	p.t.Helper()
	body, err := json.Marshal(in)
	require.NoError(p.t, err)
	r, err := http.NewRequest(method, p.api+path, bytes.NewReader(body))
	require.NoError(p.t, err)
	reply, err := http.DefaultClient.Do(r)
	require.NoError(p.t, err)
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	require.NoError(p.t, err)
	require.Less(p.t, reply.StatusCode, 300, "%s %s: %s", method, path, text)
	if out != nil {
		require.NoError(p.t, json.Unmarshal(text, out))
	}
}

// poison has the proxy do harm for d.
func (p *toxiproxy) poison(d time.Duration, kind, stream string, attributes map[string]int) {
	p.t.Helper()
	p.call(http.MethodPost, "/proxies/"+p.name+"/toxics", map[string]any{
		"name": kind, "type": kind, "stream": stream, "toxicity": 1, "attributes": attributes,
	}, nil)
	time.Sleep(d)
	p.call(http.MethodDelete, "/proxies/"+p.name+"/toxics/"+kind, nil, nil)
}

// A consumer process behind a network that resets connections, is slow, and drops
// everything for half a minute: requests, or replies (then requests are acted on).
// Nothing is lost, the consumer recovers by itself, and while nothing gets through it
// is almost idle.
func TestLiveBadNetwork(t *testing.T) {
	toxiproxyAPI(t)
	t.Parallel()
	for _, stream := range []string{"upstream", "downstream"} {
		t.Run(stream, func(t *testing.T) {
			client := liveClient(t)
			proxy := newToxiproxy(t)
			t.Parallel()
			q := liveQueue(t, client, false)
			w := startWorker(t, workerConfig{
				Endpoint: proxy.address, Queue: q.URL(),
				Concurrency: 10, Lease: 10 * time.Second, Timeout: 5 * time.Second, Work: 20 * time.Millisecond,
			})
			ctx, stop := context.WithCancel(t.Context())
			sent := 0
			var feed sync.WaitGroup
			feed.Go(func() {
				for ctx.Err() == nil {
					if err := q.Send(t.Context(), bodied(fmt.Sprint("a-", sent), fmt.Sprint("b-", sent))...); err != nil {
						t.Errorf("Send: %v", err)
					}
					sent++
					time.Sleep(50 * time.Millisecond)
				}
			})
			defer feed.Wait()
			defer stop()

			goesOn := func(after string) {
				handled := func() (n int) {
					for _, l := range w.lines() {
						if l.kind == finished {
							n++
						}
					}
					return n
				}
				before := handled()
				require.Eventually(t, func() bool { return handled() > before+20 }, 40*time.Second, 50*time.Millisecond, "after %s", after)
			}
			time.Sleep(time.Second)
			proxy.poison(8*time.Second, "reset_peer", stream, map[string]int{"timeout": 200}) // of each connection's life
			goesOn("resets")
			proxy.poison(8*time.Second, "latency", stream, map[string]int{"latency": 300, "jitter": 50})
			goesOn("latency")
			begin := time.Now()
			proxy.poison(30*time.Second, "timeout", stream, map[string]int{"timeout": 0}) // until it is taken away
			end := time.Now()
			goesOn("the black hole")
			back := time.Since(end)
			stop()
			feed.Wait()
			empties(t, client, q, time.Minute)
			w.terminate()

			handled := make(map[string]int)
			requests, failures := 0, 0
			var cpu []int64
			for _, l := range w.lines() {
				within := l.at.After(begin.Add(time.Second)) && l.at.Before(end)
				switch {
				case l.kind == finished:
					handled[l.about]++
				case l.kind == failure:
					failures++
				case l.kind == requested && within:
					requests++
				case l.kind == usedCPU && within:
					cpu = append(cpu, l.n)
				}
			}
			require.Len(t, handled, 2*sent, "lost")
			runs := 0
			for _, times := range handled {
				runs += times
			}
			require.NotEmpty(t, cpu)
			used := time.Duration(cpu[len(cpu)-1]-cpu[0]) * time.Microsecond
			t.Logf("%d messages, %d handled again; %d failed calls; %d requests in the black hole, for which %v of CPU were used; going again %v after it",
				2*sent, runs-2*sent, failures, requests, used, back.Round(time.Millisecond))
			require.Positive(t, failures, "nothing was in its way")
			require.Less(t, requests, 100, "in the half minute of the black hole")
			require.Less(t, used, 5*time.Second, "of CPU in that time")
		})
	}
}
