// Package dynamoerr says what the errors of the SDK's DynamoDB client mean, for
// tables whose key is "id", a string.
package dynamoerr

import (
	"errors"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rampmeter/rampmeter/limiter"
)

type meaning struct {
	class  error
	advice string
}

// Explain returns what to do about err, "" where that is not known, and which of
// limiter's errors it is, nil if it says nothing of the table. allow names the
// actions that whoever calls needs permission for.
func Explain(err error, allow string) (advice string, class error) {
	var (
		m     meaning
		api   smithy.APIError
		reply *smithyhttp.ResponseError
	)
	switch {
	case errors.As(err, &api) && m.know(api.ErrorCode(), allow):
	case errors.As(err, &reply) && reply.HTTPStatusCode() != 0:
		m.knowStatus(reply.HTTPStatusCode())
	default:
		switch m.class = limiter.Classify(err); {
		case m.class != nil || !fromSDK(err):
		case sent(err):
			m.class = limiter.ErrUnavailable // a connection that broke
		default:
			m.class = limiter.ErrMisconfigured
			m.advice = "no request was made: give the client credentials, a region or an endpoint"
		}
	}
	return m.advice, m.class
}

// know sets class and advice by an error's code, if that is known.
func (m *meaning) know(code, allow string) bool {
	misconfigured := func(advice string) { m.class, m.advice = limiter.ErrMisconfigured, advice }
	switch code {
	case "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException", "Throttling",
		"LimitExceededException", "TooManyRequestsException", "SlowDown":
		m.class = limiter.ErrOverload
	case "InternalServerError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout",
		"RequestTimeoutException", "TransactionInProgressException":
		m.class = limiter.ErrUnavailable
	case "ResourceNotFoundException", "TableNotFoundException":
		misconfigured("create the table, or correct its name and the client's region")
	case "ValidationException":
		// What is asked is checked before it comes here, so it is the table.
		misconfigured(`the table's key must be "id", a string, and nothing else`)
	case "AccessDeniedException", "AccessDenied", "NotAuthorized", "OptInRequired":
		misconfigured("allow these credentials " + allow + " on the table, and its KMS key if it has one")
	case "ExpiredTokenException", "ExpiredToken":
		misconfigured("renew the credentials: they have expired")
	case "UnrecognizedClientException", "InvalidClientTokenId", "MissingAuthenticationTokenException", "MissingAuthenticationToken",
		"IncompleteSignatureException", "IncompleteSignature":
		misconfigured("check the client's credentials: the service does not know them")
	case "InvalidSignatureException", "SignatureDoesNotMatch":
		misconfigured("check the client's secret key and this machine's clock")
	default:
		return false
	}
	return true
}

// knowStatus sets class and advice by the status of a reply whose code is not
// known.
func (m *meaning) knowStatus(status int) {
	switch {
	case status == http.StatusTooManyRequests:
		m.class = limiter.ErrOverload
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		m.class, m.advice = limiter.ErrMisconfigured, "check the client's credentials and permissions"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		m.class, m.advice = limiter.ErrMisconfigured, "check the client's endpoint: what answers there is not DynamoDB"
	case status < 400, status == http.StatusRequestTimeout, status >= 500:
		m.class = limiter.ErrUnavailable // what says 2xx could not be read to its end
	}
}

// fromSDK reports whether it is the SDK that failed, and not what stands in for
// it in a test.
func fromSDK(err error) bool {
	var op *smithy.OperationError
	return errors.As(err, &op)
}

// sent reports whether a request was made.
func sent(err error) bool {
	var send *smithyhttp.RequestSendError
	return errors.As(err, &send)
}
