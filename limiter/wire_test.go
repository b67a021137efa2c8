package limiter_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// listen serves each connection of a port with serve, and closes it after.
func listen(t testing.TB, serve func(c net.Conn)) (addr string) {
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

// hang keeps the connection open until the client closes it.
func hang(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// reset ends the connection with a RST.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// http1 answers each HTTP/1 request with what answer writes.
func http1(answer func(c net.Conn, r *http.Request, n int) (more bool)) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for n := 0; ; n++ {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if !answer(c, r, n) {
				return
			}
		}
	}
}

// Types of HTTP/2 frames and errors.
const (
	frameHeaders, frameReset, frameSettings, frameGoAway = 1, 3, 4, 7
	noError, internalError, refusedStream, calmDown      = 0, 2, 7, 11
)

var ok200 = []byte{0x88} // :status 200, compressed

func frame(c net.Conn, kind, flags byte, stream uint32, payload []byte) {
	b := []byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	b = binary.BigEndian.AppendUint32(b, stream)
	_, _ = c.Write(append(b, payload...))
}

func numbers(list ...uint32) (b []byte) {
	for _, n := range list {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// http2 speaks HTTP/2 as far as it is needed: answer is called for each request.
func http2(answer func(c net.Conn, stream uint32) (more bool)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.CopyN(io.Discard, c, 24); err != nil { // the preface
			return
		}
		frame(c, frameSettings, 0, 0, nil)
		for h := make([]byte, 9); ; {
			if _, err := io.ReadFull(c, h); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, c, int64(h[0])<<16|int64(h[1])<<8|int64(h[2])); err != nil {
				return
			}
			switch {
			case h[3] == frameHeaders:
				if !answer(c, binary.BigEndian.Uint32(h[5:])) {
					return
				}
			case h[3] == frameSettings && h[4] == 0:
				frame(c, frameSettings, 1, 0, nil)
			}
		}
	}
}

func clear2() *http.Transport {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return tr
}

// exchange makes one request and reads its response to the end.
func exchange(ctx context.Context, rt http.RoundTripper, method, url string) error {
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	res, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// The server sees the same request with and without a Transport.
func TestTransportSendsWhatItIsGiven(t *testing.T) {
	type seen struct {
		method, proto, body string
		length              int64
		encoding            []string
		header              http.Header
	}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		got := make(chan seen, 1)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got <- seen{r.Method, r.Proto, string(body), r.ContentLength, r.TransferEncoding, r.Header}
		}))
		server.EnableHTTP2 = proto == "HTTP/2.0"
		server.StartTLS()
		defer server.Close()
		base := server.Client().Transport
		for _, method := range []string{"", "GET", "HEAD", "OPTIONS", "TRACE", "DELETE", "POST", "PUT", "PATCH", "PROPFIND", "SEARCH"} {
			for name, body := range map[string]func() io.Reader{
				"nil":            func() io.Reader { return nil },
				"NoBody":         func() io.Reader { return http.NoBody },
				"known length":   func() io.Reader { return strings.NewReader("hello") },
				"unknown length": func() io.Reader { return io.NopCloser(strings.NewReader("hello")) },
				"empty":          func() io.Reader { return strings.NewReader("") },
			} {
				if method == "TRACE" && name == "unknown length" && proto == "HTTP/1.1" {
					continue // no server of net/http takes it
				}
				for _, key := range []string{"", "1"} {
					var plain seen
					for _, rt := range []http.RoundTripper{base, transport(t, all(t), base)} {
						req, err := http.NewRequestWithContext(t.Context(), method, server.URL, body())
						require.NoError(t, err)
						if key != "" {
							req.Header.Set("Idempotency-Key", key)
						}
						res, err := rt.RoundTrip(req)
						require.NoError(t, err)
						require.Equal(t, proto, res.Proto)
						require.Equal(t, req.Context(), res.Request.Context())
						_ = res.Body.Close()
						if _, ok := rt.(*limiter.Transport); !ok {
							plain = <-got
							continue
						}
						require.Equal(t, plain, <-got, "%s %s, body: %s", proto, method, name)
					}
				}
			}
		}
	}
}

// A request without an answer, or without all of it, is ErrUnavailable, whatever net/http
// calls it. And it arrives once.
func TestTransportWithoutAnAnswer(t *testing.T) {
	write := func(s string) func(net.Conn, *http.Request, int) bool {
		return func(c net.Conn, _ *http.Request, _ int) bool {
			_, _ = io.WriteString(c, s)
			return false
		}
	}
	refuse := func(code uint32) func(net.Conn, uint32) bool {
		return func(c net.Conn, s uint32) bool {
			frame(c, frameReset, 0, s, numbers(code))
			return true
		}
	}
	plain := func() *http.Transport { return &http.Transport{} }
	ping := func() *http.Transport {
		tr := clear2()
		tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: 20 * ms, PingTimeout: 20 * ms}
		return tr
	}
	header := func() *http.Transport { return &http.Transport{ResponseHeaderTimeout: 20 * ms} }
	handshake := func() *http.Transport { return &http.Transport{TLSHandshakeTimeout: 20 * ms} }
	for name, c := range map[string]struct {
		base   func() *http.Transport
		serve  func(net.Conn)
		scheme string
		class  error // nil: ErrUnavailable
	}{
		"RST_STREAM INTERNAL_ERROR":    {base: clear2, serve: http2(refuse(internalError))},
		"RST_STREAM ENHANCE_YOUR_CALM": {base: clear2, serve: http2(refuse(calmDown))},
		"RST_STREAM in the body": {base: clear2, serve: http2(func(c net.Conn, s uint32) bool {
			frame(c, frameHeaders, 4, s, ok200)
			return refuse(internalError)(c, s)
		})},
		"GOAWAY ENHANCE_YOUR_CALM": {base: clear2, serve: http2(func(c net.Conn, s uint32) bool {
			frame(c, frameGoAway, 0, 0, numbers(s, calmDown))
			return false
		})},
		"GOAWAY in the body": {base: clear2, serve: http2(func(c net.Conn, s uint32) bool {
			frame(c, frameHeaders, 4, s, ok200)
			frame(c, frameGoAway, 0, 0, numbers(s, internalError))
			return false
		})},
		"closed, HTTP/2":         {base: clear2, serve: http2(func(net.Conn, uint32) bool { return false })},
		"no answer to pings":     {base: ping, serve: http2(func(c net.Conn, _ uint32) bool { hang(c); return false })},
		"HTTP/1 for HTTP/2":      {base: clear2, serve: func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); hang(c) }},
		"closed":                 {base: plain, serve: http1(write(""))},
		"reset":                  {base: plain, serve: http1(func(c net.Conn, _ *http.Request, _ int) bool { reset(c); return false })},
		"garbage":                {base: plain, serve: http1(write("220 smtp.test ESMTP\r\n"))},
		"malformed header":       {base: plain, serve: http1(write("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"))},
		"closed in the header":   {base: plain, serve: http1(write("HTTP/1.1 200 OK\r\nContent-Le"))},
		"closed in the body":     {base: plain, serve: http1(write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"))},
		"closed in a chunk":      {base: plain, serve: http1(write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"))},
		"malformed chunk":        {base: plain, serve: http1(write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"))},
		"truncated gzip":         {base: plain, serve: http1(write("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08"))},
		"no header in time":      {base: header, serve: http1(func(c net.Conn, _ *http.Request, _ int) bool { hang(c); return false })},
		"TLS handshake too slow": {base: handshake, scheme: "https", serve: hang},
		"TLS handshake cut off":  {base: plain, scheme: "https", serve: func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 5)) }},
		"no TLS at all":          {base: plain, scheme: "https", serve: http1(write("")), class: limiter.ErrMisconfigured},
		"a proxy's 502 to CONNECT": {base: func() *http.Transport {
			proxy := &url.URL{Scheme: "http", Host: listen(t, http1(write("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")))}
			return &http.Transport{Proxy: http.ProxyURL(proxy)}
		}, scheme: "https", serve: hang},
	} {
		if name == "no TLS at all" {
			c.serve = func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); hang(c) }
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+" "+method, func(t *testing.T) {
				base := c.base()
				defer base.CloseIdleConnections()
				l := newRecorder(t)
				scheme := "http"
				if c.scheme != "" {
					scheme = c.scheme
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				err := exchange(ctx, transport(t, l, base), method, scheme+"://"+listen(t, c.serve))
				require.Error(t, err)
				require.NoError(t, ctx.Err(), "it hangs")
				require.Len(t, l.reported, 1)
				class := limiter.ErrUnavailable
				if c.class != nil {
					class = c.class
				}
				require.Equal(t, class, limiter.Classify(l.reported[0]), "%v", l.reported[0])
				require.Zero(t, l.Stats().InUse)
				if strings.HasSuffix(name, "body") || strings.Contains(name, "chunk") || strings.Contains(name, "gzip") {
					return
				}
				// Without a Transport, Classify knows from http.Client that there was no response.
				err = &url.Error{Op: "Get", URL: "http://x", Err: err}
				require.Equal(t, class, limiter.Classify(err), "%v", err)
			})
		}
	}
}

// Nobody listens, and the name does not exist.
func TestTransportWithoutAServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	rec := newRecorder(t)
	require.Error(t, exchange(t.Context(), transport(t, rec, &http.Transport{}), "GET", "http://"+addr))
	require.Equal(t, limiter.ErrUnavailable, limiter.Classify(rec.reported[0]))

	slow := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Nanosecond}).DialContext(ctx, network, addr)
	}}
	require.Error(t, exchange(t.Context(), transport(t, rec, slow), "GET", "http://"+addr))
	require.Equal(t, limiter.ErrUnavailable, limiter.Classify(rec.reported[1]))

	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	server.Config.ErrorLog = nil
	require.Error(t, exchange(t.Context(), transport(t, rec, &http.Transport{}), "GET", server.URL))
	require.Equal(t, limiter.ErrMisconfigured, limiter.Classify(rec.reported[2]), "a certificate that nobody knows")
}

// The result of each way to run out of time or patience.
func TestTransportTimeouts(t *testing.T) {
	const soon, late = 100 * ms, time.Minute
	errCause := errors.New("the order was withdrawn")
	for name, c := range map[string]struct {
		client, deadline time.Duration
		cancel           time.Duration
		legacy           bool // Request.Cancel, by the caller
		class            error
	}{
		"Client.Timeout":                               {client: soon, class: limiter.ErrUnavailable},
		"Client.Timeout before the context's":          {client: soon, deadline: late, class: limiter.ErrUnavailable},
		"the context's deadline":                       {deadline: soon},
		"the context's deadline before Client.Timeout": {client: late, deadline: soon},
		"cancelled":                       {cancel: soon},
		"cancelled before Client.Timeout": {client: late, cancel: soon},
		"cancelled by Request.Cancel":     {cancel: soon, legacy: true},
	} {
		for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
			for _, inBody := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, in the body: %t", name, proto, inBody), func(t *testing.T) {
					stop := make(chan struct{})
					server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						if inBody {
							w.WriteHeader(http.StatusOK)
							_ = http.NewResponseController(w).Flush()
						}
						<-stop
					}))
					server.EnableHTTP2 = proto == "HTTP/2.0"
					server.StartTLS()
					defer server.Close()
					defer close(stop)
					l := newRecorder(t)
					client := &http.Client{Timeout: c.client, Transport: transport(t, l, server.Client().Transport)}
					ctx := t.Context()
					if c.deadline > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeoutCause(ctx, c.deadline, errCause)
						defer cancel()
					}
					ctx, cancel := context.WithCancelCause(ctx)
					defer cancel(nil)
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
					require.NoError(t, err)
					if c.legacy {
						withdrawn := make(chan struct{})
						req.Cancel = withdrawn //nolint:staticcheck // some still use it
						defer time.AfterFunc(c.cancel, func() { close(withdrawn) }).Stop()
					} else if c.cancel > 0 {
						defer time.AfterFunc(c.cancel, func() { cancel(fmt.Errorf("%w: %w", errCause, limiter.ErrUnavailable)) }).Stop()
					}
					res, err := client.Do(req)
					if err == nil { // else not even the header came in that time
						_, err = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
					}
					require.Error(t, err)
					require.Len(t, l.reported, 1)
					require.Error(t, l.reported[0])
					require.Equal(t, c.class, limiter.Classify(l.reported[0]), "%v", l.reported[0])
					require.Zero(t, l.Stats().InUse)
				})
			}
		}
	}
}

// A downstream that hangs, or that resets streams, opens a breaker.
func TestBreakerOpensWithoutAnswers(t *testing.T) {
	b := newBreaker(t, limiter.BreakerConfig{})
	server := "http://" + listen(t, http1(func(c net.Conn, _ *http.Request, _ int) bool { hang(c); return false }))
	client := &http.Client{Timeout: 10 * ms, Transport: transport(t, b, &http.Transport{})}
	for range 10 {
		_, err := client.Get(server)
		require.Error(t, err)
	}
	require.Equal(t, limiter.Open, b.State())

	b = newBreaker(t, limiter.BreakerConfig{})
	server = "http://" + listen(t, http2(func(c net.Conn, s uint32) bool {
		frame(c, frameReset, 0, s, numbers(internalError))
		return true
	}))
	base := clear2()
	defer base.CloseIdleConnections()
	for range 10 {
		require.Error(t, exchange(t.Context(), transport(t, b, base), "GET", server))
	}
	require.Equal(t, limiter.Open, b.State())
}

// A request that the server reports as not processed is sent again under the same
// permit, with its body.
func TestTransportSendsAgainWhatWasNotProcessed(t *testing.T) {
	for name, refuse := range map[string]func(c net.Conn, s uint32) bool{
		"GOAWAY":         func(c net.Conn, s uint32) bool { frame(c, frameGoAway, 0, 0, numbers(s-2, noError)); return false },
		"REFUSED_STREAM": func(c net.Conn, s uint32) bool { frame(c, frameReset, 0, s, numbers(refusedStream)); return true },
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+" "+method, func(t *testing.T) {
				var mu sync.Mutex
				requests, refused := 0, 0
				server := "http://" + listen(t, http2(func(c net.Conn, s uint32) bool {
					mu.Lock()
					defer mu.Unlock()
					if requests++; s > 1 && requests%3 == 0 {
						refused++
						return refuse(c, s)
					}
					frame(c, frameHeaders, 4|1, s, ok200)
					return true
				}))
				base := clear2()
				defer base.CloseIdleConnections()
				l := newRecorder(t)
				for range 6 {
					require.NoError(t, exchange(t.Context(), transport(t, l, base), method, server))
				}
				require.Len(t, l.reported, 6)
				for _, err := range l.reported {
					require.NoError(t, err)
				}
				mu.Lock()
				defer mu.Unlock()
				require.Positive(t, refused)
				require.Equal(t, 6+refused, requests)
			})
		}
	}
}

// A kept connection is closed by the server as a request arrives: the request may
// have been processed. One permit, one request.
func TestTransportKeptConnectionIsClosed(t *testing.T) {
	for name, end := range map[string]func(net.Conn){"closed": func(c net.Conn) { _ = c.Close() }, "reset": reset} {
		for _, key := range []bool{false, true} {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
				t.Run(fmt.Sprint(name, " ", method, ", key: ", key), func(t *testing.T) {
					var mu sync.Mutex
					arrived := 0
					server := "http://" + listen(t, http1(func(c net.Conn, _ *http.Request, n int) bool {
						mu.Lock()
						arrived++
						mu.Unlock()
						if n == 1 {
							end(c)
							return false
						}
						_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
						return true
					}))
					base := &http.Transport{}
					defer base.CloseIdleConnections()
					// A second idle connection, for a second request to go to.
					client := http.Client{Transport: base}
					var both sync.WaitGroup
					for range 2 {
						both.Go(func() {
							if res, err := client.Get(server); err == nil {
								_ = res.Body.Close()
							}
						})
					}
					both.Wait()
					mu.Lock()
					before := arrived
					mu.Unlock()
					l := newRecorder(t)
					rt := transport(t, l, base)
					for {
						req, err := http.NewRequestWithContext(t.Context(), method, server, strings.NewReader("x"))
						require.NoError(t, err)
						if method == http.MethodGet {
							req.Body, req.GetBody, req.ContentLength = nil, nil, 0
						}
						if key {
							req.Header.Set("Idempotency-Key", "1")
						}
						res, err := rt.RoundTrip(req)
						if err != nil {
							break
						}
						_ = res.Body.Close()
					}
					mu.Lock()
					defer mu.Unlock()
					require.Equal(t, limiter.ErrUnavailable, limiter.Classify(l.reported[len(l.reported)-1]))
					require.Equal(t, len(l.reported), arrived-before)
					require.Zero(t, l.Stats().InUse)
				})
			}
		}
	}
}

// A fault at every point of an exchange: part of the response arrives, and then the
// connection is closed, reset, or stalls. Every exchange has one class, no permit is
// lost, and no POST arrives twice.
func TestTransportFaultsEverywhere(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	trusted := cert.Client().Transport.(*http.Transport).TLSClientConfig
	const response1 = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
	var response2 []byte // HEADERS, DATA "hello" with END_STREAM
	{
		response2 = append(response2, 0, 0, 1, frameHeaders, 4, 0, 0, 0, 1, 0x88)
		response2 = append(response2, 0, 0, 5, 0, 1, 0, 0, 0, 1)
		response2 = append(response2, "hello"...)
	}
	for name, wire := range map[string]struct {
		response []byte
		serve    func(answer func(c net.Conn)) func(net.Conn)
		base     func() *http.Transport
		scheme   string
	}{
		"HTTP/1.1": {
			response: []byte(response1), scheme: "http", base: func() *http.Transport { return &http.Transport{} },
			serve: func(answer func(net.Conn)) func(net.Conn) {
				return http1(func(c net.Conn, _ *http.Request, _ int) bool { answer(c); return false })
			},
		},
		"TLS": {
			response: []byte(response1), scheme: "https", base: func() *http.Transport { return &http.Transport{TLSClientConfig: trusted.Clone()} },
			serve: func(answer func(net.Conn)) func(net.Conn) {
				return func(c net.Conn) {
					secure := tls.Server(c, &tls.Config{Certificates: cert.TLS.Certificates})
					http1(func(_ net.Conn, _ *http.Request, _ int) bool { answer(secure); return false })(secure)
				}
			},
		},
		"HTTP/2": {
			response: response2, scheme: "http", base: clear2,
			serve: func(answer func(net.Conn)) func(net.Conn) {
				return http2(func(c net.Conn, _ uint32) bool { answer(c); return false })
			},
		},
	} {
		for fault, end := range map[string]func(net.Conn){"close": func(net.Conn) {}, "reset": reset, "silence": hang} {
			t.Run(name+", "+fault, func(t *testing.T) {
				l := newSemaphore(t, 1)
				step := 1
				if fault == "silence" {
					step = 5 // each takes its time
				}
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					for cut := 0; cut < len(wire.response); cut += step {
						var mu sync.Mutex
						arrived := 0
						server := wire.scheme + "://" + listen(t, wire.serve(func(c net.Conn) {
							mu.Lock()
							arrived++
							mu.Unlock()
							_, _ = c.Write(wire.response[:cut])
							end(c)
						}))
						base := wire.base()
						client := &http.Client{Timeout: 10 * time.Second, Transport: transport(t, l, base)}
						if fault == "silence" {
							client.Timeout = 30 * ms
						}
						rec := &listener{Limiter: l}
						client.Transport = transport(t, rec, base)
						res, err := client.Post(server, "", strings.NewReader("{}"))
						if method == http.MethodGet {
							if err == nil {
								_ = res.Body.Close()
							}
							rec.reported = nil
							mu.Lock()
							arrived = 0
							mu.Unlock()
							res, err = client.Get(server)
						}
						if err == nil {
							_, err = io.Copy(io.Discard, res.Body)
							_ = res.Body.Close()
						}
						require.Error(t, err, "%d bytes", cut)
						require.Len(t, rec.reported, 1, "%d bytes", cut)
						require.Equal(t, limiter.ErrUnavailable, limiter.Classify(rec.reported[0]), "%d bytes: %v", cut, rec.reported[0])
						mu.Lock()
						require.LessOrEqual(t, arrived, 1, "%d bytes", cut)
						mu.Unlock()
						require.Zero(t, l.Stats().InUse, "%d bytes", cut)
						base.CloseIdleConnections()
					}
				}
			})
		}
	}
}

// A listener is a limiter that records what the permits of another one
// report.
type listener struct {
	limiter.Limiter
	reported []error
}

func (l *listener) Acquire(ctx context.Context) (limiter.Permit, error) {
	p, err := l.Limiter.Acquire(ctx)
	if err != nil {
		return p, err
	}
	return limiter.NewPermit(&heard{l, p}, 0), nil
}

type heard struct {
	by     *listener
	permit limiter.Permit
}

func (p *heard) ReleasePermit(_ uint64, err error) {
	p.by.reported = append(p.by.reported, err)
	p.permit.Release(err)
}
func (p *heard) AbstainPermit(uint64) { p.permit.Abstain() }
func (p *heard) CancelPermit(uint64)  { p.permit.Cancel() }
