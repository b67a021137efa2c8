package limiter_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

func TestResponseError(t *testing.T) {
	const none = time.Duration(-1)
	for _, c := range []struct {
		status    int
		header    []string
		class     error
		permanent bool
		after     time.Duration
	}{
		{status: 400, permanent: true, after: none},
		{status: 402, permanent: true, after: none},
		{status: 404, permanent: true, after: none},
		{status: 405, permanent: true, after: none},
		{status: 409, permanent: true, after: none},
		{status: 410, permanent: true, after: none},
		{status: 413, permanent: true, after: none},
		{status: 415, permanent: true, after: none},
		{status: 422, permanent: true, after: none},
		{status: 451, permanent: true, after: none},
		{status: 499, permanent: true, after: none},
		{status: 409, header: []string{"Retry-After", "5"}, after: 5 * time.Second},
		{status: 412, after: none},
		{status: 423, after: none},
		{status: 424, after: none},
		{status: 423, header: []string{"Retry-After", "5"}, after: 5 * time.Second},
		{status: 408, class: limiter.ErrUnavailable, after: none},
		{status: 425, class: limiter.ErrUnavailable, after: none},
		{status: 401, class: limiter.ErrMisconfigured, after: none},
		{status: 403, class: limiter.ErrMisconfigured, after: none},
		{status: 407, class: limiter.ErrMisconfigured, after: none},
		{status: 403, header: []string{"Retry-After", "60"}, class: limiter.ErrOverload, after: time.Minute},
		{status: 403, header: []string{"X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "90"}, class: limiter.ErrOverload, after: 90 * time.Second},
		{status: 429, class: limiter.ErrOverload, after: none},
		{status: 429, header: []string{"Retry-After", "0"}, class: limiter.ErrOverload, after: 0},
		{status: 500, class: limiter.ErrUnavailable, after: none},
		{status: 501, class: limiter.ErrUnavailable, after: none},
		{status: 502, class: limiter.ErrUnavailable, after: none},
		{status: 503, class: limiter.ErrUnavailable, after: none},
		{status: 503, header: []string{"Retry-After", "7"}, class: limiter.ErrOverload, after: 7 * time.Second},
		{status: 504, class: limiter.ErrUnavailable, after: none},
		{status: 301, after: none},
		{status: 302, after: none},
		{status: 307, after: none},
	} {
		res := &http.Response{StatusCode: c.status, Header: header(c.header...), Body: io.NopCloser(strings.NewReader("because"))}
		err := fmt.Errorf("order 7: %w", limiter.ResponseError(res))
		require.Equal(t, c.class, limiter.Classify(err), "%d", c.status)
		require.Equal(t, c.permanent, errors.Is(err, retry.ErrPermanent), "%d", c.status)
		after, ok := limiter.RetryAfter(err)
		if !ok {
			after = none
		}
		require.Equal(t, c.after, after, "%d", c.status)
		require.ErrorContains(t, err, fmt.Sprintf("order 7: limiter: response status %d", c.status))
		require.ErrorContains(t, err, ": because")
	}
	for _, status := range []int{100, 101, 103, 200, 201, 202, 204, 206, 226, 304} {
		body := &closing{Reader: strings.NewReader("all of it")}
		res := &http.Response{StatusCode: status, Header: http.Header{}, Body: body}
		require.NoError(t, limiter.ResponseError(res), "%d", status)
		require.Same(t, body, res.Body)
	}
	require.EqualError(t, limiter.ResponseError(&http.Response{StatusCode: 404}), "limiter: response status 404 Not Found")
	require.EqualError(t, limiter.ResponseError(&http.Response{StatusCode: 599, Body: http.NoBody}), "limiter: response status 599")
}

// The text of an error has the beginning of the body, which can still be read.
func TestResponseErrorQuotesTheBody(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://user:hunter22@api.test/v1/orders/a%2Fb?api_key=0123456789", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer s3cr3t-token-of-ours")
	req.Header.Set("X-Api-Key", "another-secret")
	req.Header.Set("Cookie", "session=cookie-monster; theme=dark-mode-on")
	quote := func(body string) string {
		res := &http.Response{StatusCode: 422, Header: http.Header{}, Request: req, Body: io.NopCloser(strings.NewReader(body))}
		text := limiter.ResponseError(res).Error()
		rest, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, body, string(rest))
		require.NoError(t, res.Body.Close())
		require.True(t, utf8.ValidString(text))
		require.Less(t, len(text), 400)
		return text
	}
	const prefix = "limiter: POST https://api.test/v1/orders/a%2Fb: response status 422 Unprocessable Entity"
	for body, want := range map[string]string{
		"":                                prefix,
		" \r\n\t ":                        prefix,
		`{"error": "no such sku"}`:        prefix + `: {"error": "no such sku"}`,
		"two\nlines\x1b[31m":              prefix + ": two lines\uFFFD[31m",
		"caf\xe9":                         prefix + ": caf\uFFFD",
		strings.Repeat("é", 10_000):       prefix + ": " + strings.Repeat("é", 128) + "...",
		"x" + strings.Repeat("é", 10_000): prefix + ": x" + strings.Repeat("é", 127) + "...",
		// What the request has that is secret.
		"bad token s3cr3t-token-of-ours":        prefix + ": bad token [redacted]",
		"you sent Bearer s3cr3t-token-of-ours!": prefix + ": you sent [redacted]!",
		"key another-secret, cookie-monster":    prefix + ": key [redacted], [redacted]",
		"GET /?x=0123456789 by hunter22":        prefix + ": GET /?x=[redacted] by [redacted]",
		// What looks like a secret.
		`{"access_token":"abc","sku":"A"}`:                     prefix + `: {"access_token":[redacted],"sku":"A"}`,
		`{"password": "a \"quoted\" one", "sku": "A"}`:         prefix + `: {"password": [redacted], "sku": "A"}`,
		"client_secret=abc&sku=A":                              prefix + ": client_secret=[redacted]&sku=A",
		"try Basic dXNlcjpwYXNz instead":                       prefix + ": try Basic [redacted] instead",
		"the token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.SflKxwRJ": prefix + ": the token [redacted]",
		"AKIAIOSFODNN7EXAMPLE is not allowed":                  prefix + ": [redacted] is not allowed",
		"see https://a:b@example.com/x":                        prefix + ": see https://[redacted]example.com/x",
	} {
		require.Equal(t, want, quote(body), "%q", body)
	}
	// A secret that is cut off where we stop reading.
	for cut := range len("s3cr3t-token-of-ours") + 2 {
		text := quote(strings.Repeat(" ", 4096-cut) + "s3cr3t-token-of-ours")
		require.NotContains(t, text, "s3cr3t-", "%d", cut)
	}

	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, "hello")
	_ = w.Close()
	res := &http.Response{StatusCode: 500, Header: header("Content-Encoding", "gzip"), Body: io.NopCloser(&packed)}
	require.EqualError(t, limiter.ResponseError(res), "limiter: response status 500 Internal Server Error")
	res = &http.Response{StatusCode: 500, Body: errBody{errPoison}}
	require.EqualError(t, limiter.ResponseError(res), "limiter: response status 500 Internal Server Error")
	_, err = res.Body.Read(make([]byte, 1))
	require.Equal(t, errPoison, err)
}

// With a Transport, a client and a server.
func TestResponseErrorOfAClient(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "no such order: "+r.Header.Get("Authorization"), http.StatusNotFound)
	}))
	defer server.Close()
	l := newRecorder(t)
	client := &http.Client{Transport: transport(t, l, nil)}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/orders/7?token=x", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer s3cr3t-token-of-ours")
	res, err := client.Do(req)
	require.NoError(t, err)
	err = limiter.ResponseError(res)
	require.EqualError(t, err, "limiter: GET "+server.URL+"/orders/7: response status 404 Not Found: no such order: [redacted]")
	require.ErrorIs(t, err, retry.ErrPermanent)
	require.NoError(t, res.Body.Close())
	require.Equal(t, []error{nil}, l.reported, "the API has answered")
}

// An error whose body does not end is not waited for.
func TestResponseErrorOfAnEndlessBody(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		stop := make(chan struct{})
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, "the upstream is")
			_ = http.NewResponseController(w).Flush()
			<-stop
		}))
		server.EnableHTTP2 = proto == "HTTP/2.0"
		server.StartTLS()
		l := newRecorder(t)
		client := &http.Client{Transport: transport(t, l, server.Client().Transport)}
		res, err := client.Get(server.URL)
		require.NoError(t, err)
		require.Equal(t, proto, res.Proto)
		err = limiter.ResponseError(res)
		require.ErrorContains(t, err, "502 Bad Gateway: the upstream is")
		require.Zero(t, l.Stats().InUse)
		require.Equal(t, limiter.ErrUnavailable, limiter.Classify(l.reported[0]))
		require.NoError(t, res.Body.Close())
		close(stop)
		server.Close()
	}
}

func FuzzResponseError(f *testing.F) {
	f.Add(404, "Retry-After", "7", `{"token":"s3cr3t-token-of-ours"}`)
	f.Add(429, "X-RateLimit-Remaining", "0", "slow down")
	f.Add(403, "Content-Encoding", "gzip", "\x1f\x8b")
	f.Add(503, "Retry-After", "1700000000", strings.Repeat(" ", 4090)+"s3cr3t-token-of-ours")
	f.Fuzz(func(t *testing.T, status int, name, value, body string) {
		const secret = "s3cr3t-token-of-ours"
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://api.test/x", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		res := &http.Response{StatusCode: status, Header: http.Header{http.CanonicalHeaderKey(name): {value}}, Request: req, Body: io.NopCloser(strings.NewReader(body))}
		err = limiter.ResponseError(res)
		rest, _ := io.ReadAll(res.Body)
		require.Equal(t, body, string(rest))
		if err == nil {
			require.True(t, status < 300 || status == 304)
			return
		}
		text := err.Error()
		require.NotContains(t, text, secret)
		require.Less(t, len(text), 1000)
		require.True(t, utf8.ValidString(text))
		class := limiter.Classify(err)
		require.False(t, class != nil && errors.Is(err, retry.ErrPermanent))
		if after, ok := limiter.RetryAfter(err); ok {
			require.LessOrEqual(t, after, 24*time.Hour)
			require.False(t, errors.Is(err, retry.ErrPermanent))
		}
		require.Equal(t, status == 429, class == limiter.ErrOverload && status != 403 && status != 503 && status != 529)
	})
}
