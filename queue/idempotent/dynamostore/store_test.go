package dynamostore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/awserr/awserrtest"
	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/idempotent/dynamostore"
	"github.com/rampmeter/rampmeter/queue/idempotent/idempotenttest"
	"github.com/rampmeter/rampmeter/retry"
)

func newStore(t *testing.T, client dynamostore.API) *dynamostore.Store {
	t.Helper()
	s, err := dynamostore.New(client, "runs", dynamostore.Config{Namespace: "orders"})
	require.NoError(t, err)
	return s
}

func by(owner string) idempotent.Claim {
	return idempotent.Claim{Key: "o-1", Owner: owner, Until: time.Now().Add(time.Minute), Keep: time.Now().Add(time.Hour)}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	for want, c := range map[string]struct {
		client           dynamostore.API
		table, namespace string
	}{
		"client is nil":                   {nil, "runs", "orders"},
		"client is nil\x00":               {(*dynamodb.Client)(nil), "runs", "orders"},
		"table is empty":                  {newFake(), "", "orders"},
		"Config.Namespace is empty":       {newFake(), "runs", ""},
		"Config.Namespace has 1001 bytes": {newFake(), "runs", strings.Repeat("n", 1001)},
		`Config.Namespace is "a#b"`:       {newFake(), "runs", "a#b"},
		`Config.Namespace is "\xff"`:      {newFake(), "runs", "\xff"},
	} {
		_, err := dynamostore.New(c.client, c.table, dynamostore.Config{Namespace: c.namespace})
		require.ErrorContains(t, err, "dynamostore: New: "+strings.TrimRight(want, "\x00"))
	}
}

// twice is a table whose first answer to each write is lost after the write was
// done, and which the SDK asks again.
type twice struct{ *fake }

func (f twice) PutItem(ctx context.Context, in *dynamodb.PutItemInput, o ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	_, _ = f.fake.PutItem(ctx, in, o...)
	return f.fake.PutItem(ctx, in, o...)
}

func (f twice) UpdateItem(ctx context.Context, in *dynamodb.UpdateItemInput, o ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	_, _ = f.fake.UpdateItem(ctx, in, o...)
	return f.fake.UpdateItem(ctx, in, o...)
}

func (f twice) DeleteItem(ctx context.Context, in *dynamodb.DeleteItemInput, o ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error) {
	_, _ = f.fake.DeleteItem(ctx, in, o...)
	return f.fake.DeleteItem(ctx, in, o...)
}

// The contract holds on every kind of server, and when each write is made twice
// because the answer to the first was lost.
func TestStore(t *testing.T) {
	far := func(silent bool) *fake {
		f := newFake()
		f.silent, f.latency = silent, time.Millisecond
		return f
	}
	for name, client := range map[string]dynamostore.API{
		"tells": far(false), "does not tell": far(true), "replies lost": twice{far(false)}, "replies lost, does not tell": twice{far(true)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { idempotenttest.TestStore(t, newStore(t, client)) })
		})
	}
}

// unsteady is a table on a bad network: requests get lost on the way there, or
// their answers on the way back, and some are asked again by the SDK.
type unsteady struct {
	*fake
	mu  sync.Mutex // guards rnd
	rnd *rand.Rand
}

var errReset = fmt.Errorf("connection reset: %w", limiter.ErrUnavailable)

func flaky[In, Out any](u *unsteady, ctx context.Context, in *In, method func(context.Context, *In, ...func(*dynamodb.Options)) (*Out, error)) (*Out, error) {
	u.mu.Lock()
	n := u.rnd.IntN(60)
	u.mu.Unlock()
	switch n {
	case 0: // lost on the way there, and not asked again
		return nil, errReset
	case 1: // lost on the way back, and not asked again
		_, _ = method(ctx, in)
		return nil, errReset
	case 2, 3, 4, 5: // lost on the way back, and asked again
		_, _ = method(ctx, in)
	}
	return method(ctx, in)
}

func (u *unsteady) PutItem(ctx context.Context, in *dynamodb.PutItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	return flaky(u, ctx, in, u.fake.PutItem)
}

func (u *unsteady) UpdateItem(ctx context.Context, in *dynamodb.UpdateItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.UpdateItemOutput, error) {
	return flaky(u, ctx, in, u.fake.UpdateItem)
}

func (u *unsteady) DeleteItem(ctx context.Context, in *dynamodb.DeleteItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.DeleteItemOutput, error) {
	return flaky(u, ctx, in, u.fake.DeleteItem)
}

func (u *unsteady) GetItem(ctx context.Context, in *dynamodb.GetItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	return flaky(u, ctx, in, u.fake.GetItem)
}

// Crashes at every step, on a good network and on a bad one.
func TestCrashes(t *testing.T) {
	for name, effect := range idempotenttest.Effects() {
		t.Run(name, func(t *testing.T) {
			rounds, operations := 3, 1000
			if !testrun.Long() {
				rounds, operations = 1, 200
			}
			for seed := range uint64(rounds) {
				good, bad := newFake(), &unsteady{fake: newFake(), rnd: rand.New(rand.NewPCG(seed, 7))}
				good.latency, bad.latency, bad.silent = 5*time.Millisecond, 5*time.Millisecond, seed == 1
				synctest.Test(t, func(t *testing.T) { idempotenttest.TestCrashes(t, newStore(t, good), effect, operations, seed) })
				synctest.Test(t, func(t *testing.T) { idempotenttest.TestCrashes(t, newStore(t, bad), effect, operations, seed) })
			}
		})
	}
}

// What each step costs.
func TestRequests(t *testing.T) {
	f := newFake()
	s := newStore(t, f)
	var err error
	costs := func(what string, writes, reads int, step func()) {
		t.Helper()
		f.writes, f.reads, err = 0, 0, nil
		step()
		require.NoError(t, err, what)
		require.Equal(t, []int{writes, reads}, []int{f.writes, f.reads}, "writes and reads of %s", what)
	}
	claim := func(owner string) func() { return func() { _, err = s.Claim(t.Context(), by(owner)) } }
	costs("a new key's claim", 1, 0, claim("a"))
	costs("a claim on a busy key", 1, 0, claim("b"))
	costs("a failure", 1, 0, func() { _, err = s.Failed(t.Context(), by("a")) })
	costs("a claim after a failure", 2, 0, claim("b"))
	costs("a release that has failures to remember", 2, 0, func() { err = s.Release(t.Context(), by("b"), false) })
	costs("a claim after a failure", 2, 0, claim("c"))
	costs("a release that forgets", 1, 0, func() { err = s.Release(t.Context(), by("c"), true) })
	costs("a new key's claim", 1, 0, claim("d"))
	costs("a success", 1, 0, func() { err = s.Done(t.Context(), by("d"), []byte("r")) })
	costs("a success again, as after a transaction", 1, 0, func() { err = s.Done(t.Context(), by("d"), nil) })
	costs("a claim on a done key", 1, 0, claim("e"))
}

// What an item looks like: others read it, the table's expiry first of all.
func TestItems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := newStore(t, f)
		now := time.Now() // a full second
		c := by("a")
		c.Until = c.Until.Add(time.Microsecond)
		c.Keep = c.Keep.Add(time.Microsecond)
		_, err := s.Claim(t.Context(), c)
		require.NoError(t, err)
		text := func(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
		number := func(n int64) types.AttributeValue {
			return &types.AttributeValueMemberN{Value: fmt.Sprint(n)}
		}
		require.Equal(t, attributes{
			"id": text("orders#o-1"), "claim_owner": text("a"),
			"claim_until": number(now.Add(time.Minute).UnixMilli() + 1), "expires_at": number(now.Add(time.Hour).Unix() + 1),
		}, f.items["runs/orders#o-1"])
		require.NoError(t, s.Done(t.Context(), c, []byte("r")))
		require.Equal(t, attributes{
			"id": text("orders#o-1"), "claim_owner": text("a"), "expires_at": number(now.Add(time.Hour).Unix() + 1),
			"is_done": &types.AttributeValueMemberBOOL{Value: true}, "done_result": &types.AttributeValueMemberB{Value: []byte("r")},
		}, f.items["runs/orders#o-1"])

		// Others that share the table don't meet.
		other, err := dynamostore.New(f, "runs", dynamostore.Config{Namespace: "invoices"})
		require.NoError(t, err)
		r, err := other.Claim(t.Context(), by("b"))
		require.NoError(t, err)
		require.Equal(t, idempotent.Claimed, r.State)
	})
}

func TestKeysAndResultsThatNoItemHasRoomFor(t *testing.T) {
	f := newFake()
	s := newStore(t, f)
	for want, key := range map[string]string{"2049 bytes": strings.Repeat("k", 2042), "must be UTF-8": "o-\xff", "Key or Owner is empty": ""} {
		c := by("a")
		c.Key = key
		_, claimErr := s.Claim(t.Context(), c)
		_, failedErr := s.Failed(t.Context(), c)
		_, itemErr := s.DoneItem(c, nil)
		for _, err := range []error{claimErr, failedErr, itemErr, s.Done(t.Context(), c, nil), s.Release(t.Context(), c, true)} {
			require.ErrorContains(t, err, want)
			require.Equal(t, key != "", errors.Is(err, retry.ErrPermanent), want)
		}
	}
	require.Zero(t, f.writes)

	c := by("a")
	_, err := s.Claim(t.Context(), c)
	require.NoError(t, err)
	large := make([]byte, dynamostore.MaxResult+1)
	_, err = s.DoneItem(c, large)
	require.ErrorIs(t, err, idempotent.ErrResultTooLarge)
	for range 2 {
		err = s.Done(t.Context(), c, large)
		require.ErrorIs(t, err, idempotent.ErrResultTooLarge)
		require.ErrorContains(t, err, "393217 bytes")
	}
	r, err := s.Claim(t.Context(), by("b"))
	require.NoError(t, err)
	require.Equal(t, idempotent.Record{State: idempotent.Done}, r, "the success is remembered")
}

// A foreign item counts as expired, and does no harm.
func TestForeignItems(t *testing.T) {
	for _, item := range []attributes{
		{"expires_at": &types.AttributeValueMemberS{Value: "tomorrow"}, "is_done": &types.AttributeValueMemberS{Value: "yes"}},
		{"expires_at": &types.AttributeValueMemberN{Value: "1e400"}, "claim_owner": &types.AttributeValueMemberN{Value: "1"}},
		{},
	} {
		f := newFake()
		item["id"] = &types.AttributeValueMemberS{Value: "orders#o-1"}
		f.items["runs/orders#o-1"] = item
		_, err := newStore(t, f).Claim(t.Context(), by("a"))
		require.ErrorContains(t, err, "has changed 5 times")
		require.Equal(t, item, f.items["runs/orders#o-1"], "it is not overwritten")
	}
}

// One transaction has the effect and the record, or neither.
func TestTransaction(t *testing.T) {
	f := newFake()
	transaction(t, f, newStore(t, f), "runs")
}

// A client that makes transactions, too.
type client interface {
	dynamostore.API
	TransactWriteItems(context.Context, *dynamodb.TransactWriteItemsInput, ...func(*dynamodb.Options)) (*dynamodb.TransactWriteItemsOutput, error)
}

func transaction(t *testing.T, db client, s *dynamostore.Store, table string) {
	key := attributes{"id": &types.AttributeValueMemberS{Value: "stock of SOCK-42"}}
	reserve := func(owner string) error {
		done, err := s.DoneItem(by(owner), []byte("r"))
		require.NoError(t, err)
		_, err = db.TransactWriteItems(t.Context(), &dynamodb.TransactWriteItemsInput{TransactItems: []types.TransactWriteItem{
			{Update: &types.Update{
				TableName: &table, Key: key, UpdateExpression: aws.String("ADD reserved :n"),
				ExpressionAttributeValues: attributes{":n": &types.AttributeValueMemberN{Value: "3"}},
			}},
			done,
		}})
		return err
	}
	reserved := func() string {
		out, err := db.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: key, ConsistentRead: aws.Bool(true)})
		require.NoError(t, err)
		if n, ok := out.Item["reserved"].(*types.AttributeValueMemberN); ok {
			return n.Value
		}
		return ""
	}
	var cancelled *types.TransactionCanceledException
	require.ErrorAs(t, reserve("a"), &cancelled, "without a claim")
	require.Equal(t, "ConditionalCheckFailed", *cancelled.CancellationReasons[1].Code)
	require.Empty(t, reserved())

	_, err := s.Claim(t.Context(), by("a"))
	require.NoError(t, err)
	require.ErrorAs(t, reserve("b"), &cancelled, "with another's claim")
	require.Empty(t, reserved())
	require.NoError(t, reserve("a"))
	require.ErrorAs(t, reserve("a"), &cancelled, "a second time")
	require.Equal(t, "3", reserved(), "the effect is there once")
	require.NoError(t, s.Done(t.Context(), by("a"), nil), "the middleware finds it done")
	r, err := s.Claim(t.Context(), by("b"))
	require.NoError(t, err)
	require.Equal(t, idempotent.Record{State: idempotent.Done, Result: []byte("r")}, r)
}

// A server answers the SDK's requests in memory.
type server func(*http.Request) (*http.Response, error)

func (s server) Do(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return nil, err
	}
	return s(r)
}

func answer(status int, code, body string) server {
	return func(r *http.Request) (*http.Response, error) {
		if code != "" {
			body = fmt.Sprintf(`{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"because"}`, code)
		}
		return &http.Response{
			StatusCode: status, Request: r, Body: io.NopCloser(strings.NewReader(body)),
			Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}},
		}, nil
	}
}

func credentials(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
}

func sdk(h dynamodb.HTTPClient, change ...func(*dynamodb.Options)) *dynamodb.Client {
	return dynamodb.New(dynamodb.Options{HTTPClient: h, Region: "us-east-1", Credentials: aws.CredentialsProviderFunc(credentials)}, change...)
}

// What each failure means to limiters, for every step.
func TestErrors(t *testing.T) {
	broken := func(err error) server { return func(*http.Request) (*http.Response, error) { return nil, err } }
	for name, c := range map[string]struct {
		server server
		class  error
		says   string
	}{
		"provisioned throughput": {answer(400, "ProvisionedThroughputExceededException", ""), limiter.ErrOverload, "because"},
		"request limit":          {answer(400, "RequestLimitExceeded", ""), limiter.ErrOverload, "because"},
		"throttling":             {answer(400, "ThrottlingException", ""), limiter.ErrOverload, "because"},
		"429":                    {answer(429, "", "slow down"), limiter.ErrOverload, "429"},
		"internal error":         {answer(500, "InternalServerError", ""), limiter.ErrUnavailable, "because"},
		"unavailable":            {answer(503, "ServiceUnavailable", ""), limiter.ErrUnavailable, "because"},
		"502 of a proxy":         {answer(502, "", "<html>"), limiter.ErrUnavailable, "502"},
		"cut off reply":          {answer(200, "", "{"), limiter.ErrUnavailable, "runs"},
		"connection broken":      {broken(io.ErrUnexpectedEOF), limiter.ErrUnavailable, "EOF"},
		"missing table":          {answer(400, "ResourceNotFoundException", ""), limiter.ErrMisconfigured, "create the table"},
		"other key":              {answer(400, "ValidationException", ""), limiter.ErrMisconfigured, `key must be "id"`},
		"access denied":          {answer(400, "AccessDeniedException", ""), limiter.ErrMisconfigured, "dynamodb:PutItem"},
		"expired credentials":    {answer(400, "ExpiredTokenException", ""), limiter.ErrMisconfigured, "renew"},
		"unknown credentials":    {answer(400, "UnrecognizedClientException", ""), limiter.ErrMisconfigured, "credentials"},
		"wrong signature":        {answer(400, "InvalidSignatureException", ""), limiter.ErrMisconfigured, "clock"},
		"wrong clock":            {answer(400, "RequestExpired", ""), limiter.ErrMisconfigured, "clock"},
		"403 of a proxy":         {answer(403, "", "no"), limiter.ErrMisconfigured, "permissions"},
		"not DynamoDB":           {answer(404, "", "no such page"), limiter.ErrMisconfigured, "not DynamoDB"},
		"not implemented":        {answer(501, "InternalFailure", ""), limiter.ErrMisconfigured, "not DynamoDB"},
		"KMS":                    {answer(400, "KMS.DisabledException", ""), limiter.ErrMisconfigured, "KMS key"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, sdk(c.server, func(o *dynamodb.Options) { o.Retryer = aws.NopRetryer{} }))
			_, claimErr := s.Claim(t.Context(), by("a"))
			_, failedErr := s.Failed(t.Context(), by("a"))
			for op, err := range map[string]error{
				"claim": claimErr, "fail": failedErr, "complete": s.Done(t.Context(), by("a"), nil), "release": s.Release(t.Context(), by("a"), true),
			} {
				require.ErrorContains(t, err, "dynamostore: "+op+` key "o-1", table "runs": `)
				require.ErrorContains(t, err, c.says)
				require.Equal(t, c.class, limiter.Classify(err), "%v", err)
				require.NotErrorIs(t, err, retry.ErrPermanent)
			}
		})
	}
}

// Each error that DynamoDB has: a new version of the SDK may bring new ones, of
// which somebody has to say what they mean.
func TestEveryErrorOfTheSDK(t *testing.T) {
	classes := map[string]error{
		// Of other requests than a store's.
		"BackupInUseException": nil, "BackupNotFoundException": nil, "ContinuousBackupsUnavailableException": nil, "DuplicateItemException": nil,
		"ExportConflictException": nil, "ExportNotFoundException": nil, "GlobalTableAlreadyExistsException": nil, "GlobalTableNotFoundException": nil,
		"IdempotentParameterMismatchException": nil, "ImportConflictException": nil, "ImportNotFoundException": nil, "IndexNotFoundException": nil,
		"InvalidExportTimeException": nil, "InvalidRestoreTimeException": nil, "PointInTimeRecoveryUnavailableException": nil, "PolicyNotFoundException": nil,
		"ReplicaAlreadyExistsException": nil, "ReplicaNotFoundException": nil, "TableAlreadyExistsException": nil,
		"TransactionCanceledException": nil, // the transaction is the caller's

		// About one item.
		"ConditionalCheckFailedException": nil, "ItemCollectionSizeLimitExceededException": nil,

		"TransactionConflictException": limiter.ErrUnavailable, "ReplicatedWriteConflictException": limiter.ErrUnavailable, "TransactionInProgressException": limiter.ErrUnavailable,
		"InternalServerError": limiter.ErrUnavailable, "ResourceInUseException": limiter.ErrUnavailable, "TableInUseException": limiter.ErrUnavailable,

		"LimitExceededException": limiter.ErrOverload, "ProvisionedThroughputExceededException": limiter.ErrOverload,
		"RequestLimitExceeded": limiter.ErrOverload, "ThrottlingException": limiter.ErrOverload,

		"InvalidEndpointException": limiter.ErrMisconfigured, "ResourceNotFoundException": limiter.ErrMisconfigured, "TableNotFoundException": limiter.ErrMisconfigured,
	}
	names, err := awserrtest.Types("github.com/aws/aws-sdk-go-v2/service/dynamodb/types")
	require.NoError(t, err)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			class, known := classes[name]
			require.True(t, known, "a new error: which class is it?")
			s := newStore(t, sdk(answer(400, name, ""), func(o *dynamodb.Options) { o.Retryer = aws.NopRetryer{} }))
			_, err := s.Claim(t.Context(), by("a"))
			if name == "ConditionalCheckFailedException" {
				return // what the condition was for, which other tests look at
			}
			require.Error(t, err)
			require.Equal(t, class, limiter.Classify(err), "%v", err)
		})
	}
}

func TestNoCredentials(t *testing.T) {
	s := newStore(t, sdk(answer(200, "", "{}"), func(o *dynamodb.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{}, errors.New("nobody gave any")
		})
	}))
	_, err := s.Claim(t.Context(), by("a"))
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
	require.ErrorContains(t, err, "no request was made")
}

// Throttling that passes is not seen: the SDK's own settings say how often it
// asks again.
func TestPassingThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		s := newStore(t, sdk(server(func(r *http.Request) (*http.Response, error) {
			if requests++; requests < 3 {
				return answer(400, "ThrottlingException", "")(r)
			}
			return answer(200, "", "{}")(r)
		})))
		_, err := s.Claim(t.Context(), by("a"))
		require.NoError(t, err)
		require.Equal(t, 3, requests)
	})
}

// hang answers when the request's context ends.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, start := newStore(t, sdk(server(hang))), time.Now()
		_, err := s.Claim(t.Context(), by("a"))
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		require.Equal(t, 10*time.Second, time.Since(start))
	})
}

// Our own cancellation says nothing about the table, and reports its cause.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cause := newStore(t, sdk(server(hang))), errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err := s.Claim(ctx, by("a"))
		require.ErrorIs(t, err, cause)
		require.NoError(t, limiter.Classify(err))
	})
}
