package sqsfake

import (
	"fmt"
	"strings"
)

// An Error is an error reply of the service.
type Error struct {
	// Status is the HTTP status. Default 400.
	Status int
	// Code is the code of the JSON protocol, without a namespace.
	Code string
	// QueryCode is the code of the older protocol. Default: Code; "-" omits the
	// header that carries it.
	QueryCode string
	// Server says that the fault is the service's and not the caller's: in the
	// failed entry of a batch, SenderFault is false.
	Server bool
	// Message is the text for humans.
	Message string
}

func (e Error) Error() string { return e.Code + ": " + e.Message }

// Throttled returns the service's reply to too many requests.
func Throttled() Error {
	return Error{Code: "RequestThrottled", QueryCode: "RequestThrottled", Message: "Request is throttled."}
}

// ThrottlingException returns the reply of the layer in front of the service, with the
// status 400, 403, 429 or 503.
func ThrottlingException(status int) Error {
	return Error{Status: status, Code: "ThrottlingException", QueryCode: "Throttling", Message: "Rate exceeded", Server: status >= 500}
}

// InternalError returns a failure inside the service, with status 500.
func InternalError() Error {
	return Error{Status: 500, Code: "InternalFailure", QueryCode: "InternalError", Server: true, Message: "We encountered an internal error. Please try again."}
}

// ServiceUnavailable returns an error with status 503.
func ServiceUnavailable() Error {
	return Error{Status: 503, Code: "ServiceUnavailable", Server: true, Message: "The request has failed due to a temporary failure of the server."}
}

// OverLimit returns the reply to a short poll when too many messages are in flight.
func OverLimit() Error {
	return Error{Code: "OverLimit", QueryCode: "OverLimit", Message: "Too many messages in flight."}
}

// AccessDenied returns the reply to a caller without permission.
func AccessDenied() Error {
	return Error{Status: 403, Code: "AccessDeniedException", QueryCode: "AccessDenied", Message: "User: arn:aws:iam::000000000000:user/fake is not authorized to perform: sqs:receivemessage on resource"}
}

// QueueDoesNotExist returns the reply when the queue is deleted, or never existed.
func QueueDoesNotExist() Error {
	return Error{Code: "QueueDoesNotExist", QueryCode: "AWS.SimpleQueueService.NonExistentQueue", Message: "The specified queue does not exist."}
}

// ExpiredToken returns the reply to temporary credentials that have expired.
func ExpiredToken() Error {
	return Error{Status: 403, Code: "ExpiredTokenException", QueryCode: "ExpiredToken", Message: "The security token included in the request is expired"}
}

// InvalidToken returns the reply to unknown credentials.
func InvalidToken() Error {
	return Error{Status: 403, Code: "UnrecognizedClientException", QueryCode: "InvalidClientTokenId", Message: "The security token included in the request is invalid."}
}

func (e Error) status() int {
	if e.Status == 0 {
		return 400
	}
	return e.Status
}

func (e Error) queryCode() string {
	if e.QueryCode == "" {
		return e.Code
	}
	return e.QueryCode
}

// typ returns the code with its namespace in the JSON protocol: errors of the service's
// own model have one, those of the layers in front of it another.
func (e Error) typ() string {
	if e.Server || strings.HasSuffix(e.Code, "Exception") {
		return "com.amazon.coral.service#" + e.Code
	}
	return "com.amazonaws.sqs#" + e.Code
}

// queryError returns the value of the header x-amzn-query-error, "" for none.
func (e Error) queryError() string {
	switch code := e.queryCode(); {
	case code == "-":
		return ""
	case e.Server:
		return code + ";Receiver"
	default:
		return code + ";Sender"
	}
}

const prefix = "AWS.SimpleQueueService."

func badParameter(message string) Error {
	return Error{Code: "InvalidParameterValueException", QueryCode: "InvalidParameterValue", Message: message}
}

func badValue(value any, parameter, reason string) Error {
	return badParameter(fmt.Sprintf("Value %v for parameter %s is invalid. Reason: %s", value, parameter, reason))
}

func missing(parameter string) Error {
	return Error{Code: "MissingRequiredParameterException", QueryCode: "MissingParameter", Message: "The request must contain the parameter " + parameter + "."}
}

func unknownAttribute(name string) Error {
	return Error{Code: "InvalidAttributeName", Message: "Unknown Attribute " + name + "."}
}

func badAttribute(name, value string) Error {
	return Error{Code: "InvalidAttributeValue", Message: fmt.Sprintf("Invalid value %q for the parameter %s.", value, name)}
}

func badContents() Error {
	return Error{Code: "InvalidMessageContents", Message: "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF"}
}

func badHandle(handle string) Error {
	return Error{Status: 404, Code: "ReceiptHandleIsInvalid", Message: fmt.Sprintf("The input receipt handle %q is not a valid receipt handle.", handle)}
}

func expiredHandle(handle string) Error {
	return badValue(handle, "ReceiptHandle", "The receipt handle has expired.")
}

func unavailable(handle string) Error {
	return badValue(handle, "ReceiptHandle", "Message does not exist or is not available for visibility timeout change.")
}

func notInFlight() Error {
	return Error{Code: "MessageNotInflight", QueryCode: prefix + "MessageNotInflight", Message: "The specified message isn't in flight."}
}

// badBatch returns an error of a batch as a whole.
func badBatch(code, message string) Error {
	return Error{Code: code, QueryCode: prefix + code, Message: message}
}
