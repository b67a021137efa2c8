// Package awserr says what the error codes and statuses mean that the services of
// AWS have in common.
package awserr

import (
	"net/http"
	"strings"

	"github.com/rampmeter/rampmeter/limiter"
)

// A Meaning is what an error says about a service, and what to do about it.
type Meaning struct {
	Class  error  // one of limiter's; nil: it is about this request only
	Advice string // "" if waiting helps, or if nothing is known to help
	Clock  bool   // this machine's clock may be wrong; the SDK has corrected for it by now
}

// Misconfigured is the meaning of an error that lasts until somebody follows the
// advice.
func Misconfigured(advice string) Meaning {
	return Meaning{Class: limiter.ErrMisconfigured, Advice: advice}
}

// Unsent is the meaning of an error before which the SDK has made no request.
func Unsent() Meaning {
	return Misconfigured("no request was made: give the client credentials, a region or an endpoint")
}

// Name returns an error code, or the name of an error's type, without the parts
// that differ between servers, protocols and versions of the SDK:
// "com.amazonaws.sqs#ThrottlingException" and "*types.Throttling" are "Throttling".
func Name(code string) string {
	code = code[strings.LastIndexAny(code, ".#")+1:]
	return strings.TrimSuffix(code, "Exception")
}

// OfCode returns what an error code means at any service; false if it is not
// known. code is as [Name] returns it, denied the advice about missing permissions.
func OfCode(code, denied string) (m Meaning, known bool) {
	switch code {
	case "RequestThrottled", "Throttling", "Throttled", "ThrottledRequest", "TooManyRequests", "RequestLimitExceeded",
		"BandwidthLimitExceeded", "LimitExceeded", "ProvisionedThroughputExceeded", "SlowDown", "PriorRequestNotComplete":
		return Meaning{Class: limiter.ErrOverload}, true
	case "InternalError", "InternalFailure", "InternalServerError", "InternalServer", "ServiceUnavailable", "ServiceFailure",
		"RequestTimeout", "Unavailable":
		return Meaning{Class: limiter.ErrUnavailable}, true
	case "AccessDenied", "AuthorizationError", "NotAuthorized", "OptInRequired", "AccountProblem", "InvalidSecurity":
		return Misconfigured(denied), true
	case "ExpiredToken", "TokenRefreshRequired":
		return Misconfigured("renew the credentials: they have expired"), true
	case "UnrecognizedClient", "InvalidClientTokenId", "InvalidAccessKeyId", "MissingAuthenticationToken", "MissingSecurityHeader", "IncompleteSignature":
		return Misconfigured("check the client's credentials: the service does not know them"), true
	case "InvalidSignature", "SignatureDoesNotMatch", "AuthFailure", "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		m = Misconfigured("check the client's secret key and this machine's clock")
		m.Clock = true
		return m, true
	}
	return Meaning{}, false
}

// OfStatus returns what the status of a reply means whose error code is not known.
// service is who should have answered.
func OfStatus(status int, service string) Meaning {
	switch {
	case status == http.StatusTooManyRequests:
		return Meaning{Class: limiter.ErrOverload}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Misconfigured("check the client's credentials and permissions")
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		return Misconfigured("check the client's endpoint: what answers there is not " + service)
	case status < 400, status == http.StatusRequestTimeout, status >= 500:
		return Meaning{Class: limiter.ErrUnavailable} // a 2xx here could not be read to its end
	}
	return Meaning{}
}
