package sqsfake_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

func TestReceive_LongPollWaitsForAMessage(t *testing.T) {
	run(t, "q", nil, func(s *service) {
		require.Equal(s, 20*time.Second, elapsed(func() { require.Empty(s, s.receive(10, 20, 0)) }))

		go func() {
			time.Sleep(7 * time.Second)
			s.send("late")
		}()
		require.Equal(s, 7*time.Second, elapsed(func() {
			require.Equal(s, []string{"late"}, bodies(s.receive(10, 20, 0)))
		}))
	})
}

func TestReceive_LongPollSeesMessagesThatComeBack(t *testing.T) {
	run(t, "q", map[string]string{"ReceiveMessageWaitTimeSeconds": "20"}, func(s *service) {
		s.send("delayed", func(in *sqs.SendMessageInput) { in.DelaySeconds = 5 })
		require.Empty(s, s.receive(1, 1, 0))
		require.Equal(s, 4*time.Second, elapsed(func() { s.receive(1, 0, 10) }), "delay, and the queue's wait time")
		require.Equal(s, 10*time.Second, elapsed(func() { s.receive(1, 0, 3) }), "visibility timeout")
		var got []types.Message
		require.Equal(s, 3*time.Second, elapsed(func() { got = s.receive(1, 0, 60) }))
		go func() {
			time.Sleep(time.Second)
			require.NoError(s, s.change(got[0].ReceiptHandle, 0))
		}()
		require.Equal(s, time.Second, elapsed(func() { s.receive(1, 0, 0) }), "visibility 0")
	})
}

func TestReceive_EachMessageToOnePoll(t *testing.T) {
	run(t, "q", nil, func(s *service) {
		var mu sync.Mutex
		got := make(map[string]int)
		var polls sync.WaitGroup
		for range 20 {
			polls.Go(func() {
				for _, m := range s.receive(3, 20, 0) {
					mu.Lock()
					got[*m.Body]++
					mu.Unlock()
				}
			})
		}
		synctest.Wait()
		require.Equal(s, 20, s.Stats(sqsfake.ReceiveMessage).Open)
		for i := range 20 {
			s.send(strconv.Itoa(i))
		}
		polls.Wait()
		require.Len(s, got, 20)
		for body, n := range got {
			require.Equal(s, 1, n, body)
		}
		require.Equal(s, sqsfake.QueueStats{InFlight: 20, Sent: 20, Received: 20, MaxInFlight: 20}, s.Queue("q"))
	})
}

func TestReceive_CancelEndsALongPoll(t *testing.T) {
	for _, linger := range []bool{false, true} {
		t.Run("linger="+strconv.FormatBool(linger), func(t *testing.T) {
			run(t, "q", nil, func(s *service) {
				s.LingeringPolls = linger
				ctx, cancel := context.WithCancel(s.Context())
				time.AfterFunc(3*time.Second, cancel)
				require.Equal(s, 3*time.Second, elapsed(func() {
					_, err := s.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &s.url, WaitTimeSeconds: 20})
					require.ErrorIs(s, err, context.Canceled)
				}))
				time.Sleep(time.Second)
				s.send("x")
				if !linger {
					s.one(0)
					return
				}
				require.Empty(s, s.receive(1, 0, 0), "the poll that nobody waits for has it")
				require.Equal(s, 1, s.Queue("q").InFlight)
				time.Sleep(30 * time.Second)
				require.Equal(s, "2", s.one(0).Attributes["ApproximateReceiveCount"])
			})
		})
	}
}

func TestReceive_LingeringPollEnds(t *testing.T) {
	run(t, "q", nil, func(s *service) {
		s.LingeringPolls = true
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		_, err := s.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &s.url, WaitTimeSeconds: 20})
		require.ErrorIs(s, err, context.DeadlineExceeded)
		time.Sleep(19 * time.Second)
		s.send("x")
		s.one(0)
	})
}

func TestReceive_SystemAttributesWhenAskedFor(t *testing.T) {
	run(t, "q", nil, func(s *service) {
		sent := time.Now()
		trace := "Root=1-5759e988-bd862e3fe1be46a994272793"
		s.send("x", group("tenant", ""), func(in *sqs.SendMessageInput) {
			in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{
				"AWSTraceHeader": {DataType: ptr("String"), StringValue: &trace},
			}
		})
		time.Sleep(2 * time.Second)
		received := time.Now()
		require.Equal(s, map[string]string{
			"SenderId": "000000000000", "ApproximateReceiveCount": "1", "AWSTraceHeader": trace, "MessageGroupId": "tenant",
			"SentTimestamp":                    strconv.FormatInt(sent.UnixMilli(), 10),
			"ApproximateFirstReceiveTimestamp": strconv.FormatInt(received.UnixMilli(), 10),
		}, s.one(1).Attributes)

		time.Sleep(time.Second)
		got := s.receive(1, 0, 1, func(in *sqs.ReceiveMessageInput) {
			in.MessageSystemAttributeNames = []types.MessageSystemAttributeName{"ApproximateReceiveCount"}
		})
		require.Equal(s, map[string]string{"ApproximateReceiveCount": "2"}, got[0].Attributes)

		time.Sleep(time.Second)
		got = s.receive(1, 0, 1, func(in *sqs.ReceiveMessageInput) {
			in.MessageSystemAttributeNames = nil
			in.AttributeNames = []types.QueueAttributeName{"ApproximateFirstReceiveTimestamp"} //nolint:staticcheck // servers still take it
		})
		require.Equal(s, map[string]string{"ApproximateFirstReceiveTimestamp": strconv.FormatInt(received.UnixMilli(), 10)}, got[0].Attributes)

		time.Sleep(time.Second)
		got = s.receive(1, 0, 1, func(in *sqs.ReceiveMessageInput) { in.MessageSystemAttributeNames = nil })
		require.Empty(s, got[0].Attributes)
	})
}

func TestReceive_UserAttributesWhenAskedFor(t *testing.T) {
	run(t, "q", map[string]string{"VisibilityTimeout": "0"}, func(s *service) {
		all := map[string]types.MessageAttributeValue{
			"color":  {DataType: ptr("String"), StringValue: ptr("red")},
			"size.x": {DataType: ptr("Number.float"), StringValue: ptr("-1.5e3")},
			"size.y": {DataType: ptr("Binary.png"), BinaryValue: []byte{0, 0xFF, 1}},
		}
		s.send("x", func(in *sqs.SendMessageInput) { in.MessageAttributes = all })
		for _, c := range []struct {
			names []string
			want  []string
		}{
			{[]string{"All"}, []string{"color", "size.x", "size.y"}},
			{[]string{".*"}, []string{"color", "size.x", "size.y"}},
			{[]string{"size.*"}, []string{"size.x", "size.y"}},
			{[]string{"color", "missing"}, []string{"color"}},
			{[]string{"Color"}, nil},
			{nil, nil},
		} {
			got := s.receive(1, 0, 0, func(in *sqs.ReceiveMessageInput) { in.MessageAttributeNames = c.names })[0]
			require.Len(s, got.MessageAttributes, len(c.want), "%q", c.names)
			for _, name := range c.want {
				require.Equal(s, all[name].DataType, got.MessageAttributes[name].DataType)
				require.Equal(s, all[name].StringValue, got.MessageAttributes[name].StringValue)
				require.Equal(s, all[name].BinaryValue, got.MessageAttributes[name].BinaryValue)
			}
			require.Equal(s, len(c.want) > 0, got.MD5OfMessageAttributes != nil)
		}
	})
}

func TestReceive_Limits(t *testing.T) {
	run(t, "q", nil, func(s *service) {
		for i := range 12 {
			s.send(strconv.Itoa(i))
		}
		require.Len(s, s.receive(0, 0, 1), 1, "one by default")
		require.Len(s, s.receive(10, 0, 1), 10)
		for _, c := range [][3]int32{{11, 0, 0}, {-1, 0, 0}, {1, 21, 0}, {1, -1, 0}, {1, 0, 43201}, {1, 0, -1}} {
			_, err := s.tryReceive(c[0], c[1], c[2])
			s.refused(err, "InvalidParameterValue")
		}
		_, err := s.tryReceive(1, 0, 0, func(in *sqs.ReceiveMessageInput) { in.ReceiveRequestAttemptId = ptr("a") })
		s.refused(err, "InvalidParameterValue")
	})
}

func TestReceive_InFlightCap(t *testing.T) {
	for _, name := range []string{"q", "q.fifo"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{T: t, Server: &sqsfake.Server{MaxInFlight: 3}}
				s.client = s.Client()
				fifo := name == "q.fifo"
				if fifo {
					s.url = s.create(name, map[string]string{"FifoQueue": "true", "ContentBasedDeduplication": "true"})
				} else {
					s.url = s.create(name, nil)
				}
				for i := range 5 {
					s.send(strconv.Itoa(i), group(strconv.Itoa(i), ""))
				}
				got := s.receive(10, 0, 60)
				require.Len(s, got, 3)
				_, err := s.tryReceive(10, 0, 0)
				if fifo {
					require.NoError(s, err)
				} else {
					s.refused(err, "OverLimit")
					var typed *types.OverLimit
					require.ErrorAs(s, err, &typed)
				}
				require.Equal(s, 5*time.Second, elapsed(func() { require.Empty(s, s.receive(10, 5, 0), "a long poll is no error") }))
				go func() {
					time.Sleep(2 * time.Second)
					require.NoError(s, s.delete(got[0].ReceiptHandle))
				}()
				require.Equal(s, 2*time.Second, elapsed(func() { require.Len(s, s.receive(10, 20, 0), 1) }))
			})
		})
	}
}

func TestReceive_Retention(t *testing.T) {
	run(t, "q", map[string]string{"MessageRetentionPeriod": "60"}, func(s *service) {
		s.send("a")
		s.send("b")
		s.receive(1, 0, 600)
		time.Sleep(59 * time.Second)
		require.Equal(s, sqsfake.QueueStats{Visible: 1, InFlight: 1, Sent: 2, Received: 1, MaxInFlight: 1}, s.Queue("q"))
		time.Sleep(time.Second)
		require.Empty(s, s.receive(10, 0, 0))
		require.Equal(s, sqsfake.QueueStats{Sent: 2, Received: 1, MaxInFlight: 1, Expired: 2}, s.Queue("q"))
	})
}

func TestReceive_DeletedQueueEndsPolls(t *testing.T) {
	run(t, "q", nil, func(s *service) {
		done := make(chan error, 1)
		go func() {
			_, err := s.tryReceive(1, 20, 0)
			done <- err
		}()
		synctest.Wait()
		_, err := s.client.DeleteQueue(s.Context(), &sqs.DeleteQueueInput{QueueUrl: &s.url})
		require.NoError(s, err)
		var gone *types.QueueDoesNotExist
		require.True(s, errors.As(<-done, &gone))
	})
}

func ptr[T any](v T) *T { return &v }
