package sqsfake_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"
)

// deadOf makes a dead-letter queue for the test's queue.
func (s *service) deadOf(name string) string {
	url := s.create(name, nil)
	_, err := s.client.SetQueueAttributes(s.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &s.url, Attributes: map[string]string{
		"RedrivePolicy": fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":1}`, s.ARN(name)),
	}})
	require.NoError(s, err)
	return url
}

func TestMoveTask(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		ctx := s.Context()
		dead := s.deadOf("dead")
		for i := range 100 {
			s.send(fmt.Sprint(i))
		}
		for range 11 { // the last round moves them
			s.receive(10, 0, 1)
		}
		time.Sleep(2 * time.Second)
		for s.Queue("dead").Visible < 100 {
			s.receive(10, 0, 1)
		}
		sources, err := s.client.ListDeadLetterSourceQueues(ctx, &sqs.ListDeadLetterSourceQueuesInput{QueueUrl: &dead})
		require.NoError(s, err)
		require.Equal(s, []string{s.url}, sources.QueueUrls)

		task, err := s.client.StartMessageMoveTask(ctx, &sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead")), MaxNumberOfMessagesPerSecond: ptr(int32(10))})
		require.NoError(s, err)
		_, err = s.client.StartMessageMoveTask(ctx, &sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead"))})
		s.refused(err, "InvalidParameterValue")
		time.Sleep(5*time.Second + time.Millisecond)
		require.Equal(s, 50, s.Queue("dead").Visible)
		list, err := s.client.ListMessageMoveTasks(ctx, &sqs.ListMessageMoveTasksInput{SourceArn: ptr(s.ARN("dead"))})
		require.NoError(s, err)
		require.Len(s, list.Results, 1)
		require.Equal(s, "RUNNING", *list.Results[0].Status)
		require.Equal(s, *task.TaskHandle, *list.Results[0].TaskHandle)
		require.EqualValues(s, 50, list.Results[0].ApproximateNumberOfMessagesMoved)
		require.EqualValues(s, 100, *list.Results[0].ApproximateNumberOfMessagesToMove)
		over, err := s.client.CancelMessageMoveTask(ctx, &sqs.CancelMessageMoveTaskInput{TaskHandle: task.TaskHandle})
		require.NoError(s, err)
		require.EqualValues(s, 50, over.ApproximateNumberOfMessagesMoved)
		_, err = s.client.CancelMessageMoveTask(ctx, &sqs.CancelMessageMoveTaskInput{TaskHandle: task.TaskHandle})
		s.refused(err, "AWS.SimpleQueueService.UnsupportedOperation")
		time.Sleep(time.Minute)
		require.Equal(s, 50, s.Queue("dead").Visible)

		_, err = s.client.StartMessageMoveTask(ctx, &sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead"))})
		require.NoError(s, err)
		time.Sleep(time.Second)
		list, err = s.client.ListMessageMoveTasks(ctx, &sqs.ListMessageMoveTasksInput{SourceArn: ptr(s.ARN("dead")), MaxResults: ptr(int32(10))})
		require.NoError(s, err)
		require.Len(s, list.Results, 2)
		require.Equal(s, "COMPLETED", *list.Results[0].Status)
		require.Nil(s, list.Results[0].TaskHandle)
		require.Equal(s, "CANCELLED", *list.Results[1].Status)
		require.Zero(s, s.Queue("dead").Visible)
		for _, m := range s.Messages(s.url) {
			require.Zero(s, m.Receives)
		}
		require.Len(s, s.Messages(s.url), 100)
	})
}

func TestMoveTask_Refused(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		ctx := s.Context()
		dead := s.deadOf("dead")
		s.create("other", nil)
		s.create("other.fifo", fifoQueue)
		for _, c := range []struct {
			in   sqs.StartMessageMoveTaskInput
			code string
		}{
			{sqs.StartMessageMoveTaskInput{SourceArn: ptr("dead")}, "InvalidParameterValue"},
			{sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("nobody"))}, "ResourceNotFoundException"},
			{sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("other"))}, "InvalidParameterValue"},
			{sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead")), DestinationArn: ptr(s.ARN("nobody"))}, "ResourceNotFoundException"},
			{sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead")), DestinationArn: ptr(s.ARN("dead"))}, "InvalidParameterValue"},
			{sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead")), DestinationArn: ptr(s.ARN("other.fifo"))}, "InvalidParameterValue"},
			{sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead")), MaxNumberOfMessagesPerSecond: ptr(int32(501))}, "InvalidParameterValue"},
		} {
			_, err := s.client.StartMessageMoveTask(ctx, &c.in)
			s.refused(err, c.code)
		}

		// What was sent by hand has no source to go back to.
		s.on(dead).send("by hand")
		_, err := s.client.StartMessageMoveTask(ctx, &sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead"))})
		require.NoError(s, err)
		time.Sleep(time.Second)
		list, err := s.client.ListMessageMoveTasks(ctx, &sqs.ListMessageMoveTasksInput{SourceArn: ptr(s.ARN("dead"))})
		require.NoError(s, err)
		require.Equal(s, "FAILED", *list.Results[0].Status)
		require.Equal(s, "CouldNotDetermineMessageSource", *list.Results[0].FailureReason)
		require.Equal(s, 1, s.Queue("dead").Visible)
		_, err = s.client.StartMessageMoveTask(ctx, &sqs.StartMessageMoveTaskInput{SourceArn: ptr(s.ARN("dead")), DestinationArn: ptr(s.ARN("other"))})
		require.NoError(s, err)
		time.Sleep(time.Second)
		require.Equal(s, 1, s.Queue("other").Visible)
	})
}
