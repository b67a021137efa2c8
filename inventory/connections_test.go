package inventory_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
)

// answering returns a network whose host answers requests with f, and keeps
// connections.
func answering(f func(r *http.Request) string) *wire {
	return &wire{serve: func(conn io.ReadWriter) {
		for in := bufio.NewReader(conn); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if _, err := io.WriteString(conn, "HTTP/1.1 "+f(r)); err != nil {
				return
			}
		}
	}}
}

func sized(status, body string) string {
	return fmt.Sprintf("%s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

const levelOfA = `{"sku":"A","available":1}`

// Sequential calls use one connection, for any answer within bounds.
func TestConnectionsAreReused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := answering(func(r *http.Request) string {
			switch sku := path.Base(r.URL.Path); sku {
			case "bad":
				return sized("400 Bad Request", strings.Repeat("x", 300<<10))
			case "throttled":
				return sized("429 Too Many Requests", "")
			case "away":
				return sized("302 Found\r\nLocation: http://evil.test/", "moved")
			case "unchanged":
				return "304 Not Modified\r\n\r\n"
			case "chunked":
				return "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n"
			case "garbage":
				return sized("200 OK", strings.Repeat("{", 300<<10))
			case "long":
				return sized("200 OK", strings.Repeat(" ", 2<<20))
			}
			return sized("200 OK", levelOfA)
		})
		client := w.client(t, inventory.Config{})
		const rounds = 20
		call := func(sku string) {
			_, _ = client.Refresh(t.Context(), inventory.Level{SKU: sku, ETag: `"1"`})
		}
		for range rounds {
			for _, sku := range []string{"A", "bad", "throttled", "away", "unchanged", "chunked", "garbage"} {
				call(sku)
			}
		}
		require.Len(t, w.dials(), 1, "%d requests", 7*rounds)
		// A body that is not read to its end closes its connection.
		for range rounds {
			call("long")
		}
		require.Len(t, w.dials(), rounds)
	})
}

// There are as many connections as concurrent calls, and they are kept for the next
// calls.
func TestConnectionsUnderConcurrency(t *testing.T) {
	for _, atOnce := range []int{10, 300} {
		synctest.Test(t, func(t *testing.T) {
			w := answering(func(*http.Request) string {
				time.Sleep(time.Second) // so that all calls of a wave are here at once
				return sized("200 OK", levelOfA)
			})
			client := w.client(t, inventory.Config{})
			const waves = 10
			for range waves {
				var wg sync.WaitGroup
				for range atOnce {
					wg.Go(func() {
						if _, err := client.Level(t.Context(), "A"); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
			}
			require.Len(t, w.dials(), atOnce, "%d requests", waves*atOnce)
		})
	}
}

func TestWithTransport(t *testing.T) {
	var seen []string
	note := func(name string) func(http.RoundTripper) http.RoundTripper {
		return func(base http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				seen = append(seen, name+" "+r.Header.Get("Authorization"))
				return base.RoundTrip(r)
			})
		}
	}
	bottom := &idle{roundTripper: func(*http.Request) (*http.Response, error) {
		seen = append(seen, "bottom")
		return &http.Response{StatusCode: 200, Body: bodyOf(`{"sku":"A","available":1}`)}, nil
	}}
	cfg := inventory.Config{BaseURL: "http://inventory.test", Token: token, Transport: bottom}
	one := cfg.WithTransport(note("one"))
	many := one.WithTransport(note("two")).WithTransport(note("three")) // enough that append has spare capacity
	left, right := many.WithTransport(note("left")), many.WithTransport(note("right"))
	for _, c := range []struct {
		cfg  inventory.Config
		want []string
	}{
		{cfg, []string{"bottom"}},
		{one, []string{"one Bearer " + token, "bottom"}},
		{left, []string{"left Bearer " + token, "three Bearer " + token, "two Bearer " + token, "one Bearer " + token, "bottom"}},
		{right, []string{"right Bearer " + token, "three Bearer " + token, "two Bearer " + token, "one Bearer " + token, "bottom"}},
	} {
		seen = nil
		client, err := inventory.New(c.cfg)
		require.NoError(t, err)
		_, err = client.Level(context.Background(), "A")
		require.NoError(t, err)
		require.Equal(t, c.want, seen)
		client.CloseIdleConnections() // though a hook does not know how to
	}
	require.Equal(t, 4, bottom.closed)
}

type idle struct {
	roundTripper
	closed int
}

func (i *idle) CloseIdleConnections() { i.closed++ }
