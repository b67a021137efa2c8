package dynamostore_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/idempotent/dynamostore"
)

// The SDK's own HTTP client keeps ten connections. With many more steps in flight
// each keeps its own all the same.
func TestStockClientKeepsConnections(t *testing.T) {
	const atOnce, rounds = 40, 5
	var opened atomic.Int64
	var wave atomic.Pointer[sync.WaitGroup]
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived := wave.Load()
		arrived.Done()
		arrived.Wait()
		_, _ = io.WriteString(w, "{}")
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	store, err := dynamostore.New(dynamodb.New(dynamodb.Options{
		BaseEndpoint: &server.URL, Region: "us-east-1", HTTPClient: awshttp.NewBuildableClient(),
		Credentials: aws.CredentialsProviderFunc(credentials),
	}), "runs", dynamostore.Config{Namespace: "test"})
	require.NoError(t, err)

	for round := range rounds {
		claim := func(i int) idempotent.Claim {
			return idempotent.Claim{Key: fmt.Sprint(round, " ", i), Owner: "o", Until: time.Now().Add(time.Minute), Keep: time.Now().Add(time.Hour)}
		}
		for _, step := range []func(idempotent.Claim) error{
			func(c idempotent.Claim) error { _, err := store.Claim(t.Context(), c); return err },
			func(c idempotent.Claim) error { return store.Done(t.Context(), c, nil) },
			func(c idempotent.Claim) error { _, err := store.Failed(t.Context(), c); return err },
			func(c idempotent.Claim) error { return store.Release(t.Context(), c, false) },
		} {
			var arrived, done sync.WaitGroup
			arrived.Add(atOnce)
			wave.Store(&arrived)
			errs := make([]error, atOnce)
			for i := range atOnce {
				done.Go(func() { errs[i] = step(claim(i)) })
			}
			done.Wait()
			require.NoError(t, errors.Join(errs...))
		}
	}
	require.LessOrEqual(t, opened.Load(), int64(2*atOnce), "%d requests", atOnce*rounds*4)
}
