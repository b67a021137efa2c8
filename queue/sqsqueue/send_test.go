package sqsqueue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

const mib = 1 << 20

func attributes(n int) map[string]string {
	all := make(map[string]string)
	for i := range n {
		all[fmt.Sprint("name-", i)] = strings.Repeat("v", i+1)
	}
	return all
}

func TestSendRefuses(t *testing.T) {
	body := bytes.Repeat([]byte("b"), mib)
	with := func(name, value string) *queue.Message {
		return &queue.Message{Body: []byte("a"), Attributes: map[string]string{name: value}}
	}
	for _, c := range []struct {
		fifo bool
		m    *queue.Message
		want string // in the error; "" if it is taken
	}{
		{m: nil, want: "nil"},
		{m: &queue.Message{}, want: "body is empty"},
		{m: &queue.Message{Body: body}},
		{m: &queue.Message{Body: append(body, 'b')}, want: "which is 1 less"},
		{m: &queue.Message{Body: body[11:], Attributes: map[string]string{"name": "v"}}},
		{m: &queue.Message{Body: body[10:], Attributes: map[string]string{"name": "v"}}, want: "which is 1 less"},
		{m: &queue.Message{Body: []byte("a"), Attributes: attributes(10)}},
		{m: &queue.Message{Body: []byte("a"), Attributes: attributes(12)}, want: "12 attributes: must be at most 10, which is 2 less"},
		{m: &queue.Message{Body: []byte("a\x00")}, want: "byte 1"},
		{m: &queue.Message{Body: []byte("ü\xff")}, want: "byte 2"},
		{m: &queue.Message{Body: []byte("\ufffe")}, want: "byte 0"},
		{m: &queue.Message{Body: []byte("\t\r\n 日本語 🚦 \ufffd")}},
		{m: with("", "v"), want: "attribute name"},
		{m: with("a b", "v"), want: "attribute name"},
		{m: with("größe", "v"), want: "attribute name"},
		{m: with(".a", "v"), want: "attribute name"},
		{m: with("a..b", "v"), want: "attribute name"},
		{m: with(strings.Repeat("x", 257), "v"), want: "has 257 characters: must be at most 256, which is 1 less"},
		{m: with("aWs.x", "v"), want: "reserved"},
		{m: with("AMAZON.x", "v"), want: "reserved"},
		{m: with("a", ""), want: `attribute "a" is empty`},
		{m: with("a.b-c_9", "v")},
		{m: &queue.Message{Body: []byte("a"), Delay: 15 * time.Minute}},
		{m: &queue.Message{Body: []byte("a"), Delay: 16 * time.Minute}, want: "Delay is 16m0s: must be from 0 to 15m0s, which is 1m0s less"},
		{m: &queue.Message{Body: []byte("a"), Delay: -1}, want: "Delay"},
		{m: &queue.Message{Body: []byte("a"), Group: strings.Repeat("g", 129)}, want: "Group has 129 characters: must be at most 128, which is 1 less"},
		{m: &queue.Message{Body: []byte("a"), Group: "a b"}, want: "Group"},
		{fifo: true, m: &queue.Message{Body: []byte("a"), Group: "g", Dedup: strings.Repeat("d", 128)}},
		{fifo: true, m: &queue.Message{Body: []byte("a"), Group: "g", Dedup: strings.Repeat("d", 130)}, want: "Dedup has 130 characters: must be at most 128, which is 2 less"},
		{fifo: true, m: &queue.Message{Body: []byte("a"), Group: "g", Dedup: "ü"}, want: "Dedup"},
		{fifo: true, m: &queue.Message{Body: []byte("a"), Dedup: "d"}, want: "Group is empty"},
		{fifo: true, m: &queue.Message{Body: []byte("a"), Group: "g", Dedup: "d", Delay: 1}, want: "Delay"},
		{fifo: true, m: &queue.Message{Body: []byte("a"), Group: "g"}, want: "Dedup"},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{}
			q := newQueue(t, server, c.fifo, nil)
			good := func(dedup string) *queue.Message {
				return &queue.Message{Body: []byte("good"), Group: "good", Dedup: dedup}
			}
			errs := failed(t, q.Send(t.Context(), good("1"), c.m, good("2")))
			if c.want == "" {
				require.Empty(t, errs)
				return
			}
			require.Len(t, errs, 1)
			require.ErrorContains(t, errs[1], c.want)
			require.Equal(t, 2, server.Queue(q.URL()).Sent, "the others are taken")
		})
	}
}

func TestSendBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		q := newQueue(t, server, false, nil)
		send(t, q, messages(25)...)
		require.Equal(t, 3, server.Stats(sqsfake.SendMessageBatch).Calls)
		server.ResetStats()

		var msgs []*queue.Message
		for range 5 { // three fit into a request with their attributes, two without room to spare
			m := message(strings.Repeat("b", mib/2-len("name")-len("String")-1))
			m.Attributes = map[string]string{"name": "v"}
			msgs = append(msgs, m)
		}
		send(t, q, msgs...)
		require.Equal(t, 3, server.Stats(sqsfake.SendMessageBatch).Calls)
		require.Equal(t, 30, server.Queue("orders").Sent)
	})
}

func TestSendAsksAgain(t *testing.T) {
	for _, fault := range []sqsfake.Fault{
		{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()},
		{Mode: sqsfake.Reset},
		{Mode: sqsfake.LoseReply},
		{Mode: sqsfake.FailEntries},
		{Mode: sqsfake.OmitEntries},
		{Mode: sqsfake.OmitDone},
		{Mode: sqsfake.Hang},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.SendMessageBatch, fault, 1, 2)}
			q := newQueue(t, server, true, nil)
			var msgs []*queue.Message
			for _, m := range messages(5) {
				m.Group, m.Dedup = "g", string(m.Body)
				msgs = append(msgs, m)
			}
			send(t, q, msgs...)
			require.Equal(t, 5, server.Queue("orders.fifo").Sent)
		})
	}
}

func TestSendPartialFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.SendMessageBatch, sqsfake.Fault{
			Mode: sqsfake.FailEntries, Entries: []int{3, 7}, Err: sqsfake.AccessDenied(),
		}, 1)}
		q := newQueue(t, server, false, nil)
		errs := failed(t, q.Send(t.Context(), messages(12)...))
		require.Len(t, errs, 2)
		require.ErrorIs(t, errs[3], limiter.ErrMisconfigured)
		require.ErrorIs(t, errs[7], limiter.ErrMisconfigured)
		require.Equal(t, 10, server.Queue("orders").Sent)
	})
}

// A message of a FIFO queue does not overtake an earlier one of its group that
// was not accepted.
func TestSendKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Plan: sqsfake.On(sqsfake.SendMessageBatch, sqsfake.Fault{
			Mode: sqsfake.FailEntries, Entries: []int{0}, Err: sqsfake.AccessDenied(),
		}, 1)}
		q := newQueue(t, server, true, nil)
		var msgs []*queue.Message
		for i, m := range messages(30) {
			m.Group, m.Dedup = fmt.Sprint("g", i%10), string(m.Body)
			msgs = append(msgs, m)
		}
		errs := failed(t, q.Send(t.Context(), msgs...))
		require.Len(t, errs, 3)
		for _, i := range []int{0, 10, 20} {
			require.Error(t, errs[i])
		}
		require.Equal(t, 27, server.Queue("orders.fifo").Sent)

		// What is refused before any request isn't overtaken either.
		msgs = msgs[1:4]
		for i, m := range msgs {
			m.Group, m.Dedup = "g1", fmt.Sprint("again", i)
		}
		msgs[1].Body = nil
		errs = failed(t, q.Send(t.Context(), msgs...))
		require.Len(t, errs, 2)
		require.ErrorContains(t, errs[1], "empty")
		require.ErrorContains(t, errs[2], "earlier message of its group")
	})
}

// Attributes that are not valid text for the service travel as bytes.
func TestBinaryAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, &sqsfake.Server{}, false, nil)
		want := map[string]string{"bytes": "\x00\xff", "text": "größe 🚦", sqsqueue.TraceHeader: "Root=1-5759e988-bd862e3fe1be46a994272793"}
		send(t, q, &queue.Message{Body: []byte("a"), Attributes: want})
		require.Equal(t, want, receive(t, q, 1, time.Minute)[0].Attributes)
	})
}

// bury sends a dead letter as a consumer does.
func bury(t *testing.T, q *sqsqueue.Queue, m *queue.Message, record string) {
	t.Helper()
	copied := m.Clone()
	if copied.Attributes == nil {
		copied.Attributes = make(map[string]string)
	}
	copied.Attributes[retry.DeadLetterAttribute] = record
	send(t, q, copied)
}

func TestDeadLetter(t *testing.T) {
	record := retry.DeadLetter{Reason: "permanent", Error: strings.Repeat("e", 900), Source: "orders", Attempts: 3, MessageID: "id"}
	for name, c := range map[string]struct {
		body   string
		n      int // attributes
		wants  retry.DeadLetter
		gone   bool // the record does not fit
		silent bool
	}{
		"ordinary":           {body: "a", n: 9, wants: record, silent: true},
		"all ten are taken":  {body: "a", n: 10, wants: record},
		"no room for texts":  {body: strings.Repeat("b", mib-200), wants: retry.DeadLetter{Reason: "permanent", Attempts: 3, MessageID: "id"}},
		"no room at all":     {body: strings.Repeat("b", mib-40), gone: true},
		"no room for either": {body: strings.Repeat("b", mib-215), n: 10, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{}
				source := newQueue(t, server, false, nil)
				url, err := server.CreateQueue("dead", nil)
				require.NoError(t, err)
				var log strings.Builder
				dead, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				require.NoError(t, err)

				want := attributes(c.n)
				send(t, source, &queue.Message{Body: []byte(c.body), Attributes: want})
				m := receive(t, source, 1, time.Minute)[0]
				for range 3 { // also as a dead letter of a dead letter: there is one record
					bury(t, dead, m, record.Encode())
					m = receive(t, dead, 1, time.Minute)[0]
					got := m.Attributes[retry.DeadLetterAttribute]
					if c.gone {
						require.Empty(t, got)
					} else {
						parsed, err := retry.ParseDeadLetter(got)
						require.NoError(t, err)
						require.Equal(t, c.wants, parsed)
						require.NotContains(t, got, "displaced")
					}
					require.Equal(t, c.body, string(m.Body))
					rest := m.Clone().Attributes
					delete(rest, retry.DeadLetterAttribute)
					require.Equal(t, len(want), len(rest))
					for name, value := range want {
						require.Equal(t, value, rest[name])
					}
				}
				require.Equal(t, c.silent, log.Len() == 0, "%s", log.String())
			})
		})
	}
}

// Dead letters keep the group of their message: on a FIFO queue with the message's id
// for deduplication, on a fair queue as the tenant.
func TestDeadLetterKeepsItsGroup(t *testing.T) {
	for _, suffix := range []string{"", ".fifo"} {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{}
			var fifo attrs
			if suffix != "" {
				fifo = attrs{"FifoQueue": "true"}
			}
			q := newQueue(t, server, suffix != "", nil)
			url, err := server.CreateQueue("dead"+suffix, fifo)
			require.NoError(t, err)
			dead, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{})
			require.NoError(t, err)
			send(t, q, &queue.Message{Body: []byte("a"), Group: "tenant-7", Dedup: "d"})
			want := ""
			if suffix != "" {
				want = server.Messages(q.URL())[0].ID
			}
			running := consume(t, q, func(context.Context, *queue.Message) error { return retry.Permanent(errors.New("no")) }, queue.Config{DeadLetter: dead})
			time.Sleep(time.Minute)
			running.stop(t)
			letters := server.Messages(url)
			require.Len(t, letters, 1)
			require.Equal(t, "tenant-7", letters[0].Group)
			require.Equal(t, want, letters[0].Dedup)
		})
	}
}

// A dead-letter queue may have a smaller size limit than the service.
func TestDeadLetterTooLongForItsQueue(t *testing.T) {
	for size, record := range map[int]bool{262144: false, 262144 - 150: true} {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{}
			url, err := server.CreateQueue("dead", attrs{"MaximumMessageSize": "262144"})
			require.NoError(t, err)
			dead, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{})
			require.NoError(t, err)
			for n := range 2 { // alone, and among others
				msgs := messages(1 + n)
				msgs[0].Body = []byte(strings.Repeat("x", size))
				msgs[0].Attributes = map[string]string{retry.DeadLetterAttribute: retry.DeadLetter{Reason: "permanent", Error: strings.Repeat("e", 900)}.Encode()}
				send(t, dead, msgs...)
			}
			all := server.Messages("dead")
			require.Len(t, all, 3)
			_, has := all[0].Attributes[retry.DeadLetterAttribute]
			require.Equal(t, record, has)
		})
	}
}
