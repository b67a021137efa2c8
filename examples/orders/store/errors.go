package store

import (
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/rampmeter/rampmeter/internal/dynamoerr"
)

// A tableError is a request that DynamoDB did not answer with success.
type tableError struct {
	op, id, table string
	class         error  // one of limiter's, nil if it says nothing about the table
	advice        string // what to do about it, where that is known
	err           error
}

func (e *tableError) Error() string {
	text := fmt.Sprintf("store: %s order %q, table %q: %v", e.op, e.id, e.table, e.err)
	if e.advice != "" {
		text += ": " + e.advice
	}
	return text
}

func (e *tableError) Unwrap() error { return e.err }

func (e *tableError) Is(target error) bool { return e.class != nil && target == e.class }

// explain classifies an error of the SDK.
func (t *Table) explain(op, id string, err error) error {
	e := &tableError{op: op, id: id, table: t.name, err: err}
	var exists *types.ConditionalCheckFailedException
	if !errors.As(err, &exists) { // else it is about this order only
		e.advice, e.class = dynamoerr.Explain(err, "dynamodb:PutItem and dynamodb:GetItem")
	}
	return e
}
