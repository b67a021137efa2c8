package sqsfake_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"
)

func TestQueues_CreateAndFind(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		ctx := s.Context()
		out, err := s.client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: ptr("other"), Attributes: map[string]string{"VisibilityTimeout": "7"}})
		require.NoError(s, err)
		require.Equal(s, s.URL("other"), *out.QueueUrl)
		_, err = s.client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: ptr("other"), Attributes: map[string]string{"VisibilityTimeout": "7"}})
		require.NoError(s, err, "the same again")
		_, err = s.client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: ptr("other"), Attributes: map[string]string{"VisibilityTimeout": "8"}})
		s.refused(err, "QueueAlreadyExists")
		found, err := s.client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: ptr("other")})
		require.NoError(s, err)
		require.Equal(s, s.URL("other"), *found.QueueUrl)
		list, err := s.client.ListQueues(ctx, &sqs.ListQueuesInput{QueueNamePrefix: ptr("o")})
		require.NoError(s, err)
		require.Equal(s, []string{s.URL("other")}, list.QueueUrls)

		_, err = s.client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: out.QueueUrl})
		require.NoError(s, err)
		_, err = s.client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: ptr("other")})
		s.refused(err, "AWS.SimpleQueueService.NonExistentQueue")
		var typed *types.QueueDoesNotExist
		require.ErrorAs(s, err, &typed)
		_, err = s.CreateQueue("other", nil)
		require.ErrorContains(s, err, "QueueDeletedRecently")
		time.Sleep(time.Minute)
		_, err = s.CreateQueue("other", nil)
		require.NoError(s, err)
	})
}

func TestQueues_Refused(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.create("dead", nil)
		s.create("dead.fifo", fifoQueue)
		s.create("closed", map[string]string{"RedriveAllowPolicy": `{"redrivePermission":"denyAll"}`})
		policy := func(queue, count string) string {
			return `{"deadLetterTargetArn":"` + s.ARN(queue) + `","maxReceiveCount":` + count + `}`
		}
		for _, c := range []struct{ name, attribute, value, code string }{
			{"a b", "", "", "InvalidParameterValueException"},
			{"n.fifo", "", "", "InvalidParameterValueException"},
			{"n", "FifoQueue", "true", "InvalidParameterValueException"},
			{"n", "FifoQueue", "false", "InvalidAttributeName"},
			{"n", "ContentBasedDeduplication", "true", "InvalidAttributeName"},
			{"n", "Nonsense", "1", "InvalidAttributeName"},
			{"n", "VisibilityTimeout", "43201", "InvalidAttributeValue"},
			{"n", "VisibilityTimeout", "soon", "InvalidAttributeValue"},
			{"n", "DelaySeconds", "901", "InvalidAttributeValue"},
			{"n", "ReceiveMessageWaitTimeSeconds", "21", "InvalidAttributeValue"},
			{"n", "MessageRetentionPeriod", "59", "InvalidAttributeValue"},
			{"n", "MaximumMessageSize", "1048577", "InvalidAttributeValue"},
			{"n", "RedrivePolicy", "{", "InvalidAttributeValue"},
			{"n", "RedrivePolicy", policy("missing", "5"), "InvalidParameterValueException"},
			{"n", "RedrivePolicy", policy("dead.fifo", "5"), "InvalidParameterValueException"},
			{"n", "RedrivePolicy", policy("closed", "5"), "InvalidParameterValueException"},
			{"n", "RedrivePolicy", policy("dead", "0"), "InvalidParameterValueException"},
			{"n", "RedrivePolicy", policy("dead", "1001"), "InvalidParameterValueException"},
		} {
			attributes := map[string]string{}
			if c.attribute != "" {
				attributes[c.attribute] = c.value
			}
			_, err := s.CreateQueue(c.name, attributes)
			require.ErrorContains(s, err, c.code+":", "%v", c)
		}
		set := func(queue, attribute, value string) error {
			_, err := s.client.SetQueueAttributes(s.Context(), &sqs.SetQueueAttributesInput{QueueUrl: ptr(s.URL(queue)), Attributes: map[string]string{attribute: value}})
			return err
		}
		require.NoError(s, set("q", "RedrivePolicy", policy("dead", "5")))
		s.refused(set("dead", "RedrivePolicy", policy("q", "5")), "InvalidParameterValue")
		require.NoError(s, set("q", "RedrivePolicy", ""))
		require.NoError(s, set("dead", "RedrivePolicy", policy("q", "5")))
	})
}

func TestQueues_Attributes(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.create("dead", nil)
		get := func(names ...types.QueueAttributeName) (map[string]string, error) {
			out, err := s.client.GetQueueAttributes(s.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &s.url, AttributeNames: names})
			if err != nil {
				return nil, err
			}
			return out.Attributes, nil
		}
		time.Sleep(5 * time.Second)
		_, err := s.client.SetQueueAttributes(s.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &s.url, Attributes: map[string]string{
			"VisibilityTimeout": "60", "RedrivePolicy": `{"maxReceiveCount":"5","deadLetterTargetArn":"` + s.ARN("dead") + `"}`,
		}})
		require.NoError(s, err)
		s.send("a")
		s.send("b")
		s.send("c", func(in *sqs.SendMessageInput) { in.DelaySeconds = 9 })
		s.receive(1, 0, 0)
		all, err := get("All")
		require.NoError(s, err)
		require.Equal(s, map[string]string{
			"ApproximateNumberOfMessages": "1", "ApproximateNumberOfMessagesDelayed": "1", "ApproximateNumberOfMessagesNotVisible": "1",
			"CreatedTimestamp": "946684800", "LastModifiedTimestamp": "946684805", "QueueArn": s.ARN("q"),
			"VisibilityTimeout": "60", "DelaySeconds": "0", "ReceiveMessageWaitTimeSeconds": "0", "MessageRetentionPeriod": "345600",
			"MaximumMessageSize": "1048576", "SqsManagedSseEnabled": "true",
			"RedrivePolicy": `{"deadLetterTargetArn":"` + s.ARN("dead") + `","maxReceiveCount":5}`,
		}, all)
		some, err := get("VisibilityTimeout", "FifoQueue", "Policy")
		require.NoError(s, err)
		require.Equal(s, map[string]string{"VisibilityTimeout": "60"}, some)
		none, err := get()
		require.NoError(s, err)
		require.Empty(s, none)
		_, err = get("Nonsense")
		s.refused(err, "InvalidAttributeName")
	})
}

func TestQueues_Purge(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		purge := func() error {
			_, err := s.client.PurgeQueue(s.Context(), &sqs.PurgeQueueInput{QueueUrl: &s.url})
			return err
		}
		s.send("a")
		s.send("b")
		s.send("c", func(in *sqs.SendMessageInput) { in.DelaySeconds = 9 })
		s.receive(1, 0, 0)
		require.NoError(s, purge())
		require.Empty(s, s.Messages("q"))
		st := s.Queue("q")
		require.Zero(s, st.Visible+st.Delayed+st.InFlight)
		s.refused(purge(), "AWS.SimpleQueueService.PurgeQueueInProgress")
		time.Sleep(time.Minute)
		require.NoError(s, purge())
	})
}
