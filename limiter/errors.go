package limiter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"reflect"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
)

// The errors that limiters understand: what an operation's error says about
// the downstream as a whole, not about one request. A client's typed error
// answers errors.Is for the one that fits. Test with [Classify].
var (
	// ErrOverload means that the downstream asks callers to slow down (429, or
	// 503 or 403 with a Retry-After or a used-up quota). [RetryAfter] returns for
	// how long.
	ErrOverload = errors.New("limiter: the downstream is overloaded")

	// ErrUnavailable means that the downstream can't be reached or is broken: no
	// response, part of one, or a 5xx.
	ErrUnavailable = errors.New("limiter: the downstream is unavailable")

	// ErrMisconfigured means that this operation, and perhaps every one, will not
	// succeed until someone acts (401, 403, TLS, a host name that does not exist, a
	// missing table or secret).
	ErrMisconfigured = errors.New("limiter: the downstream refuses us until someone acts")
)

// Classify returns what err says about the downstream: [ErrOverload],
// [ErrUnavailable], [ErrMisconfigured], or nil when it says nothing, as a success, a
// bad request, an undecodable body or our own cancellation do.
//
// An error that answers errors.Is for one of the three is that class. The errors of
// the gRPC Go package are classified by their status codes: Unavailable, Internal and
// DataLoss are ErrUnavailable, ResourceExhausted is ErrOverload, Unauthenticated and
// PermissionDenied are ErrMisconfigured, DeadlineExceeded is a timeout. Otherwise
// Classify recognizes the standard library's own errors:
//
//   - Certificates that can't be verified or are refused, a server that does not
//     speak TLS, and host names that do not exist are ErrMisconfigured.
//   - Timeouts of any kind, context.DeadlineExceeded, failed connections, reset
//     HTTP/2 streams, and every request that [http.Client] got no response to, are
//     ErrUnavailable.
//   - context.Canceled is never the downstream's fault.
func Classify(err error) error {
	if err == nil {
		return nil // the fast path: called for every operation
	}
	return classify(err)
}

func classify(err error) error {
	for _, class := range [...]error{ErrMisconfigured, ErrOverload, ErrUnavailable} {
		if errors.Is(err, class) {
			return class
		}
	}
	var attempts interface{ LastError() error }
	if errors.As(err, &attempts) {
		return Classify(attempts.LastError())
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	var (
		dns       *net.DNSError
		cert      *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError // the server does not speak TLS
		alert     tls.AlertError        // the server refused our side of the handshake
		timeout   net.Error
		op        *net.OpError
		stream    http2Error
		request   *url.Error
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound,
		errors.As(err, &cert), errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid),
		errors.As(err, &record), errors.As(err, &alert):
		return ErrMisconfigured
	case errors.Is(err, context.DeadlineExceeded), // also inside a net.Error whose Timeout does not see it
		errors.As(err, &timeout) && timeout.Timeout(),
		errors.As(err, &dns), errors.As(err, &op), errors.As(err, &stream),
		errors.As(err, &request) && request.Op != "parse":
		return ErrUnavailable
	}
	return classOfCode(grpcCode(err))
}

// http2Error matches net/http's unexported error for a reset stream, which errors.As
// finds by its fields.
type http2Error struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (http2Error) Error() string { return "stream error" }

// grpcCode returns the code of the first error in err's tree that has a method
// GRPCStatus, as those of google.golang.org/grpc/status do, or 0. It uses
// reflection, because the method returns a type of that module.
func grpcCode(err error) (code uint64) {
	for err != nil && code == 0 {
		code = statusCode(err)
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				if code == 0 {
					code = grpcCode(err)
				}
			}
			return code
		default:
			return code
		}
	}
	return code
}

func statusCode(err error) uint64 {
	if nils.Is(err) {
		return 0
	}
	call := func(v reflect.Value, m reflect.Value) (reflect.Value, bool) {
		if !m.IsValid() || m.Type().NumIn() != 0 || m.Type().NumOut() != 1 {
			return v, false
		}
		return m.Call(nil)[0], true
	}
	v := reflect.ValueOf(err)
	status, ok := call(v, v.MethodByName("GRPCStatus"))
	if !ok || status.Kind() != reflect.Pointer || status.IsNil() {
		return 0
	}
	code, ok := call(status, status.MethodByName("Code"))
	if !ok || code.Kind() != reflect.Uint32 {
		return 0
	}
	return code.Uint()
}

// classOfCode returns the class of a gRPC code.
func classOfCode(code uint64) error {
	switch code {
	case 4, 13, 14, 15: // DeadlineExceeded, Internal, Unavailable, DataLoss
		return ErrUnavailable
	case 8: // ResourceExhausted
		return ErrOverload
	case 7, 16: // PermissionDenied, Unauthenticated
		return ErrMisconfigured
	}
	return nil
}

// answered reports whether the downstream answered an operation that ended with
// err, though perhaps not with the hoped-for result. Limiters that learn from it
// assume that the downstream did the work. If we gave up ourselves, that is
// unknown.
func answered(err error) bool {
	const canceled = 1 // the gRPC code
	return Classify(err) == nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && grpcCode(err) != canceled
}

// RetryAfter returns how long the downstream asked not to be called: the first
// RetryAfter() time.Duration in err's tree. It reports false when there is
// none, or when it is negative.
func RetryAfter(err error) (time.Duration, bool) {
	var after interface{ RetryAfter() time.Duration }
	if err == nil || !errors.As(err, &after) {
		return 0, false
	}
	d := after.RetryAfter()
	return max(d, 0), d >= 0
}
