package limiter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/internal/sendonce"
)

// A Transport is an [http.RoundTripper] that applies a limiter to another one. A
// request starts when the limiter allows it, and its permit is returned when its
// response body has been read to the end or closed, or reading it has failed, or when
// there was no response. A caller that neither reads nor closes the body keeps the
// permit forever.
//
// The limiter learns from the response's status and header, or from the lack of a
// response. Each request has its own permit, and one that may have been processed is
// not sent again. The package documentation has the details of both. Responses and
// errors reach the caller unchanged. Make a Transport with [NewTransport]; the zero
// Transport fails every request. It may be used concurrently.
type Transport struct {
	limiter Limiter
	base    http.RoundTripper
}

var _ http.RoundTripper = (*Transport)(nil)

var errZeroTransport = errors.New("limiter: Transport: it has no limiter: make it with NewTransport")

// NewTransport returns a Transport that acquires l for each request and sends it
// with base. A nil base stands for [http.DefaultTransport], which keeps two idle
// connections for a host, so that with more requests in flight most of them dial:
// pass one whose MaxIdleConnsPerHost is the most requests that are in flight.
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

// RoundTrip implements [http.RoundTripper]. If the request's context ends
// while it waits for the limiter, RoundTrip returns the context's cause.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	permit, err := t.acquire(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper must close it; the limiter's error is the one that matters
		}
		return nil, err
	}
	once, done := sendonce.Request(req)
	returned := false
	defer func() {
		if !returned {
			permit.Abstain() // base panicked
			done()
		}
	}()
	res, err := t.base.RoundTrip(once)
	if err != nil {
		returned = true
		permit.Release(failure(req, err))
		done()
		return res, err
	}
	if r := res.Request; r != nil && r.Context() == once.Context() {
		res.Request = req
	}
	permit.Observe(res.Header)
	held := &hold{permit: permit, verdict: verdict(res), done: done}
	returned = true
	if res.Body == nil || res.Body == http.NoBody {
		held.release(nil)
		return res, nil
	}
	b := &body{ReadCloser: res.Body, held: held, req: req}
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

// CloseIdleConnections closes the idle connections of the base, if it has such
// a method. [http.Client.CloseIdleConnections] calls it.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// A hold returns a permit once, with the verdict on a request.
type hold struct {
	permit  Permit
	verdict error
	done    func()
	once    sync.Once
}

// release returns the permit. An error of the body matters only if the response
// itself says nothing.
func (h *hold) release(err error) {
	h.once.Do(func() {
		if h.verdict == nil {
			h.verdict = err
		}
		h.permit.Release(h.verdict)
		h.done()
	})
}

type body struct {
	io.ReadCloser
	held *hold
	req  *http.Request
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.held.release(nil)
	case err != nil:
		b.held.release(failure(b.req, err))
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

// failure returns what the error of a request says that got no response, or only
// part of one.
func failure(req *http.Request, err error) error {
	switch {
	case Classify(err) == ErrMisconfigured:
		return err
	case errors.Is(err, context.Canceled) || ended(req):
		return &gaveUp{err}
	}
	return &noAnswer{err}
}

// clientTimeoutWait is how long to wait after the request's deadline for
// http.Client to show that the deadline was its own. It closes Request.Cancel in a
// goroutine that wakes at the same time.
const clientTimeoutWait = 100 * time.Millisecond

// ended reports whether the caller ended the request. On its Timeout, [http.Client]
// ends a request by the deadline of the request's context and by its Cancel channel;
// a deadline of the caller only ends the context.
func ended(req *http.Request) bool {
	ctx := req.Context()
	deadline, ok := ctx.Deadline()
	late := ok && !time.Now().Before(deadline)
	select {
	case <-req.Cancel: //nolint:staticcheck // http.Client sets it
		return !late
	default:
	}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return true
	case !late || req.Cancel == nil: //nolint:staticcheck // see above
		return late
	}
	wait := time.NewTimer(clientTimeoutWait)
	defer wait.Stop()
	select {
	case <-req.Cancel: //nolint:staticcheck // see above
		return false
	case <-wait.C:
		return true
	}
}

// noAnswer is the error of a request without a response.
type noAnswer struct{ err error }

func (e *noAnswer) Error() string        { return e.err.Error() }
func (e *noAnswer) Unwrap() error        { return e.err }
func (e *noAnswer) Is(target error) bool { return target == ErrUnavailable }

// gaveUp is the error of an operation that its caller ended. It does not unwrap: the
// context's cause may be any error, and is not the downstream's.
type gaveUp struct{ err error }

func (e *gaveUp) Error() string        { return e.err.Error() }
func (e *gaveUp) Is(target error) bool { return target == context.Canceled }
