package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rampmeter/rampmeter/limiter"
)

// A tableError is a request that DynamoDB did not answer with success.
type tableError struct {
	op, key, table string
	class          error  // one of limiter's, nil if it says nothing of the table
	advice         string // what to do about it, where that is known
	err            error
}

func (e *tableError) Error() string {
	text := fmt.Sprintf("dynamostore: %s key %q, table %q: %v", e.op, e.key, e.table, e.err)
	if e.advice != "" {
		text += ": " + e.advice
	}
	return text
}

func (e *tableError) Unwrap() error { return e.err }

func (e *tableError) Is(target error) bool { return e.class != nil && target == e.class }

// explain says what an error of the SDK means.
func (s *Store) explain(ctx context.Context, op, key string, err error) error {
	e := &tableError{op: op, key: key, table: s.table, err: err}
	var (
		api   smithy.APIError
		reply *smithyhttp.ResponseError
	)
	switch {
	case ctx.Err() != nil: // by our own time limit, among others, which is the table's fault
		e.err = context.Cause(ctx)
		e.class = limiter.Classify(e.err)
	case errors.As(err, &api) && e.know(api.ErrorCode()):
	case errors.As(err, &reply) && reply.HTTPStatusCode() != 0:
		e.knowStatus(reply.HTTPStatusCode())
	default:
		switch e.class = limiter.Classify(err); {
		case e.class != nil || !fromSDK(err):
		case sent(err):
			e.class = limiter.ErrUnavailable // a connection that broke
		default:
			e.class = limiter.ErrMisconfigured
			e.advice = "no request was made: give the client credentials, a region or an endpoint"
		}
	}
	return e
}

// know sets class and advice by an error's code, if that is known.
func (e *tableError) know(code string) bool {
	misconfigured := func(advice string) { e.class, e.advice = limiter.ErrMisconfigured, advice }
	switch code {
	case "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException", "Throttling",
		"LimitExceededException", "TooManyRequestsException", "SlowDown":
		e.class = limiter.ErrOverload
	case "InternalServerError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout",
		"RequestTimeoutException", "TransactionInProgressException":
		e.class = limiter.ErrUnavailable
	case "ResourceNotFoundException", "TableNotFoundException":
		misconfigured("create the table, or correct its name and the client's region")
	case "ValidationException":
		// Keys and results are checked before they come here, so it is the table.
		misconfigured(`the table's key must be "id", a string, and nothing else`)
	case "AccessDeniedException", "AccessDenied", "NotAuthorized", "OptInRequired":
		misconfigured("allow these credentials dynamodb:PutItem, UpdateItem, DeleteItem and GetItem on the table, and its KMS key if it has one")
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
func (e *tableError) knowStatus(status int) {
	switch {
	case status == http.StatusTooManyRequests:
		e.class = limiter.ErrOverload
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.class, e.advice = limiter.ErrMisconfigured, "check the client's credentials and permissions"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		e.class, e.advice = limiter.ErrMisconfigured, "check the client's endpoint: what answers there is not DynamoDB"
	case status < 400, status == http.StatusRequestTimeout, status >= 500:
		e.class = limiter.ErrUnavailable // what says 2xx could not be read to its end
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
