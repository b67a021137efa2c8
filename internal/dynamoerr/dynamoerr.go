// Package dynamoerr classifies the errors of the SDK's DynamoDB client, for tables
// whose key is "id", a string.
package dynamoerr

import (
	"errors"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rampmeter/rampmeter/internal/awserr"
	"github.com/rampmeter/rampmeter/limiter"
)

// Explain returns what to do about err, "" if that is not known, and which of
// limiter's errors it is, nil if it says nothing about the table. allow lists the
// actions that the caller needs permission for.
func Explain(err error, allow string) (advice string, class error) {
	m := meaning(err, allow)
	return m.Advice, m.Class
}

func meaning(err error, allow string) awserr.Meaning {
	service := awserr.Service{
		Name:   "DynamoDB",
		Denied: "allow these credentials " + allow + " on the table",
		Key:    "allow these credentials kms:Decrypt on the table's KMS key, in the key's policy too, and see that the key is enabled",
		Code:   ofCode,
	}
	if m, known := service.Of(err); known {
		return m
	}
	switch class := limiter.Classify(err); {
	case class != nil || !fromSDK(err):
		return awserr.Meaning{Class: class}
	case sent(err):
		return awserr.Meaning{Class: limiter.ErrUnavailable} // a broken connection
	}
	return awserr.Unsent()
}

// ofCode returns the meaning of a DynamoDB error code; false if it is not specific to
// DynamoDB, or concerns only one request.
func ofCode(code string) (m awserr.Meaning, known bool) {
	switch code {
	case "TransactionConflict", "ReplicatedWriteConflict", "ResourceInUse", "TableInUse":
		// A concurrent write to the item, or a change of the table: try again.
		return awserr.Meaning{Class: limiter.ErrUnavailable}, true
	case "ResourceNotFound", "TableNotFound":
		return awserr.Misconfigured("create the table, or correct its name and the client's region"), true
	case "InaccessibleEncryptionCredentials":
		return awserr.Misconfigured("let DynamoDB use the table's KMS key again, and see that the key is enabled"), true
	case "Validation": // the request was checked before it was made, so the table is wrong
		return awserr.Misconfigured(`the table's key must be "id", a string, and nothing else`), true
	}
	return awserr.Meaning{}, false
}

// fromSDK reports whether err comes from the SDK, and not from a test double.
func fromSDK(err error) bool {
	var op *smithy.OperationError
	return errors.As(err, &op)
}

// sent reports whether a request was made.
func sent(err error) bool {
	var send *smithyhttp.RequestSendError
	return errors.As(err, &send)
}
