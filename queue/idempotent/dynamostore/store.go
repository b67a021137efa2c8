package dynamostore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/rampmeter/rampmeter/internal/awsconns"
	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/retry"
)

// MaxResult is how many bytes a result may have to be remembered. An item of
// DynamoDB has 400 KB at most.
const MaxResult = 384 << 10

const (
	maxID        = 2048 // bytes of a partition key
	maxNamespace = 1000
	separator    = "#" // between the namespace, which has none, and the key

	// timeout is how long one operation may take. DynamoDB answers within
	// milliseconds, but by default the SDK retries a throttled request twice within
	// six seconds, and the error should then report the throttling.
	timeout = 10 * time.Second

	// claims is how often a claim is tried when the record changes between two
	// requests. Whoever changed it then holds a claim, so a second try is enough
	// unless that run fails as fast.
	claims = 5
)

// API is the part of the SDK that a [Store] calls. *dynamodb.Client implements it.
type API interface {
	PutItem(context.Context, *dynamodb.PutItemInput, ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error)
	UpdateItem(context.Context, *dynamodb.UpdateItemInput, ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error)
	DeleteItem(context.Context, *dynamodb.DeleteItemInput, ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error)
	GetItem(context.Context, *dynamodb.GetItemInput, ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error)
}

var _ API = (*dynamodb.Client)(nil)

// Config configures how a [Store] uses its table.
type Config struct {
	// Namespace names the work that the keys belong to, "orders/reserve-stock" for
	// example. Consumers that do the same work use the same namespace. Others that
	// share the table use different ones, or one's work would count as done because
	// the other's was. 1 to 1000 bytes of UTF-8 without a '#'; required.
	Namespace string
}

// A Store is an [idempotent.Store] in a DynamoDB table. Create one with [New].
// Its methods may be called concurrently.
type Store struct {
	client API
	table  string
	prefix string
	conns  awsconns.Pool
}

var _ idempotent.Store = (*Store)(nil)

// New returns a store in the table with that name or ARN. It makes no request. It
// fails when client is nil, table is empty, or a field of cfg is invalid, which the
// error names.
func New(client API, table string, cfg Config) (*Store, error) {
	if nils.Is(client) {
		return nil, fmt.Errorf("dynamostore: New: client is %s", nils.Describe(client))
	}
	switch ns := cfg.Namespace; {
	case table == "":
		return nil, errors.New("dynamostore: New: table is empty: must be a table's name or ARN")
	case ns == "":
		return nil, errors.New("dynamostore: New: Config.Namespace is empty: must name the work that is remembered")
	case len(ns) > maxNamespace:
		return nil, fmt.Errorf("dynamostore: New: Config.Namespace has %d bytes: must have at most %d", len(ns), maxNamespace)
	case strings.Contains(ns, separator) || !utf8.ValidString(ns):
		return nil, fmt.Errorf("dynamostore: New: Config.Namespace is %q: must be UTF-8 without a '#'", ns)
	}
	return &Store{client: client, table: table, prefix: cfg.Namespace + separator}, nil
}

// Claim implements [idempotent.Store]. A new key costs one write, and so does one that
// is done or busy; a key that was claimed before costs two.
func (s *Store) Claim(ctx context.Context, c idempotent.Claim) (idempotent.Record, error) {
	if err := s.check("claim", c); err != nil {
		return idempotent.Record{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if c.Keep.Before(c.Until) {
		return idempotent.Record{}, fmt.Errorf("dynamostore: claim key %q: Keep is before Until", c.Key)
	}
	ours := record{owner: c.Owner, until: milliseconds(c.Until), expires: seconds(c.Keep)}
	want, is := ours, nothing(time.Now())
	for range claims {
		was, err := s.put(ctx, "claim", c, want, is)
		if err != nil {
			return idempotent.Record{}, err
		}
		if was == nil {
			return want.claimed(), nil
		}
		now := time.Now()
		want = ours
		switch {
		case was.expires <= now.Unix(): // expired or deleted
			is = nothing(now)
		case was.done:
			return idempotent.Record{State: idempotent.Done, Result: was.result}, nil
		case was.owner == c.Owner: // by a request whose reply was lost
			want.inDoubt, want.failures = was.inDoubt, was.failures
			is = condition{"claim_owner = :was AND attribute_not_exists(is_done)", values{":was": text(was.owner)}}
		case was.until > now.UnixMilli():
			return idempotent.Record{State: idempotent.Busy, Until: time.UnixMilli(was.until)}, nil
		default:
			if !c.Fresh {
				want.failures = was.failures
			}
			if was.until == 0 { // released
				want.inDoubt = was.inDoubt
				is = condition{"claim_owner = :was AND attribute_not_exists(claim_until) AND attribute_not_exists(is_done)", values{":was": text(was.owner)}}
			} else {
				want.inDoubt = true
				is = condition{"claim_owner = :was AND claim_until <= :now", values{":was": text(was.owner), ":now": number(now.UnixMilli())}}
			}
		}
	}
	return idempotent.Record{}, fmt.Errorf("dynamostore: claim key %q, table %q: the record has changed %d times meanwhile", c.Key, s.table, claims)
}

// Done implements [idempotent.Store], in one write. A result of more than
// [MaxResult] bytes is left out.
func (s *Store) Done(ctx context.Context, c idempotent.Claim, result []byte) error {
	if err := s.check("complete", c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tooLarge := checkResult(c, result)
	if tooLarge != nil {
		result = nil
	}
	was, err := s.put(ctx, "complete", c, done(c, result), held(c))
	switch {
	case err != nil:
		return err
	case was != nil && (was.owner != c.Owner || !was.done):
		return fmt.Errorf("dynamostore: complete key %q: %w", c.Key, idempotent.ErrNotOwner)
	}
	return tooLarge
}

// DoneItem returns the write of Done, for a transaction that also has the effect:
// either both happen or neither does, and so the effect happens once. c is the
// handler's idempotent.Current. If the claim has ended and another owner has the key,
// or the key is done, the transaction is cancelled with the reason
// ConditionalCheckFailed for this item. The handler then returns that error unchanged,
// and the message is delivered again. A result of more than [MaxResult] bytes is
// refused with [idempotent.ErrResultTooLarge].
//
// Afterwards the middleware finds that the key is done, which costs a write
// that changes nothing. A transaction's writes cost twice as much as others.
func (s *Store) DoneItem(c idempotent.Claim, result []byte) (types.TransactWriteItem, error) {
	if err := s.check("complete", c); err != nil {
		return types.TransactWriteItem{}, err
	}
	if err := checkResult(c, result); err != nil {
		return types.TransactWriteItem{}, err
	}
	is := held(c)
	return types.TransactWriteItem{Put: &types.Put{
		TableName: &s.table, Item: done(c, result).item(s.id(c)), ConditionExpression: &is.expression, ExpressionAttributeValues: is.values,
	}}, nil
}

// Failed implements [idempotent.Store], in one write.
func (s *Store) Failed(ctx context.Context, c idempotent.Claim) (int, error) {
	if err := s.check("fail", c); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	now, was, err := s.update(ctx, "fail", c, "ADD failure_count :one SET expires_at = :expires REMOVE claim_until", values{":one": number(1)})
	switch {
	case err != nil:
		return 0, err
	case now != nil:
		return now.failures, nil
	case was.owner != c.Owner || was.done || was.until != 0:
		return 0, fmt.Errorf("dynamostore: fail key %q: %w", c.Key, idempotent.ErrNotOwner)
	}
	return was.failures, nil // by a request whose reply was lost
}

// Release implements [idempotent.Store]. It costs one write, or two when the record
// must be kept because it has failures or is in doubt.
func (s *Store) Release(ctx context.Context, c idempotent.Claim, forget bool) error {
	if err := s.check("release", c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	is, update := held(c), "SET expires_at = :expires REMOVE claim_until"
	is.expression += " AND attribute_not_exists(in_doubt)"
	if forget {
		update += ", failure_count"
	} else {
		is.expression += " AND attribute_not_exists(failure_count)"
	}
	_, err := request(ctx, s, s.client.DeleteItem, &dynamodb.DeleteItemInput{
		TableName: &s.table, Key: s.key(c), ConditionExpression: &is.expression, ExpressionAttributeValues: is.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	refused, was, err := s.refused(ctx, "release", c, err)
	if !refused || err != nil || was.owner != c.Owner || was.until == 0 {
		return err
	}
	_, _, err = s.update(ctx, "release", c, update, values{})
	return err
}

// check reports whether c's key can be that of an item.
func (s *Store) check(op string, c idempotent.Claim) error {
	id := s.id(c)
	switch {
	case c.Key == "" || c.Owner == "":
		return fmt.Errorf("dynamostore: %s: Key or Owner is empty", op)
	case len(id) > maxID:
		return retry.Permanent(fmt.Errorf("dynamostore: %s: the key has %d bytes: must have at most %d, with its namespace", op, len(id), maxID))
	case !utf8.ValidString(c.Key):
		// The SDK would replace invalid UTF-8, so that two keys could become one.
		return retry.Permanent(fmt.Errorf("dynamostore: %s key %q: must be UTF-8", op, c.Key))
	}
	return nil
}

func checkResult(c idempotent.Claim, result []byte) error {
	if len(result) > MaxResult {
		return fmt.Errorf("dynamostore: complete key %q: the result has %d bytes, and an item has room for %d: %w", c.Key, len(result), MaxResult, idempotent.ErrResultTooLarge)
	}
	return nil
}

// request makes a request through a client that keeps enough connections.
func request[In, Out any](ctx context.Context, s *Store, call func(context.Context, *In, ...func(*dynamodb.Options)) (*Out, error), in *In) (*Out, error) {
	n := s.conns.Begin()
	defer s.conns.End()
	return call(ctx, in, func(o *dynamodb.Options) { o.HTTPClient, _ = s.conns.Choose(o.HTTPClient, n) })
}

func (s *Store) id(c idempotent.Claim) string { return s.prefix + c.Key }

func (s *Store) key(c idempotent.Claim) attributes { return attributes{"id": text(s.id(c))} }

// put writes the record of c's key if the condition holds, and otherwise returns the
// existing record.
func (s *Store) put(ctx context.Context, op string, c idempotent.Claim, r record, is condition) (was *record, err error) {
	_, err = request(ctx, s, s.client.PutItem, &dynamodb.PutItemInput{
		TableName: &s.table, Item: r.item(s.id(c)), ConditionExpression: &is.expression, ExpressionAttributeValues: is.values,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	refused, found, err := s.refused(ctx, op, c, err)
	if !refused || err != nil {
		return nil, err
	}
	return &found, nil
}

// update changes the record of c's key if c is its claim, and returns the new record
// in now, or otherwise the existing one in was.
func (s *Store) update(ctx context.Context, op string, c idempotent.Claim, expression string, with values) (now *record, was record, err error) {
	is := held(c)
	maps.Copy(with, is.values)
	with[":expires"] = number(seconds(c.Keep))
	out, err := request(ctx, s, s.client.UpdateItem, &dynamodb.UpdateItemInput{
		TableName: &s.table, Key: s.key(c), UpdateExpression: &expression, ConditionExpression: &is.expression, ExpressionAttributeValues: with,
		ReturnValues: types.ReturnValueAllNew, ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	if err == nil {
		r := parse(out.Attributes)
		return &r, record{}, nil
	}
	_, was, err = s.refused(ctx, op, c, err)
	return nil, was, err
}

// refused reports whether a write failed because its condition did not hold, and
// returns the existing record, or the zero record if there is none. If the server did
// not return the record, refused reads it. Other errors are explained.
func (s *Store) refused(ctx context.Context, op string, c idempotent.Claim, err error) (bool, record, error) {
	var failed *types.ConditionalCheckFailedException
	switch {
	case err == nil:
		return false, record{}, nil
	case !errors.As(err, &failed):
		return false, record{}, s.explain(ctx, op, c.Key, err)
	case failed.Item != nil:
		return true, parse(failed.Item), nil
	}
	out, err := request(ctx, s, s.client.GetItem, &dynamodb.GetItemInput{TableName: &s.table, Key: s.key(c), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return false, record{}, s.explain(ctx, op, c.Key, err)
	}
	return true, parse(out.Item), nil
}
