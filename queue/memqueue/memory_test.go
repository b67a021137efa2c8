package memqueue_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// A million messages leave nothing behind: not in a queue that had many of them
// at once, in flight too, nor in one with a new group and deduplication id for
// each, nor in receivers and senders that waited.
func TestMemoryIsFlat(t *testing.T) {
	const batch = 10
	rounds, perRound := 10, 100_000
	if raceDetector {
		rounds, perRound = 2, 10_000
	}
	body := make([]byte, 100)
	round := func(t *testing.T, q *memqueue.Queue, fifo bool, n int) {
		for sent := 0; sent < perRound; sent += batch {
			var array [batch]queue.Message
			var msgs [batch]*queue.Message
			for i := range msgs {
				msgs[i] = &array[i]
				array[i].Body = body
				if fifo {
					array[i].Group = fmt.Sprint("group-", n, "-", sent+i)
					array[i].Dedup = array[i].Group
				}
			}
			require.NoError(t, q.Send(t.Context(), msgs[:]...))
		}
		var held []*queue.Message
		for range perRound / batch {
			held = append(held, receive(t, q, batch, time.Hour)...)
		}
		require.Len(t, held, perRound)
		require.NoError(t, q.Ack(t.Context(), held...))
		require.Empty(t, receive(t, q, 1, time.Minute))
	}
	for _, fifo := range []bool{false, true} {
		rounds := rounds
		if fifo {
			rounds = min(rounds, 2)
		}
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{FIFO: fifo})
			begin := heapInUse()
			for n := range rounds {
				round(t, q, fifo, n)
				time.Sleep(5 * time.Minute) // the deduplication window
			}
			n := uint64(rounds * perRound)
			require.Equal(t, memqueue.Stats{Sent: n, Received: n, Acked: n}, q.Stats())
			require.Less(t, heapInUse()-begin, int64(1<<20))
			runtime.KeepAlive(q)
		})
	}
}

// Nor do a thousand large ones, with the reuse of small buffers.
func TestMemoryOfLargeBodies(t *testing.T) {
	q := newQueue(t, memqueue.Config{})
	body := make([]byte, 64<<10)
	begin := heapInUse()
	for range 1000 {
		require.NoError(t, q.Send(t.Context(), &queue.Message{Body: body}))
	}
	for range 100 {
		require.NoError(t, q.Ack(t.Context(), receive(t, q, 10, time.Hour)...))
	}
	require.Equal(t, [3]int{}, depth(q))
	require.Less(t, heapInUse()-begin, int64(1<<20))
	runtime.KeepAlive(q)
	runtime.KeepAlive(body)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // the first one may only have finished what had begun before
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
