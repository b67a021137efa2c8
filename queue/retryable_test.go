package queue_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// Policy.Retryable is called without the consumer's lock.
func TestRetryable_AsksForStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		var r atomic.Pointer[running]
		asked := make(chan queue.Stats, 1)
		r.Store(start(t, q, queue.Config{DeadLetter: &dead, Retry: retry.Policy{Retryable: func(error) bool {
			go func() { asked <- r.Load().Stats() }()
			select {
			case <-asked:
				return false
			case <-time.After(time.Second):
				t.Error("Stats does not return")
				return false
			}
		}}}, func(context.Context, *queue.Message) error {
			time.Sleep(time.Second)
			return errors.New("not retryable")
		}))
		time.Sleep(time.Minute)
		require.NoError(t, r.Load().drain())
		require.Len(t, dead.Messages(), 1)
	})
}

// A Policy.Retryable that panics affects only the message whose error it was
// called with.
func TestRetryable_Panics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 100)
		r := start(t, q, queue.Config{DeadLetter: &dead, Retry: retry.Policy{Retryable: func(err error) bool {
			return err.(stamped).after > 0 // knows its own errors only
		}}}, func(_ context.Context, m *queue.Message) error {
			if m.Attempt == 1 {
				switch string(m.Body) {
				case "3":
					panic("a bug")
				case "5":
					return errors.New("of another type")
				}
			}
			return nil
		})
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		s := r.Stats()
		require.EqualValues(t, 100, s.Done+s.DeadLettered, "%+v", s)
		require.GreaterOrEqual(t, s.Done, int64(98))
	})
}
