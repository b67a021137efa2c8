package memqueue_test

import (
	"context"
	"errors"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

func TestNewRefuses(t *testing.T) {
	standard, fifo := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{FIFO: true})
	for field, cfg := range map[string]memqueue.Config{
		"ContentDedup":   {ContentDedup: true},
		"MaxLease":       {MaxLease: -1},
		"MaxInFlight":    {MaxInFlight: -1},
		"Retention":      {Retention: -1},
		"MaxMessages":    {MaxMessages: -1},
		"RefuseWhenFull": {RefuseWhenFull: true},
		"MaxReceives":    {MaxReceives: 3},
		"MaxReceives is": {MaxReceives: -3, DeadLetter: standard},
		"DeadLetter":     {DeadLetter: standard},
		"DeadLetter:":    {DeadLetter: fifo, MaxReceives: 3},
		"a standard":     {FIFO: true, DeadLetter: standard, MaxReceives: 3},
	} {
		_, err := memqueue.New(cfg)
		require.ErrorContains(t, err, "memqueue: New: ")
		require.ErrorContains(t, err, field)
	}
}

func TestCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		delayed := message("delayed")
		delayed.Delay = 2 * time.Minute
		send(t, q, message("leased"), message("visible"), delayed)
		receive(t, q, 1, time.Minute)
		q.Close()
		q.Close()
		require.ErrorIs(t, q.Send(t.Context(), message("late")), memqueue.ErrClosed)

		// Leased and delayed messages arrive when their time is over; until then
		// polls end empty.
		begin := time.Now()
		require.Equal(t, []string{"visible"}, bodies(receive(t, q, 10, time.Hour)))
		require.Empty(t, receive(t, q, 10, time.Hour))
		require.Equal(t, 20*time.Second, time.Since(begin))
		require.Equal(t, []string{"leased", "delayed", "visible"}, receiveAll(t, q))
		require.Equal(t, time.Hour, time.Since(begin))
	})
}

// receiveAll acks everything until io.EOF.
func receiveAll(t *testing.T, q *memqueue.Queue) []string {
	t.Helper()
	var all []string
	for {
		msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 10, Lease: time.Hour})
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		require.NoError(t, q.Ack(t.Context(), msgs...))
		all = append(all, bodies(msgs)...)
	}
}

func TestCloseEndsWaitingReceives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		send(t, q, message("one"))
		m := receive(t, q, 1, time.Hour)
		polls := []*poll{startPoll(t.Context(), q, 1), startPoll(t.Context(), q, 1)}
		synctest.Wait()
		q.Close()
		synctest.Wait()
		require.False(t, polls[0].returned(), "a message is in flight, and may come back")
		require.NoError(t, q.Ack(t.Context(), m...))
		synctest.Wait()
		for _, p := range polls {
			require.True(t, p.returned())
			require.ErrorIs(t, p.err, io.EOF)
		}
		require.Empty(t, receiveAll(t, q))

		q = newQueue(t, memqueue.Config{Wait: -1})
		q.Close()
		require.Empty(t, receiveAll(t, q))
	})
}

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{Retention: time.Hour})
		require.Equal(t, memqueue.Stats{}, q.Stats())
		delayed := message("delayed")
		delayed.Delay = time.Minute
		send(t, q, message("a"), message("b"), delayed)
		time.Sleep(10 * time.Second)
		send(t, q, message("c"))
		require.NoError(t, q.Ack(t.Context(), receive(t, q, 1, time.Minute)...))
		receive(t, q, 1, time.Minute)
		require.Equal(t, memqueue.Stats{Visible: 1, Delayed: 1, InFlight: 1, OldestAge: 10 * time.Second, Sent: 4, Received: 2, Acked: 1}, q.Stats())
		time.Sleep(time.Minute)
		require.Equal(t, [3]int{3, 0, 0}, depth(q))
		time.Sleep(time.Hour - 70*time.Second)
		require.Equal(t, memqueue.Stats{Visible: 1, OldestAge: time.Hour - 10*time.Second, Sent: 4, Received: 2, Acked: 1, Expired: 2}, q.Stats())
	})
}

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		send(t, q, message("leased"), message("visible"))
		m := receive(t, q, 1, time.Hour)[0]
		const days = 24 * time.Hour
		for range 4*24*2 - 1 {
			time.Sleep(30 * time.Minute)
			// A lease can't be extended beyond 12 hours: receive it anew.
			if q.Extend(t.Context(), time.Hour, m) != nil {
				for _, again := range receive(t, q, 10, time.Hour) {
					if again.ID == m.ID {
						m = again
					}
				}
			}
		}
		time.Sleep(30*time.Minute - time.Nanosecond)
		require.NoError(t, q.Extend(t.Context(), time.Hour, m), "kept for four days")
		require.Equal(t, 4*days-time.Nanosecond, q.Stats().OldestAge)
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, failed(t, q.Extend(t.Context(), time.Hour, m))[0], queue.ErrLeaseLost)
		require.NoError(t, q.Ack(t.Context(), m), "gone already")
		require.Equal(t, uint64(2), q.Stats().Expired)
		require.Equal(t, [3]int{}, depth(q))
	})
}

func TestReceiveRefuses(t *testing.T) {
	q := newQueue(t, memqueue.Config{MaxLease: time.Hour})
	for field, o := range map[string]queue.ReceiveOptions{
		"Max is 0":            {Lease: time.Second},
		"Max is -1":           {Max: -1, Lease: time.Second},
		"Lease is 0s":         {Max: 1},
		"Lease is -1s":        {Max: 1, Lease: -time.Second},
		"Lease is 1h0m0.001s": {Max: 1, Lease: time.Hour + time.Millisecond},
	} {
		_, err := q.Receive(t.Context(), o)
		require.ErrorContains(t, err, field)
	}
}

func TestReceiveCarriesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		sent := time.Now()
		send(t, q, &queue.Message{ID: "ignored", Body: []byte("body"), Attributes: map[string]string{"a": "1"}, Group: "tenant", Delay: time.Second})
		time.Sleep(time.Minute)
		first := time.Now()
		m := receive(t, q, 1, 90*time.Second)[0]
		require.NotEmpty(t, m.ID)
		require.NotEmpty(t, m.Receipt)
		require.Equal(t, &queue.Message{
			ID: m.ID, Receipt: m.Receipt, Body: []byte("body"), Attributes: map[string]string{"a": "1"}, Group: "tenant",
			Attempt: 1, SentAt: sent, FirstReceivedAt: first, ReceivedAt: first, LeaseUntil: first.Add(90 * time.Second),
		}, m)
		require.NoError(t, q.Nack(t.Context(), 1500*time.Microsecond, m))
		again := receive(t, q, 1, time.Second)[0]
		require.Equal(t, 1500*time.Microsecond, time.Since(first), "delays are not rounded")
		require.Equal(t, m.ID, again.ID)
		require.NotEqual(t, m.Receipt, again.Receipt)
		require.Equal(t, 2, again.Attempt)
		require.Equal(t, []time.Time{sent, first, time.Now()}, []time.Time{again.SentAt, again.FirstReceivedAt, again.ReceivedAt})
	})
}

func TestPollEndsEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for wait, want := range map[time.Duration]time.Duration{0: 20 * time.Second, time.Second: time.Second, -1: 0} {
			q := newQueue(t, memqueue.Config{Wait: wait})
			begin := time.Now()
			require.Empty(t, receive(t, q, 1, time.Minute))
			require.Equal(t, want, time.Since(begin))
		}
	})
}

// A poll wakes when a message arrives, when a delay ends, and when a lease
// does; each receiver in its turn, and one for each message.
func TestPollEndsSoonerIfAsked(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{
		0: 5 * time.Second, 2 * time.Second: 2 * time.Second, time.Minute: 5 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			q, err := memqueue.New(memqueue.Config{Wait: 5 * time.Second})
			require.NoError(t, err)
			began := time.Now()
			msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute, Wait: asked})
			require.NoError(t, err)
			require.Empty(t, msgs)
			require.Equal(t, want, time.Since(began))

			// It has left the line.
			require.NoError(t, q.Send(t.Context(), &queue.Message{ID: "a"}))
			msgs, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.NoError(t, err)
			require.Len(t, msgs, 1)
		})
	}
}

func TestPollWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{Wait: time.Hour})
		begin := time.Now()
		var polls []*poll
		for range 4 {
			polls = append(polls, startPoll(t.Context(), q, 10))
			synctest.Wait()
		}
		woken := func(want ...bool) {
			t.Helper()
			synctest.Wait()
			var got []bool
			for _, p := range polls {
				got = append(got, p.returned())
			}
			require.Equal(t, want, got)
		}
		time.Sleep(time.Second)
		send(t, q, message("a"))
		woken(true, false, false, false)

		delayed := message("b")
		delayed.Delay = 2 * time.Second
		send(t, q, delayed)
		woken(true, false, false, false)
		time.Sleep(2 * time.Second)
		woken(true, true, false, false)
		require.Equal(t, 3*time.Second, polls[1].at.Sub(begin))

		time.Sleep(58*time.Second - 1)
		woken(true, true, false, false)
		time.Sleep(time.Nanosecond)
		woken(true, true, true, false)
		require.Equal(t, []string{"a"}, bodies(polls[2].msgs))
		require.Equal(t, 2, polls[2].msgs[0].Attempt)

		require.NoError(t, q.Nack(t.Context(), 0, polls[2].msgs...))
		woken(true, true, true, true)
		require.NoError(t, q.Ack(t.Context(), polls[3].msgs...))
		require.NoError(t, q.Ack(t.Context(), polls[1].msgs...))
		require.Equal(t, [3]int{}, depth(q))
	})
}

// One call that makes several messages available wakes as many receivers as
// needed.
func TestPollsShareABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		var polls []*poll
		for _, max := range []int{2, 10, 1} {
			polls = append(polls, startPoll(t.Context(), q, max))
			synctest.Wait()
		}
		var msgs []*queue.Message
		for range 13 {
			msgs = append(msgs, message("m"))
		}
		send(t, q, msgs...)
		synctest.Wait()
		for i, want := range []int{2, 10, 1} {
			require.Len(t, polls[i].msgs, want)
		}
	})
}

func TestCancelledPollLeavesTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		cause := errors.New("gone home")
		ctx, cancel := context.WithCancelCause(t.Context())
		first := startPoll(ctx, q, 1)
		synctest.Wait()
		second := startPoll(t.Context(), q, 1)
		synctest.Wait()
		cancel(cause)
		synctest.Wait()
		require.ErrorIs(t, first.err, cause)
		send(t, q, message("a"))
		synctest.Wait()
		require.Equal(t, []string{"a"}, bodies(second.msgs))
		_, err := q.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: time.Second})
		require.ErrorIs(t, err, cause)
	})
}

// A receive that is stopped before it begins costs no message a receive.
func TestStoppedReceiveTakesNothing(t *testing.T) {
	q := newQueue(t, memqueue.Config{})
	send(t, q, message("body"))
	stop := make(chan struct{})
	close(stop)
	msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute, Stop: stop})
	require.NoError(t, err)
	require.Empty(t, msgs)
	require.Equal(t, 1, receive(t, q, 1, time.Minute)[0].Attempt)
}

func TestInFlightCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{MaxInFlight: 15})
		sendN(t, q, 30)
		require.Len(t, receive(t, q, 10, time.Minute), 10)
		held := receive(t, q, 10, time.Minute)
		require.Len(t, held, 5)
		require.Empty(t, receive(t, q, 10, time.Minute))
		require.NoError(t, q.Nack(t.Context(), 10*time.Second, held[0]), "hidden still, so in flight")
		waiting := startPoll(t.Context(), q, 10)
		synctest.Wait()
		require.False(t, waiting.returned())
		require.NoError(t, q.Ack(t.Context(), held[1]))
		synctest.Wait()
		require.Equal(t, []string{"15"}, bodies(waiting.msgs))
		require.Len(t, receive(t, q, 10, time.Minute), 1, "the delay of the Nack is over")
		require.Equal(t, [3]int{14, 0, 15}, depth(q))
	})
}

func TestDurationsWithoutEnd(t *testing.T) {
	const forever = time.Duration(math.MaxInt64)
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{Retention: forever, MaxLease: forever, Wait: forever})
		time.Sleep(time.Second)
		sendN(t, q, 3)
		require.Equal(t, [3]int{3, 0, 0}, depth(q), "kept")

		receive(t, q, 1, forever)
		extended, put := receive(t, q, 1, time.Minute), receive(t, q, 1, time.Minute)
		require.NoError(t, q.Extend(t.Context(), time.Hour, extended...))
		require.NoError(t, q.Nack(t.Context(), forever, put...))
		require.Equal(t, [3]int{0, 0, 3}, depth(q), "hidden")

		p := startPoll(t.Context(), q, 1)
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		require.False(t, p.returned())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, bodies(extended), bodies(p.msgs))
	})
}
