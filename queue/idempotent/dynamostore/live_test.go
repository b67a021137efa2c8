package dynamostore_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	awsretry "github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/idempotent/dynamostore"
	"github.com/rampmeter/rampmeter/queue/idempotent/idempotenttest"
)

// outside makes requests for goroutines in a bubble: the time of the bubble
// stands while one is under way, and connections stay open from one to the next
// without holding it up.
type outside struct{ idle chan *messenger }

type messenger struct {
	request  chan *http.Request
	response chan *http.Response
	err      error
}

func newOutside(t *testing.T) *outside {
	const many = 32
	o := &outside{idle: make(chan *messenger, many)}
	transport := &http.Transport{MaxIdleConnsPerHost: many}
	for range many {
		m := &messenger{request: make(chan *http.Request), response: make(chan *http.Response)}
		go func() {
			for r := range m.request {
				response, err := fetch(transport, r)
				m.err = err
				m.response <- response
			}
		}()
		t.Cleanup(func() { close(m.request) })
		o.idle <- m
	}
	t.Cleanup(transport.CloseIdleConnections)
	return o
}

func fetch(transport *http.Transport, r *http.Request) (*http.Response, error) {
	response, err := transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	err = errors.Join(err, response.Body.Close())
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, err
}

func (o *outside) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	there, err := http.NewRequestWithContext(context.Background(), r.Method, r.URL.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	there.Header = r.Header
	m := <-o.idle
	defer func() { o.idle <- m }()
	m.request <- there
	response := <-m.response
	return response, m.err
}

// live is a table of its own for the test, on the server that
// RAMPMETER_DYNAMODB_ENDPOINT names.
type live struct {
	options dynamodb.Options
	client  *dynamodb.Client
	table   string
}

func liveTable(t *testing.T, key string) live {
	t.Helper()
	endpoint := os.Getenv("RAMPMETER_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		t.Skip("needs a DynamoDB server: set RAMPMETER_DYNAMODB_ENDPOINT=http://127.0.0.1:8000 for a local one (DynamoDB Local or dynalite, for example); tables are made and deleted")
	}
	options := dynamodb.Options{
		BaseEndpoint: &endpoint, Region: "us-east-1", HTTPClient: newOutside(t),
		Credentials: aws.CredentialsProviderFunc(credentials),
	}
	l := live{options, dynamodb.New(options), "rampmeter-" + rand.Text()}
	_, err := l.client.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName:            &l.table,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: &key, AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: &key, KeyType: types.KeyTypeHash}},
		BillingMode:          types.BillingModePayPerRequest,
	})
	require.NoError(t, err)
	waiter := dynamodb.NewTableExistsWaiter(l.client, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 100*time.Millisecond, 2*time.Second
	})
	require.NoError(t, waiter.Wait(t.Context(), &dynamodb.DescribeTableInput{TableName: &l.table}, time.Minute))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := l.client.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &l.table}); err != nil {
			t.Log(err)
		}
	})
	return l
}

// store is a store in the table, and client the one that it has. In a bubble
// they must be made there.
func (l live) store(t *testing.T, namespace string, change ...func(*dynamodb.Options)) (*dynamostore.Store, *dynamodb.Client) {
	t.Helper()
	client := dynamodb.New(l.options, change...)
	s, err := dynamostore.New(client, l.table, dynamostore.Config{Namespace: namespace})
	require.NoError(t, err)
	return s, client
}

func TestLiveStore(t *testing.T) {
	table := liveTable(t, "id")
	synctest.Test(t, func(t *testing.T) {
		s, _ := table.store(t, "orders")
		idempotenttest.TestStore(t, s)
	})
}

// forgetful loses the answer to every first request of its kind; the SDK asks
// again.
type forgetful struct {
	dynamodb.HTTPClient
	mu   sync.Mutex // guards all below
	seen map[string]bool
	lost int
}

func (f *forgetful) Do(r *http.Request) (*http.Response, error) {
	response, err := f.HTTPClient.Do(r)
	invocation := r.Header.Get("Amz-Sdk-Invocation-Id") // the same when it asks again
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && !f.seen[invocation] {
		f.seen[invocation] = true
		f.lost++
		return nil, io.ErrUnexpectedEOF
	}
	return response, err
}

func TestLiveStore_RepliesLost(t *testing.T) {
	table := liveTable(t, "id")
	synctest.Test(t, func(t *testing.T) {
		f := &forgetful{HTTPClient: table.options.HTTPClient, seen: make(map[string]bool)}
		s, _ := table.store(t, "orders", func(o *dynamodb.Options) {
			o.HTTPClient = f
			o.Retryer = awsretry.NewStandard(func(o *awsretry.StandardOptions) {
				o.RateLimiter, o.MaxBackoff = ratelimit.None, 100*time.Millisecond
			})
		})
		idempotenttest.TestStore(t, s)
		require.Greater(t, f.lost, 100)
	})
}

func TestLiveCrashes(t *testing.T) {
	operations := 1000
	if testing.Short() {
		operations = 200
	}
	for name, effect := range idempotenttest.Effects() {
		t.Run(name, func(t *testing.T) {
			table := liveTable(t, "id")
			synctest.Test(t, func(t *testing.T) {
				s, _ := table.store(t, "orders")
				idempotenttest.TestCrashes(t, s, effect, operations, 1)
			})
		})
	}
}

// What has expired is gone although the server still has it, as real DynamoDB
// has for days.
func TestLiveExpiry(t *testing.T) {
	table := liveTable(t, "id")
	synctest.Test(t, func(t *testing.T) {
		s, client := table.store(t, "orders")
		there := func() attributes {
			out, err := client.GetItem(t.Context(), &dynamodb.GetItemInput{
				TableName: &table.table, Key: attributes{"id": &types.AttributeValueMemberS{Value: "orders#o-1"}}, ConsistentRead: aws.Bool(true),
			})
			require.NoError(t, err)
			return out.Item
		}
		free := idempotent.Record{State: idempotent.Claimed}
		for _, end := range []func(idempotent.Claim) error{
			func(c idempotent.Claim) error { return s.Done(t.Context(), c, []byte("r")) },
			func(c idempotent.Claim) error { _, err := s.Failed(t.Context(), c); return err },
			func(idempotent.Claim) error { return nil }, // a crash
		} {
			r, err := s.Claim(t.Context(), by("a"))
			require.NoError(t, err)
			require.Equal(t, free, r)
			require.NoError(t, end(by("a")))
			time.Sleep(time.Hour + time.Second)
			require.Contains(t, there(), "claim_owner", "the item is still there")
			r, err = s.Claim(t.Context(), by("b"))
			require.NoError(t, err)
			require.Equal(t, free, r, "as if it were not")
			require.NoError(t, s.Release(t.Context(), by("b"), true))
			require.Empty(t, there())
		}
	})
}

func TestLiveTransaction(t *testing.T) {
	table := liveTable(t, "id")
	s, client := table.store(t, "orders")
	_, err := client.TransactWriteItems(t.Context(), &dynamodb.TransactWriteItemsInput{TransactItems: []types.TransactWriteItem{{Put: &types.Put{
		TableName: &table.table, Item: attributes{"id": &types.AttributeValueMemberS{Value: "probe"}},
	}}}})
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "UnknownOperationException" {
		t.Skip("this server has no transactions: DynamoDB Local has")
	}
	require.NoError(t, err)
	transaction(t, client, s, table.table)
}

func TestLiveLargeResult(t *testing.T) {
	s, _ := liveTable(t, "id").store(t, string(bytes.Repeat([]byte("n"), 1000)))
	c := by("a")
	c.Key = string(bytes.Repeat([]byte("k"), 1024))
	_, err := s.Claim(t.Context(), c)
	require.NoError(t, err)
	result := bytes.Repeat([]byte("r"), dynamostore.MaxResult)
	require.NoError(t, s.Done(t.Context(), c, result))
	c.Owner = "b"
	r, err := s.Claim(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, idempotent.Record{State: idempotent.Done, Result: result}, r)
}

func TestLiveMisconfigured(t *testing.T) {
	table := liveTable(t, "key")
	s, _ := table.store(t, "orders")
	_, err := s.Claim(t.Context(), by("a"))
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
	require.ErrorContains(t, err, `the table's key must be "id"`)
	table.table = "rampmeter-" + rand.Text()
	s, _ = table.store(t, "orders")
	_, err = s.Claim(t.Context(), by("a"))
	require.ErrorIs(t, err, limiter.ErrMisconfigured)
	require.ErrorContains(t, err, "create the table")
}
