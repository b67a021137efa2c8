package sqsqueue_test

import (
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
)

// A duplicate whose reply has the checksum of the first message, with another body,
// counts as sent. The SDK by itself would fail the whole request.
func TestSendOfDuplicateWithAnotherBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.SendMessageBatch, sqsfake.Fault{FirstChecksums: true})}
		q := newQueue(t, server, true, nil)
		grouped := func(body, dedup string) *queue.Message {
			return &queue.Message{Body: []byte(body), Group: "g", Dedup: dedup}
		}
		send(t, q, grouped("first", "1"))
		send(t, q, grouped("second", "2"), grouped("corrected", "1"))
		require.Equal(t, 2, server.Stats(sqsfake.SendMessageBatch).Calls)
		var bodies []string
		for _, m := range server.Messages("orders.fifo") {
			bodies = append(bodies, m.Body)
		}
		require.Equal(t, []string{"first", "second"}, bodies)

		entry := func(body, dedup string) types.SendMessageBatchRequestEntry {
			return types.SendMessageBatchRequestEntry{
				Id: aws.String(dedup), MessageBody: &body, MessageGroupId: aws.String("g"), MessageDeduplicationId: &dedup,
			}
		}
		_, err := server.Client().SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{
			QueueUrl: aws.String(q.URL()), Entries: []types.SendMessageBatchRequestEntry{entry("corrected", "1"), entry("third", "3")},
		})
		require.ErrorContains(t, err, "checksum")
		require.Equal(t, 3, server.Queue("orders.fifo").Sent, "although all of it was accepted")
	})
}
