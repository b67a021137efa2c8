package memqueue_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

func TestSendRefusesWhatSQSWould(t *testing.T) {
	attributes := func(names ...string) map[string]string {
		all := make(map[string]string)
		for _, name := range names {
			all[name] = "value"
		}
		return all
	}
	eleven := make(map[string]string)
	for i := range 11 {
		eleven[fmt.Sprint(i)] = "value"
	}
	ten := maps.Clone(eleven)
	delete(ten, "10")
	ten[sqsqueue.TraceHeader] = "Root=1-5759e988-bd862e3fe1be46a994272793"
	const mib = 1 << 20
	body := make([]byte, mib)
	for _, c := range []struct {
		fifo bool
		m    *queue.Message
		want string // in the error; "" if it is taken
	}{
		{m: &queue.Message{}},
		{m: &queue.Message{Body: body}},
		{m: nil, want: "nil"},
		{m: &queue.Message{Body: body, Attributes: map[string]string{"a": ""}}, want: "1048577 bytes"},
		{m: &queue.Message{Body: body[10:], Attributes: attributes("about")}},
		{m: &queue.Message{Attributes: eleven}, want: "11 attributes"},
		{m: &queue.Message{Attributes: ten}},
		{m: &queue.Message{Body: body, Attributes: attributes(sqsqueue.TraceHeader)}},
		{m: &queue.Message{Body: body, Attributes: attributes("AWSTraceHeader")}, want: "bytes"},
		{m: &queue.Message{Attributes: attributes("A", "b.c", "-_.9", "awsx", "amazonia", strings.Repeat("x", 256))}},
		{m: &queue.Message{Attributes: attributes("")}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes(strings.Repeat("x", 257))}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes(".a")}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes("a.")}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes("a..b")}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes("größe")}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes("a b")}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes("aWs.x")}, want: "attribute name"},
		{m: &queue.Message{Attributes: attributes("AMAZON.x")}, want: "attribute name"},
		{m: &queue.Message{Delay: 15 * time.Minute}},
		{m: &queue.Message{Delay: 15*time.Minute + 1}, want: "Delay"},
		{m: &queue.Message{Delay: -1}, want: "Delay"},
		{m: &queue.Message{Group: "tenant-7"}},
		{m: &queue.Message{Group: strings.Repeat("g", 129)}, want: "Group"},
		{m: &queue.Message{Group: "a b"}, want: "Group"},
		{fifo: true, m: &queue.Message{Group: "g", Dedup: strings.Repeat("d", 128)}},
		{fifo: true, m: &queue.Message{Group: "g", Dedup: "ü"}, want: "Dedup"},
		{fifo: true, m: &queue.Message{Dedup: "d"}, want: "Group is empty"},
		{fifo: true, m: &queue.Message{Group: "g"}, want: "Dedup is empty"},
		{fifo: true, m: &queue.Message{Group: "g", Dedup: "d", Delay: 1}, want: "Delay"},
	} {
		q := newQueue(t, memqueue.Config{FIFO: c.fifo})
		good := grouped("good", "good")
		errs := failed(t, q.Send(t.Context(), good, c.m, good))
		if c.want == "" {
			require.Empty(t, errs, "%+v", c.m)
			continue
		}
		require.Len(t, errs, 1, "%+v", c.m)
		require.ErrorContains(t, errs[1], c.want)
		require.NotZero(t, q.Stats().Visible, "the others are taken")
	}
}

func TestSendRefusesWhenFull(t *testing.T) {
	q := newQueue(t, memqueue.Config{MaxMessages: 2, RefuseWhenFull: true})
	errs := failed(t, q.Send(t.Context(), message("a"), &queue.Message{Delay: -1}, message("b"), message("c")))
	require.Len(t, errs, 2)
	require.ErrorContains(t, errs[1], "Delay")
	require.ErrorIs(t, errs[3], memqueue.ErrFull)
	m := receive(t, q, 1, time.Minute)
	require.ErrorIs(t, q.Send(t.Context(), message("c")), memqueue.ErrFull, "what is in flight takes room")
	require.NoError(t, q.Ack(t.Context(), m...))
	send(t, q, message("c"))
}

func TestSendWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{MaxMessages: 3})
		sendN(t, q, 2)
		var order []string
		start := func(ctx context.Context, names ...string) *error {
			result := new(error)
			go func() {
				var msgs []*queue.Message
				for _, name := range names {
					msgs = append(msgs, message(name))
				}
				*result = q.Send(ctx, msgs...)
				order = append(order, names[0])
			}()
			synctest.Wait()
			return result
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		start(t.Context(), "a", "b") // the one fits, the other waits
		start(t.Context(), "c")
		given := start(ctx, "d", "e", "f")
		start(t.Context(), "g")
		require.Empty(t, order)
		require.Equal(t, [3]int{3, 0, 0}, depth(q))

		ack := func(n int) {
			t.Helper()
			msgs := receive(t, q, n, time.Minute)
			require.NoError(t, q.Ack(t.Context(), msgs...))
			synctest.Wait()
		}
		ack(1)
		require.Equal(t, []string{"a"}, order)
		ack(2)
		require.Equal(t, []string{"a", "c"}, order)
		require.Equal(t, [3]int{3, 0, 0}, depth(q))
		cancel(context.DeadlineExceeded)
		synctest.Wait()
		require.Len(t, failed(t, *given), 2)
		require.ErrorIs(t, failed(t, *given)[1], context.DeadlineExceeded)
		require.ErrorIs(t, failed(t, *given)[2], context.DeadlineExceeded)
		ack(1)
		require.Equal(t, []string{"a", "c", "d", "g"}, order)
		require.Equal(t, []string{"c", "d", "g"}, bodies(receive(t, q, 10, time.Minute)))
	})
}

// Room also comes with the end of retention, and with a redrive.
func TestSendWaitsForRoomOfOldMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{})
		q := newQueue(t, memqueue.Config{MaxMessages: 1, Retention: time.Hour, MaxReceives: 1, DeadLetter: dead})
		send(t, q, message("a"))
		begin := time.Now()
		send(t, q, message("b"))
		require.Equal(t, time.Hour, time.Since(begin))

		require.NoError(t, q.Nack(t.Context(), time.Second, receive(t, q, 1, time.Minute)...))
		waiting := startPoll(t.Context(), q, 1)
		send(t, q, message("c"))
		synctest.Wait()
		require.Equal(t, time.Hour+time.Second, time.Since(begin))
		require.Equal(t, []string{"c"}, bodies(waiting.msgs), "the one that came in for what was moved away goes out in the same step")
		require.Equal(t, []string{"b"}, bodies(receive(t, dead, 10, time.Minute)))
	})
}

// When the first in line gives up, the next may need no room.
func TestSendWaitsBehindOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{FIFO: true, MaxMessages: 1})
		send(t, q, grouped("a", "1"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { _ = q.Send(ctx, grouped("a", "2")) }()
		synctest.Wait()
		begin := time.Now()
		send(t, q, grouped("a", "1"))
		require.Equal(t, time.Minute, time.Since(begin))
		require.Equal(t, uint64(1), q.Stats().Deduplicated)
	})
}

func TestSendEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{MaxMessages: 1})
		var err error
		go func() { err = q.Send(t.Context(), message("a"), message("b")) }()
		synctest.Wait()
		q.Close()
		synctest.Wait()
		require.Len(t, failed(t, err), 1)
		require.ErrorIs(t, failed(t, err)[1], memqueue.ErrClosed)
		require.Equal(t, []string{"a"}, receiveAll(t, q))
	})
}

func TestRedrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := newQueue(t, memqueue.Config{})
		dead := newQueue(t, memqueue.Config{Retention: time.Hour, MaxMessages: 1, MaxReceives: 1, DeadLetter: last})
		q := newQueue(t, memqueue.Config{MaxReceives: 2, DeadLetter: dead})
		sent := time.Now()
		m := message("poison")
		m.Attributes, m.Group = map[string]string{"a": "1"}, "tenant"
		send(t, q, m)
		send(t, dead, message("other"))
		var id string
		for range 2 {
			m := receive(t, q, 1, time.Minute)[0]
			id = m.ID
			time.Sleep(time.Minute)
		}
		// The count is exceeded only by the next receive, and that one gets the next message.
		require.Equal(t, [3]int{1, 0, 0}, depth(q))
		send(t, q, message("good"))
		require.Equal(t, []string{"good"}, bodies(receive(t, q, 1, time.Minute)))
		require.Equal(t, uint64(1), q.Stats().Redriven)
		require.Equal(t, [3]int{0, 0, 1}, depth(q))

		require.Equal(t, 2*time.Minute, dead.Stats().OldestAge, "its age comes with it, before that of a message sent later")
		msgs := receive(t, dead, 10, 10*time.Minute)
		require.Equal(t, []string{"other", "poison"}, bodies(msgs))
		got := msgs[1]
		require.Equal(t, &queue.Message{
			ID: id, Receipt: got.Receipt, Body: []byte("poison"), Attributes: map[string]string{"a": "1"}, Group: "tenant",
			Attempt: 1, SentAt: sent, FirstReceivedAt: time.Now(), ReceivedAt: time.Now(), LeaseUntil: time.Now().Add(10 * time.Minute),
		}, got)
		require.NoError(t, dead.Nack(t.Context(), 0, msgs...))
		require.Empty(t, receive(t, dead, 10, time.Minute), "moved on")
		require.Equal(t, 2*time.Minute+20*time.Second, last.Stats().OldestAge)
		again := receive(t, last, 10, time.Minute)
		require.Equal(t, id, again[1].ID, "through two queues")
		require.NoError(t, last.Ack(t.Context(), again...))
	})
}

// A message that is moved wakes a receiver of the dead-letter queue, and its
// retention counts from when it was first sent.
func TestRedriveWakesAndExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{Retention: time.Hour, Wait: 2 * time.Hour})
		q := newQueue(t, memqueue.Config{MaxReceives: 1, DeadLetter: dead, Wait: -1})
		send(t, q, message("poison"))
		time.Sleep(30 * time.Minute)
		require.NoError(t, q.Nack(t.Context(), 0, receive(t, q, 1, time.Minute)...))
		waiting := startPoll(t.Context(), dead, 1)
		synctest.Wait()
		require.Empty(t, receive(t, q, 1, time.Minute))
		synctest.Wait()
		require.Equal(t, []string{"poison"}, bodies(waiting.msgs))
		time.Sleep(30*time.Minute - 1)
		require.Equal(t, [3]int{1, 0, 0}, depth(dead))
		time.Sleep(time.Nanosecond)
		require.Equal(t, memqueue.Stats{Sent: 1, Received: 1, Expired: 1}, dead.Stats())
	})
}
