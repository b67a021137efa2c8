// Package awserr classifies the AWS SDK's errors that all services of AWS share: by
// code, by status, and those of the services that issue credentials.
package awserr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rampmeter/rampmeter/limiter"
)

// A Meaning is what an error says about a service, and what to do about it.
type Meaning struct {
	Class  error  // one of limiter's; nil: it concerns only this request
	Advice string // "" if waiting helps, or if nothing is known to help
	Clock  bool   // this machine's clock may be wrong; the SDK has corrected for it by now
}

// Misconfigured returns the meaning of an error that lasts until somebody follows the
// advice.
func Misconfigured(advice string) Meaning {
	return Meaning{Class: limiter.ErrMisconfigured, Advice: advice}
}

// Unsent returns the meaning of an error that occurred before the SDK made a request.
func Unsent() Meaning {
	return Misconfigured("no request was made: give the client credentials, a region or an endpoint")
}

// A Service is what is known about the service that a request goes to.
type Service struct {
	Name   string // common name, for example "SQS"
	Denied string // advice for when permissions are missing
	Key    string // advice for when the service cannot use the KMS key; "" if there is none
	Other  string // advice for when another server replies; "": to check the endpoint

	// Code returns the meaning of one of this service's own error codes, given as
	// [Name] returns it; false leaves it to the codes that all services share. It may
	// be nil.
	Code func(code string) (Meaning, bool)
}

// Of returns the meaning of an error of the SDK; false if it follows neither from a
// code, nor from a status, nor from the source of the credentials.
func (s Service) Of(err error) (m Meaning, known bool) {
	if source, cause := credentials(err); source != "" {
		return ofCredentials(source, cause), true
	}
	var reply *smithyhttp.ResponseError
	status := 0
	if errors.As(err, &reply) {
		status = reply.HTTPStatusCode()
	}
	if status == http.StatusNotImplemented {
		return s.other(), true
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		for _, code := range Codes(api) {
			if m, known := s.OfCode(code, api.ErrorMessage()); known {
				return m, true
			}
		}
	}
	if status != 0 {
		return s.OfStatus(status), true
	}
	return Meaning{}, false
}

// Codes returns the names of the error: its code and its type. A server of another
// version may use one that the SDK does not know.
func Codes(api smithy.APIError) []string {
	return []string{Name(api.ErrorCode()), Name(fmt.Sprintf("%T", api))}
}

// kms is the prefix of the names of errors about a KMS key.
const kms = "Kms"

// Name returns an error code, or the name of an error's type, without the parts
// that differ between servers, protocols and versions of the SDK:
// "com.amazonaws.sqs#ThrottlingException" and "*types.Throttling" are "Throttling".
// The errors of KMS keep a common prefix: "KMS.DisabledException", "KMSDisabled"
// and "KmsDisabled" are "KmsDisabled".
func Name(code string) string {
	code = code[strings.LastIndexByte(code, '#')+1:]
	code, _, _ = strings.Cut(code, ":")
	rest, name := "", code
	if dot := strings.LastIndexByte(code, '.'); dot >= 0 {
		rest, name = code[:dot], code[dot+1:]
	}
	name = strings.TrimSuffix(name, "Exception")
	switch {
	case strings.EqualFold(rest[strings.LastIndexByte(rest, '.')+1:], kms):
		return kms + name
	case strings.HasPrefix(name, "KMS"):
		return kms + name[len(kms):]
	}
	return name
}

// OfCode returns the meaning of an error code, given as [Name] returns it; false if it
// is not known. message is the service's text, and may be empty.
func (s Service) OfCode(code, message string) (m Meaning, known bool) {
	if s.Code != nil {
		if m, known := s.Code(code); known {
			return m, true
		}
	}
	if rest, ok := strings.CutPrefix(code, kms); ok && s.Key != "" {
		return ofKey(rest, s.Key), true
	}
	switch code {
	case "AccessDenied", "AuthorizationError", "NotAuthorized", "OptInRequired", "AccountProblem":
		if s.Key != "" && aboutKey(message) {
			return Misconfigured(s.Key), true
		}
		return Misconfigured(s.Denied), true
	case "UnknownOperation", "InvalidAction":
		return s.other(), true
	case "InvalidEndpoint":
		return Misconfigured("correct the client's endpoint, or leave it to the SDK"), true
	case "InvalidSecurity":
		return Misconfigured("make requests over HTTPS, signed with Signature Version 4"), true
	case "ExpiredToken", "TokenRefreshRequired":
		return Misconfigured("renew the credentials: they have expired"), true
	case "UnrecognizedClient", "InvalidClientTokenId", "InvalidAccessKeyId", "MissingAuthenticationToken", "MissingSecurityHeader", "IncompleteSignature":
		return Misconfigured("check the client's credentials: the service does not know them"), true
	case "InvalidSignature", "SignatureDoesNotMatch", "AuthFailure", "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		m = Misconfigured("check the client's secret key and this machine's clock")
		m.Clock = true
		return m, true
	}
	return passing(code)
}

// passing returns the meaning of the codes for which waiting helps, at any service.
func passing(code string) (m Meaning, known bool) {
	switch code {
	case "RequestThrottled", "Throttling", "Throttled", "ThrottledRequest", "ThrottlingError", "TooManyRequests", "TooManyRequestsError", "RequestLimitExceeded",
		"BandwidthLimitExceeded", "LimitExceeded", "ProvisionedThroughputExceeded", "SlowDown", "EC2Throttled", "PriorRequestNotComplete":
		return Meaning{Class: limiter.ErrOverload}, true
	case "InternalError", "InternalFailure", "InternalServerError", "InternalServer", "InternalService", "InternalServiceError", "ServiceUnavailable", "ServiceFailure",
		"TransactionInProgress", "RequestTimeout", "Unavailable", "IDPCommunicationError":
		return Meaning{Class: limiter.ErrUnavailable}, true
	}
	return Meaning{}, false
}

// ofKey returns the meaning of an error about a KMS key. code is its name without the
// prefix.
func ofKey(code, advice string) Meaning {
	if m, known := passing(code); known {
		return m
	}
	switch code {
	case "Internal", "DependencyTimeout", "KeyUnavailable":
		return Meaning{Class: limiter.ErrUnavailable}
	}
	return Misconfigured(advice)
}

// aboutKey reports whether a service's message that access is denied is about the KMS
// key.
func aboutKey(message string) bool {
	message = strings.ToLower(message)
	for _, word := range []string{"kms:", "kms key", "aws kms", "customer master key"} {
		if strings.Contains(message, word) {
			return true
		}
	}
	return false
}

// OfStatus returns the meaning of a reply's status if its error code is not known.
func (s Service) OfStatus(status int) Meaning {
	switch {
	case status == http.StatusTooManyRequests:
		return Meaning{Class: limiter.ErrOverload}
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return Misconfigured("check the client's credentials and permissions")
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status == http.StatusNotImplemented:
		return s.other()
	case status < 400, status == http.StatusRequestTimeout, status >= 500:
		return Meaning{Class: limiter.ErrUnavailable} // a 2xx here could not be read to its end
	}
	return Meaning{}
}

// other returns the meaning of a reply that only another server would send.
func (s Service) other() Meaning {
	if s.Other != "" {
		return Misconfigured(s.Other)
	}
	return Misconfigured("check the client's endpoint: what answers there is not " + s.Name)
}

// credentials returns the source from which the SDK did not get the credentials that
// the request needs, and the cause; "" if err is something else.
func credentials(err error) (source string, cause error) {
	var request, inner *smithy.OperationError
	if !errors.As(err, &request) {
		return "", nil
	}
	if errors.As(request.Err, &inner) && inner.ServiceID != request.ServiceID { // a request to another service, for this one
		if source, cause := credentials(inner); source != "" { // which needs some itself
			return source, cause
		}
		return sourceOf(inner), inner.Err
	}
	for cause := request.Err; cause != nil; cause = errors.Unwrap(cause) {
		if !strings.HasPrefix(cause.Error(), "get identity: ") {
			continue
		}
		switch text := cause.Error(); {
		case strings.Contains(text, "EC2 IMDS"):
			return instanceMetadata, cause
		case strings.Contains(text, "failed to load credentials, "):
			return containerCredentials, cause
		case errors.Is(cause, context.DeadlineExceeded):
			return "the source of the client's credentials", cause
		}
	}
	return "", nil
}

const (
	instanceMetadata     = "the EC2 instance metadata service"
	containerCredentials = "the container's credentials endpoint"
)

// sourceOf returns the common name of an operation's service.
func sourceOf(op *smithy.OperationError) string {
	switch id := op.ServiceID; id {
	case "STS":
		return "AWS STS"
	case "ec2imds":
		return instanceMetadata
	case "SSO", "SSO OIDC":
		return "IAM Identity Center"
	case "Signin":
		return "AWS Sign-In"
	default:
		return id
	}
}

// ofCredentials returns the meaning of a failed source of credentials for the request
// that needs them.
func ofCredentials(source string, err error) Meaning {
	var (
		api    smithy.APIError
		status interface{ HTTPStatusCode() int }
		dial   *net.OpError
		sent   *smithyhttp.RequestSendError
	)
	if errors.As(err, &api) {
		for _, code := range Codes(api) {
			if m, known := (Service{}).OfCode(code, ""); known && (m.Class != limiter.ErrMisconfigured || m.Clock) {
				m.Clock = false // the SDK has not corrected the clock: the reply came from another service
				return m
			}
		}
	}
	answer := 0
	if errors.As(err, &status) {
		answer = status.HTTPStatusCode()
	}
	switch {
	case answer == http.StatusTooManyRequests:
		return Meaning{Class: limiter.ErrOverload}
	case answer == http.StatusRequestTimeout, answer >= 500:
		return Meaning{Class: limiter.ErrUnavailable}
	case answer != 0 || api != nil:
		return Misconfigured(refusedBy(source))
	case source == instanceMetadata && (errors.As(err, &dial) && dial.Op == "dial" || errors.Is(err, context.DeadlineExceeded)):
		// Outside EC2 an unsuccessful search for credentials ends like this.
		return Misconfigured("no request was made: give the client credentials; there are none in the environment, and " + source + " can't be reached")
	case limiter.Classify(err) == limiter.ErrMisconfigured:
		return Misconfigured("check the endpoint and certificates of " + source + ", which the client's credentials come from")
	case errors.As(err, &sent), limiter.Classify(err) != nil:
		return Meaning{Class: limiter.ErrUnavailable}
	}
	return Misconfigured(refusedBy(source))
}

// refusedBy returns what to do when a source of credentials refuses to issue any.
func refusedBy(source string) string {
	advice := "no request was made, as " + source + " gives no credentials: "
	switch source {
	case "AWS STS":
		return advice + "check the role, its trust policy, and that the credentials before it may assume it"
	case instanceMetadata:
		return advice + "give the instance a role that EC2 may assume, or give the client other credentials"
	case containerCredentials:
		return advice + "check the role of the task or pod"
	case "IAM Identity Center", "AWS Sign-In":
		return advice + "log in again, with aws sso login or aws login"
	}
	return advice + "check its settings"
}
