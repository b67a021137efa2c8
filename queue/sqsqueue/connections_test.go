package sqsqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A listening is a fake service on the network that counts its connections.
type listening struct {
	*httptest.Server
	fake   *sqsfake.Server
	opened atomic.Int64
	wave   atomic.Pointer[sync.WaitGroup] // no request of a wave is answered before all have come; nil: each at once
}

func listen(t *testing.T, secure bool) *listening {
	l := &listening{fake: &sqsfake.Server{}}
	l.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wave := l.wave.Load(); wave != nil {
			wave.Done()
			wave.Wait()
		}
		l.fake.ServeHTTP(w, r)
	}))
	l.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			l.opened.Add(1)
		}
	}
	if secure {
		l.StartTLS()
	} else {
		l.Start()
	}
	t.Cleanup(l.Close)
	return l
}

// stock is the HTTP client of config.LoadDefaultConfig, which trusts the service.
func (l *listening) stock() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		if l.TLS != nil {
			t.TLSClientConfig.RootCAs = l.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		}
	})
}

// queue returns one of the service, as it is over the network, and what it logs.
func (l *listening) queue(t *testing.T, client sqs.HTTPClient) (*sqsqueue.Queue, *bytes.Buffer) {
	newQueue(t, l.fake, false, nil)
	log := new(bytes.Buffer)
	q, err := sqsqueue.New(
		sqsfake.NewClient(l.URL, func(o *sqs.Options) { o.HTTPClient = client }),
		l.URL+"/000000000000/orders", sqsqueue.Config{Wait: time.Second, Logger: slog.New(slog.NewTextHandler(log, nil))},
	)
	require.NoError(t, err)
	return q, log
}

const (
	atOnce   = 40
	rounds   = 3
	requests = atOnce * rounds * 4
)

// busy makes requests of all kinds, atOnce of them in flight each time, and returns
// how many connections they opened.
func (l *listening) busy(t *testing.T, q *sqsqueue.Queue) int {
	t.Helper()
	wave := func(request func(i int) error) {
		t.Helper()
		var arrived, done sync.WaitGroup
		arrived.Add(atOnce)
		l.wave.Store(&arrived)
		errs := make([]error, atOnce)
		for i := range atOnce {
			done.Go(func() { errs[i] = request(i) })
		}
		done.Wait()
		require.NoError(t, errors.Join(errs...))
	}
	ctx := t.Context()
	for range rounds {
		msgs := make([][]*queue.Message, atOnce)
		wave(func(int) error { return q.Send(ctx, message("x")) })
		wave(func(i int) (err error) {
			msgs[i], err = q.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			return err
		})
		wave(func(i int) error { return q.Extend(ctx, time.Minute, msgs[i]...) })
		wave(func(i int) error { return q.Ack(ctx, msgs[i]...) })
	}
	l.wave.Store(nil)
	require.Equal(t, requests, l.fake.Stats("").Calls)
	return int(l.opened.Load())
}

// The SDK's own HTTP client keeps ten connections. With many more requests in flight
// each keeps its own all the same.
func TestStockClientKeepsConnections(t *testing.T) {
	for name, secure := range map[string]bool{"HTTP": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, secure)
			q, log := l.queue(t, l.stock())
			require.LessOrEqual(t, l.busy(t, q), 2*atOnce, "%d requests", requests)
			require.Empty(t, log)
		})
	}
}

// An HTTP client of the caller's is used as it is. The log says once if it keeps too
// few connections.
func TestFewConnectionsAreLogged(t *testing.T) {
	for name, client := range map[string]sqs.HTTPClient{
		"SDK": awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 2 }),
		"Go":  &http.Client{Transport: &http.Transport{}},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, false)
			q, log := l.queue(t, client)
			require.Greater(t, l.busy(t, q), 3*atOnce, "%d requests", requests)
			require.Equal(t, 1, strings.Count(log.String(), "MaxIdleConnsPerHost"), log)
			require.Contains(t, log.String(), "kept=2 ")
		})
	}
	t.Run("enough", func(t *testing.T) {
		l := listen(t, false)
		q, log := l.queue(t, &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}})
		require.LessOrEqual(t, l.busy(t, q), 2*atOnce, "%d requests", requests)
		require.Empty(t, log)
	})
}

func TestCheckConnections(t *testing.T) {
	sdk := func(perHost int) sqs.HTTPClient {
		return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = perHost })
	}
	for name, c := range map[string]struct {
		client sqs.HTTPClient
		cfg    sqsqueue.CheckConfig
		says   string // "": nothing
	}{
		"the SDK's":         {client: awshttp.NewBuildableClient(), cfg: sqsqueue.CheckConfig{Consumer: queue.Config{Concurrency: 100}}},
		"enough":            {client: sdk(200), cfg: sqsqueue.CheckConfig{Consumer: queue.Config{Concurrency: 50}}},
		"Go's":              {client: &http.Client{}, says: "keeps 2 idle connections, and a consumer with a Concurrency of 10 has up to 20 requests in flight"},
		"of a Lambda queue": {client: sdk(5), cfg: sqsqueue.CheckConfig{Lambda: true}},
		"few": {
			client: sdk(20), cfg: sqsqueue.CheckConfig{Consumer: queue.Config{Concurrency: 100}},
			says: "HTTPClient.MaxIdleConnsPerHost: keeps 20 idle connections, and a consumer with a Concurrency of 100 has up to 200 requests in flight (a receive and an ack for each handler): each one beyond 20 dials, which at full speed and over TLS triples the CPU time per message: set it to at least 200,",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, false)
			q, _ := l.queue(t, c.client)
			found, err := q.Check(t.Context(), c.cfg)
			require.NoError(t, err)
			if text := fmt.Sprint(found); c.says == "" {
				require.NotContains(t, text, "MaxIdleConnsPerHost")
			} else {
				require.Contains(t, text, c.says)
			}
		})
	}
}
