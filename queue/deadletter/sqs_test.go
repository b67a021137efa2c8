package deadletter_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

func sqsQueue(t *testing.T, server *sqsfake.Server, name string, attributes map[string]string) *sqsqueue.Queue {
	t.Helper()
	url, err := server.CreateQueue(name, attributes)
	require.NoError(t, err)
	q, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Logger: quiet})
	require.NoError(t, err)
	return q
}

// On SQS a message comes back with all that it was first sent with: ten attributes
// of any type, of which one travelled in the record, and a megabyte.
func TestSQSMessageStaysWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		orders, dead := sqsQueue(t, &server, "orders", nil), sqsQueue(t, &server, "dead", nil)
		send := func(body string, n int) *queue.Message {
			m := &queue.Message{Body: []byte(body), Group: "tenant", Attributes: map[string]string{}}
			native := &types.Message{MessageAttributes: map[string]types.MessageAttributeValue{}}
			for i := range n {
				name, kind, value := fmt.Sprint("a", i), []string{"Number", "String.x"}[i%2], fmt.Sprint(i)
				m.Attributes[name] = value
				native.MessageAttributes[name] = types.MessageAttributeValue{DataType: &kind, StringValue: &value}
			}
			m.Native = native
			require.NoError(t, orders.Send(t.Context(), m))
			return m
		}
		send("full", 10)
		send(strings.Repeat("x", 1<<20-200), 2)
		send("plain", 0)

		// As the consumer does it.
		r := record(3)
		for range 3 {
			msgs, err := orders.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.NoError(t, err)
			m := msgs[0].Clone()
			if m.Attributes == nil {
				m.Attributes = make(map[string]string)
			}
			m.Attributes[retry.DeadLetterAttribute] = r.Encode()
			require.NoError(t, dead.Send(t.Context(), m))
			require.NoError(t, orders.Ack(t.Context(), msgs...))
		}
		time.Sleep(time.Minute)

		letters := list(t, dead, deadletter.Config{})
		require.Len(t, letters, 3)
		for _, l := range letters {
			if len(l.Message.Body) < 100 {
				require.Equal(t, r.Error, l.Record.Error)
			}
		}
		require.Equal(t, 3, server.Queue("dead").Visible)

		s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{Logger: quiet})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 3, Matched: 3, Redriven: 3}, s)
		for range 3 {
			msgs, err := orders.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.NoError(t, err)
			m := msgs[0]
			require.Equal(t, 1, m.Attempt)
			require.Equal(t, "tenant", m.Group)
			require.NotContains(t, m.Attributes, retry.DeadLetterAttribute)
			history := deadletter.Read(m).History
			delete(m.Attributes, deadletter.HistoryAttribute)
			switch {
			case string(m.Body) == "plain":
				require.Equal(t, r, history.Last)
				require.Empty(t, m.Attributes)
			case string(m.Body) == "full":
				require.Zero(t, history, "there is no room")
				require.Len(t, m.Attributes, 10)
				for i := range 10 {
					v := m.Native.(*types.Message).MessageAttributes[fmt.Sprint("a", i)]
					require.Equal(t, []string{"Number", "String.x"}[i%2], *v.DataType)
					require.Equal(t, fmt.Sprint(i), *v.StringValue)
				}
			default:
				require.Len(t, m.Body, 1<<20-200)
				require.Len(t, m.Attributes, 2)
			}
		}
	})
}

// Messages that the queue's redrive policy moved have no record, and are redriven too.
func TestSQSMovedByThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var server sqsfake.Server
		dead := sqsQueue(t, &server, "dead", nil)
		orders := sqsQueue(t, &server, "orders", map[string]string{
			"RedrivePolicy": fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":1}`, server.ARN("dead")),
		})
		require.NoError(t, orders.Send(t.Context(), &queue.Message{Body: []byte("order")}))
		for range 2 {
			_, err := orders.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Second})
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
		}
		letters := list(t, dead, deadletter.Config{Filter: deadletter.Filter{Reasons: []string{""}}})
		require.Len(t, letters, 1)
		require.False(t, letters[0].Recorded)
		require.Empty(t, list(t, dead, deadletter.Config{Filter: deadletter.Filter{Reasons: []string{retry.ReasonPermanent}}}))
		s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{})
		require.NoError(t, err)
		require.Equal(t, 1, s.Redriven)
		require.Equal(t, 1, server.Queue("orders").Visible)
		require.Zero(t, server.Queue("dead").Visible)
	})
}

// Many letters, with a network of 20 ms and a service that fails now and
// then, lost replies included. FIFO queues get nothing twice.
func TestSQSFaults(t *testing.T) {
	for _, fifo := range []bool{false, true} {
		t.Run(fmt.Sprintf("fifo=%v", fifo), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 1000
				if testing.Short() {
					n = 200
				}
				suffix, attributes := "", map[string]string(nil)
				groups := 0
				if fifo {
					suffix, attributes, groups = ".fifo", map[string]string{"FifoQueue": "true"}, 20
				}
				var server sqsfake.Server
				orders, dead := sqsQueue(t, &server, "orders"+suffix, attributes), sqsQueue(t, &server, "dead"+suffix, attributes)
				fill(t, dead, n, groups)
				time.Sleep(time.Second)
				const seed = 7
				server.Latency = 20 * time.Millisecond
				server.Plan = sqsfake.Random(seed, 0.1,
					sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, sqsfake.Fault{Mode: sqsfake.LoseReply},
					sqsfake.Fault{Mode: sqsfake.FailEntries}, sqsfake.Fault{Mode: sqsfake.OmitDone}, sqsfake.Fault{Mode: sqsfake.Reset})
				for range 5 { // what a lost receive took comes back later
					s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{Logger: quiet})
					require.NoError(t, err)
					requireAddsUp(t, s)
					require.Zero(t, s.Failed)
					time.Sleep(2 * time.Minute)
				}
				require.Zero(t, server.Queue("dead"+suffix).Visible+server.Queue("dead"+suffix).InFlight)
				count, last := make(map[string]int), make(map[string]int)
				for _, m := range server.Messages("orders" + suffix) {
					count[m.Body]++
					var i int
					_, err := fmt.Sscanf(m.Body, "m%d", &i)
					require.NoError(t, err)
					if fifo {
						require.GreaterOrEqual(t, i, last[m.Group], "order in group %s", m.Group)
						last[m.Group] = i
						require.Equal(t, 1, count[m.Body])
					}
				}
				require.Len(t, count, n)
			})
		})
	}
}

// A user attribute that is named like a system attribute, or like the one that SQS
// has for the trace header, is where it was when the message has been to the
// dead-letter queue and back, and so is the trace header.
func TestSQSUserAttributesStayWhereTheyWere(t *testing.T) {
	const trace = "Root=1-5759e988-bd862e3fe1be46a994272793"
	for name, system := range map[string]string{"alone": "", "with the trace header": trace} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var server sqsfake.Server
				orders, dead := sqsQueue(t, &server, "orders", nil), sqsQueue(t, &server, "dead", nil)
				want := map[string]string{"AWSTraceHeader": "order 42", "SentTimestamp": "yesterday", "MessageGroupId": "none", "idempotency-key": "k"}
				if system != "" {
					want[sqsqueue.TraceHeader] = system
				}
				require.NoError(t, orders.Send(t.Context(), &queue.Message{Body: []byte("x"), Attributes: maps.Clone(want)}))
				for range 2 { // two lives
					msgs, err := orders.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
					require.NoError(t, err)
					require.Len(t, msgs, 1)
					delete(msgs[0].Attributes, deadletter.HistoryAttribute)
					require.Equal(t, want, msgs[0].Attributes)
					native := msgs[0].Native.(*types.Message)
					require.Equal(t, "order 42", *native.MessageAttributes["AWSTraceHeader"].StringValue)
					require.Equal(t, system, native.Attributes["AWSTraceHeader"])

					letter := msgs[0].Clone()
					letter.Attributes[retry.DeadLetterAttribute] = record(3).Encode()
					require.NoError(t, dead.Send(t.Context(), letter))
					require.NoError(t, orders.Ack(t.Context(), msgs...))
					time.Sleep(time.Second)
					s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{Logger: quiet})
					require.NoError(t, err)
					require.Equal(t, 1, s.Redriven)
				}
			})
		})
	}
}
