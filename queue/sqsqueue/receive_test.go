package sqsqueue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

func TestNewRefuses(t *testing.T) {
	client := (&sqsfake.Server{}).Client()
	const url = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
	for _, c := range []struct {
		client sqsqueue.API
		url    string
		cfg    sqsqueue.Config
		want   string
	}{
		{nil, url, sqsqueue.Config{}, "client is nil"},
		{(*sqs.Client)(nil), url, sqsqueue.Config{}, "client is nil"},
		{client, "", sqsqueue.Config{}, "queueURL"},
		{client, "orders", sqsqueue.Config{}, "queueURL"},
		{client, "arn:aws:sqs:eu-central-1:123456789012:orders", sqsqueue.Config{}, "queueURL"},
		{client, "https://sqs.eu-central-1.amazonaws.com/", sqsqueue.Config{}, "queueURL"},
		{client, url, sqsqueue.Config{Wait: -1}, "Config.Wait"},
		{client, url, sqsqueue.Config{Wait: 1500 * time.Millisecond}, "Config.Wait"},
		{client, url, sqsqueue.Config{Wait: 21 * time.Second}, "Config.Wait"},
		{client, url, sqsqueue.Config{Timeout: time.Millisecond}, "Config.Timeout"},
		{client, url, sqsqueue.Config{Timeout: time.Hour}, "Config.Timeout"},
	} {
		_, err := sqsqueue.New(c.client, c.url, c.cfg)
		require.ErrorContains(t, err, c.want)
	}
	q, err := sqsqueue.New(client, url, sqsqueue.Config{Wait: time.Second, Timeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.Equal(t, url, q.URL())
}

func TestReceiveRefuses(t *testing.T) {
	q := newQueue(t, &sqsfake.Server{}, false, nil)
	for want, o := range map[string]queue.ReceiveOptions{
		"Max is 0":     {Lease: time.Minute},
		"Lease is 0s":  {Max: 1},
		"Lease is 13h": {Max: 1, Lease: 13 * time.Hour},
		"Wait is -1s":  {Max: 1, Lease: time.Minute, Wait: -time.Second},
	} {
		_, err := q.Receive(t.Context(), o)
		require.ErrorContains(t, err, want)
	}
}

// asked records the receives that it passes on.
type asked struct {
	*sqs.Client
	inputs []*sqs.ReceiveMessageInput
}

func (a *asked) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, o ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	a.inputs = append(a.inputs, in)
	return a.Client.ReceiveMessage(ctx, in, o...)
}

// A receive sends its wait and its lease: zeros would not be sent, and the queue's own
// values would apply. It waits for less if o.Wait says so, and with a short lease, so
// that a message that comes at the end of the wait is still leased.
func TestReceiveAsks(t *testing.T) {
	for _, c := range []struct {
		cfg         sqsqueue.Config
		o           queue.ReceiveOptions
		max         int32
		wait, lease int32
	}{
		{o: queue.ReceiveOptions{Max: 1, Lease: 30 * time.Second}, max: 1, wait: 20, lease: 30},
		{o: queue.ReceiveOptions{Max: 1000, Lease: 12 * time.Hour}, max: 10, wait: 20, lease: 43200},
		{o: queue.ReceiveOptions{Max: 5, Lease: 10 * time.Second}, max: 5, wait: 6, lease: 10},
		{o: queue.ReceiveOptions{Max: 5, Lease: 1}, max: 5, wait: 1, lease: 1},
		{o: queue.ReceiveOptions{Max: 5, Lease: time.Minute, Wait: 7900 * time.Millisecond}, max: 5, wait: 7, lease: 60},
		{o: queue.ReceiveOptions{Max: 5, Lease: 6 * time.Second, Wait: 5 * time.Second}, max: 5, wait: 4, lease: 6},
		{o: queue.ReceiveOptions{Max: 5, Lease: time.Minute, Wait: time.Hour}, max: 5, wait: 20, lease: 60},
		{o: queue.ReceiveOptions{Max: 5, Lease: time.Minute, Wait: 1}, max: 5, wait: 1, lease: 60},
		{cfg: sqsqueue.Config{Wait: 3 * time.Second}, o: queue.ReceiveOptions{Max: 5, Lease: time.Minute}, max: 5, wait: 3, lease: 60},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{}
			url := newQueue(t, server, false, map[string]string{"VisibilityTimeout": "900", "ReceiveMessageWaitTimeSeconds": "0"}).URL()
			client := &asked{Client: server.Client()}
			q, err := sqsqueue.New(client, url, c.cfg)
			require.NoError(t, err)
			begin := time.Now()
			msgs, err := q.Receive(t.Context(), c.o)
			require.NoError(t, err)
			require.Empty(t, msgs)
			require.Equal(t, time.Duration(c.wait)*time.Second, time.Since(begin))
			in := client.inputs[0]
			require.Equal(t, []int32{c.max, c.wait, c.lease}, []int32{in.MaxNumberOfMessages, in.WaitTimeSeconds, in.VisibilityTimeout})
			require.Empty(t, in.AttributeNames, "deprecated") //nolint:staticcheck // that is the point
		})
	}
}

func TestReceiveTells(t *testing.T) {
	for _, bare := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{NoSystemAttributes: bare})}
			q := newQueue(t, server, true, nil)
			at := time.Now()
			send(t, q, &queue.Message{Body: []byte("a"), Group: "g", Dedup: "d"})
			time.Sleep(time.Minute)
			first := time.Now()
			require.NoError(t, q.Nack(t.Context(), 0, receive(t, q, 1, time.Minute)...))
			time.Sleep(time.Minute)
			m := receive(t, q, 1, time.Minute)[0]
			require.Equal(t, "a", string(m.Body))
			require.NotEmpty(t, m.ID)
			require.Equal(t, time.Now(), m.ReceivedAt)
			require.Equal(t, time.Now().Add(time.Minute), m.LeaseUntil)
			require.IsType(t, &types.Message{}, m.Native)
			if bare {
				require.Zero(t, m.Attempt)
				require.True(t, m.SentAt.IsZero())
				require.True(t, m.FirstReceivedAt.IsZero())
				require.Empty(t, m.Group+m.Dedup+m.Sequence)
			} else {
				require.Equal(t, 2, m.Attempt)
				require.True(t, m.SentAt.Equal(at))
				require.True(t, m.FirstReceivedAt.Equal(first))
				require.Equal(t, []string{"g", "d"}, []string{m.Group, m.Dedup})
				require.Len(t, m.Sequence, 20)
			}
			require.NoError(t, q.Ack(t.Context(), m))
		})
	}
}

// The group of a standard queue is the tenant, and goes with the message.
func TestFairQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, false, nil)
		send(t, q, &queue.Message{Body: []byte("a"), Group: "tenant-7", Dedup: "not of a standard queue"})
		m := receive(t, q, 1, time.Minute)[0]
		require.Equal(t, "tenant-7", m.Group)
		require.Empty(t, m.Sequence)
		require.Empty(t, m.Dedup)
	})
}

func TestReceiveTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Hang})}
		q := newQueue(t, server, false, nil)
		begin := time.Now()
		_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		require.Equal(t, 30*time.Second, time.Since(begin))

		cause := errors.New("gone home")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Second, func() { cancel(cause) })
		begin = time.Now()
		_, err = q.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.ErrorIs(t, err, cause)
		require.Equal(t, 5*time.Second, time.Since(begin))
	})
}

// The SDK closes its request body early, and its WriteTo then fails, which breaks
// the reply when the server is quicker than the transport. A Queue's requests have
// a body that does not mind, and all that is the client's own stays as it is.
func TestRequestBodyOutlivesItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		var trap []bool
		retryer := aws.NopRetryer{}
		client := server.Client(func(o *sqs.Options) {
			o.Retryer = retryer
			o.HTTPClient = doFunc(func(r *http.Request) (*http.Response, error) {
				body, err := io.ReadAll(r.Body)
				require.NoError(t, err)
				require.Len(t, body, int(r.ContentLength))
				require.NoError(t, r.Body.Close())
				_, err = io.Copy(io.Discard, r.Body)
				trap = append(trap, err != nil)
				r.Body = io.NopCloser(bytes.NewReader(body))
				return server.Do(r)
			})
		})
		before := client.Options()
		url, err := server.CreateQueue("orders", nil)
		require.NoError(t, err)
		q, err := sqsqueue.New(client, url, sqsqueue.Config{})
		require.NoError(t, err)
		send(t, q, message("a"), message("b"))
		msgs := receive(t, q, 10, time.Minute)
		require.NoError(t, q.Extend(t.Context(), time.Minute, msgs...))
		require.NoError(t, q.Nack(t.Context(), time.Minute, msgs[0]))
		require.NoError(t, q.Ack(t.Context(), msgs[1]))
		_, err = q.Check(t.Context(), sqsqueue.CheckConfig{})
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(trap), 6)
		require.NotContains(t, trap, true)

		trap = nil
		_, err = client.ListQueues(t.Context(), &sqs.ListQueuesInput{})
		require.NoError(t, err)
		require.Equal(t, []bool{true}, trap, "a request that is not a Queue's: the trap is in this SDK")
		require.Equal(t, before.Retryer, client.Options().Retryer)
	})
}

// The Queue makes the SDK's check of bodies. If the client has it disabled, bodies are
// not checked.
func TestDamagedBodyIsNotDelivered(t *testing.T) {
	for _, unchecked := range []bool{false, true} {
		t.Run(fmt.Sprint("unchecked ", unchecked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{}
				damage := false
				client := server.Client(func(o *sqs.Options) {
					o.DisableMessageChecksumValidation = unchecked
					o.HTTPClient = doFunc(func(r *http.Request) (*http.Response, error) {
						resp, err := server.Do(r)
						if err == nil && damage {
							body, err := io.ReadAll(resp.Body)
							require.NoError(t, err)
							resp.Body = io.NopCloser(bytes.NewReader(bytes.ReplaceAll(body, []byte("right"), []byte("wrong"))))
						}
						return resp, err
					})
				})
				url, err := server.CreateQueue("orders", nil)
				require.NoError(t, err)
				q, err := sqsqueue.New(client, url, sqsqueue.Config{})
				require.NoError(t, err)
				send(t, q, message("left"), message("right"))
				damage = true
				msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Minute})
				if unchecked {
					require.NoError(t, err)
					require.Len(t, msgs, 2)
					return
				}
				require.ErrorIs(t, err, limiter.ErrUnavailable)
				require.ErrorContains(t, err, "checksum")
				require.Empty(t, msgs)

				damage = false
				time.Sleep(time.Minute)
				require.Len(t, receive(t, q, 10, time.Minute), 2)
			})
		})
	}
}

// A client that retries with delays of its own does not in a Queue's requests.
func TestSDKDoesNotRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.ServiceUnavailable()})}
		url := newQueue(t, server, false, nil).URL()
		client := server.Client(func(o *sqs.Options) { o.RetryMaxAttempts, o.Retryer = 5, nil })
		q, err := sqsqueue.New(client, url, sqsqueue.Config{})
		require.NoError(t, err)
		begin := time.Now()
		_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.ErrorIs(t, err, limiter.ErrUnavailable)
		require.Zero(t, time.Since(begin))
		require.Equal(t, 1, server.Stats(sqsfake.ReceiveMessage).Calls)
	})
}

// A receive that the HTTP client would abort is not made: it would fail whenever the
// queue is empty. A client that only sends may have such a Timeout.
func TestClientWithShortTimeout(t *testing.T) {
	for limit, good := range map[time.Duration]bool{0: true, 10 * time.Second: false, 20 * time.Second: false, 25 * time.Second: true} {
		for name, client := range map[string]sqs.HTTPClient{
			"net/http":  &http.Client{Timeout: limit},
			"the SDK's": awshttp.NewBuildableClient().WithTimeout(limit),
		} {
			t.Run(fmt.Sprint(name, " ", limit), func(t *testing.T) {
				q, err := sqsqueue.New(sqsfake.NewClient("http://127.0.0.1:1", func(o *sqs.Options) { o.HTTPClient = client }), "https://sqs.test/0/orders", sqsqueue.Config{})
				require.NoError(t, err)
				_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
				if good {
					require.NotErrorIs(t, err, limiter.ErrMisconfigured)
				} else {
					require.ErrorIs(t, err, limiter.ErrMisconfigured)
					require.ErrorContains(t, err, "has a Timeout of "+limit.String()+", and the receive waits for 20s: give")
				}
				_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute, Wait: 2 * time.Second})
				require.NotErrorIs(t, err, limiter.ErrMisconfigured, "the consumer lets it wait for less")
			})
		}
	}
}
