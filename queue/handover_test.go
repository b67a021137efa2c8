package queue_test

import (
	"context"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

// A dead-letter sink that hangs, and handlers that end their goroutine, do not
// occupy the only slot.
func TestHandOver_SinkThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 300)
		var dead queuetest.Recorder
		sink := &queuetest.Faulty{Sink: &dead, Plan: queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.Hang}, 1, 2, 3, 4, 5)}
		r := start(t, q, queue.Config{Concurrency: 1, DeadLetter: sink}, func(_ context.Context, m *queue.Message) error {
			switch {
			case m.Attempt == 1 && m.Body[0] == '1':
				runtime.Goexit()
			case m.Body[0] == '2':
				return &queue.DecodeError{Err: io.ErrUnexpectedEOF}
			}
			return nil
		})
		time.Sleep(3 * time.Hour)
		require.NoError(t, r.drain())
		require.EqualValues(t, 189, r.Stats().Done)
		require.EqualValues(t, 111, r.Stats().DeadLettered) // "2", "20" to "29", "200" to "299"
		require.Len(t, dead.Messages(), 111)
	})
}
