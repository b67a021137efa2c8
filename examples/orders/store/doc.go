// Package store keeps orders in an Amazon DynamoDB table.
//
//	client := dynamodb.NewFromConfig(cfg)
//	orders, err := store.New(client, "orders")
//	...
//	err = orders.Put(ctx, o)
//
// # The table
//
// The table's key is the order's id, a string attribute named "id", and there
// is no sort key. The other attributes of an item are "sku" and "customer",
// strings, and "quantity", a number. Items may have further attributes, of
// other programs; they are never read or changed here. [CreateTable] makes such
// a table for tests and local runs. The permissions needed are
// dynamodb:PutItem and dynamodb:GetItem on the table.
//
// # Errors
//
// A [order.ConflictError] is permanent: the table has another order under the
// id. All other errors have a class for limiters: throttling is
// limiter.ErrOverload; a server's failure, a broken connection and a timeout
// are limiter.ErrUnavailable; a missing table, a table with another key,
// missing permissions and credentials are limiter.ErrMisconfigured. After any
// of these the order may have been stored or not, and Put may be called again.
//
// A request is made once: the SDK's own retries are off, whatever the client's
// settings. The caller of Put retries, as a queue's consumer does. Two nested
// retries would multiply their attempts, and the limits would learn of an outage
// late or not at all.
package store
