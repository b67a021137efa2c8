package dynamostore

import (
	"context"
	"fmt"

	"github.com/rampmeter/rampmeter/internal/dynamoerr"
	"github.com/rampmeter/rampmeter/limiter"
)

// A tableError is a request that DynamoDB did not answer with success.
type tableError struct {
	op, key, table string
	class          error  // one of limiter's, nil if it says nothing about the table
	advice         string // what to do about it, if known
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

// explain classifies an error of the SDK.
func (s *Store) explain(ctx context.Context, op, key string, err error) error {
	e := &tableError{op: op, key: key, table: s.table, err: err}
	if ctx.Err() != nil { // possibly our own time limit, which is the table's fault
		e.err = context.Cause(ctx)
		e.class = limiter.Classify(e.err)
		return e
	}
	e.advice, e.class = dynamoerr.Explain(err, "dynamodb:PutItem, UpdateItem, DeleteItem and GetItem")
	return e
}
