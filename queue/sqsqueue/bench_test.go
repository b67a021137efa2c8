package sqsqueue_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A replay answers every receive with the same ten messages, and accepts
// everything that is sent.
type replay struct {
	*sqs.Client
	out *sqs.ReceiveMessageOutput
}

func (r *replay) ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	return r.out, nil
}

func (r *replay) SendMessageBatch(_ context.Context, in *sqs.SendMessageBatchInput, _ ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error) {
	out := &sqs.SendMessageBatchOutput{Successful: make([]types.SendMessageBatchResultEntry, len(in.Entries))}
	for i, e := range in.Entries {
		out.Successful[i].Id = e.Id
	}
	return out, nil
}

// BenchmarkMessages measures what ten messages cost between the SDK and the
// caller, without the SDK: one op is one receive or one send.
func BenchmarkMessages(b *testing.B) {
	for _, attributes := range []int{0, 3} {
		r := &replay{out: &sqs.ReceiveMessageOutput{}}
		for i := range 10 {
			m := types.Message{
				MessageId: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String("receipt"), Body: aws.String("order 42"),
				Attributes: map[string]string{
					"ApproximateReceiveCount": "1", "SentTimestamp": "1790000000000", "ApproximateFirstReceiveTimestamp": "1790000000001",
				},
			}
			for n := range attributes {
				if m.MessageAttributes == nil {
					m.MessageAttributes = make(map[string]types.MessageAttributeValue)
				}
				m.MessageAttributes[fmt.Sprint("attribute", n)] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String("value")}
			}
			r.out.Messages = append(r.out.Messages, m)
		}
		q, err := sqsqueue.New(r, "https://sqs.test/0/orders", sqsqueue.Config{})
		require.NoError(b, err)
		o := queue.ReceiveOptions{Max: 10, Lease: time.Minute}
		b.Run(fmt.Sprintf("op=receive/attributes=%d", attributes), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := q.Receive(b.Context(), o); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("op=send/attributes=%d", attributes), func(b *testing.B) {
			msgs, err := q.Receive(b.Context(), o)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if err := q.Send(b.Context(), msgs...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
