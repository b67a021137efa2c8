package limiter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"
)

// The errors that mean something to limiters: what an operation's error says
// about the far side as a whole, not about one request. A typed error of a
// client answers errors.Is for the one that fits. Test with [Classify].
var (
	// ErrOverload is the far side saying slow down (429, or 503 with a
	// Retry-After). For how long: RetryAfter() time.Duration of any error in
	// the same tree.
	ErrOverload = errors.New("limiter: the far side is overloaded")

	// ErrUnavailable means that the far side can't be reached or is broken (connection
	// refused or reset, timeout, 5xx).
	ErrUnavailable = errors.New("limiter: the far side is unavailable")

	// ErrMisconfigured means that this operation, and perhaps every one, will not
	// succeed until someone acts (401, 403, TLS, a host name that does not exist, a
	// missing table or secret).
	ErrMisconfigured = errors.New("limiter: the far side refuses us until someone acts")
)

// Classify reports what err says about the far side: [ErrOverload],
// [ErrUnavailable], [ErrMisconfigured], or nil when it says nothing, as a
// success, a bad request, an undecodable body or our own cancellation do.
//
// An error that answers errors.Is for one of the three is taken at its word.
// Otherwise the standard library's own errors are understood: timeouts
// (context.DeadlineExceeded and any net.Error that timed out) and failed
// connections are ErrUnavailable; certificates that can't be verified and host
// names that do not exist are ErrMisconfigured. context.Canceled is never the
// far side's doing.
func Classify(err error) error {
	if err == nil {
		return nil
	}
	for _, class := range [...]error{ErrMisconfigured, ErrOverload, ErrUnavailable} {
		if errors.Is(err, class) {
			return class
		}
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
		timeout   net.Error
		op        *net.OpError
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound,
		errors.As(err, &cert), errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid):
		return ErrMisconfigured
	case errors.Is(err, context.DeadlineExceeded), // also in a net.Error that does not look so deep
		errors.As(err, &timeout) && timeout.Timeout(), errors.As(err, &op):
		return ErrUnavailable
	}
	return nil
}

// answered reports whether the downstream answered an operation that ended with
// err, though perhaps not with what was hoped for. To a limiter that learns from
// it, the downstream then did the work. Where we gave up ourselves, nobody knows.
func answered(err error) bool {
	return Classify(err) == nil && !errors.Is(err, context.Canceled)
}

// RetryAfter returns how long the far side asked to be left alone: the first
// RetryAfter() time.Duration in err's tree. It reports false when there is
// none, or when it is negative.
func RetryAfter(err error) (time.Duration, bool) {
	var after interface{ RetryAfter() time.Duration }
	if err == nil || !errors.As(err, &after) {
		return 0, false
	}
	d := after.RetryAfter()
	return d, d >= 0
}
