package memqueue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// Senders that wait for room and receivers that wait for messages, with
// contexts that end at any moment: what was sent arrives, once.
func TestConcurrentUse(t *testing.T) {
	for _, cfg := range []memqueue.Config{{MaxMessages: 20}, {MaxMessages: 20, FIFO: true}} {
		q := newQueue(t, cfg)
		var (
			mu             sync.Mutex // guards accepted and received
			accepted       = make(map[string]int)
			received       = make(map[string]int)
			sends, reading sync.WaitGroup
		)
		// shortly returns a context that ends soon, often while its call waits.
		shortly := func(random *rand.Rand) (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), time.Duration(random.IntN(200))*time.Microsecond)
		}
		for worker := range uint64(4) {
			sends.Go(func() {
				random := rand.New(rand.NewPCG(worker, 1))
				for i := range 300 {
					var msgs []*queue.Message
					for j := range 1 + random.IntN(12) {
						body := fmt.Sprint(worker, "-", i, "-", j)
						msgs = append(msgs, &queue.Message{Body: []byte(body), Group: fmt.Sprint(j % 3), Dedup: body})
					}
					ctx, cancel := shortly(random)
					err := q.Send(ctx, msgs...)
					cancel()
					mu.Lock()
					for j, m := range msgs {
						var batch *queue.BatchError
						if err == nil || errors.As(err, &batch) && batch.Failed[j] == nil {
							accepted[string(m.Body)]++
						}
					}
					mu.Unlock()
				}
			})
			reading.Go(func() {
				random := rand.New(rand.NewPCG(worker, 2))
				for {
					ctx, cancel := shortly(random)
					msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 1 + random.IntN(12), Lease: time.Hour})
					cancel()
					if errors.Is(err, io.EOF) {
						return
					}
					mu.Lock()
					for _, m := range msgs {
						received[string(m.Body)]++
					}
					mu.Unlock()
					if random.IntN(10) == 0 && len(msgs) > 0 {
						_ = q.Nack(t.Context(), 0, msgs[0])
						mu.Lock()
						received[string(msgs[0].Body)]--
						mu.Unlock()
						msgs = msgs[1:]
					}
					_ = q.Ack(t.Context(), msgs...)
				}
			})
		}
		sends.Wait()
		q.Close()
		reading.Wait()
		require.NotEmpty(t, accepted)
		require.Equal(t, accepted, received)
	}
}

// A call that arrives at the very moment when there is a message, or room, is not
// served before those that wait.
func TestNobodyJumpsTheLine(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{MaxMessages: 1, Retention: time.Hour, Wait: 2 * time.Hour})
			send(t, q, message("first"))
			receive(t, q, 1, time.Minute)
			waiting := startPoll(t.Context(), q, 1)
			time.Sleep(time.Minute)
			late := startPoll(t.Context(), q, 1)
			synctest.Wait()
			require.True(t, waiting.returned())
			require.False(t, late.returned())

			require.NoError(t, q.Extend(t.Context(), time.Hour, waiting.msgs...))
			var order []string
			sender := func(name string) {
				require.NoError(t, q.Send(t.Context(), message(name)))
				order = append(order, name)
			}
			go sender("second")
			time.Sleep(59 * time.Minute) // the end of retention
			go sender("third")
			synctest.Wait()
			require.Equal(t, []string{"second"}, order)
			require.Equal(t, []string{"second"}, bodies(late.msgs))
			time.Sleep(time.Hour)
			synctest.Wait()
			require.Equal(t, []string{"second", "third"}, order)
		})
	}
}
