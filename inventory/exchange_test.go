package inventory_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/limiter"
)

// listen serves each connection of a port with serve, and then closes it.
func listen(t *testing.T, serve func(c net.Conn)) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		stop()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { _ = c.Close() })
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c)
			})
		}
	})
	return l.Addr().String()
}

func newClient(t *testing.T, cfg inventory.Config) *inventory.Client {
	cfg.Token = token
	client, err := inventory.New(cfg)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// frame writes a frame of HTTP/2.
func frame(c net.Conn, kind, flags byte, stream uint32, payload []byte) {
	b := binary.BigEndian.AppendUint32([]byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags}, stream)
	_, _ = c.Write(append(b, payload...))
}

// http2 calls answer for each request of HTTP/2.
func http2(answer func(c net.Conn, stream uint32) (more bool)) func(net.Conn) {
	return func(c net.Conn) {
		const headers, settings = 1, 4
		if _, err := io.CopyN(io.Discard, c, 24); err != nil { // the preface
			return
		}
		frame(c, settings, 0, 0, nil)
		for h := make([]byte, 9); ; {
			if _, err := io.ReadFull(c, h); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, c, int64(h[0])<<16|int64(h[1])<<8|int64(h[2])); err != nil {
				return
			}
			switch {
			case h[3] == headers:
				if !answer(c, binary.BigEndian.Uint32(h[5:])) {
					return
				}
			case h[3] == settings && h[4] == 0:
				frame(c, settings, 1, 0, nil)
			}
		}
	}
}

func http2Answer(stream uint32, body string) []byte {
	var b bytes.Buffer
	b.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 1, 1, 4}, stream))
	b.WriteByte(0x88) // :status 200, compressed
	b.Write(binary.BigEndian.AppendUint32([]byte{0, 0, byte(len(body)), 0, 1}, stream))
	b.WriteString(body)
	return b.Bytes()
}

func clearHTTP2() *http.Transport {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return tr
}

// A GET has no body, and a POST has its length, in every protocol.
func TestBodiesOnTheWire(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		seen := make(chan string, 1)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			seen <- fmt.Sprint(r.Proto, " ", r.Method, " ", r.ContentLength == int64(len(body)), " ", len(body) > 0, " ", r.TransferEncoding)
			_, _ = io.WriteString(w, levelOfA)
		}))
		server.EnableHTTP2 = proto == "HTTP/2.0"
		server.StartTLS()
		defer server.Close()
		client := newClient(t, inventory.Config{BaseURL: server.URL, Transport: server.Client().Transport})
		_, err := client.Level(t.Context(), "A")
		require.NoError(t, err)
		require.Equal(t, proto+" GET true false []", <-seen)
		_, err = client.Adjust(t.Context(), take(1))
		require.NoError(t, err)
		require.Equal(t, proto+" POST true true []", <-seen)
	}
}

// A request that the API reports as not processed is sent again, under the same
// permit.
func TestSendsAgainWhatWasNotProcessed(t *testing.T) {
	for name, refuse := range map[string]func(c net.Conn, s uint32) bool{
		"GOAWAY": func(c net.Conn, s uint32) bool {
			frame(c, 7, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, s-2), 0))
			return false
		},
		"REFUSED_STREAM": func(c net.Conn, s uint32) bool {
			frame(c, 3, 0, s, []byte{0, 0, 0, 7})
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			requests, refused := 0, 0
			addr := listen(t, http2(func(c net.Conn, s uint32) bool {
				mu.Lock()
				defer mu.Unlock()
				if requests++; s > 1 && requests%3 == 0 {
					refused++
					return refuse(c, s)
				}
				_, _ = c.Write(http2Answer(s, levelOfA))
				return true
			}))
			h := &hearing{}
			client := newClient(t, inventory.Config{BaseURL: "http://" + addr, Transport: clearHTTP2(), Limiter: h})
			for i := range 6 {
				var err error
				if i%2 == 0 {
					_, err = client.Level(t.Context(), "A")
				} else {
					_, err = client.Adjust(t.Context(), take(1))
				}
				require.NoError(t, err)
				require.NoError(t, h.last(t))
			}
			mu.Lock()
			defer mu.Unlock()
			require.Positive(t, refused)
			require.Equal(t, 6+refused, requests)
			require.Equal(t, 6, h.acquired)
		})
	}
}

// A given number of bytes of each answer arrive, and then the connection is closed,
// reset, or silent. Every call ends as unavailable, its permit is returned once, and
// no adjustment is sent twice.
func TestFaultsEverywhere(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	trusted := cert.Client().Transport.(*http.Transport).TLSClientConfig
	answer1 := []byte("HTTP/1.1 " + sized("200 OK", levelOfA))
	http1 := func(answer func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			answer(c)
		}
	}
	for name, wire := range map[string]struct {
		answer []byte
		serve  func(answer func(net.Conn)) func(net.Conn)
		base   func() *http.Transport
		scheme string
	}{
		"HTTP/1.1": {answer1, http1, func() *http.Transport { return &http.Transport{} }, "http"},
		"TLS": {answer1, func(answer func(net.Conn)) func(net.Conn) {
			return func(c net.Conn) { http1(answer)(tls.Server(c, &tls.Config{Certificates: cert.TLS.Certificates})) }
		}, func() *http.Transport { return &http.Transport{TLSClientConfig: trusted.Clone()} }, "https"},
		"HTTP/2": {http2Answer(1, levelOfA), func(answer func(net.Conn)) func(net.Conn) {
			return http2(func(c net.Conn, _ uint32) bool { answer(c); return false })
		}, clearHTTP2, "http"},
	} {
		for fault, end := range map[string]func(net.Conn){
			"close": func(net.Conn) {},
			"reset": func(c net.Conn) {
				if tcp, ok := c.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
			},
			"silence": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		} {
			t.Run(name+", "+fault, func(t *testing.T) {
				step, timeout := 3, 10*time.Second
				if fault == "silence" {
					step, timeout = 15, 50*time.Millisecond
				}
				for cut := 0; cut < len(wire.answer); cut += step {
					var mu sync.Mutex
					arrived := 0
					addr := listen(t, wire.serve(func(c net.Conn) {
						mu.Lock()
						arrived++
						mu.Unlock()
						_, _ = c.Write(wire.answer[:cut])
						end(c)
					}))
					h := &hearing{}
					client := newClient(t, inventory.Config{BaseURL: wire.scheme + "://" + addr, Transport: wire.base(), Limiter: h, Timeout: timeout})
					_, err := client.Adjust(t.Context(), take(1))
					require.ErrorIs(t, err, inventory.ErrUnavailable, "%d bytes", cut)
					require.Equal(t, limiter.ErrUnavailable, limiter.Classify(h.last(t)), "%d bytes: %v", cut, err)
					mu.Lock()
					require.LessOrEqual(t, arrived, 1, "%d bytes", cut)
					mu.Unlock()
					_, err = client.Level(t.Context(), "A")
					require.ErrorIs(t, err, inventory.ErrUnavailable, "%d bytes", cut)
					require.Equal(t, limiter.ErrUnavailable, limiter.Classify(h.last(t)), "%d bytes: %v", cut, err)
				}
			})
		}
	}
}

// The end of the caller's context is not the API's fault; the end of Timeout is.
func TestWhoseDeadlineItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			deadline time.Duration
			class    error
		}{{time.Second, nil}, {time.Minute, limiter.ErrUnavailable}} {
			h := &hearing{}
			_, client := newServer(t, inventorytest.Config{Latency: time.Hour}, inventory.Config{Limiter: h})
			ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
			_, err := client.Level(ctx, "A")
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, c.class, limiter.Classify(h.last(t)), "%v", err)
			time.Sleep(2 * time.Hour)
		}
	})
}

// A 403 with a Retry-After or an exhausted quota is a refusal.
func TestForbiddenForNow(t *testing.T) {
	for header, want := range map[string]error{
		"Retry-After: 60": limiter.ErrOverload,
		"X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 60": limiter.ErrOverload,
		"X-RateLimit-Remaining: 9\r\nX-RateLimit-Reset: 60": limiter.ErrMisconfigured,
	} {
		synctest.Test(t, func(t *testing.T) {
			client := answering(func(*http.Request) string {
				return "403 Forbidden\r\n" + header + "\r\nContent-Length: 0\r\n\r\n"
			}).client(t, inventory.Config{})
			_, err := client.Level(t.Context(), "A")
			require.Equal(t, want, limiter.Classify(err), header)
			if after, ok := limiter.RetryAfter(err); want == limiter.ErrOverload {
				require.True(t, ok)
				require.Equal(t, time.Minute, after)
			}
		})
	}
}
