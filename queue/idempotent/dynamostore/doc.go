// Package dynamostore is a store for package idempotent in an Amazon DynamoDB table.
//
//	client := dynamodb.NewFromConfig(cfg)
//	store, err := dynamostore.New(client, "runs", dynamostore.Config{Namespace: "orders/reserve-stock"})
//	...
//	once, err := idempotent.New(store, idempotent.Config{Key: orderID})
//
// # The table
//
// The table's only key attribute is "id", a string; its time to live is "expires_at".
// In CloudFormation:
//
//	Runs:
//	  Type: AWS::DynamoDB::Table
//	  Properties:
//	    BillingMode: PAY_PER_REQUEST
//	    AttributeDefinitions: [{AttributeName: id, AttributeType: S}]
//	    KeySchema: [{AttributeName: id, KeyType: HASH}]
//	    TimeToLiveSpecification: {AttributeName: expires_at, Enabled: true}
//	    PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}
//
// With the AWS CLI:
//
//	aws dynamodb create-table --table-name runs --billing-mode PAY_PER_REQUEST \
//		--attribute-definitions AttributeName=id,AttributeType=S --key-schema AttributeName=id,KeyType=HASH
//	aws dynamodb wait table-exists --table-name runs
//	aws dynamodb update-time-to-live --table-name runs \
//		--time-to-live-specification AttributeName=expires_at,Enabled=true
//
// The program needs dynamodb:PutItem, dynamodb:UpdateItem, dynamodb:DeleteItem
// and dynamodb:GetItem on it. Transactions with [Store.DoneItem] need no more.
//
// An item is the record of one key:
//
//	id             S     namespace, '#' and key
//	claim_owner    S     the run that holds the claim, or held it last
//	claim_until    N     when the claim ends, in milliseconds since 1970; none: nobody holds one
//	is_done        BOOL  the operation has succeeded
//	done_result    B     its result
//	failure_count  N     failed runs
//	in_doubt       BOOL  an earlier run never reported its end
//	expires_at     N     when the item is forgotten, in seconds since 1970
//
// Consumers that share a table use different namespaces. A namespace and a key have
// at most 2048 bytes together, and are UTF-8; other keys are permanent errors. They
// are not hashed, so that an operator can find an order's record. A result may have
// [MaxResult] bytes, nearly the size of an item; a larger one is left out
// ([idempotent.ErrResultTooLarge]), and small ones are cheaper.
//
// A table with eventually consistent replicas in other regions is not suitable: two
// regions could claim the same key. Use the table of one region, or replicas with
// strong consistency.
//
// # Time
//
// The conditions of the writes compare ends of claims and expiry with the clock of the
// machine that writes. The time to live only cleans up: expired items do not count,
// although DynamoDB deletes them days later.
//
// Clocks must agree within a second, as those of AWS do by themselves, because a claim
// outlasts its run by a second. A machine whose clock is further ahead sees other
// machines' claims end before their runs do, and for that difference may run the same
// operation concurrently. The run that lost its claim can't record its end, and is
// counted as late; the new run is counted as in doubt. A clock that is behind makes
// messages wait longer, and does no harm.
//
// # Requests
//
// Every operation is one conditional write. If the condition does not hold, the reply
// contains the item, so a duplicate delivery also costs one write, and never a read.
// On servers that do not return the item, as some local ones, it costs a consistent
// read.
//
//	claim, success                            2 writes
//	claim, failure                            2
//	claim after a failure or a crash          1 more
//	duplicate, of a busy or a done key        1
//	claim, permanent error or overload        2
//	claim, transaction with DoneItem          1, 2 in the transaction, and 1 that finds it done
//
// A write is one unit of write capacity per KB of the item, one without a result,
// also if its condition fails. Deletions by the time to live are free.
//
// The SDK retries requests as the client is configured. A retry that finds its own
// write, after a lost reply, recognizes it by the owner and counts as success: a claim
// is claimed, a failure is counted once. An operation takes ten seconds at most,
// including its retries. If no retry gets the reply to a claim, the middleware releases
// the claim, and if that fails too, the claim ends by itself.
//
// The SDK's own HTTP client keeps ten idle connections, and a consumer with more
// handlers has more requests in flight. If the client uses that HTTP client with the
// SDK's defaults for MaxIdleConns, MaxIdleConnsPerHost and MaxConnsPerHost, a Store
// with several requests in flight makes them through a copy that keeps each
// connection until it has been idle for IdleConnTimeout. Any other HTTP client is
// used unchanged; its MaxIdleConnsPerHost should be at least the consumer's
// Concurrency, and so should that of the client that makes transactions with
// [Store.DoneItem].
//
// # Errors
//
// Errors have the classes of package limiter. Throttling is limiter.ErrOverload. A
// server's failure, a broken connection and a timeout are limiter.ErrUnavailable. A
// missing table, a table with another key, and missing permissions or credentials are
// limiter.ErrMisconfigured, with advice. After a claim that fails the handler does not
// run.
package dynamostore
