package inventory_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// hostile returns a client of a malicious server.
func hostile(t *testing.T, h http.HandlerFunc, with inventory.Config) (*httptest.Server, *inventory.Client) {
	t.Helper()
	srv := httptest.NewServer(h)
	with.BaseURL, with.Token = srv.URL, token
	client, err := inventory.New(with)
	require.NoError(t, err)
	t.Cleanup(func() { client.CloseIdleConnections(); srv.Close() })
	return srv, client
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

func TestAnswersThatCannotBeUnderstood(t *testing.T) {
	bomb := zip(make([]byte, 8<<20))
	for name, h := range map[string]http.HandlerFunc{
		"html":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Sign in to Wi-Fi") },
		"nothing":     func(http.ResponseWriter, *http.Request) {},
		"204":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"null":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `null`) },
		"empty":       func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) },
		"half":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"sku":"A"}`) },
		"wrong types": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"sku":"A","available":"1"}`) },
		"fraction":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"sku":"A","available":1.5}`) },
		"huge number": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"sku":"A","available":1e99}`) },
		"another SKU": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"sku":"B","available":1}`) },
		"list":        func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `[{"sku":"A","available":1}]`) },
		"cut JSON":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"sku":"A","avail`) },
		"trailer":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"sku":"A","available":1}{`) },
		"too short": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"sku":"A","available":1}`)
		},
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for b := bytes.Repeat([]byte(" "), 1<<16); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		},
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		},
		"no gzip": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, `{"sku":"A","available":1}`)
		},
		"huge header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Big", strings.Repeat("x", 1<<20))
			_, _ = io.WriteString(w, `{"sku":"A","available":1}`)
		},
		"400 cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(400)
		},
		"404 endless": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
			for b := bytes.Repeat([]byte(" "), 1<<16); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h2 := &hearing{}
			_, client := hostile(t, h, inventory.Config{Limiter: h2})
			level, err := client.Level(t.Context(), "A")
			require.Zero(t, level)
			require.ErrorIs(t, err, inventory.ErrUnavailable)
			require.Equal(t, limiter.ErrUnavailable, limiter.Classify(err))
			require.NotErrorIs(t, err, retry.ErrPermanent)
			require.Equal(t, err, h2.last(t))
			require.Less(t, len(err.Error()), 1000)
		})
	}
}

func TestPagesThatCannotBeUnderstood(t *testing.T) {
	for _, body := range []string{
		`null`, `{}`, `{"levels":null}`, `{"levels":[null]}`, `{"levels":{}}`, `{"levels":[{"sku":"A"}]}`, `[]`,
		`{"levels":[],"next_cursor":"x"}`, `{"levels":[],"next_cursor":7}`,
		`{"levels":[{"sku":"A","available":1}],"next_cursor":"` + strings.Repeat("x", 3000) + `"}`,
	} {
		_, client := hostile(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }, inventory.Config{})
		for _, err := range client.Levels(t.Context(), inventory.LevelsOptions{}) {
			require.ErrorIs(t, err, inventory.ErrUnavailable, body)
		}
	}
	// Cursors that lead in a circle.
	requests := 0
	_, client := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
		requests++
		sku, next := "A", "x"
		if requests%2 == 0 {
			sku, next = "B", "y"
		}
		_, _ = fmt.Fprintf(w, `{"levels":[{"sku":%q,"available":1}],"next_cursor":%q}`, sku, next)
	}, inventory.Config{})
	var skus []string
	var last error
	for level, err := range client.Levels(t.Context(), inventory.LevelsOptions{}) {
		if last = err; err == nil {
			skus = append(skus, level.SKU)
		}
	}
	require.ErrorContains(t, last, "not in the order of their SKUs")
	require.Equal(t, []string{"A", "B"}, skus)
	require.Equal(t, 3, requests)
}

// A page that is not the API's says nothing about a SKU.
func TestForeignNotFound(t *testing.T) {
	_, client := hostile(t, http.NotFound, inventory.Config{})
	_, err := client.Level(t.Context(), "A")
	require.NotErrorIs(t, err, inventory.ErrNotFound)
	require.NotErrorIs(t, err, retry.ErrPermanent)
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
}

func TestSecretsAreNotInErrors(t *testing.T) {
	_, client := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", r.Header.Get("Authorization"))
		w.WriteHeader(422)
		_, _ = fmt.Fprintf(w, `{"code":%q,"detail":"%s\u0007 bad\u202e %s"}`, r.Header.Get("Authorization"), r.Header.Get("Authorization"),
			strings.Repeat("y", 490)+token)
	}, inventory.Config{})
	_, err := client.Level(t.Context(), "A")
	require.ErrorContains(t, err, "Bearer [token]")
	for _, secret := range []string{token, token[:8], "\a", "\u202e"} {
		require.NotContains(t, err.Error(), secret)
	}

	// A transport that reveals everything, and a query that must stay secret.
	tell := fmt.Errorf("sent Authorization: Bearer %s", token)
	client, err = inventory.New(inventory.Config{
		BaseURL: "http://inventory.test", Token: token,
		Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, tell }),
	})
	require.NoError(t, err)
	_, err = client.Level(t.Context(), "A")
	require.EqualError(t, err, `inventory: level "A": sent Authorization: Bearer [token]`)
	require.ErrorIs(t, err, tell)

	srv, client := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("cursor") != "" {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"levels":[{"sku":"A","available":1}],"next_cursor":"h1dden"}`)
	}, inventory.Config{})
	var last error
	for _, err := range client.Levels(t.Context(), inventory.LevelsOptions{}) {
		last = err
	}
	require.ErrorIs(t, last, limiter.ErrUnavailable)
	require.NotContains(t, last.Error(), "h1dden")

	srv.Close()
	_, err = client.Level(t.Context(), "A")
	require.ErrorIs(t, err, limiter.ErrUnavailable, "nobody listens")
	require.ErrorContains(t, err, "refused")
}

// Unprintable text is replaced by something longer, and is still cut.
func TestTextsOfErrorsAreBounded(t *testing.T) {
	_, client := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", strings.Repeat("\xff", 100))
		w.WriteHeader(422)
		bells := strings.Repeat(`\u0007`, 1000)
		_, _ = fmt.Fprintf(w, `{"code":"%s","detail":"%s"}`, bells, bells)
	}, inventory.Config{})
	_, err := client.Level(t.Context(), "A")
	var e *inventory.Error
	require.ErrorAs(t, err, &e)
	require.LessOrEqual(t, len(e.Code), 64)
	require.LessOrEqual(t, len(e.Message), 512)
	require.LessOrEqual(t, len(e.RequestID), 64)
}

func TestCertificatesAndNames(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	client, err := inventory.New(inventory.Config{BaseURL: srv.URL, Token: token})
	require.NoError(t, err)
	_, err = client.Level(t.Context(), "A")
	require.ErrorIs(t, err, limiter.ErrMisconfigured, "a certificate of nobody we know")

	client, err = inventory.New(inventory.Config{BaseURL: "http://inventory.test", Token: token, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "inventory.test", IsNotFound: true}}
		},
	}})
	require.NoError(t, err)
	_, err = client.Level(t.Context(), "A")
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
}

// On the wire a GET has no body and no length, although the client gives it a body so
// that the transport does not repeat it.
func TestRequestsOnTheWire(t *testing.T) {
	type seen struct {
		method, path, encoding, length, key, kind string
		body                                      string
	}
	var last seen
	_, client := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		last = seen{
			r.Method, r.URL.Path, strings.Join(r.TransferEncoding, ","), r.Header.Get("Content-Length"),
			r.Header.Get("Idempotency-Key"), r.Header.Get("Content-Type"), string(body),
		}
		_, _ = io.WriteString(w, `{"sku":"A","available":1}`)
	}, inventory.Config{})
	_, err := client.Level(t.Context(), "A")
	require.NoError(t, err)
	require.Equal(t, seen{method: "GET", path: "/v1/levels/A"}, last)
	_, err = client.Adjust(t.Context(), take(1))
	require.NoError(t, err)
	require.Equal(t, seen{
		"POST", "/v1/adjustments", "", "44", "key-1", "application/json",
		`{"sku":"A","delta":-1,"reference":"order-1"}`,
	}, last)
}

// For any answer the client returns a level of this SKU, or an error with one
// meaning.
func FuzzResponse(f *testing.F) {
	f.Add(200, `{"sku":"A","available":1}`, "", "", "")
	f.Add(200, `{"sku":"A","available":1,"etag":"\"1\""}`, "", "", `W/"x"`)
	f.Add(200, `{"sku":"A","available":1,"etag":7}`, "", "", "")
	f.Add(304, ``, "", "", `"1"`)
	f.Add(412, `{"code":"changed"}`, "", "", "")
	f.Add(422, `{"code":"out_of_stock","detail":"none"}`, "", "r-1", "")
	f.Add(429, ``, "7", "", "")
	f.Add(429, `{"code":"throttled"}`, "31557600000000", "", "")
	f.Add(503, `{"code":[[[[]]]]}`, "-1", "", "")
	f.Add(302, ``, "", "", "")
	f.Add(404, `{"code":"not_found"}`, "Sun, 01 Mar 2026 12:00:30 GMT", "", "")
	f.Add(200, `{"levels":[{"sku":"A","available":1}],"next_cursor":"x"}`, "", "", "")
	f.Add(200, `{"levels":[{"sku":"A","available":1},{"sku":"B","available":-1}]}`, "", "", "")
	f.Fuzz(func(t *testing.T, status int, body, after, id, etag string) {
		requests := 0
		client, err := inventory.New(inventory.Config{
			BaseURL: "http://inventory.test", Token: token, Transactions: len(id)%2 == 0,
			Transport: roundTripper(func(*http.Request) (*http.Response, error) {
				requests++
				return &http.Response{
					StatusCode: status, Body: bodyOf(body),
					Header: http.Header{"Retry-After": {after}, "X-Request-Id": {id}, "Etag": {etag}, "Location": {id}, "Ratelimit": {after}},
				}, nil
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		check := func(err error) {
			var e *inventory.Error
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			means := 0
			for _, kind := range kinds {
				if errors.Is(err, kind) {
					means++
				}
			}
			classes := 0
			for _, class := range []error{retry.ErrPermanent, limiter.ErrOverload, limiter.ErrUnavailable, limiter.ErrMisconfigured, inventory.ErrChanged} {
				if errors.Is(err, class) {
					classes++
				}
			}
			if means != 1 || classes != 1 || len(err.Error()) > 2000 || strings.Contains(err.Error(), token) {
				t.Fatalf("%d meanings, %d classes: %v", means, classes, err)
			}
			if after, ok := limiter.RetryAfter(err); ok && (after <= 0 || after > 24*time.Hour) {
				t.Fatalf("%v: %v", after, err)
			}
		}
		known := inventory.Level{SKU: "A", Available: 7, ETag: `"7"`}
		level, err := client.Refresh(t.Context(), known)
		switch {
		case err != nil:
			check(err)
		case status == 304:
			if level != known {
				t.Fatalf("%+v is not what was known", level)
			}
		case level.SKU != "A" || status != 200 || !json.Valid([]byte(body)) || len(level.ETag) > 256:
			t.Fatalf("%d %q: %+v", status, body, level)
		}
		last := ""
		for level, err := range client.Levels(t.Context(), inventory.LevelsOptions{}) {
			switch {
			case err != nil:
				check(err)
			case level.SKU <= last:
				t.Fatalf("%q: %q after %q", body, level.SKU, last)
			}
			last = level.SKU
		}
		levels, err := client.AdjustAll(t.Context(), order("o", line("A", -1), line("B", 1)))
		switch {
		case err != nil:
			check(err)
		case len(levels) != 2 || levels[0].SKU != "A" || levels[1].SKU != "B":
			t.Fatalf("%d %q: %+v", status, body, levels)
		}
		if requests > 7 { // 1, a page and one that is the same, and 2 lines at most
			t.Fatalf("%d requests", requests)
		}
	})
}
