package store_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/examples/orders/store"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

var socks = order.Order{ID: "o-1", SKU: "SOCK-42", Quantity: 2, Customer: "Zoë 🧦"}

// A server answers the SDK's requests in memory.
type server func(*http.Request) (*http.Response, error)

func (s server) Do(r *http.Request) (*http.Response, error) {
	_, err := io.Copy(io.Discard, r.Body)
	if err != nil {
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

func newTable(t *testing.T, h dynamodb.HTTPClient, change ...func(*dynamodb.Options)) *store.Table {
	t.Helper()
	client := dynamodb.New(dynamodb.Options{
		HTTPClient: h, Region: "us-east-1", Credentials: aws.CredentialsProviderFunc(credentials),
	}, change...)
	table, err := store.New(client, "orders")
	require.NoError(t, err)
	return table
}

func TestNew(t *testing.T) {
	_, err := store.New(nil, "orders")
	require.EqualError(t, err, "store: New: client is nil")
	_, err = store.New((*dynamodb.Client)(nil), "orders")
	require.EqualError(t, err, "store: New: client is nil")
	_, err = store.New(dynamodb.New(dynamodb.Options{}), "")
	require.EqualError(t, err, "store: New: name is empty: must be a table's name or ARN")
}

// The class of each failure for limiters, for both calls. One request is made,
// whatever retries the client is configured for.
func TestErrors(t *testing.T) {
	broken := func(err error) server { return func(*http.Request) (*http.Response, error) { return nil, err } }
	cases := map[string]struct {
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
		"cut off reply":          {answer(200, "", "{"), limiter.ErrUnavailable, "orders"},
		"connection broken":      {broken(io.ErrUnexpectedEOF), limiter.ErrUnavailable, "EOF"},
		"missing table":          {answer(400, "ResourceNotFoundException", ""), limiter.ErrMisconfigured, "create the table"},
		"other key":              {answer(400, "ValidationException", ""), limiter.ErrMisconfigured, `key must be "id"`},
		"access denied":          {answer(400, "AccessDeniedException", ""), limiter.ErrMisconfigured, "dynamodb:PutItem"},
		"expired credentials":    {answer(400, "ExpiredTokenException", ""), limiter.ErrMisconfigured, "renew"},
		"unknown credentials":    {answer(400, "UnrecognizedClientException", ""), limiter.ErrMisconfigured, "credentials"},
		"wrong signature":        {answer(400, "InvalidSignatureException", ""), limiter.ErrMisconfigured, "clock"},
		"403 of a proxy":         {answer(403, "", "no"), limiter.ErrMisconfigured, "permissions"},
		"not DynamoDB":           {answer(404, "", "no such page"), limiter.ErrMisconfigured, "not DynamoDB"},
		"something else":         {answer(400, "ItemCollectionSizeLimitExceededException", ""), nil, "because"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			requests := 0
			table := newTable(t, server(func(r *http.Request) (*http.Response, error) {
				requests++
				return c.server(r)
			}), func(o *dynamodb.Options) { o.RetryMaxAttempts = 5 })

			putErr := table.Put(t.Context(), socks)
			_, ok, getErr := table.Get(t.Context(), socks.ID)
			require.False(t, ok)
			for op, err := range map[string]error{"put": putErr, "get": getErr} {
				require.ErrorContains(t, err, "store: "+op+` order "o-1", table "orders": `)
				require.ErrorContains(t, err, c.says)
				require.Equal(t, c.class, limiter.Classify(err), "%v", err)
				require.NotErrorIs(t, err, retry.ErrPermanent)
			}
			require.Equal(t, 2, requests)
		})
	}
}

func TestNoCredentials(t *testing.T) {
	table := newTable(t, answer(200, "", "{}"), func(o *dynamodb.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{}, errors.New("nobody gave any")
		})
	})
	err := table.Put(t.Context(), socks)
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
	require.ErrorContains(t, err, "no request was made")
}

// hang answers when the request's context ends.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, start := newTable(t, server(hang)), time.Now()
		require.ErrorIs(t, table.Put(t.Context(), socks), limiter.ErrUnavailable)
		require.Equal(t, 5*time.Second, time.Since(start))
	})
}

// Our own cancellation says nothing about the table, and includes its cause.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, cause := newTable(t, server(hang)), errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		err := table.Put(ctx, socks)
		require.ErrorIs(t, err, cause)
		require.NoError(t, limiter.Classify(err))
	})
}

// A table that already has an item, on a server that returns the item and on one
// that does not.
type held struct {
	item     map[string]types.AttributeValue
	silent   bool
	gone     bool // when it is looked up
	puts     int
	gets     int
	received *dynamodb.PutItemInput
}

func (h *held) PutItem(_ context.Context, in *dynamodb.PutItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	h.puts++
	h.received = in
	if h.silent {
		return nil, &types.ConditionalCheckFailedException{}
	}
	return nil, &types.ConditionalCheckFailedException{Item: h.item}
}

func (h *held) GetItem(_ context.Context, in *dynamodb.GetItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.GetItemOutput, error) {
	h.gets++
	if !aws.ToBool(in.ConsistentRead) || h.gone {
		return &dynamodb.GetItemOutput{}, nil
	}
	return &dynamodb.GetItemOutput{Item: h.item}, nil
}

func TestPutAgain(t *testing.T) {
	text := func(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
	same := func(change ...func(map[string]types.AttributeValue)) map[string]types.AttributeValue {
		item := map[string]types.AttributeValue{
			"id": text("o-1"), "sku": text("SOCK-42"), "quantity": &types.AttributeValueMemberN{Value: "2"}, "customer": text("Zoë 🧦"),
			"shipped": text("yesterday"), // by another program
		}
		for _, c := range change {
			c(item)
		}
		return item
	}
	set := func(name string, v types.AttributeValue) func(map[string]types.AttributeValue) {
		return func(item map[string]types.AttributeValue) { item[name] = v }
	}
	others := map[string]map[string]types.AttributeValue{
		"sku":           same(set("sku", text("SOCK-43"))),
		"quantity":      same(set("quantity", &types.AttributeValueMemberN{Value: "3"})),
		"customer":      same(set("customer", text("Zoe"))),
		"type":          same(set("quantity", text("2"))),
		"no number":     same(set("quantity", &types.AttributeValueMemberN{Value: "2.5"})),
		"missing":       same(func(item map[string]types.AttributeValue) { delete(item, "customer") }),
		"nothing of it": {"id": text("o-1")},
	}
	for _, silent := range []bool{false, true} {
		h := &held{item: same(), silent: silent}
		table, err := store.New(h, "orders")
		require.NoError(t, err)
		require.NoError(t, table.Put(t.Context(), socks))
		require.Equal(t, "attribute_not_exists(id)", *h.received.ConditionExpression, "an item is never overwritten")
		require.Equal(t, 1, h.puts)
		require.Equal(t, silent, h.gets == 1)

		for name, item := range others {
			h.item = item
			err := table.Put(t.Context(), socks)
			var conflict *order.ConflictError
			require.ErrorAs(t, err, &conflict, name)
			require.Equal(t, "o-1", conflict.ID)
			require.ErrorIs(t, err, retry.ErrPermanent)
		}
	}

	table, err := store.New(&held{silent: true, gone: true}, "orders")
	require.NoError(t, err)
	err = table.Put(t.Context(), socks)
	require.ErrorContains(t, err, "has gone")
	require.NotErrorIs(t, err, retry.ErrPermanent)
}

// liveTable creates a table for the test, on the server that
// RAMPMETER_DYNAMODB_ENDPOINT names.
func liveTable(t *testing.T) *store.Table {
	t.Helper()
	endpoint := os.Getenv("RAMPMETER_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		t.Skip("needs a DynamoDB server: set RAMPMETER_DYNAMODB_ENDPOINT=http://127.0.0.1:8000 for a local one (DynamoDB Local or dynalite, for example), " +
			"or to https://dynamodb.<region>.amazonaws.com with AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for AWS; tables are made and deleted")
	}
	env := func(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }
	client := dynamodb.New(dynamodb.Options{
		BaseEndpoint: &endpoint, Region: env("AWS_REGION", "us-east-1"),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{
				AccessKeyID: env("AWS_ACCESS_KEY_ID", "test"), SecretAccessKey: env("AWS_SECRET_ACCESS_KEY", "test"),
				SessionToken: os.Getenv("AWS_SESSION_TOKEN"),
			}, nil
		}),
	})
	name := "rampmeter-" + rand.Text()
	require.NoError(t, store.CreateTable(t.Context(), client, name))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := client.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &name}); err != nil {
			t.Log(err)
		}
	})
	table, err := store.New(client, name)
	require.NoError(t, err)
	return table
}

func TestLiveTable(t *testing.T) {
	table := liveTable(t)
	_, ok, err := table.Get(t.Context(), socks.ID)
	require.NoError(t, err)
	require.False(t, ok)

	for range 3 {
		require.NoError(t, table.Put(t.Context(), socks))
	}
	got, ok, err := table.Get(t.Context(), socks.ID)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, socks, got)

	for _, change := range []func(*order.Order){
		func(o *order.Order) { o.SKU = "SOCK-43" },
		func(o *order.Order) { o.Quantity++ },
		func(o *order.Order) { o.Customer = "Zoe" },
	} {
		other := socks
		change(&other)
		require.ErrorIs(t, table.Put(t.Context(), other), retry.ErrPermanent)
	}
	got, _, err = table.Get(t.Context(), socks.ID)
	require.NoError(t, err)
	require.Equal(t, socks, got, "the first one stays")
}

// Many concurrent puts under one id: one order wins, all puts of it succeed, and all
// puts of others are conflicts.
func TestLiveTable_Concurrent(t *testing.T) {
	table := liveTable(t)
	const each = 20
	var (
		wg sync.WaitGroup
		mu sync.Mutex
		by = map[int]map[bool]int{1: {}, 2: {}} // by quantity and whether it was stored
	)
	for i := range 2 * each {
		o := socks
		o.Quantity = 1 + i%2
		wg.Go(func() {
			err := table.Put(t.Context(), o)
			if err != nil && !errors.Is(err, retry.ErrPermanent) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			by[o.Quantity][err == nil]++
		})
	}
	wg.Wait()
	got, ok, err := table.Get(t.Context(), socks.ID)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, map[bool]int{true: each}, by[got.Quantity])
	require.Equal(t, map[bool]int{false: each}, by[3-got.Quantity])
}

func TestLiveTable_Missing(t *testing.T) {
	endpoint := os.Getenv("RAMPMETER_DYNAMODB_ENDPOINT")
	liveTable(t) // or a skip
	client := dynamodb.New(dynamodb.Options{
		BaseEndpoint: &endpoint, Region: "us-east-1", Credentials: aws.CredentialsProviderFunc(credentials),
	})
	table, err := store.New(client, "rampmeter-"+rand.Text())
	require.NoError(t, err)
	require.ErrorIs(t, table.Put(t.Context(), socks), limiter.ErrMisconfigured)
}
