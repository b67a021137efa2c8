package inventory

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/internal/quota"
	"github.com/rampmeter/rampmeter/internal/sendonce"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

const (
	defaultTimeout = 10 * time.Second
	defaultMaxBody = 1 << 20 // bytes of a response's body, decompressed
	maxMaxBody     = 1 << 30
	maxHeader      = 64 << 10  // bytes of a response's header
	maxMessage     = 512       // bytes of an error's message
	maxWord        = 64        // bytes of an error's code and request id
	redaction      = "[token]" // replaces the token in untrusted texts
)

// Config sets the API's address and how to call it.
type Config struct {
	// BaseURL is the API's address: http or https, a host, and a path if it
	// needs one. It must not have a user, a query or a fragment. Over http,
	// everyone on the network path can read the token. Required.
	BaseURL string

	// Token is sent as a bearer token. One of Token and TokenSource is required.
	Token string

	// TokenSource returns the token, for tokens that change. It is called for
	// each request, concurrently, within Timeout, and should cache. Its error
	// ends the call and is reported to the limiter.
	TokenSource func(ctx context.Context) (string, error)

	// Timeout is how long one HTTP request may take, from its start to the
	// last byte of the response. It does not include the wait for the limiter. It must
	// not be negative. Default 10 s.
	Timeout time.Duration

	// MaxBody is how many bytes of a response are read at most, after
	// decompression, up to 1 GiB. A longer one is refused. Default 1 MiB, which
	// is ten times a page of 1,000 levels with SKUs of 20 bytes.
	MaxBody int64

	// Limiter is acquired for each HTTP request, and learns from the header and the
	// error of each response. Default: no limit.
	Limiter limiter.Limiter

	// Retry says how failed requests are repeated within a call. Under a
	// queue's consumer leave it off, or attempts multiply. Unless its Retryable
	// says otherwise, nothing is repeated that needs someone to act
	// (limiter.ErrMisconfigured) or to decide anew (ErrChanged). Default: nil,
	// one request for each call.
	Retry *retry.Policy

	// Transactions says that the API has POST /v1/transactions, which AdjustAll
	// uses then. It is not found out by trying: an order that was begun in one
	// way must not be repeated in the other. Should it be, because this was
	// changed, the API answers ErrConflict and nothing is adjusted twice.
	// Default: AdjustAll adjusts line by line.
	Transactions bool

	// Transport makes the requests, and must not follow redirects. Default: one
	// like http.DefaultTransport that keeps as many idle connections as were in
	// use at once, and reads 64 KiB of a response's header at most. See
	// [Config.WithTransport] to wrap it.
	Transport http.RoundTripper

	hooks []func(http.RoundTripper) http.RoundTripper
}

// WithTransport returns a copy of cfg that wraps its Transport, or the default one,
// with a trace, a signature or a header for example.
//
//	cfg = cfg.WithTransport(func(base http.RoundTripper) http.RoundTripper {
//		return otelhttp.NewTransport(base)
//	})
//
// The result of wrap gets each request that has a permit, including its token, and
// is called concurrently. It must send one request for each, and end it when
// the request's context ends. Of several, the last added is outermost. New
// fails if wrap is nil or returns nil.
func (cfg Config) WithTransport(wrap func(base http.RoundTripper) http.RoundTripper) Config {
	cfg.hooks = append(slices.Clip(cfg.hooks), wrap) // clipped: cfg's own may be added to as well
	return cfg
}

// A Client calls the API. It may be used concurrently.
type Client struct {
	base         string // without a slash at its end
	token        func(ctx context.Context) (string, error)
	timeout      time.Duration
	maxBody      int64
	limiter      limiter.Limiter
	retry        retry.Policy
	transactions bool
	transport    http.RoundTripper // below the hooks: its idle connections are closed
	hooked       http.RoundTripper // makes the requests
}

// New returns a client for the API at cfg.BaseURL. The error names the invalid
// field. New sends nothing.
func New(cfg Config) (*Client, error) {
	c := &Client{
		token:        cfg.TokenSource,
		timeout:      cfg.Timeout,
		maxBody:      cfg.MaxBody,
		limiter:      cfg.Limiter,
		retry:        retry.Policy{MaxAttempts: 1},
		transactions: cfg.Transactions,
		transport:    cfg.Transport,
	}
	var err error
	if c.base, err = parseBase(cfg.BaseURL); err != nil {
		return nil, fmt.Errorf("inventory: Config: BaseURL %w", err)
	}
	switch {
	case cfg.Token == "" && cfg.TokenSource == nil:
		return nil, errors.New("inventory: Config: Token is empty and TokenSource is nil: one of them is required")
	case cfg.Token != "" && cfg.TokenSource != nil:
		return nil, errors.New("inventory: Config: Token and TokenSource are both set: only one can be used")
	case cfg.Token != "" && !isHeaderWord(cfg.Token):
		return nil, errors.New("inventory: Config: Token has a character that is not printable ASCII, or a space")
	case cfg.Limiter != nil && nils.Is(cfg.Limiter):
		return nil, fmt.Errorf("inventory: Config: Limiter is %s: leave the field out, or check the error of what makes it", nils.Describe(cfg.Limiter))
	case cfg.Transport != nil && nils.Is(cfg.Transport):
		return nil, fmt.Errorf("inventory: Config: Transport is %s: leave the field out, or check the error of what makes it", nils.Describe(cfg.Transport))
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("inventory: Config: Timeout is %v: must not be negative", cfg.Timeout)
	case cfg.MaxBody < 0 || cfg.MaxBody > maxMaxBody:
		return nil, fmt.Errorf("inventory: Config: MaxBody is %d: must be from 1 to %d, or 0 for the default", cfg.MaxBody, maxMaxBody)
	}
	if c.token == nil {
		c.token = func(context.Context) (string, error) { return cfg.Token, nil }
	}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	if c.maxBody == 0 {
		c.maxBody = defaultMaxBody
	}
	if cfg.Retry != nil {
		if err := cfg.Retry.Validate(); err != nil {
			return nil, fmt.Errorf("inventory: Config: Retry: %w", err)
		}
		c.retry = *cfg.Retry
	}
	if c.retry.Retryable == nil {
		c.retry.Retryable = func(err error) bool {
			return limiter.Classify(err) != limiter.ErrMisconfigured && !errors.Is(err, ErrChanged)
		}
	}
	if c.transport == nil {
		c.transport = newTransport()
	}
	c.hooked = c.transport
	for _, wrap := range cfg.hooks {
		if wrap == nil {
			return nil, errors.New("inventory: Config: WithTransport: wrap is nil")
		}
		if c.hooked = wrap(c.hooked); nils.Is(c.hooked) {
			return nil, fmt.Errorf("inventory: Config: WithTransport: wrap returned %s", nils.Describe(c.hooked))
		}
	}
	return c, nil
}

// CloseIdleConnections closes idle connections, if the transport supports it.
func (c *Client) CloseIdleConnections() {
	if t, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// parseBase checks a base URL. Its errors don't quote it, since a misplaced part may
// be a secret.
func parseBase(base string) (string, error) {
	u, err := url.Parse(base)
	switch {
	case base == "":
		return "", errors.New("is empty: it is required")
	case err != nil:
		return "", errors.New("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("must begin with http:// or https://")
	case u.Hostname() == "":
		return "", errors.New("has no host")
	case u.User != nil:
		return "", errors.New("must not have a user or password: use Token")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(base, "#"):
		return "", errors.New("must not have a query or a fragment")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func newTransport() http.RoundTripper {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: defaultTimeout}
	if d, ok := http.DefaultTransport.(*http.Transport); ok {
		t = d.Clone()
	}
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, math.MaxInt // as many as were in use at once, or each call dials
	t.MaxResponseHeaderBytes = maxHeader
	return t
}

// isHeaderWord reports whether s can be part of a header's value as it is.
func isHeaderWord(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// A call is one request of the API, sent as often as the retry policy says.
type call struct {
	op, sku string
	method  string
	path    string // with its query
	key     string // Idempotency-Key
	body    []byte
	ifMatch string
	ifNone  string // If-None-Match, for which a 304 is a success

	// decode reads the body of a 200, or of a 304 if ifNone is set. It must not
	// depend on an earlier call.
	decode func(res *http.Response, body []byte) error

	// inDoubt: a request may have reached the API, and no answer reported its
	// result.
	inDoubt bool
}

// invalid returns the error of a call that is refused without being sent.
func (r *call) invalid(message string) error {
	return &Error{Op: r.op, SKU: r.sku, Code: CodeInvalid, Message: message}
}

// do makes the call.
func (c *Client) do(ctx context.Context, r *call) error {
	attempt := func(ctx context.Context) error { return c.attempt(ctx, r) }
	if c.retry.MaxAttempts == 1 {
		return attempt(ctx) // without the wrapping error of a retry
	}
	return retry.Do(ctx, c.retry, attempt)
}

// attempt sends the call once, when the limiter admits it.
func (c *Client) attempt(ctx context.Context, r *call) error {
	if ctx.Err() != nil {
		return r.ended(ctx)
	}
	if c.limiter == nil {
		return c.send(ctx, r, limiter.Permit{})
	}
	permit, err := c.limiter.Acquire(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return r.ended(ctx)
	case err != nil:
		return fmt.Errorf("inventory: %s: wait for the limiter: %w", subject(r.op, r.sku), err)
	}
	returned := false
	defer func() {
		if returned {
			permit.Release(err)
		} else {
			permit.Abstain() // the caller's context has ended, or the transport or the token source panicked
		}
	}()
	err = c.send(ctx, r, permit)
	var answer *Error
	returned = err == nil || ctx.Err() == nil || errors.As(err, &answer)
	return err
}

// ended returns the error of a call whose caller's context has ended. It wraps both
// the context's own error and the cause.
func (r *call) ended(ctx context.Context) error {
	cause, err := context.Cause(ctx), ctx.Err()
	if errors.Is(cause, err) {
		return fmt.Errorf("inventory: %s: %w", subject(r.op, r.sku), cause)
	}
	return fmt.Errorf("inventory: %s: %w: %w", subject(r.op, r.sku), err, cause)
}

// send makes one HTTP request under a permit and reads its response.
func (c *Client) send(ctx context.Context, r *call, permit limiter.Permit) error {
	timed, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()

	token, err := c.token(timed)
	switch {
	case err != nil && ctx.Err() != nil:
		return r.ended(ctx)
	case err != nil:
		return fmt.Errorf("inventory: %s: get a token: %w", subject(r.op, r.sku), err)
	case !isHeaderWord(token):
		return fmt.Errorf("inventory: %s: the token is empty or no header can hold it: %w", subject(r.op, r.sku), limiter.ErrMisconfigured)
	}
	req, err := c.request(timed, r, token)
	if err != nil {
		return r.invalid("it makes no URL") // err would quote it
	}

	// A RoundTripper and not an http.Client, which would follow redirects:
	// requests without a permit, and the token to hosts that are not the API.
	before := r.inDoubt
	r.inDoubt = true
	req, done := sendonce.Request(req) // more than one would need more than one permit
	defer done()
	res, err := c.hooked.RoundTrip(req)
	if err == nil && res == nil {
		err = errors.New("the transport returned neither a response nor an error")
	}
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			r.inDoubt = before // nothing was sent
		}
		return c.failure(ctx, timed, r, &Error{Err: err}, token)
	}
	if res.Body == nil { // only a transport from outside net/http
		res.Body = http.NoBody
	}
	defer func() { _ = res.Body.Close() }() // it was read as far as needed
	permit.Observe(res.Header)
	failure := &Error{
		Status:    res.StatusCode,
		RequestID: clean(res.Header.Get("X-Request-Id"), maxWord, token),
		After:     after(res),
	}
	var body []byte
	if res.StatusCode != http.StatusSwitchingProtocols { // its body is a connection, which no context ends
		body, err = c.readBody(res.Body)
	}
	switch {
	case err != nil:
		failure.Err = fmt.Errorf("read the response: %w", err)
	case res.StatusCode == http.StatusOK, res.StatusCode == http.StatusNotModified && r.ifNone != "":
		if err := r.decode(res, body); err != nil {
			failure.Err = fmt.Errorf("decode the response: %w", err)
			break
		}
		return nil
	case res.Header.Get("Location") != "" && res.StatusCode >= 300 && res.StatusCode < 400:
		failure.Err = refusedRedirect(req.URL, res.Header.Get("Location"), token)
	default:
		failure.Code, failure.Message = parseProblem(body, token)
	}
	if refused := failure.Status >= 300 && failure.Status < 500; refused {
		r.inDoubt = before && !failure.final()
	}
	return c.failure(ctx, timed, r, failure, token)
}

// after returns how long the response asks the client to wait: by its Retry-After,
// or by the reset of an exhausted quota.
func after(res *http.Response) time.Duration {
	now := time.Now()
	d, ok := quota.RetryAfter(res.Header, now)
	if refused := res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusForbidden; !ok && refused {
		d, _ = quota.Of(res.Header, now).Wait()
	}
	return d
}

// parseProblem returns the problem in an error response, as far as it is in the
// API's format.
func parseProblem(body []byte, token string) (code, message string) {
	var problem struct{ Code, Title, Detail string }
	if json.Unmarshal(body, &problem) != nil || problem.Code == "" {
		return "", ""
	}
	code, message = problem.Code, cmp.Or(problem.Detail, problem.Title)
	if !known(code) { // redaction must not change the code that decides
		code = clean(code, maxWord, token)
	}
	return code, clean(message, maxMessage, token)
}

// refusedRedirect returns the target of a redirect without its path and query, which
// may hold secrets.
func refusedRedirect(from *url.URL, location, token string) error {
	to, err := from.Parse(location)
	switch {
	case err != nil:
		return errors.New("it redirects to what is no URL")
	case to.Scheme == from.Scheme && to.Host == from.Host:
		return errors.New("it redirects to another path, which is not followed: correct BaseURL if the API has moved")
	}
	origin := clean(to.Scheme+"://"+to.Host, maxMessage, token)
	return fmt.Errorf("it redirects to %s, which is not followed, or the token would go there: correct BaseURL if the API has moved", origin)
}

// request builds the HTTP request.
func (c *Client) request(ctx context.Context, r *call, token string) (*http.Request, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("User-Agent", "rampmeter-inventory")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range map[string]string{"Idempotency-Key": r.key, "If-Match": r.ifMatch, "If-None-Match": r.ifNone} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	return req, nil
}

// failure completes the error of a request, unless the request failed because the
// caller's context ended.
func (c *Client) failure(ctx, timed context.Context, r *call, e *Error, token string) error {
	if e.Err != nil && ctx.Err() != nil {
		return r.ended(ctx)
	}
	if e.Err != nil && timed.Err() != nil {
		e.Err = fmt.Errorf("no answer within %v: %w", c.timeout, context.DeadlineExceeded)
	}
	if e.Err != nil { // errors of net/http quote invalid responses in full
		if text := e.Err.Error(); len(text) > maxMessage || strings.Contains(text, token) {
			e.Err = &redacted{text: clean(text, maxMessage, token), err: e.Err}
		}
	}
	e.Op, e.SKU = r.op, r.sku
	return e
}

// redacted is an error whose own text is too long, or has the token in it.
type redacted struct {
	text string
	err  error
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.err }

// readBody reads to the end, so that the connection can be used again. A body
// beyond the bound costs its connection.
func (c *Client) readBody(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, c.maxBody+1))
	if err == nil && int64(len(body)) > c.maxBody {
		return nil, fmt.Errorf("it has more than %d bytes", c.maxBody)
	}
	return body, err
}

// known reports whether code is one of the API's.
func known(code string) bool {
	switch code {
	case CodeNotFound, CodeConflict, CodeOutOfStock, CodeChanged, CodeInvalid, CodeUnauthorized, CodeThrottled, CodeUnavailable:
		return true
	}
	return false
}

// clean makes untrusted text fit for an error's text.
func clean(s string, limit int, token string) string {
	s = strings.ReplaceAll(s, token, redaction)
	return cut(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError // which may be longer than what it stands for
		}
		return r
	}, s), limit)
}

// cut returns the first limit bytes of s, or fewer so as to end with a whole
// rune.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
