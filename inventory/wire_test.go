package inventory_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// A wire is a network in memory on which serve plays one host. The client uses its
// own transport on it.
type wire struct {
	serve func(conn io.ReadWriter)
	sent  atomic.Int64 // bytes that the client took from the host
	conns sync.WaitGroup

	mu     sync.Mutex // guards what follows
	dialed []string
}

func (w *wire) dial(_ context.Context, _, addr string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, addr)
	w.mu.Unlock()
	here, there := net.Pipe() // unbuffered: what was written was read
	w.conns.Go(func() {
		defer func() { _ = there.Close() }()
		w.serve(counted{there, &w.sent})
	})
	return here, nil
}

// dials returns the addresses that were dialled.
func (w *wire) dials() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dialed)
}

type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// client returns a client of the host, with the transport that clients have by
// default.
func (w *wire) client(t *testing.T, cfg inventory.Config) *inventory.Client {
	t.Helper()
	cfg.BaseURL, cfg.Token = "http://inventory.test", token
	client, err := inventory.New(cfg.WithTransport(func(base http.RoundTripper) http.RoundTripper {
		base.(*http.Transport).DialContext = w.dial
		base.(*http.Transport).Proxy = nil
		return base
	}))
	require.NoError(t, err)
	t.Cleanup(func() { client.CloseIdleConnections(); w.conns.Wait() })
	return client
}

// request reads a request, including its body, from a connection.
func request(conn io.Reader) error {
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if _, err := conn.Read(b); err != nil {
			return err
		}
		head = append(head, b[0])
	}
	length := 0
	for l := range strings.SplitSeq(string(head), "\r\n") {
		_, _ = fmt.Sscanf(l, "Content-Length: %d", &length) // of most lines it is not
	}
	_, err := io.CopyN(io.Discard, conn, int64(length))
	return err
}

func forever(w io.Writer, s string) {
	b := bytes.Repeat([]byte(s), 1+4096/len(s))
	for {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

func drip(w io.Writer, s string) {
	for {
		time.Sleep(time.Second)
		if _, err := io.WriteString(w, s); err != nil {
			return
		}
	}
}

const ok = "HTTP/1.1 200 OK\r\n"

// A malicious server's answer costs bounded time, bytes and memory, and is an error
// with one meaning.
func TestMaliciousServer(t *testing.T) {
	const (
		body = 1<<20 + 16<<10 // MaxBody and what buffers read ahead
		head = 64<<10 + 16<<10
		heap = 16 << 20
	)
	log.SetOutput(io.Discard) // net/http logs bytes after the answer there
	defer log.SetOutput(os.Stderr)
	for name, c := range map[string]struct {
		serve func(w io.ReadWriter)
		bytes int64 // that may be taken
		lasts time.Duration
	}{
		"endless body": {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok+"\r\n"); forever(w, " ") }, body, 0},
		"endless chunks": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Transfer-Encoding: chunked\r\n\r\n")
			forever(w, "1\r\n \r\n")
		}, 7 * body, 0},
		"endless body of an error": {func(w io.ReadWriter) { _, _ = io.WriteString(w, "HTTP/1.1 422 Unprocessable\r\n\r\n"); forever(w, " ") }, body, 0},
		"one huge chunk": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Transfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n")
			forever(w, " ")
		}, body, 0},
		"chunk extensions": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Transfer-Encoding: chunked\r\n\r\n1;")
			forever(w, "x")
		}, body, 0},
		"endless trailer": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Transfer-Encoding: chunked\r\n\r\n0\r\n")
			forever(w, "X: y\r\n")
		}, body, 0},
		"huge content length": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Length: 9223372036854775807\r\n\r\n")
			forever(w, " ")
		}, body, 0},
		"gzip bomb": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Encoding: gzip\r\n\r\n")
			z := gzip.NewWriter(w)
			forever(z, strings.Repeat(" ", 1<<16))
		}, 32 << 10, 0},
		"gzip that never begins": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x00") // a name follows, without an end
			forever(w, "x")
		}, head, 0},
		"endless header":       {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok+"X: "); forever(w, "x") }, head, 0},
		"endless headers":      {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok); forever(w, "X: y\r\n") }, head, 0},
		"endless continuation": {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok+"X: y\r\n"); forever(w, " z\r\n") }, head, 0},
		"endless status":       {func(w io.ReadWriter) { _, _ = io.WriteString(w, "HTTP/1.1 200 "); forever(w, "x") }, head, 0},
		"endless early hints":  {func(w io.ReadWriter) { forever(w, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n") }, head, 0},
		"endless noise":        {func(w io.ReadWriter) { forever(w, "\x00\xff") }, head, 0},
		"a long line":          {func(w io.ReadWriter) { _, _ = io.WriteString(w, strings.Repeat("\xff", 4<<10)+"\r\n") }, head, 0},
		"another protocol":     {func(w io.ReadWriter) { _, _ = io.WriteString(w, "SSH-2.0-OpenSSH_9.2\r\n"); drip(w, "\x00") }, head, 0},
		"silence":              {func(w io.ReadWriter) { _, _ = io.Copy(io.Discard, w) }, 0, 10 * time.Second},
		"slow header":          {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok+"X: "); drip(w, "x") }, 1 << 10, 10 * time.Second},
		"slow body":            {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok+"\r\n{"); drip(w, " ") }, 1 << 10, 10 * time.Second},
		"slow chunks": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Transfer-Encoding: chunked\r\n\r\n")
			drip(w, "1\r\n \r\n")
		}, 1 << 10, 10 * time.Second},
		"slow gzip": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x00")
			drip(w, "x")
		}, 1 << 10, 10 * time.Second},
		"slow body of an error": {func(w io.ReadWriter) { _, _ = io.WriteString(w, "HTTP/1.1 404 Not Found\r\n\r\n{"); drip(w, " ") }, 1 << 10, 10 * time.Second},
		"early hints, slowly":   {func(w io.ReadWriter) { drip(w, "HTTP/1.1 103 Early Hints\r\n\r\n") }, 1 << 10, 10 * time.Second},
		"switching protocols": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			drip(w, "x")
		}, 1 << 10, 0},
		"too short": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Length: 99\r\n\r\n{\"sku\":\"A\",\"available\":1}")
		}, head, 0},
		"too long": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Length: 7\r\n\r\n{\"sku\":\"A\",\"available\":1}")
		}, head, 0},
		"two lengths": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Length: 25\r\nContent-Length: 2\r\n\r\n{\"sku\":\"A\",\"available\":1}")
		}, head, 0},
		"a negative length": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Length: -1\r\n\r\n{\"sku\":\"A\",\"available\":1}")
		}, head, 0},
		"a length of garbage": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Content-Length: 0x19\r\n\r\n{\"sku\":\"A\",\"available\":1}")
		}, head, 0},
		"an unknown encoding": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"Transfer-Encoding: x\r\n\r\n{\"sku\":\"A\",\"available\":1}")
		}, head, 0},
		"gzip in gzip": {func(w io.ReadWriter) {
			_, _ = w.Write(append([]byte(ok+"Content-Encoding: gzip, gzip\r\n\r\n"), zip(zip([]byte(`{"sku":"A","available":1}`)))...))
		}, head, 0},
		"lists in lists":     {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok+"\r\n"+strings.Repeat("[", 1<<20-1)) }, body, 0},
		"objects in objects": {func(w io.ReadWriter) { _, _ = io.WriteString(w, ok+"\r\n"+strings.Repeat(`{"sku":`, 149_000)) }, body, 0},
		"a closed list in a sku": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, ok+"\r\n"+`{"available":1,"sku":`+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+"}")
		}, body, 0},
		"errors in errors": {func(w io.ReadWriter) {
			_, _ = io.WriteString(w, "HTTP/1.1 500 No\r\n\r\n"+strings.Repeat(`{"code":`, 130_000))
		}, body, 0},
	} {
		for call, f := range map[string]func(context.Context, *inventory.Client) error{
			"Level":  func(ctx context.Context, c *inventory.Client) error { _, err := c.Level(ctx, "A"); return err },
			"Adjust": func(ctx context.Context, c *inventory.Client) error { _, err := c.Adjust(ctx, take(1)); return err },
			"AdjustAll": func(ctx context.Context, c *inventory.Client) error {
				_, err := c.AdjustAll(ctx, order("o", line("A", 1), line("B", 1)))
				return err
			},
			"Levels": func(ctx context.Context, c *inventory.Client) error {
				for _, err := range c.Levels(ctx, inventory.LevelsOptions{}) {
					return err
				}
				return nil
			},
		} {
			t.Run(name+"/"+call, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := &hearing{}
					w := &wire{serve: func(conn io.ReadWriter) {
						if request(conn) == nil {
							c.serve(conn)
						}
					}}
					client := w.client(t, inventory.Config{Limiter: h, Transactions: true})
					start, before := time.Now(), allocated()
					err := f(t.Context(), client)
					require.ErrorIs(t, err, inventory.ErrUnavailable)
					if limiter.Classify(err) != limiter.ErrMisconfigured { // a foreign 404
						require.Equal(t, limiter.ErrUnavailable, limiter.Classify(err))
					}
					var timeout interface{ Timeout() bool }
					require.ErrorAs(t, err, &timeout)
					require.Equal(t, c.lasts > 0, timeout.Timeout())
					require.Equal(t, err, h.last(t))
					require.Less(t, len(err.Error()), 1000)
					require.LessOrEqual(t, allocated()-before, uint64(heap))
					require.Equal(t, c.lasts, time.Since(start).Truncate(time.Second))
					require.LessOrEqual(t, w.sent.Load(), c.bytes)
					require.Equal(t, []string{"inventory.test:80"}, w.dials())
				})
			})
		}
	}
}

// The same over HTTP/2, which a default transport uses where TLS offers it, and whose
// windows let a server send some megabytes ahead.
func TestMaliciousServerOverHTTP2(t *testing.T) {
	for name, serve := range map[string]func(w http.ResponseWriter) (sent int64){
		"endless body": func(w http.ResponseWriter) (sent int64) {
			for b := bytes.Repeat([]byte(" "), 1<<14); ; sent += int64(len(b)) {
				if _, err := w.Write(b); err != nil {
					return sent
				}
			}
		},
		"gzip bomb": func(w http.ResponseWriter) (sent int64) {
			w.Header().Set("Content-Encoding", "gzip")
			forever(gzip.NewWriter(writerFunc(func(b []byte) (int, error) {
				n, err := w.Write(b)
				w.(http.Flusher).Flush()
				sent += int64(n)
				return n, err
			})), strings.Repeat(" ", 1<<16))
			return sent
		},
		"huge header": func(w http.ResponseWriter) int64 {
			for i := range 100 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1<<10))
			}
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan int64, 1)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != 2 {
					t.Error(r.Proto)
				}
				sent <- serve(w)
			}))
			srv.EnableHTTP2 = true
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			defer srv.Close()
			cfg := inventory.Config{BaseURL: srv.URL, Token: token}
			client, err := inventory.New(cfg.WithTransport(func(base http.RoundTripper) http.RoundTripper {
				base.(*http.Transport).TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
				return base
			}))
			require.NoError(t, err)
			defer client.CloseIdleConnections()
			_, err = client.Level(t.Context(), "A")
			require.ErrorIs(t, err, inventory.ErrUnavailable)
			require.Equal(t, limiter.ErrUnavailable, limiter.Classify(err))
			require.LessOrEqual(t, <-sent, int64(8<<20))
		})
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestMaxBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const level = `{"sku":"A","available":1}`
		w := &wire{serve: func(conn io.ReadWriter) {
			for request(conn) == nil {
				_, _ = fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", ok, len(level), level)
			}
		}}
		for maxBody, want := range map[int64]bool{1: false, int64(len(level)) - 1: false, int64(len(level)): true, 1 << 30: true} {
			client := w.client(t, inventory.Config{MaxBody: maxBody})
			_, err := client.Level(t.Context(), "A")
			require.Equal(t, want, err == nil, maxBody)
			if !want {
				require.ErrorContains(t, err, fmt.Sprintf("it has more than %d bytes", maxBody))
			}
		}
	})
}

func TestRetryAfterIsBounded(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":                                 -1,
		"7":                                7 * time.Second,
		"0.5":                              time.Second / 2,
		"120000":                           2 * time.Minute, // milliseconds: not 33 hours
		"31557600000000":                   -1,              // a million years
		"1" + strings.Repeat("0", 400):     -1,
		"Fri, 31 Dec 9999 23:59:59 GMT":    24 * time.Hour,
		"Thu, 01 Jan 1970 00:00:00 GMT":    -1,
		"0":                                -1,
		"-7":                               -1,
		"-" + strings.Repeat("9", 400):     -1,
		"soon":                             -1,
		"1e9":                              -1,
		"NaN":                              -1,
		"Inf":                              -1,
		"7, 8":                             8 * time.Second,
		strings.Repeat("7 ", 10_000):       -1,
		"Sat, 01 Jan 2000 00:00:09 GMT":    9 * time.Second, // by the server's own clock
		"Saturday, 01-Jan-00 00:00:09 GMT": 9 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) { // on 2000-01-01
			w := &wire{serve: func(conn io.ReadWriter) {
				if request(conn) == nil {
					_, _ = fmt.Fprintf(conn, "HTTP/1.1 429 Slow\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n", header)
				}
			}}
			client := w.client(t, inventory.Config{})
			_, err := client.Level(t.Context(), "A")
			require.ErrorIs(t, err, limiter.ErrOverload, header)
			after, ok := limiter.RetryAfter(err)
			if want < 0 {
				require.False(t, ok, header)
			} else {
				require.Equal(t, want, after, header)
			}
		})
	}
}

// The target of a redirect gets no request.
func TestTheTokenStaysHere(t *testing.T) {
	locations := []string{
		"http://evil.test/v1/levels/A", "http://inventory.test:81/v1/levels/A", "http://inventory.test.evil.test/", "https://inventory.test/",
		"//evil.test", "//inventory.test:81", "http://inventory.test@evil.test/", "http:\\\\evil.test", "/elsewhere", "?x=y", "", "%zz",
		"ftp://evil.test", "javascript:alert(1)", "http://[::1]:1/", "http://evil.test/?token=" + token, "http://" + token + ".evil.test",
	}
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308, 399} {
			for _, to := range locations {
				requests := 0
				w := &wire{serve: func(conn io.ReadWriter) {
					for request(conn) == nil {
						requests++
						// And other responses that might redirect a client.
						_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d Gone\r\nLocation: %s\r\nContent-Location: %[2]s\r\nRefresh: 0; url=%[2]s\r\n"+
							"Alt-Svc: h2=\"evil.test:443\"\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", status, to)
					}
				}}
				h := &hearing{}
				client := w.client(t, inventory.Config{Limiter: h})
				for i, f := range []func() error{
					func() error { _, err := client.Level(t.Context(), "A"); return err },
					func() error { _, err := client.Adjust(t.Context(), take(1)); return err },
				} {
					err := f()
					require.ErrorIs(t, err, limiter.ErrMisconfigured, to)
					require.NotErrorIs(t, err, retry.ErrPermanent, to)
					require.Equal(t, err, h.last(t))
					require.NotContains(t, err.Error(), token)
					require.Equal(t, i+1, requests)
					if to != "" {
						require.ErrorContains(t, err, "it redirects to ")
					}
				}
				client.CloseIdleConnections()
				synctest.Wait()
				require.Equal(t, []string{"inventory.test:80"}, w.dials(), "%d %q", status, to)
			}
		}
	})
	redirect := func(to string) string {
		w := &wire{serve: func(conn io.ReadWriter) {
			if request(conn) == nil {
				_, _ = fmt.Fprintf(conn, "HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", to)
			}
		}}
		client := w.client(t, inventory.Config{})
		_, err := client.Level(t.Context(), "A")
		return err.Error()
	}
	require.Equal(t, `inventory: level "A": 302 Found: it redirects to https://evil.test:1, which is not followed, `+
		`or the token would go there: correct BaseURL if the API has moved`, redirect("https://user:pass@evil.test:1/path?secret=x"))
	require.Equal(t, `inventory: level "A": 302 Found: it redirects to another path, which is not followed: `+
		`correct BaseURL if the API has moved`, redirect("/login?secret=x"))
	require.Equal(t, `inventory: level "A": 302 Found: it redirects to what is no URL`, redirect("%zz"))
}

// Not even to the same host without its encryption.
func TestTheTokenStaysEncrypted(t *testing.T) {
	var heard atomic.Int64
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Add(1) }))
	defer plain.Close()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	cfg := inventory.Config{BaseURL: srv.URL, Token: token}
	client, err := inventory.New(cfg.WithTransport(func(base http.RoundTripper) http.RoundTripper {
		base.(*http.Transport).TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		return base
	}))
	require.NoError(t, err)
	defer client.CloseIdleConnections()
	_, err = client.Level(t.Context(), "A")
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
	require.ErrorContains(t, err, "it redirects to "+plain.URL)
	require.Zero(t, heard.Load())
}

// Transports that break the contract of http.RoundTripper.
func TestTransportsThatReturnNothing(t *testing.T) {
	for _, res := range []*http.Response{nil, {}, {StatusCode: 200}, {StatusCode: 429, Header: nil}} {
		client, err := inventory.New(inventory.Config{
			BaseURL: "http://inventory.test", Token: token,
			Transport: roundTripper(func(*http.Request) (*http.Response, error) { return res, nil }),
		})
		require.NoError(t, err)
		_, err = client.Level(t.Context(), "A")
		var e *inventory.Error
		require.ErrorAs(t, err, &e)
	}
}

// FuzzWire fuzzes the bytes of a whole answer, including the header.
func FuzzWire(f *testing.F) {
	for _, raw := range []string{
		ok + "Content-Length: 25\r\n\r\n{\"sku\":\"A\",\"available\":1}",
		ok + "ETag: W/\"x\"\r\nTransfer-Encoding: chunked\r\n\r\n19\r\n{\"sku\":\"A\",\"available\":1}\r\n0\r\n\r\n",
		"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nRateLimit: \"q\";r=0;t=3\r\nRateLimit-Policy: \"q\";q=5;w=9\r\n\r\n{\"code\":\"throttled\"}",
		"HTTP/1.1 422 No\r\nX-RateLimit-Remaining: 1\r\nX-RateLimit-Reset: 99999999999\r\n\r\n{\"code\":\"out_of_stock\",\"detail\":\"none\"}",
		"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n",
		"HTTP/1.1 412 No\r\n\r\n{\"code\":\"changed\"}",
		"HTTP/1.1 302 Found\r\nLocation: http://evil.test/\r\n\r\n",
		"HTTP/1.1 103 Hint\r\n\r\n" + ok + "\r\n{\"levels\":[{\"sku\":\"A\",\"available\":1}],\"next_cursor\":\"x\"}",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nx",
		ok + "Content-Encoding: gzip\r\n\r\n" + string(zip([]byte(`{"sku":"A","available":1}`))),
		strings.Repeat("\x92", 4096),
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}" + ok,
	} {
		f.Add([]byte(raw))
	}
	log.SetOutput(io.Discard) // net/http's own, of answers to nothing
	f.Cleanup(func() { log.SetOutput(os.Stderr) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		w := &wire{}
		w.serve = func(conn io.ReadWriter) {
			if request(conn) == nil {
				_, _ = conn.Write(raw)
			}
		}
		rate, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{})
		if err != nil {
			t.Fatal(err)
		}
		client := w.client(t, inventory.Config{Limiter: observing{rate}})
		check := func(err error) {
			var e *inventory.Error
			if err != nil && (!errors.As(err, &e) || len(err.Error()) > 2000 || strings.Contains(err.Error(), token)) {
				t.Fatal(err)
			}
		}
		_, err = client.Refresh(t.Context(), inventory.Level{SKU: "A", ETag: `"1"`})
		check(err)
		_, err = client.AdjustAll(t.Context(), order("o", line("A", 1), line("B", 1)))
		check(err)
		for _, addr := range w.dials() {
			if addr != "inventory.test:80" {
				t.Fatalf("dialled %s", addr)
			}
		}
	})
}

// observing is a limiter that learns and never blocks.
type observing struct{ *limiter.AdaptiveRate }

func (o observing) Acquire(ctx context.Context) (limiter.Permit, error) {
	o.Reset()
	return o.AdaptiveRate.Acquire(ctx)
}
