package sqsqueue_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// liveEndpoint is the address of the server that RAMPMETER_SQS_ENDPOINT names.
func liveEndpoint(t *testing.T) string {
	t.Helper()
	endpoint := os.Getenv("RAMPMETER_SQS_ENDPOINT")
	if endpoint == "" {
		t.Skip("needs an SQS server: set RAMPMETER_SQS_ENDPOINT=http://127.0.0.1:4566 for a local one (fauxqs, for example), " +
			"or to https://sqs.<region>.amazonaws.com with AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for AWS; queues are made and deleted")
	}
	return endpoint
}

// endpointClient returns a client of that server, with the credentials and region
// of the SDK's usual variables, if they are set.
func endpointClient(endpoint string, options ...func(*sqs.Options)) *sqs.Client {
	env := func(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }
	return sqs.New(sqs.Options{
		BaseEndpoint: &endpoint,
		Region:       env("AWS_REGION", "us-east-1"),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{
				AccessKeyID: env("AWS_ACCESS_KEY_ID", "test"), SecretAccessKey: env("AWS_SECRET_ACCESS_KEY", "test"),
				SessionToken: os.Getenv("AWS_SESSION_TOKEN"),
			}, nil
		}),
	}, options...)
}

// withHTTPClient is an option of endpointClient.
func withHTTPClient(c sqs.HTTPClient) func(*sqs.Options) {
	return func(o *sqs.Options) { o.HTTPClient = c }
}

func liveClient(t *testing.T) *sqs.Client {
	t.Helper()
	return endpointClient(liveEndpoint(t))
}

// liveQueue makes a queue of its own for the test.
func liveQueue(t *testing.T, client *sqs.Client, fifo bool) *sqsqueue.Queue {
	t.Helper()
	name := "rampmeter-" + rand.Text()
	var attributes map[string]string
	if fifo {
		name += ".fifo"
		attributes = map[string]string{"FifoQueue": "true"}
	}
	made, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl}); err != nil {
			t.Log(err)
		}
	})
	q, err := sqsqueue.New(client, *made.QueueUrl, sqsqueue.Config{Wait: time.Second})
	require.NoError(t, err)
	return q
}

// holds returns how many messages the queue holds, visible and hidden.
func holds(t *testing.T, client *sqs.Client, q *sqsqueue.Queue) (visible, hidden int) {
	t.Helper()
	url := q.URL()
	out, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{
		QueueUrl: &url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	require.NoError(t, err)
	number := func(name types.QueueAttributeName) int {
		n, err := strconv.Atoi(out.Attributes[string(name)])
		require.NoError(t, err)
		return n
	}
	return number(types.QueueAttributeNameApproximateNumberOfMessages), number(types.QueueAttributeNameApproximateNumberOfMessagesNotVisible)
}

// empties waits until the queue holds nothing.
func empties(t *testing.T, client *sqs.Client, q *sqsqueue.Queue, limit time.Duration) {
	t.Helper()
	var visible, hidden int
	for until := time.Now().Add(limit); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if visible, hidden = holds(t, client, q); visible+hidden == 0 {
			return
		}
	}
	t.Fatalf("the queue still holds %d visible messages and %d hidden ones after %v", visible, hidden, limit)
}

// landing is a queue whose receives are completed when their context ends, as those of
// a consumer are: a server may continue an aborted poll, and deliver the next message
// to nobody.
type landing struct{ *sqsqueue.Queue }

func (l landing) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	msgs, err := l.Queue.Receive(context.WithoutCancel(ctx), o)
	if len(msgs) == 0 && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return msgs, err
}

// The suite on a third-party server, in real time. fauxqs 1.9 expires leases only while
// somebody polls, and hides messages that are returned or extended after their lease,
// so it needs -skip '/.*/(Nack|Extend)_LostLease'.
func TestLiveSource(t *testing.T) {
	client := liveClient(t)
	for name, cfg := range map[string]queuetest.Config{
		"standard": {},
		"fifo":     {FIFO: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.NoEmptyBody, cfg.NoBinary = true, true
			cfg.Lease, cfg.LeaseUnit, cfg.Slack = 3*time.Second, time.Second, 2*time.Second
			queuetest.TestSource(t, func(t *testing.T) queuetest.Queue { return landing{liveQueue(t, client, cfg.FIFO)} }, cfg)
		})
	}
}
