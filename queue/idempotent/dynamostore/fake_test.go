package dynamostore_test

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

type attributes = map[string]types.AttributeValue

// fake is DynamoDB in memory, as far as it is needed: items by table and id,
// conditions, updates and transactions.
type fake struct {
	silent  bool          // it does not return the item when a condition fails, as some servers
	latency time.Duration // of a request

	mu     sync.Mutex // guards all below
	items  map[string]attributes
	writes int
	reads  int
}

func newFake() *fake { return &fake{items: make(map[string]attributes)} }

func place(table *string, item attributes) string {
	return *table + "/" + item["id"].(*types.AttributeValueMemberS).Value
}

// refuse is the error of a condition that does not hold.
func (f *fake) refuse(was attributes) error {
	if f.silent {
		was = nil
	}
	return &types.ConditionalCheckFailedException{Message: aws.String("The conditional request failed"), Item: was}
}

func (f *fake) PutItem(_ context.Context, in *dynamodb.PutItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	time.Sleep(f.latency)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	at := place(in.TableName, in.Item)
	if !holds(*in.ConditionExpression, in.ExpressionAttributeValues, f.items[at]) {
		return nil, f.refuse(f.items[at])
	}
	f.items[at] = in.Item
	return &dynamodb.PutItemOutput{}, nil
}

func (f *fake) UpdateItem(_ context.Context, in *dynamodb.UpdateItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	time.Sleep(f.latency)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	at := place(in.TableName, in.Key)
	if !holds(*in.ConditionExpression, in.ExpressionAttributeValues, f.items[at]) {
		return nil, f.refuse(f.items[at])
	}
	f.items[at] = updated(*in.UpdateExpression, in.ExpressionAttributeValues, f.items[at], in.Key)
	return &dynamodb.UpdateItemOutput{Attributes: f.items[at]}, nil
}

func (f *fake) DeleteItem(_ context.Context, in *dynamodb.DeleteItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error) {
	time.Sleep(f.latency)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	at := place(in.TableName, in.Key)
	if !holds(*in.ConditionExpression, in.ExpressionAttributeValues, f.items[at]) {
		return nil, f.refuse(f.items[at])
	}
	delete(f.items, at)
	return &dynamodb.DeleteItemOutput{}, nil
}

func (f *fake) GetItem(_ context.Context, in *dynamodb.GetItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	time.Sleep(f.latency)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if !aws.ToBool(in.ConsistentRead) {
		return &dynamodb.GetItemOutput{}, nil // what was written is seen at some later time
	}
	return &dynamodb.GetItemOutput{Item: f.items[place(in.TableName, in.Key)]}, nil
}

func (f *fake) TransactWriteItems(_ context.Context, in *dynamodb.TransactWriteItemsInput, _ ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error) {
	time.Sleep(f.latency)
	f.mu.Lock()
	defer f.mu.Unlock()
	after, cancelled := maps.Clone(f.items), false
	var reasons []types.CancellationReason
	for _, i := range in.TransactItems {
		var (
			at, condition string
			with, next    attributes
		)
		if p := i.Put; p != nil {
			at, condition, with, next = place(p.TableName, p.Item), aws.ToString(p.ConditionExpression), p.ExpressionAttributeValues, p.Item
		} else {
			u := i.Update
			at, condition, with = place(u.TableName, u.Key), aws.ToString(u.ConditionExpression), u.ExpressionAttributeValues
			next = updated(*u.UpdateExpression, with, f.items[at], u.Key)
		}
		reason := "None"
		if condition != "" && !holds(condition, with, f.items[at]) {
			reason, cancelled = "ConditionalCheckFailed", true
		}
		reasons = append(reasons, types.CancellationReason{Code: &reason})
		after[at] = next
	}
	if cancelled {
		return nil, &types.TransactionCanceledException{CancellationReasons: reasons}
	}
	f.items = after
	return &dynamodb.TransactWriteItemsOutput{}, nil
}

var tokens = regexp.MustCompile(`[:\w]+|<=|>=|[=<>(),+-]`)

// expression is what is left of one, and what its names stand for.
type expression struct {
	tokens []string
	values attributes
	item   attributes
}

func (e *expression) next() string {
	if len(e.tokens) == 0 {
		return ""
	}
	t := e.tokens[0]
	e.tokens = e.tokens[1:]
	return t
}

func (e *expression) accept(t string) bool {
	if len(e.tokens) == 0 || e.tokens[0] != t {
		return false
	}
	e.tokens = e.tokens[1:]
	return true
}

func holds(condition string, values, item attributes) bool {
	e := &expression{tokens.FindAllString(condition, -1), values, item}
	ok := e.or()
	if len(e.tokens) > 0 {
		panic(fmt.Sprintf("what is %v in %q?", e.tokens, condition))
	}
	return ok
}

func (e *expression) or() bool {
	ok := e.and()
	for e.accept("OR") {
		other := e.and()
		ok = ok || other
	}
	return ok
}

func (e *expression) and() bool {
	ok := e.term()
	for e.accept("AND") {
		other := e.term()
		ok = ok && other
	}
	return ok
}

func (e *expression) term() bool {
	name := e.next()
	if not := name == "attribute_not_exists"; not || name == "attribute_exists" {
		e.next()
		_, exists := e.item[e.next()]
		e.next()
		return exists != not
	}
	a, op, b := e.value(name), e.next(), e.value(e.next())
	if op == "=" {
		return a != nil && reflect.DeepEqual(a, b)
	}
	x, y := numeral(a), numeral(b)
	if x == nil || y == nil {
		return false
	}
	switch op {
	case "<=":
		return x.Cmp(y) <= 0
	case ">=":
		return x.Cmp(y) >= 0
	}
	panic("no operator: " + op)
}

func (e *expression) value(name string) types.AttributeValue {
	if !strings.HasPrefix(name, ":") {
		return e.item[name]
	}
	v, ok := e.values[name]
	if !ok {
		panic("no value " + name)
	}
	return v
}

func numeral(v types.AttributeValue) *big.Int {
	n, ok := v.(*types.AttributeValueMemberN)
	if !ok {
		return nil
	}
	i, _ := new(big.Int).SetString(n.Value, 10)
	return i
}

func num(i *big.Int) types.AttributeValue { return &types.AttributeValueMemberN{Value: i.String()} }

// updated is an item after an update.
func updated(update string, values, item, key attributes) attributes {
	after := maps.Clone(key)
	maps.Copy(after, item)
	e := &expression{tokens.FindAllString(update, -1), values, item}
	clause := ""
	for len(e.tokens) > 0 {
		t := e.next()
		if slices.Contains([]string{"SET", "ADD", "REMOVE"}, t) {
			clause, t = t, e.next()
		}
		switch clause {
		case "REMOVE":
			delete(after, t)
		case "ADD":
			n := numeral(e.value(e.next()))
			if old := numeral(item[t]); old != nil {
				n = new(big.Int).Add(n, old)
			}
			after[t] = num(n)
		case "SET":
			e.next()
			v := e.value(e.next())
			if e.accept("-") {
				v = num(new(big.Int).Sub(numeral(v), numeral(e.value(e.next()))))
			}
			after[t] = v
		}
		e.accept(",")
	}
	return after
}
