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

// A record is an item of the table. The package documentation has its
// attributes, none of which is a word that DynamoDB reserves.
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

// parse reads an item. What is missing, or of another type, is a zero field; an
// item without its time of expiry has expired.
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

// claimed is what its owner knows of a claim.
func (r record) claimed() idempotent.Record {
	return idempotent.Record{State: idempotent.Claimed, InDoubt: r.inDoubt, Failures: r.failures}
}

// done is the record of c's success.
func done(c idempotent.Claim, result []byte) record {
	return record{owner: c.Owner, done: true, result: result, expires: seconds(c.Keep)}
}

// A condition is what must hold of an item for it to be written.
type condition struct {
	expression string
	values     values
}

// nothing holds of a key that nothing is remembered of. What has expired counts
// as gone, whether DynamoDB has deleted it or not.
func nothing(now time.Time) condition {
	return condition{"attribute_not_exists(id) OR expires_at <= :now", values{":now": number(now.Unix())}}
}

// held holds of a key while it is c's.
func held(c idempotent.Claim) condition {
	return condition{"claim_owner = :owner AND attribute_exists(claim_until)", values{":owner": text(c.Owner)}}
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// milliseconds is t as a record has it, and not earlier than t.
func milliseconds(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// seconds is t as a record has it, and not earlier than t.
func seconds(t time.Time) int64 { return t.Add(time.Second - 1).Unix() }
