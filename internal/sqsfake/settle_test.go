package sqsfake_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

const standard, fifo = "q", "q.fifo"

func TestDelete_HandleOfAnEarlierReceive(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.send("x")
		old := s.one(1)
		time.Sleep(time.Second)
		latest := s.one(60)
		require.NotEqual(s, *old.ReceiptHandle, *latest.ReceiptHandle)
		require.NoError(s, s.delete(old.ReceiptHandle), "succeeds")
		require.Equal(s, 1, s.Queue("q").InFlight, "and the message stays")
		require.NoError(s, s.delete(latest.ReceiptHandle))
		require.NoError(s, s.delete(latest.ReceiptHandle), "what is deleted can be deleted")
		require.Equal(s, sqsfake.QueueStats{Sent: 1, Received: 2, Deleted: 1, MaxInFlight: 1}, s.Queue("q"))
	})
}

func TestDelete_AfterTheVisibilityTimeout(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.send("x")
		m := s.one(1)
		time.Sleep(time.Minute)
		require.NoError(s, s.delete(m.ReceiptHandle))
		require.Empty(s, s.Messages("q"), "the latest handle still deletes")
	})
	run(t, fifo, map[string]string{"FifoQueue": "true"}, func(s *service) {
		s.send("x", group("g", "d"))
		m := s.one(1)
		time.Sleep(time.Minute)
		s.refused(s.delete(m.ReceiptHandle), "InvalidParameterValue")
		require.Len(s, s.Messages("q.fifo"), 1)
	})
}

func TestHandles_ThatWereNeverGiven(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		for _, handle := range []string{"x", "!", "YSBi"} {
			err := s.delete(&handle)
			s.refused(err, "ReceiptHandleIsInvalid")
			var typed *types.ReceiptHandleIsInvalid
			require.ErrorAs(s, err, &typed)
			s.refused(s.change(&handle, 0), "ReceiptHandleIsInvalid")
		}
		s.send("x")
		m := s.one(60)
		other := s.on(s.create("other", nil))
		s.refused(other.delete(m.ReceiptHandle), "InvalidParameterValue")
		s.refused(other.change(m.ReceiptHandle, 1), "InvalidParameterValue")
		require.NoError(s, s.delete(m.ReceiptHandle))
	})
}

func TestChange_CountsFromTheCall(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.send("x")
		m := s.one(60)
		time.Sleep(15 * time.Second)
		require.NoError(s, s.change(m.ReceiptHandle, 10))
		require.Equal(s, 10*time.Second, elapsed(func() { s.receive(1, 20, 0) }))
		require.Equal(s, time.Now().Add(30*time.Second), s.Messages("q")[0].VisibleAt, "the queue's own again at the next receive")
	})
}

func TestChange_ZeroShowsTheMessageAndCountsTheReceive(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.send("x")
		for want := range 3 {
			m := s.one(60)
			require.Equal(s, string(rune('1'+want)), m.Attributes["ApproximateReceiveCount"])
			require.NoError(s, s.change(m.ReceiptHandle, 0))
		}
	})
}

func TestChange_TwelveHoursFromTheReceive(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.send("x")
		m := s.one(3600)
		require.NoError(s, s.change(m.ReceiptHandle, 43200))
		s.refused(s.change(m.ReceiptHandle, 43201), "InvalidParameterValue")
		s.refused(s.change(m.ReceiptHandle, -1), "InvalidParameterValue")
		time.Sleep(11 * time.Hour)
		s.refused(s.change(m.ReceiptHandle, 3601), "InvalidParameterValue")
		require.Equal(s, time.Now().Add(time.Hour), s.Messages("q")[0].VisibleAt, "an error changes nothing")
		require.NoError(s, s.change(m.ReceiptHandle, 3600))
		time.Sleep(time.Hour - time.Second)
		s.refused(s.change(m.ReceiptHandle, 2), "InvalidParameterValue")
		require.NoError(s, s.change(m.ReceiptHandle, 1))
		time.Sleep(time.Second)
		m = s.one(0)
		require.NoError(s, s.change(m.ReceiptHandle, 43200), "another receive has twelve hours of its own")
	})
}

func TestChange_OfWhatIsNotOurs(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.send("x")
		old := s.one(1)
		time.Sleep(time.Second)
		err := s.change(old.ReceiptHandle, 10)
		s.refused(err, "AWS.SimpleQueueService.MessageNotInflight")
		var typed *types.MessageNotInflight
		require.ErrorAs(s, err, &typed)
		m := s.one(60)
		s.refused(s.change(old.ReceiptHandle, 10), "InvalidParameterValue")
		require.NoError(s, s.delete(m.ReceiptHandle))
		s.refused(s.change(m.ReceiptHandle, 10), "InvalidParameterValue")
	})
	run(t, fifo, map[string]string{"FifoQueue": "true"}, func(s *service) {
		s.send("x", group("g", "d"))
		m := s.one(1)
		time.Sleep(time.Second)
		s.refused(s.change(m.ReceiptHandle, 10), "InvalidParameterValue")
	})
}

func TestBatch_PartialFailure(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.send("x")
		s.send("y")
		msgs := s.receive(2, 0, 60)
		out, err := s.client.ChangeMessageVisibilityBatch(s.Context(), &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &s.url, Entries: []types.ChangeMessageVisibilityBatchRequestEntry{
			{Id: ptr("a"), ReceiptHandle: msgs[0].ReceiptHandle, VisibilityTimeout: 0},
			{Id: ptr("b"), ReceiptHandle: msgs[1].ReceiptHandle, VisibilityTimeout: 43200},
			{Id: ptr("c"), ReceiptHandle: ptr("nonsense"), VisibilityTimeout: 1},
			{Id: ptr("d"), ReceiptHandle: msgs[1].ReceiptHandle, VisibilityTimeout: 43201},
		}})
		require.NoError(s, err)
		require.Equal(s, []string{"a", "b"}, []string{*out.Successful[0].Id, *out.Successful[1].Id})
		require.Len(s, out.Failed, 2)
		require.Equal(s, "c ReceiptHandleIsInvalid", *out.Failed[0].Id+" "+*out.Failed[0].Code)
		require.Equal(s, "d InvalidParameterValue", *out.Failed[1].Id+" "+*out.Failed[1].Code)
		require.True(s, out.Failed[0].SenderFault)
		require.Equal(s, 2, s.Stats(sqsfake.ChangeMessageVisibilityBatch).Messages)

		deleted, err := s.deleteBatch(msgs[1], types.Message{ReceiptHandle: ptr("nonsense")})
		require.NoError(s, err)
		require.Len(s, deleted.Successful, 1)
		require.Equal(s, "1 ReceiptHandleIsInvalid", *deleted.Failed[0].Id+" "+*deleted.Failed[0].Code)
		require.Equal(s, 1, s.Queue("q").Deleted)
	})
}

func TestBatch_AsAWhole(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		_, err := s.client.DeleteMessageBatch(s.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &s.url, Entries: []types.DeleteMessageBatchRequestEntry{}})
		s.refused(err, "AWS.SimpleQueueService.EmptyBatchRequest")
		_, err = s.sendBatch("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11")
		s.refused(err, "AWS.SimpleQueueService.TooManyEntriesInBatchRequest")
		for code, ids := range map[string][]string{
			"AWS.SimpleQueueService.BatchEntryIdsNotDistinct": {"a", "b", "a"},
			"AWS.SimpleQueueService.InvalidBatchEntryId":      {"a b"},
		} {
			in := &sqs.SendMessageBatchInput{QueueUrl: &s.url}
			for _, id := range ids {
				in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: aws.String(id), MessageBody: aws.String("x")})
			}
			_, err = s.client.SendMessageBatch(s.Context(), in)
			s.refused(err, code)
		}
		require.Zero(s, s.Queue("q").Sent)
	})
}
