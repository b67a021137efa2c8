//go:build unix

package lambdalocal_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

// Mapping and process together, in real time: messages fail, processes are
// killed in mid-batch, and every message is done at last.
func TestNothingIsLost(t *testing.T) {
	var server sqsfake.Server
	srv := httptest.NewServer(&server)
	t.Cleanup(srv.Close)
	nothingIsLost(t, sqsfake.NewClient(srv.URL))
}

// The same on a server that others wrote.
func TestLiveNothingIsLost(t *testing.T) {
	endpoint := os.Getenv("RAMPMETER_SQS_ENDPOINT")
	if endpoint == "" {
		t.Skip("needs an SQS server: set RAMPMETER_SQS_ENDPOINT=http://127.0.0.1:4566, for example")
	}
	nothingIsLost(t, sqsfake.NewClient(endpoint))
}

func nothingIsLost(t *testing.T, client *sqs.Client) {
	n, kills := 300, 10
	if testing.Short() {
		n, kills = 60, 2
	}
	name := "lambdalocal-" + rand.Text()
	made, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: map[string]string{"VisibilityTimeout": "2"}})
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := client.DeleteQueue(context.Background(), &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl})
		require.NoError(t, err)
	})
	c := compile(t, "queue", func(cfg *lambdalocal.ProcessConfig) { cfg.Concurrency, cfg.Timeout = 3, 2*time.Second })
	m, err := lambdalocal.NewMapping(lambdalocal.MappingConfig{
		Client: client, QueueURL: *made.QueueUrl, Function: c.Process, PartialResponses: true, BatchSize: 5, MaxConcurrency: 3,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- m.Run(ctx) }()

	bodies := make([]string, n)
	for i := range bodies {
		bodies[i] = fmt.Sprintf("ok-%d.", i)
		if i%7 == 0 {
			bodies[i] = fmt.Sprintf("fail-%d.", i)
		}
		_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: made.QueueUrl, MessageBody: &bodies[i]})
		require.NoError(t, err)
		if i%(n/kills) == 1 {
			require.Eventually(t, c.Kill, soon, 100*time.Microsecond)
		}
	}
	require.Eventually(t, func() bool {
		out, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: made.QueueUrl, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
		require.NoError(t, err)
		return out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0"
	}, 2*soon, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ran)
	for _, body := range bodies {
		c.log.waitFor(t, "done "+body, 1)
	}
	st, ps := m.Stats(), c.Stats()
	require.GreaterOrEqual(t, st.Deleted, n, "%+v", st)
	require.Equal(t, st.Received, st.Deleted+st.Returned+st.Dropped, "%+v", st)
	require.Zero(t, ps.Errors, "%+v", ps)
	require.Equal(t, st.FunctionErrors, ps.Crashes+ps.Timeouts+ps.InitErrors, "%+v", ps)
	require.LessOrEqual(t, ps.PeakLive, 3)
	require.GreaterOrEqual(t, strings.Count(c.log.String(), "done"), n)
}
