package memqueue_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

func TestFIFOGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := newQueue(t, memqueue.Config{FIFO: true, Wait: -1})
		for _, body := range []string{"a0", "b0", "a1", "b1", "a2", "c0"} {
			send(t, q, grouped(body[:1], body))
		}
		// As many as possible of one group, then of the next.
		msgs := receive(t, q, 4, time.Minute)
		require.Equal(t, []string{"a0", "a1", "a2", "b0"}, bodies(msgs))
		require.Less(t, msgs[0].Sequence, msgs[1].Sequence)
		require.Less(t, msgs[1].Sequence, msgs[2].Sequence)
		require.Len(t, msgs[0].Sequence, 20)
		require.Equal(t, "a0", msgs[0].Dedup)
		require.Equal(t, []string{"c0"}, bodies(receive(t, q, 10, time.Minute)))
		send(t, q, grouped("a", "a3"))
		require.Empty(t, receive(t, q, 10, time.Minute), "every group has one in flight")

		// The middle one is done, the last returned, the first still in flight.
		require.NoError(t, q.Ack(ctx, msgs[1]))
		require.NoError(t, q.Nack(ctx, 0, msgs[2]))
		require.Empty(t, receive(t, q, 10, time.Minute))
		require.NoError(t, q.Nack(ctx, time.Second, msgs[0]))
		require.Empty(t, receive(t, q, 10, time.Minute), "the delay of a Nack holds the group up")
		time.Sleep(time.Second)
		require.Equal(t, []string{"a0", "a2", "a3"}, bodies(receive(t, q, 10, time.Minute)))
		time.Sleep(time.Minute)
		require.Equal(t, [3]int{6, 0, 0}, depth(q))
	})
}

func TestFIFODedup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		q := newQueue(t, memqueue.Config{FIFO: true, ContentDedup: true, Wait: -1, MaxMessages: 3})
		send(t, q, grouped("a", "x"), grouped("b", "x"))
		time.Sleep(2 * time.Minute)
		send(t, q, grouped("a", "x"))
		require.NoError(t, q.Ack(ctx, receive(t, q, 10, time.Minute)...))
		time.Sleep(3*time.Minute - 1)
		send(t, q, grouped("a", "x"))
		require.Equal(t, memqueue.Stats{Sent: 1, Received: 1, Acked: 1, Deduplicated: 3}, q.Stats())
		time.Sleep(time.Nanosecond)
		send(t, q, grouped("a", "x"))
		require.Equal(t, [3]int{1, 0, 0}, depth(q), "five minutes after the first, which alone counts")

		plain := &queue.Message{Body: []byte("body"), Group: "a"}
		other := &queue.Message{Body: []byte("other"), Group: "a"}
		send(t, q, plain, other, plain)
		require.Equal(t, uint64(4), q.Stats().Deduplicated)
		send(t, q, plain, other)
		require.Equal(t, [3]int{3, 0, 0}, depth(q), "a duplicate needs no room in a full queue")
	})
}

func TestFIFORedrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{FIFO: true, Wait: -1})
		q := newQueue(t, memqueue.Config{FIFO: true, Wait: -1, MaxReceives: 1, DeadLetter: dead})
		send(t, q, grouped("a", "a0"), grouped("a", "a1"), grouped("b", "b0"))
		m := receive(t, q, 1, time.Minute)[0]
		time.Sleep(time.Hour)
		require.Equal(t, []string{"b0"}, bodies(receive(t, q, 1, time.Minute)), "its turn came before that of a, which was in flight")
		require.Equal(t, []string{"a1"}, bodies(receive(t, q, 1, time.Minute)), "a0 is moved, its group goes on")
		got := receive(t, dead, 10, time.Minute)
		require.Equal(t, []string{"a0"}, bodies(got))
		require.Equal(t, m.ID, got[0].ID)
		require.Equal(t, m.ID, got[0].Dedup)
		require.Equal(t, "a", got[0].Group)
		require.NotEmpty(t, got[0].Sequence)
		require.Equal(t, time.Now(), got[0].SentAt, "its age begins anew")
		time.Sleep(time.Hour)
		require.Empty(t, receive(t, q, 10, time.Minute), "all were received once")
		require.Equal(t, []string{"a0", "b0", "a1"}, func() []string {
			var all []string
			for msgs := receive(t, dead, 1, time.Minute); len(msgs) > 0; msgs = receive(t, dead, 1, time.Minute) {
				require.NoError(t, dead.Ack(t.Context(), msgs...))
				all = append(all, bodies(msgs)...)
			}
			return all
		}())
	})
}
