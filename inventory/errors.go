package inventory

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// The API's failures, for errors.Is. The package documentation lists which response
// is which.
var (
	ErrNotFound     = errors.New("inventory: not found")
	ErrConflict     = errors.New("inventory: conflict")
	ErrOutOfStock   = errors.New("inventory: out of stock")
	ErrChanged      = errors.New("inventory: the level has changed")
	ErrInvalid      = errors.New("inventory: invalid request")
	ErrUnauthorized = errors.New("inventory: unauthorized")
	ErrThrottled    = errors.New("inventory: throttled")
	ErrUnavailable  = errors.New("inventory: unavailable")
)

// The codes of the API's errors.
const (
	CodeNotFound     = "not_found"
	CodeConflict     = "conflict"
	CodeOutOfStock   = "out_of_stock"
	CodeChanged      = "changed"
	CodeInvalid      = "invalid"
	CodeUnauthorized = "unauthorized"
	CodeThrottled    = "throttled"
	CodeUnavailable  = "unavailable"
)

// An Error is a failed call of the API. It supports errors.Is for the errors of this
// package, for retry.ErrPermanent, and for those of package limiter; the package
// documentation has the table. It has no hidden state, so tests can make their
// own.
type Error struct {
	// Op is the call: "level", "levels", "adjust" or "adjust all".
	Op string
	// SKU is the call's SKU, if it concerned one.
	SKU string
	// Status is the response's, 0 if there was none.
	Status int
	// Code and Message are the API's, empty where the response was not in its own
	// format. They are cut to 64 and 512 bytes.
	Code, Message string
	// RequestID identifies the request for the API's operators, if the API sent one.
	RequestID string
	// After is how long the API asked the client to wait. 0: it did not.
	After time.Duration
	// Err is why there is no usable response. Nil if there is one.
	Err error
}

// Error includes every known detail, and no secrets.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("inventory: " + subject(e.Op, e.SKU))
	if e.Status != 0 {
		fmt.Fprintf(&b, ": %d", e.Status)
	} else if e.Code != "" {
		b.WriteString(":")
	}
	if word := cmp.Or(e.Code, http.StatusText(e.Status)); word != "" {
		b.WriteString(" " + word)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.RequestID != "" {
		b.WriteString(" (request " + e.RequestID + ")")
	}
	return b.String()
}

// subject says what was being done on what.
func subject(op, sku string) string {
	if sku == "" {
		return op
	}
	return fmt.Sprintf("%s %q", op, cut(sku, 64))
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's class in this package, in retry, or in
// limiter.
func (e *Error) Is(target error) bool {
	kind := e.kind()
	switch target {
	case retry.ErrPermanent:
		return kind == ErrNotFound || kind == ErrConflict || kind == ErrOutOfStock || kind == ErrInvalid
	case limiter.ErrMisconfigured, limiter.ErrOverload, limiter.ErrUnavailable:
		return target == e.verdict()
	}
	return target == kind
}

// RetryAfter returns After, or a negative duration if the API did not say.
func (e *Error) RetryAfter() time.Duration {
	if e.After <= 0 {
		return -1
	}
	return e.After
}

// Timeout reports whether the API had no capacity or took too long: 503, 504, or no
// answer in time. A [limiter.Adaptive] counts that.
func (e *Error) Timeout() bool {
	var timeout interface{ Timeout() bool }
	return e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout ||
		errors.As(e.Err, &timeout) && timeout.Timeout()
}

// final reports whether this is the API's own answer to one request, which it
// repeats when the request is sent again with its idempotency key.
func (e *Error) final() bool {
	switch e.kind() {
	case ErrNotFound, ErrConflict, ErrOutOfStock, ErrChanged, ErrInvalid:
		return e.Status != 0 && known(e.Code)
	}
	return false
}

// Reason returns the reason for a dead-letter record in one word: the matching Code
// constant.
func (e *Error) Reason() string {
	switch e.kind() {
	case ErrNotFound:
		return CodeNotFound
	case ErrConflict:
		return CodeConflict
	case ErrOutOfStock:
		return CodeOutOfStock
	case ErrChanged:
		return CodeChanged
	case ErrInvalid:
		return CodeInvalid
	case ErrUnauthorized:
		return CodeUnauthorized
	case ErrThrottled:
		return CodeThrottled
	}
	return CodeUnavailable
}

// kind returns which of the package's errors this is. The status comes first:
// a code only distinguishes errors of one request.
func (e *Error) kind() error {
	switch {
	case e.Status == http.StatusForbidden && e.After > 0: // how some APIs and gateways say 429
		return ErrThrottled
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden, e.Status == http.StatusProxyAuthRequired:
		return ErrUnauthorized
	case e.Status == http.StatusTooManyRequests:
		return ErrThrottled
	case e.Err != nil: // an incomplete answer has no known meaning
		return ErrUnavailable
	case e.Status == 0 && e.Code == CodeInvalid: // refused before it was sent
		return ErrInvalid
	case e.Status == http.StatusRequestTimeout, e.Status == http.StatusTooEarly:
		return ErrUnavailable
	case e.Status < 400, e.Status > 499:
		return ErrUnavailable
	case e.Code == CodeNotFound:
		return ErrNotFound
	case e.foreignNotFound():
		return ErrUnavailable
	case e.Code == CodeOutOfStock:
		return ErrOutOfStock
	case e.Status == http.StatusPreconditionFailed:
		return ErrChanged
	case e.Status == http.StatusConflict:
		return ErrConflict
	}
	return ErrInvalid
}

// foreignNotFound reports whether this is "no such page" rather than "no such
// SKU".
func (e *Error) foreignNotFound() bool {
	switch e.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone:
		return e.Code != CodeNotFound
	}
	return false
}

// verdict returns what this error says about the API as a whole: one of the
// limiter's errors, or nil.
func (e *Error) verdict() error {
	switch e.kind() {
	case ErrUnauthorized:
		return limiter.ErrMisconfigured
	case ErrThrottled:
		return limiter.ErrOverload
	case ErrUnavailable:
		switch {
		case e.Status == http.StatusServiceUnavailable && e.After > 0:
			return limiter.ErrOverload
		case e.Status >= 300 && e.Status < 400, e.Err == nil && e.foreignNotFound(), misconfigured(e.Err):
			return limiter.ErrMisconfigured
		}
		return limiter.ErrUnavailable
	}
	return nil
}

// misconfigured reports whether err comes from a host name or a TLS setup that
// someone has to change.
func misconfigured(err error) bool {
	var (
		header tls.RecordHeaderError // the server does not speak TLS
		alert  tls.AlertError        // the server refused our handshake
	)
	return limiter.Classify(err) == limiter.ErrMisconfigured || errors.As(err, &header) || errors.As(err, &alert)
}
