package sqsqueue

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
)

// A requestError is why a request, or one entry of it, failed. It answers
// errors.Is for its class.
type requestError struct {
	op     string
	url    string
	class  error  // one of limiter's; nil: the service refuses just this
	advice string // what to do about it; "" if waiting helps
	clock  bool   // it may be for the clock, which the SDK has set right by now
	codes  []string
	err    error
}

func (e *requestError) Error() string {
	text := fmt.Sprintf("sqsqueue: %s: queue %s: %v", e.op, e.url, e.err)
	if e.advice != "" {
		text = strings.TrimSuffix(text, ".") + ": " + e.advice // the service's own sentence
	}
	return text
}

func (e *requestError) Unwrap() error { return e.err }

func (e *requestError) Is(target error) bool { return e.class != nil && target == e.class }

// passing reports whether waiting helps.
func (e *requestError) passing() bool {
	return e.class == limiter.ErrOverload || e.class == limiter.ErrUnavailable
}

// explain says what an error of the SDK means. unsent says that it has made no
// request.
func explain(op, url string, err error, unsent bool) *requestError {
	e := &requestError{op: op, url: url, err: err}
	var (
		api   smithy.APIError
		reply *smithyhttp.ResponseError
	)
	switch {
	case errors.As(err, &api) && e.know(code(api.ErrorCode()), code(fmt.Sprintf("%T", api))):
	case errors.As(err, &reply) && reply.HTTPStatusCode() != 0:
		e.knowStatus(reply.HTTPStatusCode())
	case api != nil && api.ErrorFault() != smithy.FaultServer:
		// The service refuses this request, for a reason of its own.
	case unsent:
		e.class = limiter.ErrMisconfigured
		e.advice = "no request was made: give the client credentials, a region or an endpoint"
	default:
		switch e.class = limiter.Classify(err); e.class {
		case limiter.ErrMisconfigured:
			e.advice = "check the client's region, endpoint and certificates"
		case nil:
			e.class = limiter.ErrUnavailable // a connection that broke, or a reply that can't be read
		}
	}
	return e
}

// explainEntry says what the failure of one entry of a batch means.
func explainEntry(op, url string, f types.BatchResultErrorEntry) *requestError {
	api := &smithy.GenericAPIError{Code: deref(f.Code), Message: deref(f.Message), Fault: smithy.FaultServer}
	if f.SenderFault {
		api.Fault = smithy.FaultClient
	}
	return explain(op, url, api, false)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// code returns an error's code, or the name of its type, without what differs
// between servers and protocols.
func code(s string) string {
	s = s[strings.LastIndexAny(s, ".#")+1:] // AWS.SimpleQueueService., com.amazonaws.sqs#, *types.
	return strings.TrimSuffix(s, "Exception")
}

// know sets class and advice by the first code that is known.
func (e *requestError) know(codes ...string) bool {
	misconfigured := func(advice string) { e.class, e.advice = limiter.ErrMisconfigured, advice }
	e.codes = codes
	for _, code := range codes {
		switch code {
		case "RequestThrottled", "Throttling", "Throttled", "ThrottledRequest", "TooManyRequests", "RequestLimitExceeded",
			"BandwidthLimitExceeded", "LimitExceeded", "SlowDown", "PriorRequestNotComplete", "KmsThrottled", "OverLimit":
			e.class = limiter.ErrOverload
		case "InternalError", "InternalFailure", "InternalServerError", "InternalServer", "ServiceUnavailable", "ServiceFailure",
			"RequestTimeout", "Unavailable":
			e.class = limiter.ErrUnavailable
		case "QueueDoesNotExist", "NonExistentQueue", "QueueDeletedRecently", "InvalidAddress", "ResourceNotFound":
			misconfigured("create the queue, or correct its URL and the client's region")
		case "AccessDenied", "AuthorizationError", "NotAuthorized", "OptInRequired", "AccountProblem", "InvalidSecurity":
			if e.op == "move" {
				misconfigured("allow these credentials what the documentation of Move lists, from sqs:StartMessageMoveTask on")
				break
			}
			misconfigured("allow these credentials sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, where it is sent to sqs:SendMessage, and for Check sqs:GetQueueAttributes and sqs:GetQueueUrl on the queue")
		case "KmsAccessDenied", "KmsDisabled", "KmsInvalidKeyUsage", "KmsInvalidState", "KmsNotFound", "KmsOptInRequired":
			misconfigured("let these credentials use the queue's KMS key, and see that it is enabled")
		case "ExpiredToken", "TokenRefreshRequired":
			misconfigured("renew the credentials: they have expired")
		case "UnrecognizedClient", "InvalidClientTokenId", "InvalidAccessKeyId", "MissingAuthenticationToken", "MissingSecurityHeader", "IncompleteSignature":
			misconfigured("check the client's credentials: the service does not know them")
		case "InvalidSignature", "SignatureDoesNotMatch", "AuthFailure", "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
			misconfigured("check the client's secret key and this machine's clock")
			e.clock = true
		default:
			continue
		}
		return true
	}
	return false
}

// knowStatus sets class and advice by the status of a reply without a code that
// is known.
func (e *requestError) knowStatus(status int) {
	switch {
	case status == http.StatusTooManyRequests:
		e.class = limiter.ErrOverload
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		e.class, e.advice = limiter.ErrMisconfigured, "check the client's credentials and the queue's policy"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		e.class, e.advice = limiter.ErrMisconfigured, "check the client's endpoint: what answers there is not SQS"
	case status < 400, status == http.StatusRequestTimeout, status >= 500:
		e.class = limiter.ErrUnavailable // what says 2xx could not be read to its end
	}
}

// named reports whether the error has one of these codes.
func (e *requestError) named(codes ...string) bool {
	return slices.ContainsFunc(codes, func(code string) bool { return slices.Contains(e.codes, code) })
}

// lost reports whether the service does not take the receipt handle (any more).
// It has several codes for that, and one of them is also the code for a
// visibility timeout that it does not take.
func (e *requestError) lost() bool {
	return e.named("ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidIdFormat") ||
		e.named("InvalidParameterValue") && !e.beyondLimit()
}

// beyondLimit reports whether the message would be hidden for longer, since its
// receive, than the service allows. Only the text says so.
func (e *requestError) beyondLimit() bool {
	return e.named("InvalidParameterValue") && strings.Contains(e.err.Error(), "VisibilityTimeout")
}

// A leaseLost is [queue.ErrLeaseLost], and why.
type leaseLost struct{ err error }

func (e *leaseLost) Error() string        { return fmt.Sprintf("%v: %v", queue.ErrLeaseLost, e.err) }
func (e *leaseLost) Unwrap() error        { return e.err }
func (e *leaseLost) Is(target error) bool { return target == queue.ErrLeaseLost }
