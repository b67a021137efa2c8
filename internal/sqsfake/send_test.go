package sqsfake_test

import (
	"crypto/md5"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

const mib = 1 << 20

func TestSend_Checksums(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		out := s.send("grüße <&> \U0001F600\t\n", func(in *sqs.SendMessageInput) {
			in.MessageAttributes = map[string]types.MessageAttributeValue{
				"b": {DataType: ptr("Binary"), BinaryValue: []byte{1, 2}},
				"a": {DataType: ptr("String.json"), StringValue: ptr("{}")},
			}
		})
		// By hand, from the service's description: sorted by name, each part behind
		// its length in four bytes, and a byte for the kind of value.
		sum := md5.Sum([]byte("\x00\x00\x00\x01a\x00\x00\x00\x0bString.json\x01\x00\x00\x00\x02{}" +
			"\x00\x00\x00\x01b\x00\x00\x00\x06Binary\x02\x00\x00\x00\x02\x01\x02"))
		require.Equal(s, hex.EncodeToString(sum[:]), *out.MD5OfMessageAttributes)
		got := s.one(0) // the SDK has checked the body's
		require.Equal(s, "grüße <&> \U0001F600\t\n", *got.Body)
		require.Equal(s, *out.MD5OfMessageAttributes, *got.MD5OfMessageAttributes)
		require.Equal(s, *out.MessageId, *got.MessageId)
		require.Nil(s, out.SequenceNumber)
	})
}

func TestSend_Delay(t *testing.T) {
	run(t, standard, map[string]string{"DelaySeconds": "5"}, func(s *service) {
		s.send("queue")
		s.send("own", func(in *sqs.SendMessageInput) { in.DelaySeconds = 900 })
		require.Equal(s, 2, s.Queue("q").Delayed)
		require.Equal(s, 5*time.Second, elapsed(func() { require.Equal(s, []string{"queue"}, bodies(s.receive(10, 20, 43200))) }))
		time.Sleep(894 * time.Second)
		require.Equal(s, time.Second, elapsed(func() { require.Equal(s, []string{"own"}, bodies(s.receive(10, 20, 0))) }))
		_, err := s.trySend("x", func(in *sqs.SendMessageInput) { in.DelaySeconds = 901 })
		s.refused(err, "InvalidParameterValue")
	})
}

func TestSend_Size(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		attribute := func(in *sqs.SendMessageInput) { // 1 + 6 + 3 bytes
			in.MessageAttributes = map[string]types.MessageAttributeValue{"n": {DataType: ptr("String"), StringValue: ptr("abc")}}
		}
		s.send(strings.Repeat("x", mib))
		s.send(strings.Repeat("x", mib-10), attribute)
		_, err := s.trySend(strings.Repeat("x", mib+1))
		s.refused(err, "InvalidParameterValue")
		_, err = s.trySend(strings.Repeat("x", mib-9), attribute)
		s.refused(err, "InvalidParameterValue")

		_, err = s.sendBatch(strings.Repeat("x", mib/2), strings.Repeat("x", mib/2))
		require.NoError(s, err)
		_, err = s.sendBatch(strings.Repeat("x", mib/2), strings.Repeat("x", mib/2+1))
		s.refused(err, "AWS.SimpleQueueService.BatchRequestTooLong")
		require.Equal(s, 4, s.Queue("q").Sent)
	})
	run(t, standard, map[string]string{"MaximumMessageSize": "1024"}, func(s *service) {
		out, err := s.sendBatch(strings.Repeat("x", 1024), strings.Repeat("x", 1025))
		require.NoError(s, err)
		require.Len(s, out.Successful, 1)
		require.Equal(s, "InvalidParameterValue", *out.Failed[0].Code)
	})
}

func TestSend_Refused(t *testing.T) {
	value := func(dataType, text string) types.MessageAttributeValue {
		return types.MessageAttributeValue{DataType: &dataType, StringValue: &text}
	}
	attributes := func(n int, name string, v types.MessageAttributeValue) func(*sqs.SendMessageInput) {
		return func(in *sqs.SendMessageInput) {
			in.MessageAttributes = make(map[string]types.MessageAttributeValue)
			for i := range n {
				in.MessageAttributes[name+strings.Repeat("x", i)] = v
			}
		}
	}
	run(t, standard, nil, func(s *service) {
		for name, c := range map[string]struct {
			body   string
			change func(*sqs.SendMessageInput)
			code   string
		}{
			"empty":              {"", nil, "MissingParameter"},
			"control character":  {"a\x01", nil, "InvalidMessageContents"},
			"no character":       {"a\uFFFE", nil, "InvalidMessageContents"},
			"eleven attributes":  {"x", attributes(11, "a", value("String", "v")), "InvalidParameterValue"},
			"reserved name":      {"x", attributes(1, "Aws.a", value("String", "v")), "InvalidParameterValue"},
			"dots":               {"x", attributes(1, "a..b", value("String", "v")), "InvalidParameterValue"},
			"bad name":           {"x", attributes(1, "a b", value("String", "v")), "InvalidParameterValue"},
			"long name":          {"x", attributes(1, strings.Repeat("a", 257), value("String", "v")), "InvalidParameterValue"},
			"empty value":        {"x", attributes(1, "a", value("String", "")), "InvalidParameterValue"},
			"no number":          {"x", attributes(1, "a", value("Number", "one")), "InvalidParameterValue"},
			"hexadecimal number": {"x", attributes(1, "a", value("Number", "0x10")), "InvalidParameterValue"},
			"unknown type":       {"x", attributes(1, "a", value("Text", "v")), "InvalidParameterValue"},
			"text as binary":     {"x", attributes(1, "a", value("Binary", "v")), "InvalidParameterValue"},
			"list":               {"x", attributes(1, "a", types.MessageAttributeValue{DataType: ptr("String"), StringListValues: []string{"v"}}), "AWS.SimpleQueueService.UnsupportedOperation"},
			"value's characters": {"x", attributes(1, "a", value("String", "\x02")), "InvalidMessageContents"},
			"deduplication id":   {"x", func(in *sqs.SendMessageInput) { in.MessageDeduplicationId = ptr("d") }, "InvalidParameterValue"},
			"long group":         {"x", group(strings.Repeat("g", 129), ""), "InvalidParameterValue"},
			"group with a space": {"x", group("a b", ""), "InvalidParameterValue"},
			"other system attribute": {"x", func(in *sqs.SendMessageInput) {
				in.MessageSystemAttributes = map[string]types.MessageSystemAttributeValue{"Other": {DataType: ptr("String"), StringValue: ptr("v")}}
			}, "InvalidParameterValue"},
		} {
			if c.change == nil {
				c.change = func(*sqs.SendMessageInput) {}
			}
			_, err := s.trySend(c.body, c.change)
			require.Equal(s, c.code, codeOf(err), "%s: %v", name, err)
		}
		require.Zero(s, s.Queue("q").Sent)
		s.send("x", attributes(10, "a", value("String", "v")))
		s.send("x", group(strings.Repeat("g", 128), ""))
	})
}

func TestBatch_SendPartialFailure(t *testing.T) {
	run(t, standard, nil, func(s *service) {
		out, err := s.sendBatch("a", "\x00", "b")
		require.NoError(s, err)
		require.Len(s, out.Successful, 2)
		require.Equal(s, "1 InvalidMessageContents", *out.Failed[0].Id+" "+*out.Failed[0].Code)
		require.Equal(s, []string{"a", "b"}, bodies(s.receive(10, 0, 0)))
		require.Equal(s, 2, s.Stats(sqsfake.SendMessageBatch).Messages)
	})
}

var fifoQueue = map[string]string{"FifoQueue": "true"}

func TestFIFO_OrderWithinGroups(t *testing.T) {
	run(t, fifo, fifoQueue, func(s *service) {
		for i := range 6 {
			for _, g := range []string{"a", "b"} {
				s.send(g+strconv.Itoa(i), group(g, g+strconv.Itoa(i)))
			}
		}
		first := s.receive(4, 0, 60)
		require.Equal(s, []string{"a0", "a1", "a2", "a3"}, bodies(first), "as many of one group as possible")
		require.Equal(s, []string{"b0", "b1", "b2", "b3", "b4", "b5"}, bodies(s.receive(10, 0, 60)), "the other group")
		require.Empty(s, s.receive(10, 0, 0), "no more of a group of which some are in flight")

		require.NoError(s, s.delete(first[0].ReceiptHandle))
		require.NoError(s, s.delete(first[3].ReceiptHandle))
		require.NoError(s, s.change(first[2].ReceiptHandle, 0))
		require.Empty(s, s.receive(10, 0, 0), "a1 is still in flight")
		go func() {
			time.Sleep(time.Second)
			require.NoError(s, s.change(first[1].ReceiptHandle, 0))
		}()
		again := s.receive(10, 20, 60)
		require.Equal(s, []string{"a1", "a2", "a4", "a5"}, bodies(again), "in order again")
		require.Equal(s, []string{"2", "2", "1", "1"}, []string{
			again[0].Attributes["ApproximateReceiveCount"], again[1].Attributes["ApproximateReceiveCount"],
			again[2].Attributes["ApproximateReceiveCount"], again[3].Attributes["ApproximateReceiveCount"],
		})
	})
}

func TestFIFO_AttributesAndSequenceNumbers(t *testing.T) {
	run(t, fifo, fifoQueue, func(s *service) {
		var last string
		for i := range 12 {
			n := *s.send("x", group("g", strconv.Itoa(i))).SequenceNumber
			require.Len(s, n, 20)
			require.Greater(s, n, last)
			last = n
		}
		got := s.receive(10, 0, 0)
		require.Equal(s, "g", got[9].Attributes["MessageGroupId"])
		require.Equal(s, "9", got[9].Attributes["MessageDeduplicationId"])
		require.Len(s, got[9].Attributes["SequenceNumber"], 20)
	})
}

func TestFIFO_Deduplication(t *testing.T) {
	run(t, fifo, fifoQueue, func(s *service) {
		first := s.send("x", group("g", "d"))
		time.Sleep(299 * time.Second)
		second := s.send("other", group("h", "d"))
		require.Equal(s, *first.MessageId, *second.MessageId)
		require.Equal(s, *first.SequenceNumber, *second.SequenceNumber)
		require.NoError(s, s.delete(s.one(0).ReceiptHandle))
		time.Sleep(time.Second)
		require.NotEqual(s, *first.MessageId, *s.send("x", group("g", "d")).MessageId, "the window is from the first")
		require.Equal(s, 2, s.Queue("q.fifo").Sent)
	})
	run(t, fifo, map[string]string{"FifoQueue": "true", "ContentBasedDeduplication": "true"}, func(s *service) {
		s.send("x", group("g", ""))
		s.send("x", group("h", ""))
		s.send("x", group("g", "explicit"))
		require.Equal(s, 2, s.Queue("q.fifo").Sent)
	})
	run(t, fifo, map[string]string{"FifoQueue": "true", "DeduplicationScope": "messageGroup"}, func(s *service) {
		s.send("x", group("g", "d"))
		s.send("x", group("h", "d"))
		s.send("x", group("h", "d"))
		require.Equal(s, 2, s.Queue("q.fifo").Sent)
	})
}

func TestFIFO_Refused(t *testing.T) {
	run(t, fifo, fifoQueue, func(s *service) {
		_, err := s.trySend("x")
		s.refused(err, "MissingParameter")
		_, err = s.trySend("x", group("g", ""))
		s.refused(err, "InvalidParameterValue")
		_, err = s.trySend("x", group("g", "d"), func(in *sqs.SendMessageInput) { in.DelaySeconds = 1 })
		s.refused(err, "InvalidParameterValue")
	})
}

func TestFIFO_QueueDelayHoldsTheGroup(t *testing.T) {
	run(t, fifo, map[string]string{"FifoQueue": "true", "DelaySeconds": "10"}, func(s *service) {
		s.send("a", group("g", "1"))
		time.Sleep(4 * time.Second)
		s.send("b", group("g", "2"))
		require.Equal(s, 6*time.Second, elapsed(func() { require.Equal(s, []string{"a"}, bodies(s.receive(10, 20, 1))) }))
		require.Equal(s, time.Second, elapsed(func() { require.Equal(s, []string{"a"}, bodies(s.receive(10, 20, 5))) }))
		require.Equal(s, 5*time.Second, elapsed(func() { require.Equal(s, []string{"a", "b"}, bodies(s.receive(10, 20, 5))) }))
	})
}

func TestFIFO_ReceiveAttemptIsReplayed(t *testing.T) {
	attempt := func(id string) func(*sqs.ReceiveMessageInput) {
		return func(in *sqs.ReceiveMessageInput) { in.ReceiveRequestAttemptId = &id }
	}
	run(t, fifo, fifoQueue, func(s *service) {
		s.send("a", group("g", "1"))
		s.send("b", group("g", "2"))
		first := s.receive(10, 0, 30, attempt("id"))
		time.Sleep(20 * time.Second)
		again := s.receive(10, 0, 30, attempt("id"))
		require.Equal(s, []string{"a", "b"}, bodies(again))
		require.Equal(s, *first[1].ReceiptHandle, *again[1].ReceiptHandle)
		require.Equal(s, time.Now().Add(30*time.Second), s.Messages("q.fifo")[0].VisibleAt)
		require.NoError(s, s.delete(first[0].ReceiptHandle))
		_, err := s.tryReceive(10, 0, 30, attempt("id"))
		s.refused(err, "InvalidParameterValue")
		require.Empty(s, s.receive(10, 0, 30, attempt("other")))
	})
}

func TestRedrive_Standard(t *testing.T) {
	run(t, "dead", nil, func(s *service) {
		dead := s
		s = s.on(s.create("q", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"` + s.ARN("dead") + `","maxReceiveCount":"2"}`}))
		sent := time.Now()
		id := *s.send("x").MessageId
		for range 2 {
			s.one(1)
			time.Sleep(time.Second)
		}
		poll := make(chan []types.Message, 1)
		go func() { poll <- dead.receive(10, 20, 60) }()
		time.Sleep(time.Second)
		require.Empty(s, s.receive(10, 0, 0), "the third receive moves it")
		m := (<-poll)[0]
		require.Equal(s, id, *m.MessageId)
		require.Equal(s, s.ARN("q"), m.Attributes["DeadLetterQueueSourceArn"])
		require.Equal(s, "3", m.Attributes["ApproximateReceiveCount"], "counted across queues")
		require.Equal(s, strconv.FormatInt(sent.UnixMilli(), 10), m.Attributes["SentTimestamp"], "its age goes on")
		require.Equal(s, 1, s.Queue("q").Redriven)
		require.NoError(s, dead.delete(m.ReceiptHandle))
		require.Empty(s, s.Messages("dead"))
	})
}

func TestRedrive_AfterTenReceivesByDefault(t *testing.T) {
	run(t, "dead", nil, func(s *service) {
		dead := s
		s = s.on(s.create("q", map[string]string{"RedrivePolicy": `{"deadLetterTargetArn":"` + s.ARN("dead") + `"}`}))
		s.send("x")
		for n := range 10 {
			require.Len(s, s.receive(1, 0, 1), 1, "receive %d", n+1)
			time.Sleep(time.Second)
		}
		require.Empty(s, s.receive(1, 0, 1))
		require.Equal(s, "x", *dead.one(0).Body)
		out, err := s.client.GetQueueAttributes(s.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &s.url, AttributeNames: []types.QueueAttributeName{"RedrivePolicy"}})
		require.NoError(s, err)
		require.JSONEq(s, `{"deadLetterTargetArn":"`+s.ARN("dead")+`","maxReceiveCount":10}`, out.Attributes["RedrivePolicy"])
	})
}

func TestRedrive_FIFO(t *testing.T) {
	run(t, "dead.fifo", fifoQueue, func(s *service) {
		dead := s
		s = s.on(s.create("q.fifo", map[string]string{"FifoQueue": "true", "RedrivePolicy": `{"deadLetterTargetArn":"` + s.ARN("dead.fifo") + `","maxReceiveCount":1}`}))
		id := *s.send("a", group("g", "1")).MessageId
		s.send("b", group("g", "2"))
		require.NoError(s, s.change(s.receive(1, 0, 60)[0].ReceiptHandle, 0))
		time.Sleep(time.Minute)
		require.Equal(s, []string{"b"}, bodies(s.receive(10, 0, 0)), "what comes after it goes on")
		m := dead.one(0)
		require.Equal(s, "a", *m.Body)
		require.Equal(s, id, m.Attributes["MessageDeduplicationId"])
		require.Equal(s, strconv.FormatInt(time.Now().UnixMilli(), 10), m.Attributes["SentTimestamp"], "its age begins anew")
	})
}
