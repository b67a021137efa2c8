package sqsfake_test

import (
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

// A service is a server with one queue, and a client for it.
type service struct {
	*testing.T
	*sqsfake.Server
	client *sqs.Client
	url    string
}

// run runs f in a bubble with a queue of that name.
func run(t *testing.T, name string, attributes map[string]string, f func(s *service)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &service{T: t, Server: &sqsfake.Server{}}
		s.client = s.Client()
		s.url = s.create(name, attributes)
		f(s)
	})
}

func (s *service) create(name string, attributes map[string]string) string {
	url, err := s.CreateQueue(name, attributes)
	require.NoError(s, err)
	return url
}

// on is the service with another queue.
func (s *service) on(url string) *service {
	other := *s
	other.url = url
	return &other
}

func (s *service) trySend(body string, change ...func(*sqs.SendMessageInput)) (*sqs.SendMessageOutput, error) {
	in := &sqs.SendMessageInput{QueueUrl: &s.url, MessageBody: &body}
	for _, c := range change {
		c(in)
	}
	return s.client.SendMessage(s.Context(), in)
}

func (s *service) send(body string, change ...func(*sqs.SendMessageInput)) *sqs.SendMessageOutput {
	s.Helper()
	out, err := s.trySend(body, change...)
	require.NoError(s, err)
	return out
}

func group(group, dedup string) func(*sqs.SendMessageInput) {
	return func(in *sqs.SendMessageInput) {
		in.MessageGroupId = &group
		if dedup != "" {
			in.MessageDeduplicationId = &dedup
		}
	}
}

func (s *service) tryReceive(n, wait, visibility int32, change ...func(*sqs.ReceiveMessageInput)) ([]types.Message, error) {
	in := &sqs.ReceiveMessageInput{
		QueueUrl: &s.url, MaxNumberOfMessages: n, WaitTimeSeconds: wait, VisibilityTimeout: visibility,
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"}, MessageAttributeNames: []string{"All"},
	}
	for _, c := range change {
		c(in)
	}
	out, err := s.client.ReceiveMessage(s.Context(), in)
	if err != nil {
		return nil, err
	}
	return out.Messages, nil
}

func (s *service) receive(n, wait, visibility int32, change ...func(*sqs.ReceiveMessageInput)) []types.Message {
	s.Helper()
	msgs, err := s.tryReceive(n, wait, visibility, change...)
	require.NoError(s, err)
	return msgs
}

// one receives exactly one message.
func (s *service) one(visibility int32) types.Message {
	s.Helper()
	msgs := s.receive(10, 0, visibility)
	require.Len(s, msgs, 1)
	return msgs[0]
}

func (s *service) delete(receipt *string) error {
	_, err := s.client.DeleteMessage(s.Context(), &sqs.DeleteMessageInput{QueueUrl: &s.url, ReceiptHandle: receipt})
	return err
}

func (s *service) change(receipt *string, seconds int32) error {
	_, err := s.client.ChangeMessageVisibility(s.Context(), &sqs.ChangeMessageVisibilityInput{QueueUrl: &s.url, ReceiptHandle: receipt, VisibilityTimeout: seconds})
	return err
}

func (s *service) sendBatch(bodies ...string) (*sqs.SendMessageBatchOutput, error) {
	return s.client.SendMessageBatch(s.Context(), &sqs.SendMessageBatchInput{QueueUrl: &s.url, Entries: batchOf(bodies)})
}

func batchOf(bodies []string) (entries []types.SendMessageBatchRequestEntry) {
	for i, body := range bodies {
		entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(body)})
	}
	return entries
}

func (s *service) deleteBatch(msgs ...types.Message) (*sqs.DeleteMessageBatchOutput, error) {
	return s.client.DeleteMessageBatch(s.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &s.url, Entries: deletesOf(msgs)})
}

func deletesOf(msgs []types.Message) (entries []types.DeleteMessageBatchRequestEntry) {
	for i, m := range msgs {
		entries = append(entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
	}
	return entries
}

// refused asserts that err is the service's, with that code.
func (s *service) refused(err error, code string) {
	s.Helper()
	require.Equal(s, code, codeOf(err), "%v", err)
}

func codeOf(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	return api.ErrorCode()
}

func bodies(msgs []types.Message) []string {
	out := []string{}
	for _, m := range msgs {
		out = append(out, *m.Body)
	}
	return out
}

// elapsed is how long f takes.
func elapsed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}
