package limiter_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// A recorder is a limiter that records what is reported to it.
type recorder struct {
	*limiter.Semaphore
	reported  []error
	abstained int
}

func newRecorder(t *testing.T) *recorder { return &recorder{Semaphore: newSemaphore(t, 1)} }

func (r *recorder) Acquire(ctx context.Context) (limiter.Permit, error) {
	if _, err := r.Semaphore.Acquire(ctx); err != nil {
		return limiter.Permit{}, err
	}
	return limiter.NewPermit(r, 0), nil
}

func (r *recorder) ReleasePermit(token uint64, err error) {
	r.reported = append(r.reported, err)
	r.Semaphore.ReleasePermit(token, err)
}

func (r *recorder) AbstainPermit(token uint64) {
	r.abstained++
	r.Semaphore.AbstainPermit(token)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func respond(status int, body io.ReadCloser, header ...string) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: body}, nil
	}
}

func get(t *testing.T, rt http.RoundTripper) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://inventory.test/items", nil)
	require.NoError(t, err)
	return rt.RoundTrip(req)
}

func TestTransportVerdicts(t *testing.T) {
	date := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	in30s := []string{"Date", date.Format(http.TimeFormat), "Retry-After", date.Add(30 * time.Second).Format(http.TimeFormat)}
	const none = -1
	for _, test := range []struct {
		status int
		header []string
		class  error
		after  time.Duration
	}{
		{200, nil, nil, none},
		{404, nil, nil, none},
		{400, []string{"Retry-After", "3"}, nil, none},
		{429, nil, limiter.ErrOverload, none},
		{429, []string{"Retry-After", "3"}, limiter.ErrOverload, 3 * time.Second},
		{429, []string{"Retry-After", "-3"}, limiter.ErrOverload, 0},
		{429, []string{"Retry-After", "99999999999999999999"}, limiter.ErrOverload, none},
		{429, []string{"Retry-After", "1.5"}, limiter.ErrOverload, 1500 * time.Millisecond},
		{429, []string{"Retry-After", "1e3"}, limiter.ErrOverload, none},
		{503, []string{"Date", date.Format(http.TimeFormat), "Retry-After", date.AddDate(100, 0, 0).Format(http.TimeFormat)}, limiter.ErrOverload, 24 * time.Hour},
		{429, []string{"Retry-After", "soon"}, limiter.ErrOverload, none},
		{429, in30s, limiter.ErrOverload, 30 * time.Second},
		{429, []string{"Retry-After", date.Format(http.TimeFormat)}, limiter.ErrOverload, 0},
		{503, nil, limiter.ErrUnavailable, none},
		{503, []string{"Retry-After", "soon"}, limiter.ErrUnavailable, none},
		{503, []string{"Retry-After", "120"}, limiter.ErrOverload, 2 * time.Minute},
		{503, in30s, limiter.ErrOverload, 30 * time.Second},
		{500, []string{"Retry-After", "3"}, limiter.ErrUnavailable, none},
		{502, nil, limiter.ErrUnavailable, none},
		{401, nil, limiter.ErrMisconfigured, none},
		{403, nil, limiter.ErrMisconfigured, none},
		{403, []string{"Retry-After", "60"}, limiter.ErrOverload, time.Minute},
		{403, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "60"}, limiter.ErrOverload, time.Minute},
		{403, []string{"X-RateLimit-Remaining", "0"}, limiter.ErrOverload, none},
		{403, []string{"X-RateLimit-Remaining", "7", "X-RateLimit-Reset", "60"}, limiter.ErrMisconfigured, none},
		{429, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "60"}, limiter.ErrOverload, time.Minute},
		{429, []string{"Retry-After", "2", "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "60"}, limiter.ErrOverload, 2 * time.Second},
		{503, []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "60"}, limiter.ErrOverload, time.Minute},
		{529, nil, limiter.ErrUnavailable, none},
		{529, []string{"Retry-After", "5"}, limiter.ErrOverload, 5 * time.Second},
		{407, nil, limiter.ErrMisconfigured, none},
		{408, nil, limiter.ErrUnavailable, none},
		{425, nil, limiter.ErrUnavailable, none},
		{302, nil, nil, none},
		{304, nil, nil, none},
		{422, nil, nil, none},
	} {
		for name, body := range map[string]io.ReadCloser{"with": io.NopCloser(strings.NewReader("hello")), "without": http.NoBody, "nil": nil} {
			t.Run(fmt.Sprintf("%d %v %s body", test.status, test.header, name), func(t *testing.T) {
				l := newRecorder(t)
				res, err := get(t, transport(t, l, respond(test.status, body, test.header...)))
				require.NoError(t, err)
				require.Equal(t, test.status, res.StatusCode)
				if name == "with" {
					require.Empty(t, l.reported)
					require.NoError(t, res.Body.Close())
				}
				require.Len(t, l.reported, 1)
				require.Equal(t, test.class, limiter.Classify(l.reported[0]))
				after, ok := limiter.RetryAfter(l.reported[0])
				require.Equal(t, test.after != none, ok)
				if ok {
					require.Equal(t, test.after, after)
				}
			})
		}
	}
}

type errBody struct{ err error }

func (b errBody) Read([]byte) (int, error) { return 0, b.err }
func (errBody) Close() error               { return nil }

func TestTransportReleasesOnce(t *testing.T) {
	l := newRecorder(t)
	rt := transport(t, l, respond(200, io.NopCloser(strings.NewReader("hello"))))
	res, err := get(t, rt)
	require.NoError(t, err)
	require.Equal(t, 1, l.Stats().InUse)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(body))
	require.Equal(t, 0, l.Stats().InUse, "at the end of the body")
	require.NoError(t, res.Body.Close())
	require.NoError(t, res.Body.Close())
	require.Equal(t, []error{nil}, l.reported)

	for _, test := range []struct{ err, class error }{
		{io.ErrUnexpectedEOF, limiter.ErrUnavailable},
		{context.DeadlineExceeded, limiter.ErrUnavailable},
		{context.Canceled, nil},
		{fmt.Errorf("%w: %w", context.Canceled, io.ErrUnexpectedEOF), nil},
		{errPoison, limiter.ErrUnavailable},
	} {
		l := newRecorder(t)
		res, err := get(t, transport(t, l, respond(200, errBody{test.err})))
		require.NoError(t, err)
		_, err = io.ReadAll(res.Body)
		require.Equal(t, test.err, err, "the caller sees it as it was")
		require.NoError(t, res.Body.Close())
		require.Len(t, l.reported, 1)
		require.Error(t, l.reported[0])
		require.Equal(t, test.class, limiter.Classify(l.reported[0]))
	}
}

func TestTransportWithoutResponse(t *testing.T) {
	for _, test := range []struct{ err, class error }{
		{&net.OpError{Op: "dial", Err: errors.New("refused")}, limiter.ErrUnavailable},
		{io.EOF, limiter.ErrUnavailable},
		{errors.New("malformed HTTP response"), limiter.ErrUnavailable},
		{&net.DNSError{IsNotFound: true}, limiter.ErrMisconfigured},
		{context.Canceled, nil},
	} {
		l := newRecorder(t)
		_, err := get(t, transport(t, l, roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, test.err
		})))
		require.Equal(t, test.err, err)
		require.Len(t, l.reported, 1)
		require.Error(t, l.reported[0])
		require.Equal(t, test.class, limiter.Classify(l.reported[0]))
	}

	l := newRecorder(t)
	require.Panics(t, func() {
		_, _ = get(t, transport(t, l, roundTripper(func(*http.Request) (*http.Response, error) {
			panic("base")
		})))
	})
	require.Empty(t, l.reported)
	require.Equal(t, 1, l.abstained)
	require.Zero(t, l.Stats().InUse)
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

func TestTransportGivesUpWaiting(t *testing.T) {
	l := newSemaphore(t, 1)
	acquire(t, l)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGaveUp)
	body := &closing{Reader: strings.NewReader("order")}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://inventory.test/", body)
	require.NoError(t, err)
	_, err = transport(t, l, respond(200, nil)).RoundTrip(req)
	require.Equal(t, errGaveUp, err)
	require.True(t, body.closed)
	req.Body = nil
	_, err = transport(t, l, respond(200, nil)).RoundTrip(req)
	require.Equal(t, errGaveUp, err)
}

func TestTransportDefaults(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer server.Close()
	client := &http.Client{Transport: transport(t, all(t), nil)}
	defer client.CloseIdleConnections()
	res, err := client.Get(server.URL)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(body))
	require.NoError(t, res.Body.Close())

	server.Close()
	l := newRecorder(t)
	client.Transport = transport(t, l, nil)
	_, err = client.Get(server.URL)
	require.Error(t, err)
	require.Equal(t, limiter.ErrUnavailable, limiter.Classify(l.reported[0]))
}

type idler struct {
	http.RoundTripper
	closed int
}

func (i *idler) CloseIdleConnections() { i.closed++ }

func TestTransportClosesIdleConnections(t *testing.T) {
	base := &idler{}
	(&http.Client{Transport: transport(t, all(t), base)}).CloseIdleConnections()
	require.Equal(t, 1, base.closed)
	transport(t, all(t), respond(200, nil)).CloseIdleConnections()
	(&limiter.Transport{}).CloseIdleConnections()
}

// After 101 the response body is the connection, in both directions.
func TestTransportSwitchesProtocols(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString(line)
		_ = rw.Flush()
	}))
	defer server.Close()
	l := newRecorder(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "upgrade")
	req.Header.Set("Upgrade", "echo")
	res, err := transport(t, l, nil).RoundTrip(req)
	require.NoError(t, err)
	require.Equal(t, 101, res.StatusCode)
	conn := res.Body.(io.ReadWriteCloser)
	_, err = io.WriteString(conn, "hello\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
	require.NoError(t, conn.Close())
	require.Equal(t, []error{nil}, l.reported)
}

// A server that drops kept connections makes net/http's transport send GETs,
// and anything with an Idempotency-Key, again, unless it is kept from it.
func TestTransportSendsOneRequestPerPermit(t *testing.T) {
	var mu sync.Mutex
	arrived, bodies := 0, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		mu.Lock()
		arrived++
		n := arrived
		if len(got) > 0 || r.ContentLength != 0 && r.Method != http.MethodPost {
			bodies++
		}
		mu.Unlock()
		if n%2 == 0 {
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	rec := newRecorder(t)
	client := &http.Client{Transport: transport(t, rec, nil)}
	for i := range 20 {
		method, body := http.MethodGet, io.Reader(nil)
		switch {
		case i%4 > 1:
			method, body = http.MethodPost, strings.NewReader("x")
		case i > 10:
			method = http.MethodDelete
		}
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL, body)
		require.NoError(t, err)
		req.Header.Set("Idempotency-Key", strconv.Itoa(i))
		res, err := client.Do(req)
		if i%2 == 1 {
			require.Error(t, err)
			require.ErrorIs(t, limiter.Classify(rec.reported[len(rec.reported)-1]), limiter.ErrUnavailable)
			continue
		}
		require.NoError(t, err)
		_, _ = io.Copy(io.Discard, res.Body)
		require.NoError(t, res.Body.Close())
	}
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 20, arrived)
	require.Equal(t, 10, bodies, "the POSTs' and no others")
}
