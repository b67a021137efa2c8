package secret_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/lambda/secret"
	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/limiter"
)

// A manager replaces Secrets Manager. A fetch takes 100 ms.
type manager struct {
	mu      sync.Mutex // guards all below
	value   *string
	err     error
	hangs   bool
	fetches int
}

func newManager(value string) *manager { return &manager{value: &value} }

func (m *manager) GetSecretValue(ctx context.Context, in *secretsmanager.GetSecretValueInput, _ ...func(*secretsmanager.Options)) (*secretsmanager.GetSecretValueOutput, error) {
	m.mu.Lock()
	m.fetches++
	value, err, hangs := m.value, m.err, m.hangs
	m.mu.Unlock()
	if *in.SecretId != "inventory" {
		return nil, &types.ResourceNotFoundException{}
	}
	wait := 100 * time.Millisecond
	if hangs {
		wait = time.Hour
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &secretsmanager.GetSecretValueOutput{SecretString: value}, err
}

func (m *manager) set(value string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.value, m.err = &value, err
}

func (m *manager) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fetches
}

func newToken(t *testing.T, m *manager, cfg secret.Config) *secret.Token {
	t.Helper()
	token, err := secret.New(m, "inventory", cfg)
	require.NoError(t, err)
	return token
}

func requireToken(t *testing.T, token *secret.Token, want string) {
	t.Helper()
	got, err := token.Get(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestNew(t *testing.T) {
	_, err := secret.New(nil, "inventory", secret.Config{})
	require.EqualError(t, err, "secret: New: client is nil")
	_, err = secret.New((*secretsmanager.Client)(nil), "inventory", secret.Config{})
	require.EqualError(t, err, "secret: New: client is nil")
	_, err = secret.New(newManager(""), "", secret.Config{})
	require.EqualError(t, err, "secret: New: id is empty: must be a secret's name or ARN")
}

func TestFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(" first\n")
		token := newToken(t, m, secret.Config{})
		requireToken(t, token, "first")
		m.set("second", nil)
		time.Sleep(5*time.Minute - time.Nanosecond)
		requireToken(t, token, "first")
		require.Equal(t, 1, m.count())
		time.Sleep(time.Nanosecond)
		requireToken(t, token, "second")
		require.Equal(t, 2, m.count())
	})
}

// Concurrent callers wait for one fetch: at first, after a refusal, and after five
// minutes.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("first")
		token := newToken(t, m, secret.Config{})
		crowd := func(want string) {
			start := time.Now()
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { requireToken(t, token, want) })
			}
			wg.Wait()
			require.Equal(t, 100*time.Millisecond, time.Since(start))
		}
		crowd("first")
		require.Equal(t, 1, m.count())
		m.set("second", nil)
		for range 50 {
			token.Refuse("first")
		}
		crowd("second")
		require.Equal(t, 2, m.count())
		m.set("third", nil)
		time.Sleep(5 * time.Minute)
		crowd("third")
		require.Equal(t, 3, m.count())
	})
}

// When a fetch ends with its caller's context, another caller repeats it.
func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("first")
		token := newToken(t, m, secret.Config{})
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		give := func() {
			_, err := token.Get(ctx)
			require.ErrorIs(t, err, enough)
			require.NoError(t, limiter.Classify(err), "it says nothing of Secrets Manager")
		}
		wg.Go(give)
		synctest.Wait()
		wg.Go(give) // waits for the fetch of the one before
		for range 10 {
			wg.Go(func() { requireToken(t, token, "first") })
		}
		time.Sleep(50 * time.Millisecond)
		cancel(enough)
		wg.Wait()
		require.Equal(t, 2, m.count())
	})
}

// The last good token is used as long as Secrets Manager returns none, and is fetched
// again every 30 s.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := newManager("first")
		token := newToken(t, m, secret.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		requireToken(t, token, "first")
		m.set("", errors.New("out of order"))
		const outage = 2 * time.Hour
		for start := time.Now(); time.Since(start) < outage; time.Sleep(time.Second) {
			requireToken(t, token, "first")
		}
		require.InDelta(t, 240, m.count(), 15)
		require.Contains(t, log.String(), "out of order")
		require.NotContains(t, log.String(), "first")
		m.set("second", nil)
		time.Sleep(30 * time.Second)
		requireToken(t, token, "second")
	})
}

// A Secrets Manager that does not answer costs three seconds.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("first")
		m.hangs = true
		token, start := newToken(t, m, secret.Config{}), time.Now()
		_, err := token.Get(t.Context())
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("first")
		token := newToken(t, m, secret.Config{})
		requireToken(t, token, "first")

		token.Refuse("another one")
		requireToken(t, token, "first")
		require.Equal(t, 1, m.count(), "a token that is not in use any more")

		// There is no other: the call fails, and later ones try the refused token again.
		token.Refuse("first")
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := token.Get(t.Context())
				require.ErrorIs(t, err, limiter.ErrMisconfigured)
				require.NotContains(t, err.Error(), "first")
			})
		}
		wg.Wait()
		require.Equal(t, 2, m.count())
		requireToken(t, token, "first")
		require.Equal(t, 2, m.count())

		// The same when Secrets Manager is down as well, and then for 30 s.
		m.set("second", errors.New("out of order"))
		token.Refuse("first")
		_, err := token.Get(t.Context())
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		requireToken(t, token, "first")
		require.Equal(t, 3, m.count())
		m.set("second", nil)
		time.Sleep(30 * time.Second)
		requireToken(t, token, "second")
	})
}

func TestErrors(t *testing.T) {
	status := func(code int) error {
		return &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: code}}, Err: errors.New("because")}
	}
	for _, c := range []struct {
		err  error
		want error
	}{
		{&types.ResourceNotFoundException{}, limiter.ErrMisconfigured},
		{&types.DecryptionFailure{}, limiter.ErrMisconfigured},
		{&types.InternalServiceError{}, limiter.ErrUnavailable},
		{&smithy.GenericAPIError{Code: "AccessDeniedException", Fault: smithy.FaultClient}, limiter.ErrMisconfigured},
		{&smithy.GenericAPIError{Code: "ThrottlingException", Fault: smithy.FaultClient}, limiter.ErrOverload},
		{status(400), limiter.ErrMisconfigured},
		{status(429), limiter.ErrOverload},
		{status(503), limiter.ErrUnavailable},
		{io.ErrUnexpectedEOF, limiter.ErrUnavailable},
	} {
		m := newManager("")
		m.err = c.err
		_, err := newToken(t, m, secret.Config{}).Get(t.Context())
		require.Equal(t, c.want, limiter.Classify(err), "%v", err)
		require.ErrorContains(t, err, `secret: get "inventory"`)
	}
	for _, m := range []*manager{newManager(" \n"), {}} { // no text, a binary secret
		_, err := newToken(t, m, secret.Config{}).Get(t.Context())
		require.ErrorIs(t, err, limiter.ErrMisconfigured)
	}
}

// A rotation costs one refused request for each request in flight; a token that is
// permanently revoked is not sent twice.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager("new")
		api, err := inventorytest.New(inventorytest.Config{
			Token: "new", Stock: map[string]int{"SOCK-42": 100}, Latency: 10 * time.Millisecond,
		})
		require.NoError(t, err)
		defer func() { require.NoError(t, api.Close()) }()
		token := newToken(t, m, secret.Config{})
		rate, err := limiter.NewTokenBucket(1000, 10)
		require.NoError(t, err)
		client, err := inventory.New(inventory.Config{
			BaseURL: "http://inventory.test", TokenSource: token.Get, Limiter: rate,
			Transport: token.Transport(api.Transport()), Retry: secret.Retry(inventory.ErrUnauthorized),
		})
		require.NoError(t, err)
		order := func(id string) error {
			_, err := client.Adjust(t.Context(), inventory.Adjustment{SKU: "SOCK-42", Delta: -1, Reference: id, IdempotencyKey: id})
			return err
		}

		m.set("old", nil)
		requireToken(t, token, "old")
		m.set("new", nil)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() { require.NoError(t, order(fmt.Sprint("order-", i))) })
		}
		wg.Wait()
		require.Equal(t, 2, m.count())
		stats := api.Stats()
		require.Equal(t, 10, stats.AppliedOnce)
		refused := stats.Status[http.StatusUnauthorized] // those that were on their way when the first was
		require.GreaterOrEqual(t, refused, 1)
		require.LessOrEqual(t, refused, 10)
		require.Equal(t, 10+refused, stats.Requests)
		require.Zero(t, stats.MaxOverRate, "the second requests waited for the limiter, too")

		api.Break(inventorytest.Outage{Fault: inventorytest.Revoked})
		err = order("later")
		require.ErrorIs(t, err, limiter.ErrMisconfigured)
		require.Equal(t, refused+1, api.Stats().Status[http.StatusUnauthorized])
		require.Equal(t, 3, m.count())
		api.Mend()
		require.NoError(t, order("later"))
		require.Equal(t, 3, m.count())
	})
}

// The SDK's client, including its retries, on a Secrets Manager in memory.
func TestClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := []int{http.StatusServiceUnavailable, http.StatusOK}
		client := secretsmanager.New(secretsmanager.Options{
			Region: "us-east-1",
			Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "test", SecretAccessKey: "test"}, nil
			}),
			HTTPClient: httpFunc(func(r *http.Request) (*http.Response, error) {
				status := answers[0]
				answers = answers[1:]
				return &http.Response{
					StatusCode: status, Request: r, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}},
					Body: io.NopCloser(bytes.NewBufferString(`{"Name":"inventory","SecretString":"token"}`)),
				}, nil
			}),
		})
		token, err := secret.New(client, "inventory", secret.Config{})
		require.NoError(t, err)
		requireToken(t, token, "token")
		require.Empty(t, answers)
	})
}

type httpFunc func(*http.Request) (*http.Response, error)

func (f httpFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }
