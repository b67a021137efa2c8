package sqsfake_test

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

func TestFault_RefuseAnswersTheErrorAndDoesNothing(t *testing.T) {
	for _, c := range []struct {
		err    sqsfake.Error
		status int
		code   string
		fault  smithy.ErrorFault
	}{
		{sqsfake.Error{}, 500, "InternalError", smithy.FaultServer},
		{sqsfake.Throttled(), 400, "RequestThrottled", smithy.FaultClient},
		{sqsfake.ThrottlingException(400), 400, "Throttling", smithy.FaultClient},
		{sqsfake.ThrottlingException(429), 429, "Throttling", smithy.FaultClient},
		{sqsfake.ThrottlingException(503), 503, "Throttling", smithy.FaultServer},
		{sqsfake.ServiceUnavailable(), 503, "ServiceUnavailable", smithy.FaultServer},
		{sqsfake.OverLimit(), 400, "OverLimit", smithy.FaultClient},
		{sqsfake.AccessDenied(), 403, "AccessDenied", smithy.FaultClient},
		{sqsfake.QueueDoesNotExist(), 400, "AWS.SimpleQueueService.NonExistentQueue", smithy.FaultClient},
		{sqsfake.ExpiredToken(), 403, "ExpiredToken", smithy.FaultClient},
		{sqsfake.InvalidToken(), 403, "InvalidClientTokenId", smithy.FaultClient},
		{sqsfake.Error{Code: "AccessDeniedException", QueryCode: "-"}, 400, "AccessDeniedException", smithy.FaultUnknown},
	} {
		run(t, standard, nil, func(s *service) {
			s.Plan = sqsfake.OnCall(1, sqsfake.Fault{Mode: sqsfake.Refuse, Err: c.err})
			_, err := s.trySend("x")
			var api smithy.APIError
			require.ErrorAs(s, err, &api)
			var response *awshttp.ResponseError
			require.ErrorAs(s, err, &response)
			require.Equal(s, c.code, api.ErrorCode())
			require.Equal(s, c.status, response.HTTPStatusCode())
			require.NotEmpty(s, response.ServiceRequestID())
			require.Equal(s, c.fault, api.ErrorFault())
			require.Zero(s, s.Queue("q").Sent)
			s.send("y")
		})
	}
}

func TestFault_TypedErrors(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.Plan = sqsfake.First(
			sqsfake.OnCall(1, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}),
			sqsfake.OnCall(2, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.OverLimit()}),
		)
		_, err := s.trySend("x")
		require.True(s, is[*types.RequestThrottled](err))
		_, err = s.trySend("x")
		require.True(s, is[*types.OverLimit](err))
	})
}

func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// A request on a connection that ends is done or not done. The SDK tries again,
// but for an answer that was cut short.
func TestFault_Connections(t *testing.T) {
	for _, c := range []struct {
		mode sqsfake.Mode
		sent int // by one attempt
	}{
		{sqsfake.Reset, 0},
		{sqsfake.LoseReply, 1},
		{sqsfake.Truncate, 1},
		{sqsfake.OmitEntries, 1}, // no batch
		{sqsfake.OmitDone, 1},    // no batch
		{sqsfake.FailEntries, 0}, // no batch
	} {
		t.Run(strconv.Itoa(int(c.mode)), func(t *testing.T) {
			run(t, standard, nil, func(s *service) {
				s.Plan = sqsfake.OnCall(1, sqsfake.Fault{Mode: c.mode})
				_, err := s.trySend("x")
				require.Error(s, err)
				require.Equal(s, c.sent, s.Queue("q").Sent)
				require.Equal(s, 1, s.Stats("").Calls)
				switch c.mode {
				case sqsfake.Truncate:
					require.ErrorIs(s, err, io.ErrUnexpectedEOF)
				case sqsfake.FailEntries:
					s.refused(err, "InternalError")
				default:
					require.ErrorIs(s, err, syscall.ECONNRESET)
				}
			})
			run(t, standard, nil, func(s *service) {
				s.client = s.Client(func(o *sqs.Options) { o.Retryer = retry.NewStandard() })
				s.Plan = sqsfake.OnCall(1, sqsfake.Fault{Mode: c.mode})
				if c.mode == sqsfake.Truncate {
					_, err := s.trySend("x")
					require.ErrorIs(s, err, io.ErrUnexpectedEOF)
					return
				}
				s.send("x")
				require.Equal(s, c.sent+1, s.Queue("q").Sent)
				require.Equal(s, 2, s.Stats(sqsfake.SendMessage).Calls)
			})
		})
	}
}

func TestFault_OverSockets(t *testing.T) {
	hung := make(chan struct{})
	server := &sqsfake.Server{Plan: sqsfake.First(
		sqsfake.OnCall(1, sqsfake.Fault{Mode: sqsfake.Reset}),
		sqsfake.OnCall(2, sqsfake.Fault{Mode: sqsfake.LoseReply}),
		sqsfake.OnCall(3, sqsfake.Fault{Mode: sqsfake.Truncate}),
		sqsfake.OnCall(4, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}),
		func(c sqsfake.Call) sqsfake.Fault {
			if c.Queue == "hung" {
				close(hung)
				return sqsfake.Fault{Mode: sqsfake.Hang}
			}
			return sqsfake.Fault{}
		},
	)}
	web := httptest.NewServer(server)
	t.Cleanup(web.Close)
	s := &service{T: t, Server: server, client: sqsfake.NewClient(web.URL)}
	s.url = s.create("q", nil)

	_, err := s.trySend("reset")
	require.Error(t, err)
	_, err = s.trySend("lost")
	require.Error(t, err)
	_, err = s.trySend("cut")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = s.trySend("throttled")
	s.refused(err, "RequestThrottled")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-hung
		cancel()
	}()
	_, err = s.client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: ptr(s.URL("hung")), MessageBody: ptr("x")})
	require.ErrorIs(t, err, context.Canceled)

	s.send("sent")
	require.Equal(t, []string{"lost", "cut", "sent"}, bodies(s.receive(10, 20, 30)))
	require.Equal(t, 3, s.Queue("q").Sent)
}

func TestFault_Entries(t *testing.T) {
	for _, c := range []struct {
		fault              sqsfake.Fault
		successful, failed string
		queued             []string
	}{
		{sqsfake.Fault{Mode: sqsfake.FailEntries}, "1", "0 2", []string{"b"}},
		{sqsfake.Fault{Mode: sqsfake.FailEntries, Entries: []int{1}}, "0 2", "1", []string{"a", "c"}},
		{sqsfake.Fault{Mode: sqsfake.FailEntries, Entries: []int{}}, "0 1 2", "", []string{"a", "b", "c"}},
		{sqsfake.Fault{Mode: sqsfake.OmitEntries}, "1", "", []string{"b"}},
		{sqsfake.Fault{Mode: sqsfake.OmitDone}, "1", "", []string{"a", "b", "c"}},
		{sqsfake.Fault{Mode: sqsfake.Refuse}, "", "", nil},
	} {
		run(t, standard, nil, func(s *service) {
			s.Plan = sqsfake.OnCall(1, c.fault)
			out, err := s.sendBatch("a", "b", "c")
			if c.fault.Mode == sqsfake.Refuse {
				require.Error(s, err)
				return
			}
			require.NoError(s, err)
			var successful, failed string
			for _, e := range out.Successful {
				successful += " " + *e.Id
			}
			for _, e := range out.Failed {
				failed += " " + *e.Id
				require.Equal(s, "InternalError", *e.Code)
				require.False(s, e.SenderFault)
			}
			require.Equal(s, c.successful, strings.TrimSpace(successful))
			require.Equal(s, c.failed, strings.TrimSpace(failed))
			var queued []string
			for _, m := range s.Messages("q") {
				queued = append(queued, m.Body)
			}
			require.Equal(s, c.queued, queued)
			require.Equal(s, len(c.queued), s.Stats(sqsfake.SendMessageBatch).Messages)
		})
	}
	run(t, standard, nil, func(s *service) {
		s.Plan = sqsfake.OnCall(1, sqsfake.Fault{Mode: sqsfake.FailEntries, Err: sqsfake.Throttled()})
		out, err := s.sendBatch("a")
		require.NoError(s, err)
		require.True(s, out.Failed[0].SenderFault)
		require.Equal(s, "RequestThrottled", *out.Failed[0].Code)
	})
}

func TestFault_Delays(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.Latency = 2 * time.Second
		s.Plan = sqsfake.OnCall(2, sqsfake.Fault{Before: 3 * time.Second, After: 4 * time.Second})
		require.Equal(s, 2*time.Second, elapsed(func() { s.send("x") }))
		require.Equal(s, 9*time.Second, elapsed(func() { s.send("y") }))
		sent := s.Messages("q")[1].SentAt
		require.Equal(s, 5*time.Second, time.Since(sent), "acted on between the two")
	})
}

func TestFault_CallerGivesUp(t *testing.T) {
	for _, c := range []struct {
		fault sqsfake.Fault
		sent  int
	}{
		{sqsfake.Fault{Mode: sqsfake.Hang}, 0},
		{sqsfake.Fault{Before: time.Hour}, 0},
		{sqsfake.Fault{After: time.Hour}, 1},
	} {
		run(t, standard, nil, func(s *service) {
			s.Plan = sqsfake.OnCall(1, c.fault)
			ctx, cancel := context.WithTimeout(s.Context(), 3*time.Second)
			defer cancel()
			require.Equal(s, 3*time.Second, elapsed(func() {
				_, err := s.client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &s.url, MessageBody: ptr("x")})
				require.ErrorIs(s, err, context.DeadlineExceeded)
			}))
			require.Equal(s, c.sent, s.Queue("q").Sent)
			require.Equal(s, 1, s.Stats("").Failed)
			require.Zero(s, s.Stats("").Open)
		})
	}
}

func TestFault_Receives(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		for i := range 20 {
			s.send(strconv.Itoa(i))
		}
		s.Plan = sqsfake.First(
			sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Empty}, 1),
			sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Max: 3}, 2),
			sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{NoSystemAttributes: true}, 3),
			sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.LoseReply}, 4),
		)
		require.Zero(s, elapsed(func() { require.Empty(s, s.receive(10, 20, 0)) }))
		require.Len(s, s.receive(10, 20, 60), 3)
		got := s.receive(1, 20, 60)[0]
		require.Empty(s, got.Attributes)
		_, err := s.tryReceive(10, 20, 60)
		require.Error(s, err)
		require.Equal(s, 14, s.Queue("q").InFlight, "what was lost stays hidden")
	})
}

// What was deleted is there again, at once and for whoever waits, with a receipt
// and a count of its own.
func TestFault_Undelete(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.Plan = sqsfake.First(
			sqsfake.On(sqsfake.DeleteMessageBatch, sqsfake.Fault{Mode: sqsfake.Undelete, Entries: []int{1}}, 1),
			sqsfake.On(sqsfake.DeleteMessage, sqsfake.Fault{Mode: sqsfake.Undelete}, 1, 3),
		)
		_, err := s.sendBatch("a", "b", "c")
		require.NoError(s, err)
		msgs := s.receive(10, 0, 60)
		poll := make(chan []types.Message, 1)
		go func() { poll <- s.receive(10, 20, 60) }()
		time.Sleep(time.Second)
		out, err := s.deleteBatch(msgs...)
		require.NoError(s, err)
		require.Len(s, out.Successful, 3)
		again := <-poll
		require.Equal(s, []string{"b"}, bodies(again))
		require.Equal(s, *msgs[1].MessageId, *again[0].MessageId)
		require.NotEqual(s, *msgs[1].ReceiptHandle, *again[0].ReceiptHandle)
		require.Equal(s, "2", again[0].Attributes["ApproximateReceiveCount"])
		require.Equal(s, sqsfake.QueueStats{Sent: 3, Received: 4, Deleted: 2, InFlight: 1, MaxInFlight: 3}, s.Queue("q"))

		require.NoError(s, s.delete(again[0].ReceiptHandle))
		require.Equal(s, 1, s.Queue("q").Visible)
		third := s.one(1)
		require.NoError(s, s.delete(third.ReceiptHandle), "the fault is over")
		require.Zero(s, s.Queue("q").Visible)

		s.send("d")
		m := s.one(1)
		time.Sleep(time.Second)
		require.NoError(s, s.delete(m.ReceiptHandle), "what is visible already stays so")
		require.Len(s, s.receive(10, 0, 0), 1)
	})
	run(t, fifo, fifoQueue, func(s *service) {
		s.Plan = sqsfake.On(sqsfake.DeleteMessage, sqsfake.Fault{Mode: sqsfake.Undelete})
		s.send("a", group("g", "1"))
		require.NoError(s, s.delete(s.one(60).ReceiptHandle))
		require.Empty(s, s.Messages("q.fifo"), "a FIFO queue deletes")
	})
}

// Checksums of a duplicate are those of what came, or by a fault those of the
// first one, which the SDK then refuses.
func TestFault_FirstChecksums(t *testing.T) {
	run(t, fifo, fifoQueue, func(s *service) {
		s.Plan = sqsfake.On(sqsfake.SendMessage, sqsfake.Fault{FirstChecksums: true}, 1, 3)
		lax := *s
		lax.client = s.Client(func(o *sqs.Options) { o.DisableMessageChecksumValidation = true })
		number := func(n string) func(*sqs.SendMessageInput) {
			return func(in *sqs.SendMessageInput) {
				in.MessageAttributes = map[string]types.MessageAttributeValue{"n": {DataType: ptr("Number"), StringValue: &n}}
			}
		}
		first := s.send("a", group("g", "d"), number("1"))
		second := lax.send("b", group("g", "d"), number("2"))
		third := lax.send("b", group("g", "d"), number("2"))
		for _, out := range []*sqs.SendMessageOutput{second, third} {
			require.Equal(s, []string{*first.MessageId, *first.SequenceNumber}, []string{*out.MessageId, *out.SequenceNumber})
		}
		require.NotEqual(s, *first.MD5OfMessageBody, *second.MD5OfMessageBody)
		require.NotEqual(s, *first.MD5OfMessageAttributes, *second.MD5OfMessageAttributes)
		require.Equal(s, *first.MD5OfMessageBody, *third.MD5OfMessageBody)
		require.Equal(s, *first.MD5OfMessageAttributes, *third.MD5OfMessageAttributes)
		require.Equal(s, 1, s.Queue("q.fifo").Sent)

		s.Plan = sqsfake.On(sqsfake.SendMessage, sqsfake.Fault{FirstChecksums: true})
		_, err := s.trySend("b", group("g", "d"))
		require.ErrorContains(s, err, "checksum")
		other := s.send("b", group("g", "e"))
		require.NotEqual(s, *first.MessageId, *other.MessageId)
		_, err = s.trySend("c", group("g", "e"))
		require.ErrorContains(s, err, "checksum", "of the first of its own kind")
	})
}

func TestPlan_Fewer(t *testing.T) {
	run(t, standard, map[string]string{"VisibilityTimeout": "0"}, func(s *service) {
		for i := range 10 {
			s.send(strconv.Itoa(i))
		}
		s.Plan = sqsfake.Fewer(1, 0.5)
		sizes := make(map[int]int)
		for range 200 {
			sizes[len(s.receive(10, 20, 0))]++
		}
		require.Len(s, sizes, 10, "1 to 10: %v", sizes)
		require.InDelta(s, 100, sizes[10], 40, "%v", sizes)
		require.Len(s, s.receive(1, 20, 0), 1)
	})
}

func TestPlan_RandomIsTheSameForASeed(t *testing.T) {
	const seed = 7
	faults := func() (hits []bool) {
		p := sqsfake.Random(seed, 0.3, sqsfake.Fault{Mode: sqsfake.Reset}, sqsfake.Fault{Mode: sqsfake.LoseReply})
		for range 1000 {
			hits = append(hits, p(sqsfake.Call{}).Mode != sqsfake.Succeed)
		}
		return hits
	}
	n := 0
	for _, hit := range faults() {
		if hit {
			n++
		}
	}
	require.InDelta(t, 300, n, 60, "seed %d", seed)
	require.Equal(t, faults(), faults())
	require.Equal(t, sqsfake.Fault{}, sqsfake.Random(seed, 1)(sqsfake.Call{}))
}

func TestPlan_Between(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		start := time.Now()
		s.Plan = sqsfake.Between(start.Add(time.Second), start.Add(3*time.Second), sqsfake.On(sqsfake.SendMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.AccessDenied()}))
		var failed []bool
		for range 4 {
			_, err := s.trySend("x")
			failed = append(failed, err != nil)
			time.Sleep(time.Second)
		}
		require.Equal(s, []bool{false, true, true, false}, failed)
	})
}

func TestPlan_SeesTheCall(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		var seen []sqsfake.Call
		s.Plan = func(c sqsfake.Call) sqsfake.Fault {
			seen = append(seen, c)
			return sqsfake.Fault{}
		}
		s.send("x")
		_, err := s.sendBatch("a", "b")
		require.NoError(s, err)
		s.receive(7, 0, 0)
		s.send("y")
		require.Equal(s, []sqsfake.Call{
			{Op: sqsfake.SendMessage, N: 1, Total: 1, Queue: "q", Entries: 1},
			{Op: sqsfake.SendMessageBatch, N: 1, Total: 2, Queue: "q", Entries: 2},
			{Op: sqsfake.ReceiveMessage, N: 1, Total: 3, Queue: "q", Entries: 7},
			{Op: sqsfake.SendMessage, N: 2, Total: 4, Queue: "q", Entries: 1},
		}, seen)
	})
}

func TestStats(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.Latency = time.Second
		done := make(chan struct{})
		for i := range 3 {
			go func() {
				s.send(strconv.Itoa(i))
				done <- struct{}{}
			}()
		}
		for range 3 {
			<-done
		}
		require.Equal(s, 3, s.Stats(sqsfake.SendMessage).MaxOpen)
		s.receive(10, 0, 0)
		s.receive(10, 0, 0)
		_, err := s.tryReceive(11, 0, 0)
		require.Error(s, err)
		st := s.Stats(sqsfake.ReceiveMessage)
		st.Bytes = 0
		require.Equal(s, sqsfake.Stats{Calls: 3, Failed: 1, Messages: 3, Empty: 1, MaxOpen: 1, Billed: 3}, st)
		require.Equal(s, 6, s.Stats("").Calls)

		s.ResetStats()
		s.send(strings.Repeat("x", 100_000))
		require.Equal(s, 2, s.Stats("").Billed, "64 KiB at a time")
		require.Equal(s, sqsfake.Stats{}, s.Stats(sqsfake.ReceiveMessage))
		require.Equal(s, sqsfake.QueueStats{}, s.Queue("missing"))
		require.Empty(s, s.Messages("missing"))
	})
}

func TestMessages(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		out := s.send("x", group("tenant", ""), func(in *sqs.SendMessageInput) {
			in.MessageAttributes = map[string]types.MessageAttributeValue{"b": {DataType: ptr("Binary"), BinaryValue: []byte("\x00\xFF")}}
		})
		start := time.Now()
		s.receive(1, 0, 9)
		require.Equal(s, []sqsfake.Message{{
			ID: *out.MessageId, Body: "x", Group: "tenant", Receives: 1, SentAt: start, VisibleAt: start.Add(9 * time.Second),
			Attributes: map[string]string{"b": "\x00\xFF"},
		}}, s.Messages(s.url))
		time.Sleep(9 * time.Second)
		require.Zero(s, s.Messages("q")[0].VisibleAt)
	})
}

func TestClient_Options(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		s.client = s.Client(func(o *sqs.Options) {
			o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = 4 })
		})
		s.Plan = func(sqsfake.Call) sqsfake.Fault {
			return sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.ThrottlingException(400)}
		}
		_, err := s.trySend("x")
		require.Error(s, err)
		require.Equal(s, 4, s.Stats("").Calls)
	})
	require.Equal(t, "us-east-1", (&sqsfake.Server{}).Client().Options().Region)
	require.IsType(t, aws.NopRetryer{}, (&sqsfake.Server{}).Client().Options().Retryer)
}
