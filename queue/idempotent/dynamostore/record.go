package dynamostore

import (
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/rampmeter/rampmeter/queue/idempotent"
)

type (
	attributes = map[string]types.AttributeValue
	values     = map[string]types.AttributeValue
)

// A record is an item of the table. The package documentation lists its
// attributes, none of which is a reserved word of DynamoDB.
type record struct {
	owner    string
	until    int64 // of the claim, in milliseconds; 0: there is none
	done     bool
	inDoubt  bool
	failures int
	result   []byte
	expires  int64 // in seconds
}

func (r record) item(id string) attributes {
	item := attributes{"id": text(id), "claim_owner": text(r.owner), "expires_at": number(r.expires)}
	if r.until != 0 {
		item["claim_until"] = number(r.until)
	}
	if r.done {
		item["is_done"] = &types.AttributeValueMemberBOOL{Value: true}
	}
	if r.inDoubt {
		item["in_doubt"] = &types.AttributeValueMemberBOOL{Value: true}
	}
	if r.failures > 0 {
		item["failure_count"] = number(int64(r.failures))
	}
	if r.result != nil {
		item["done_result"] = &types.AttributeValueMemberB{Value: r.result}
	}
	return item
}

// parse reads an item. An attribute that is missing, or has another type, is a zero
// field; an item without an expiry time has expired.
func parse(item attributes) record {
	numeral := func(name string) int64 {
		if v, ok := item[name].(*types.AttributeValueMemberN); ok {
			if n, err := strconv.ParseInt(v.Value, 10, 64); err == nil {
				return n
			}
		}
		return 0
	}
	flag := func(name string) bool {
		v, ok := item[name].(*types.AttributeValueMemberBOOL)
		return ok && v.Value
	}
	r := record{
		until: numeral("claim_until"), expires: numeral("expires_at"), failures: int(numeral("failure_count")),
		done: flag("is_done"), inDoubt: flag("in_doubt"),
	}
	if v, ok := item["claim_owner"].(*types.AttributeValueMemberS); ok {
		r.owner = v.Value
	}
	if v, ok := item["done_result"].(*types.AttributeValueMemberB); ok {
		r.result = v.Value
	}
	return r
}

// claimed returns the record for the owner of a new claim.
func (r record) claimed() idempotent.Record {
	return idempotent.Record{State: idempotent.Claimed, InDoubt: r.inDoubt, Failures: r.failures}
}

// done returns the record of c's success.
func done(c idempotent.Claim, result []byte) record {
	return record{owner: c.Owner, done: true, result: result, expires: seconds(c.Keep)}
}

// A condition must hold for an item to be written.
type condition struct {
	expression string
	values     values
}

// nothing returns the condition that a key has no record. An expired record does not
// count, whether or not DynamoDB has deleted it.
func nothing(now time.Time) condition {
	return condition{"attribute_not_exists(id) OR expires_at <= :now", values{":now": number(now.Unix())}}
}

// held returns the condition that c holds its key.
func held(c idempotent.Claim) condition {
	return condition{"claim_owner = :owner AND attribute_exists(claim_until)", values{":owner": text(c.Owner)}}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// milliseconds returns t as stored in a record, rounded up.
func milliseconds(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// seconds returns t as stored in a record, rounded up.
func seconds(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }
