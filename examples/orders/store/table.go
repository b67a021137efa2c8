package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/rampmeter/rampmeter/examples/orders/order"
)

// The names of an item's attributes.
const (
	attributeID       = "id"
	attributeSKU      = "sku"
	attributeQuantity = "quantity"
	attributeCustomer = "customer"
)

// timeout is how long one request may take. DynamoDB answers within
// milliseconds; a slower request hangs.
const timeout = 5 * time.Second

// API is the part of the SDK that a [Table] calls. A *dynamodb.Client is one.
type API interface {
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
}

var _ API = (*dynamodb.Client)(nil)

// A Table is an [order.Store] in a table of DynamoDB. Make one with [New]. Its
// methods may be called concurrently. A request may take five seconds.
type Table struct {
	client API
	name   string
}

var _ order.Store = (*Table)(nil)

// New returns the store in the table of that name, or with that ARN. It makes
// no request. It fails when client is nil or name is empty.
func New(client API, name string) (*Table, error) {
	if c, ok := client.(*dynamodb.Client); client == nil || ok && c == nil {
		return nil, errors.New("store: New: client is nil")
	}
	if name == "" {
		return nil, errors.New("store: New: name is empty: must be a table's name or ARN")
	}
	return &Table{client: client, name: name}, nil
}

// Put stores an order unless the table has one under its id. If that is the
// same order, Put succeeds and changes nothing, so attributes that other programs
// have added to the item since are kept. If it is another, the error is
// an [*order.ConflictError]. For all other errors see the package
// documentation.
//
// A new order costs one write. An order that is already stored costs a failed
// write, and also a read if the server does not return the item, as real DynamoDB
// does.
func (t *Table) Put(ctx context.Context, o order.Order) error {
	_, err := call(ctx, t, "put", o.ID, t.client.PutItem, &dynamodb.PutItemInput{
		TableName:                           &t.name,
		Item:                                item(o),
		ConditionExpression:                 aws.String("attribute_not_exists(id)"),
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	var exists *types.ConditionalCheckFailedException
	if !errors.As(err, &exists) {
		return err
	}
	before := parse(exists.Item)
	if exists.Item == nil {
		var ok bool
		if before, ok, err = t.Get(ctx, o.ID); err != nil {
			return err
		}
		if !ok {
			return t.explain("put", o.ID, errors.New("the order that was there has gone"))
		}
	}
	if before != o {
		return &order.ConflictError{ID: o.ID}
	}
	return nil
}

// Get returns the order with that id, and whether there is one. It sees
// everything that was stored before it was called.
func (t *Table) Get(ctx context.Context, id string) (order.Order, bool, error) {
	out, err := call(ctx, t, "get", id, t.client.GetItem, &dynamodb.GetItemInput{
		TableName:      &t.name,
		Key:            map[string]types.AttributeValue{attributeID: text(id)},
		ConsistentRead: aws.Bool(true),
	})
	if err != nil || out.Item == nil {
		return order.Order{}, false, err
	}
	return parse(out.Item), true, nil
}

// call makes one request.
func call[In, Out any](
	ctx context.Context, t *Table, op, id string,
	method func(context.Context, *In, ...func(*dynamodb.Options)) (*Out, error), in *In,
) (*Out, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, err := method(limited, in, func(o *dynamodb.Options) { o.Retryer = aws.NopRetryer{} })
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("store: %s order %q: %w", op, id, context.Cause(ctx))
	}
	return nil, t.explain(op, id, err)
}

func item(o order.Order) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{
		attributeID:       text(o.ID),
		attributeSKU:      text(o.SKU),
		attributeQuantity: &types.AttributeValueMemberN{Value: strconv.Itoa(o.Quantity)},
		attributeCustomer: text(o.Customer),
	}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

// parse returns the order in an item. A field that is missing, or of another
// type, is zero, which no valid order has.
func parse(item map[string]types.AttributeValue) order.Order {
	word := func(name string) string {
		if s, ok := item[name].(*types.AttributeValueMemberS); ok {
			return s.Value
		}
		return ""
	}
	o := order.Order{ID: word(attributeID), SKU: word(attributeSKU), Customer: word(attributeCustomer)}
	if n, ok := item[attributeQuantity].(*types.AttributeValueMemberN); ok {
		if quantity, err := strconv.Atoi(n.Value); err == nil { // else it is none of ours
			o.Quantity = quantity
		}
	}
	return o
}

// CreateTable makes a table for orders, billed by request, and returns when it
// can be used, or after a minute with an error. It is for tests and local
// runs: a table to keep comes from a template, with backups and without the
// permission to make tables.
func CreateTable(ctx context.Context, client *dynamodb.Client, name string) error {
	_, err := client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName:            &name,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String(attributeID), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String(attributeID), KeyType: types.KeyTypeHash}},
		BillingMode:          types.BillingModePayPerRequest,
	})
	if err == nil {
		waiter := dynamodb.NewTableExistsWaiter(client, func(o *dynamodb.TableExistsWaiterOptions) {
			o.MinDelay, o.MaxDelay = 100*time.Millisecond, 2*time.Second
		})
		err = waiter.Wait(ctx, &dynamodb.DescribeTableInput{TableName: &name}, time.Minute)
	}
	if err != nil {
		return fmt.Errorf("store: create table %q: %w", name, err)
	}
	return nil
}
