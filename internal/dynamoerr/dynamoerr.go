// Package dynamoerr says what the errors of the SDK's DynamoDB client mean, for
// tables whose key is "id", a string.
package dynamoerr

import (
	"errors"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rampmeter/rampmeter/internal/awserr"
	"github.com/rampmeter/rampmeter/limiter"
)

// Explain returns what to do about err, "" where that is not known, and which of
// limiter's errors it is, nil if it says nothing about the table. allow lists the
// actions that the caller needs permission for.
func Explain(err error, allow string) (advice string, class error) {
	m := meaning(err, "allow these credentials "+allow+" on the table, and its KMS key if it has one")
	return m.Advice, m.Class
}

func meaning(err error, denied string) awserr.Meaning {
	var (
		api   smithy.APIError
		reply *smithyhttp.ResponseError
	)
	if errors.As(err, &api) {
		if m, known := ofCode(awserr.Name(api.ErrorCode()), denied); known {
			return m
		}
	}
	if errors.As(err, &reply) && reply.HTTPStatusCode() != 0 {
		return awserr.OfStatus(reply.HTTPStatusCode(), "DynamoDB")
	}
	switch class := limiter.Classify(err); {
	case class != nil || !fromSDK(err):
		return awserr.Meaning{Class: class}
	case sent(err):
		return awserr.Meaning{Class: limiter.ErrUnavailable} // a connection that broke
	}
	return awserr.Unsent()
}

// ofCode returns what an error code means; false if it is not known.
func ofCode(code, denied string) (m awserr.Meaning, known bool) {
	switch code {
	case "TransactionInProgress":
		return awserr.Meaning{Class: limiter.ErrUnavailable}, true
	case "ResourceNotFound", "TableNotFound":
		return awserr.Misconfigured("create the table, or correct its name and the client's region"), true
	case "Validation": // the request was checked before it came here, so it is the table
		return awserr.Misconfigured(`the table's key must be "id", a string, and nothing else`), true
	}
	return awserr.OfCode(code, denied)
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
