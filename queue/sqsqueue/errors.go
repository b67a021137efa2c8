package sqsqueue

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"github.com/rampmeter/rampmeter/internal/awserr"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
)

// A requestError is why a request, or one entry of it, failed. It answers
// errors.Is for its class.
type requestError struct {
	op     string
	url    string
	class  error  // one of limiter's; nil: the service refuses only this request
	advice string // what to do about it; "" if waiting helps
	clock  bool   // the clock may have been the cause, and the SDK has corrected it by now
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

// explain classifies an error of the SDK. unsent: the SDK made no request.
func explain(op, url string, err error, unsent bool) *requestError {
	e := &requestError{op: op, url: url, err: err}
	var api smithy.APIError
	if errors.As(err, &api) {
		e.codes = awserr.Codes(api)
	}
	m, known := service(op).Of(err)
	switch {
	case known:
		e.set(m)
	case api != nil && api.ErrorFault() != smithy.FaultServer:
		// The service refuses this request, for a reason of its own.
	case unsent:
		e.set(awserr.Unsent())
	default:
		switch e.class = limiter.Classify(err); e.class {
		case limiter.ErrMisconfigured:
			e.advice = "check the client's region, endpoint and certificates"
		case nil:
			e.class = limiter.ErrUnavailable // a broken connection, or a reply that can't be read
		}
	}
	return e
}

// explainEntry classifies the failure of one entry of a batch.
func explainEntry(op, url string, f types.BatchResultErrorEntry) *requestError {
	api := &smithy.GenericAPIError{Code: aws.ToString(f.Code), Message: aws.ToString(f.Message), Fault: smithy.FaultServer}
	if f.SenderFault {
		api.Fault = smithy.FaultClient
	}
	return explain(op, url, api, false)
}

// set sets what the error means.
func (e *requestError) set(m awserr.Meaning) { e.class, e.advice, e.clock = m.Class, m.Advice, m.Clock }

// notSQS is the advice for replies that SQS never sends.
const notSQS = "check the client's endpoint: this is not an SQS endpoint that speaks the JSON protocol"

// service is SQS, for requests of op.
func service(op string) awserr.Service {
	s := awserr.Service{
		Name:   "SQS",
		Denied: "allow these credentials sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, where it is sent to sqs:SendMessage, and for Check sqs:GetQueueAttributes and sqs:GetQueueUrl on the queue",
		Key:    "allow these credentials kms:Decrypt, and to send kms:GenerateDataKey, on the queue's KMS key, in the key's policy too, and see that the key is enabled",
		Other:  notSQS,
		Code:   ofCode,
	}
	if op == "move" {
		s.Denied = "allow these credentials what the documentation of Move lists, from sqs:StartMessageMoveTask on"
	}
	return s
}

// ofCode returns the meaning of an SQS error code; false if it is not specific to SQS,
// or concerns only one request.
func ofCode(code string) (m awserr.Meaning, known bool) {
	switch code {
	case "KmsThrottled", "OverLimit":
		return awserr.Meaning{Class: limiter.ErrOverload}, true
	case "QueueDoesNotExist", "NonExistentQueue", "QueueDeletedRecently", "InvalidAddress", "ResourceNotFound":
		return awserr.Misconfigured("create the queue, or correct its URL and the client's region"), true
	}
	return awserr.Meaning{}, false
}

// named reports whether the error has one of these codes.
func (e *requestError) named(codes ...string) bool {
	return slices.ContainsFunc(codes, func(code string) bool { return slices.Contains(e.codes, code) })
}

// lost reports whether the service does not accept the receipt handle (any more).
// It has several codes for that, and one of them is also the code for an invalid
// visibility timeout.
func (e *requestError) lost() bool {
	return e.named("ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidIdFormat") ||
		e.named("InvalidParameterValue") && !e.beyondLimit()
}

// beyondLimit reports whether the message would be hidden for longer, since its
// receive, than the service allows. Only the text says so.
func (e *requestError) beyondLimit() bool {
	return e.named("InvalidParameterValue") && strings.Contains(e.err.Error(), "VisibilityTimeout")
}

// A leaseLost is [queue.ErrLeaseLost] with its cause.
type leaseLost struct{ err error }

func (e *leaseLost) Error() string        { return fmt.Sprintf("%v: %v", queue.ErrLeaseLost, e.err) }
func (e *leaseLost) Unwrap() error        { return e.err }
func (e *leaseLost) Is(target error) bool { return target == queue.ErrLeaseLost }
