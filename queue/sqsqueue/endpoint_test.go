package sqsqueue_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A wandering client has other options for each receive.
type wandering struct {
	*sqs.Client
	change func(*sqs.Options)
}

func (c *wandering) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, options ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	return c.Client.ReceiveMessage(ctx, in, append(options, c.change)...)
}

// newWandering returns a queue whose receives have options that change, and the
// hosts that its requests go to.
func newWandering(t *testing.T, change func(*sqs.Options)) (q *sqsqueue.Queue, hosts *[]string) {
	t.Helper()
	server := &sqsfake.Server{}
	url := newQueue(t, server, false, nil).URL()
	hosts = new([]string)
	q, err := sqsqueue.New(&wandering{change: change, Client: server.Client(func(o *sqs.Options) {
		o.HTTPClient = doFunc(func(r *http.Request) (*http.Response, error) {
			*hosts = append(*hosts, r.URL.Host)
			return server.Do(r)
		})
	})}, url, sqsqueue.Config{Wait: time.Second})
	require.NoError(t, err)
	return q, hosts
}

// Each request goes where the client's options say, whatever the last one did.
func TestEndpointIsThatOfTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var region string
		q, hosts := newWandering(t, func(o *sqs.Options) { o.BaseEndpoint, o.Region = nil, region })
		var want []string
		for _, region = range []string{"eu-west-1", "eu-west-1", "us-east-2", "eu-west-1", "cn-north-1"} {
			receive(t, q, 1, time.Minute)
			host := "sqs." + region + ".amazonaws.com"
			if region == "cn-north-1" {
				host += ".cn"
			}
			want = append(want, host)
		}
		require.Equal(t, want, *hosts)

		region = "no region"
		_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.ErrorContains(t, err, region)
		region = "eu-west-1"
		receive(t, q, 1, time.Minute)
		require.Len(t, *hosts, len(want)+1)
	})
}

// A resolver counts how often it is asked.
type resolver struct{ asked int }

func (r *resolver) ResolveEndpoint(ctx context.Context, params sqs.EndpointParameters) (smithyendpoints.Endpoint, error) {
	r.asked++
	return sqs.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, params)
}

// A resolver of the caller's own is asked for every request.
func TestResolverOfTheCallerIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, r := &sqsfake.Server{}, &resolver{}
		url := newQueue(t, server, false, nil).URL()
		q, err := sqsqueue.New(server.Client(func(o *sqs.Options) { o.EndpointResolverV2 = r }), url, sqsqueue.Config{})
		require.NoError(t, err)
		for i := range 3 {
			send(t, q, message(fmt.Sprint(i)))
			require.Equal(t, i+1, r.asked)
		}
	})
}

// What BaseEndpoint points at may change between requests, as with a client that
// fails over and keeps its endpoint in one variable.
func TestBaseEndpointMayChangeInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var endpoint string
		q, hosts := newWandering(t, func(o *sqs.Options) { o.BaseEndpoint = &endpoint })
		for _, host := range []string{"a.example", "b.example"} {
			endpoint = "https://" + host
			receive(t, q, 1, time.Minute)
		}
		require.Equal(t, []string{"a.example", "b.example"}, *hosts)
	})
}
