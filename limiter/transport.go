package limiter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
)

// A Transport is an [http.RoundTripper] that puts a limiter round another one:
// a request starts when the limiter lets it, and its permit is given back once,
// when its response body has been read to the end or closed, or reading it has
// failed, or when there was no response. A caller that does neither keeps the
// permit for ever.
//
// What the limiter is told of the far side: 429, and 503 with a Retry-After,
// are [ErrOverload], with the [RetryAfter] of the header (seconds or a date, if
// there is one, up to a day); other 5xx are [ErrUnavailable]; 401 and 403 are
// [ErrMisconfigured]; any other response is a success. A request that got no
// response, or not all of its body, is told by its error, as [Classify]
// understands it; a connection that ended too early is ErrUnavailable.
//
// One permit is one request: [http.Transport] sends some requests again by
// itself when a connection that was kept open turns out to be broken, and is
// kept from it here. Such a request fails instead, as ErrUnavailable. Only a
// POST, PUT or PATCH that has an Idempotency-Key and no body at all is still
// sent again.
//
// The response and its errors reach the caller as they are. Make a Transport with
// [NewTransport]; the zero Transport fails every request. It may be used
// concurrently.
type Transport struct {
	limiter Limiter
	base    http.RoundTripper
}

var _ http.RoundTripper = (*Transport)(nil)

var errZeroTransport = errors.New("limiter: Transport: it has no limiter: make it with NewTransport")

// NewTransport returns a Transport that acquires l for each request and has base
// make it. A nil base stands for [http.DefaultTransport], which keeps two idle
// connections for a host, so that with more requests in flight most of them dial:
// give it one whose MaxIdleConnsPerHost is the most that are in flight.
// NewTransport fails when l is nil, or base or l is a nil pointer.
func NewTransport(l Limiter, base http.RoundTripper) (*Transport, error) {
	if nils.Is(l) {
		return nil, fmt.Errorf("limiter: NewTransport: l is %s: must be a Limiter, such as an All of none for no limit", nils.Describe(l))
	}
	if base == nil {
		base = http.DefaultTransport
	}
	if nils.Is(base) {
		return nil, fmt.Errorf("limiter: NewTransport: base is %s: leave it nil for http.DefaultTransport, or check the error of what makes it", nils.Describe(base))
	}
	return &Transport{limiter: l, base: base}, nil
}

// RoundTrip implements [http.RoundTripper]. When the request's context ends
// while it waits for the limiter, it returns the context's cause.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	permit, err := t.acquire(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper must, and the limiter's error is the one that matters
		}
		return nil, err
	}
	returned := false
	defer func() {
		if !returned {
			permit.Abstain() // base panicked
		}
	}()
	res, err := t.base.RoundTrip(once(req))
	if err != nil {
		returned = true
		permit.Release(cutOff(err))
		return res, err
	}
	permit.Observe(res.Header)
	held := &hold{permit: permit, verdict: ResponseError(res)}
	returned = true
	if res.Body == nil || res.Body == http.NoBody {
		held.release(nil)
		return res, nil
	}
	b := &body{ReadCloser: res.Body, held: held}
	res.Body = b
	if w, ok := b.ReadCloser.(io.Writer); ok {
		res.Body = &duplexBody{body: b, Writer: w} // 101 Switching Protocols
	}
	return res, nil
}

func (t *Transport) acquire(ctx context.Context) (Permit, error) {
	if t.limiter == nil {
		return Permit{}, errZeroTransport
	}
	return t.limiter.Acquire(ctx)
}

// once returns the request as one that can't be sent twice: with a body that
// nobody knows how to get again. A body that turns out empty is not seen on the
// wire where the method does not usually have one.
func once(req *http.Request) *http.Request {
	empty := req.Body == nil || req.Body == http.NoBody
	if !empty && req.GetBody == nil {
		return req
	}
	single := *req // a RoundTripper must not change the request
	single.GetBody = nil
	switch req.Method {
	case http.MethodDelete, "PROPFIND", "SEARCH": // sent again with a key only
		empty = empty && (req.Header["Idempotency-Key"] != nil || req.Header["X-Idempotency-Key"] != nil)
		fallthrough
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		if empty {
			single.Body = io.NopCloser(http.NoBody)
		}
	}
	return &single
}

// CloseIdleConnections closes those of the base, if it knows how to. It is what
// [http.Client.CloseIdleConnections] calls.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// A hold is a permit that is given back once, with the verdict on a request.
type hold struct {
	permit  Permit
	verdict error
	once    sync.Once
}

// release gives the permit back. An error of the body matters only if the
// response itself told nothing.
func (h *hold) release(err error) {
	h.once.Do(func() {
		if h.verdict == nil {
			h.verdict = err
		}
		h.permit.Release(h.verdict)
	})
}

type body struct {
	io.ReadCloser
	held *hold
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.held.release(nil)
	case err != nil:
		b.held.release(cutOff(err))
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.held.release(nil)
	return err
}

type duplexBody struct {
	*body
	io.Writer
}

// ResponseError returns what a response says about the far side. Whoever makes
// the request needs it, with a [Transport] too: that tells its limiter, and hands
// the response on as it is. It is [ErrOverload] for 429, and for 503 with a
// Retry-After; [ErrUnavailable] for other 5xx; [ErrMisconfigured] for 401 and
// 403; and nil for any other, since 400 or 404 are about one request. The error
// has the method RetryAfter where the response told it.
func ResponseError(res *http.Response) error {
	switch after := retryAfter(res.Header); {
	case res.StatusCode == http.StatusTooManyRequests,
		res.StatusCode == http.StatusServiceUnavailable && after >= 0:
		return &statusError{status: res.StatusCode, class: ErrOverload, after: after}
	case res.StatusCode >= 500:
		return &statusError{status: res.StatusCode, class: ErrUnavailable, after: -1}
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		return &statusError{status: res.StatusCode, class: ErrMisconfigured, after: -1}
	}
	return nil
}

// A statusError is the verdict on a response.
type statusError struct {
	status int
	class  error
	after  time.Duration // negative: not told
}

func (e *statusError) Error() string {
	return fmt.Sprintf("limiter: response status %d: %v", e.status, e.class)
}

func (e *statusError) Unwrap() error { return e.class }

// Timeout reports whether the far side had no room or took too long, which to
// an [Adaptive] is as if we had not waited for it any longer.
func (e *statusError) Timeout() bool {
	return e.status == http.StatusServiceUnavailable || e.status == http.StatusGatewayTimeout
}

func (e *statusError) RetryAfter() time.Duration { return e.after }

// retryAfter returns how long the header's Retry-After tells to wait, or -1 if
// it tells nothing. A date is compared with the server's own clock, if it
// tells the time.
func retryAfter(h http.Header) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	// Some servers tell fractions of a second, though the standard does not.
	if s, err := strconv.ParseFloat(value, 64); err == nil && strings.Trim(value, "0123456789.") == "" {
		return time.Duration(min(s, maxRetryAfter.Seconds()) * float64(time.Second))
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return -1
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(0, at.Sub(now)), maxRetryAfter)
}

// maxRetryAfter bounds what is believed of a Retry-After: a server whose clock
// or arithmetic is off must not stop its clients for years.
const maxRetryAfter = 24 * time.Hour

// cutOff returns the verdict on a request that failed with err. That a
// connection ended too early is plain here, whereas elsewhere an io.EOF may
// be anything.
func cutOff(err error) error {
	if (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
