// Package dynamostore remembers for package idempotent in an Amazon DynamoDB
// table what was done.
//
//	client := dynamodb.NewFromConfig(cfg)
//	store, err := dynamostore.New(client, "runs", dynamostore.Config{Namespace: "orders/reserve-stock"})
//	...
//	once, err := idempotent.New(store, idempotent.Config{Key: orderID})
//
// # The table
//
// Its key is "id", a string, and nothing else; its time to live is "expires_at".
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
//	claim_owner    S     the run that holds the claim, or was the last to
//	claim_until    N     when the claim ends, in milliseconds since 1970; none: nobody holds one
//	is_done        BOOL  the operation has succeeded
//	done_result    B     what it answered
//	failure_count  N     failed runs
//	in_doubt       BOOL  an earlier run has ended without a word
//	expires_at     N     when all this is forgotten, in seconds since 1970
//
// Consumers share a table by having namespaces of their own. A namespace and a
// key have 2048 bytes together at most, and are UTF-8; other keys are permanent
// errors. They are not hashed, so that an operator can find an order's record. A
// result may have [MaxResult] bytes, nearly all that an item may; a larger one is
// left out ([idempotent.ErrResultTooLarge]), and small ones are cheaper.
//
// A table with replicas in other regions that are eventually consistent does not
// do: two regions could claim the same key. Use the table of one region, or
// replicas with strong consistency.
//
// # Time
//
// Ends of claims and expiry are compared in the conditions of the writes, with
// the clock of the machine that writes. The time to live is for cleaning up: what
// has expired counts as gone although DynamoDB deletes it days later.
//
// Clocks must agree within a second, as those of AWS do by themselves: a claim
// outlasts its run by that. A machine whose clock is ahead by more sees others'
// claims end before their runs do, and may run beside them for as much as it is
// ahead; the run whose claim it takes is refused when it wants to record its end
// and is counted as late, its own is counted as in doubt. A clock that is behind
// makes messages wait for longer, and does no harm.
//
// # Requests
//
// Every step is one conditional write. Where the condition does not hold the
// reply has the item, so a delivery that is a duplicate costs one write, too, and
// never a read. On servers that don't tell, some local ones, it costs a
// consistent read.
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
// The SDK repeats requests as the client is set up to. A repeat that finds its
// own write, because the reply to it was lost, knows it by the owner and counts
// as success: a claim is claimed, a failure is counted once. A step takes ten
// seconds at most, with its repeats. Where a claim's reply is lost for good the
// middleware gives the claim up again, and if that fails too, the claim ends by
// itself.
//
// The SDK's own HTTP client keeps ten idle connections, and a consumer with more
// handlers has more requests in flight. If the client uses that HTTP client with the
// SDK's defaults for MaxIdleConns, MaxIdleConnsPerHost and MaxConnsPerHost, a Store
// with several requests in flight makes them through a copy that keeps each
// connection until it has been idle for IdleConnTimeout. Any other HTTP client is
// used as it is; its MaxIdleConnsPerHost should be at least the consumer's
// Concurrency, and so should that of the client that makes transactions with
// [Store.DoneItem].
//
// # Errors
//
// They say what they mean to limiters: throttling is limiter.ErrOverload; a
// server's failure, a broken connection and a timeout are
// limiter.ErrUnavailable; a missing table, one with another key, missing
// permissions and credentials are limiter.ErrMisconfigured, with advice. A claim
// that fails so has not run the handler.
package dynamostore
