package queue_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
)

// A longPoll is an empty source whose receives wait as long as they may, at most
// 20 s, and lose messages when they are cut off.
type longPoll struct {
	queue.Source // nothing else is called
	waited       atomic.Int64
	polls, cut   atomic.Int64
}

func (s *longPoll) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	s.polls.Add(1)
	s.waited.Store(int64(o.Wait))
	timer := time.NewTimer(min(o.Wait, 20*time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		s.cut.Add(1)
		return nil, context.Cause(ctx)
	}
}

// A drain waits for the poll that is open and never cuts it off, so a poll waits
// for no longer than a drain has time.
func TestPollsLandWithinDrainTimeout(t *testing.T) {
	for _, c := range []struct{ drain, wait time.Duration }{
		{0, 28 * time.Second}, // the default
		{10 * time.Second, 8 * time.Second},
		{3 * time.Second, time.Second},
		{1500 * time.Millisecond, time.Second}, // the shortest wait, whatever comes of it
	} {
		bubble(t, c.drain.String(), func(t *testing.T) {
			src := &longPoll{}
			for i := range 40 { // a drain that begins at any point of a poll
				r := start(t, src, queue.Config{DrainTimeout: c.drain}, func(context.Context, *queue.Message) error { return nil })
				time.Sleep(time.Duration(i) * 700 * time.Millisecond)
				synctest.Wait()
				begin := time.Now()
				require.NoError(t, r.drain())
				require.LessOrEqual(t, time.Since(begin), min(c.wait, 20*time.Second))
			}
			require.Equal(t, c.wait, time.Duration(src.waited.Load()))
			require.Positive(t, src.polls.Load())
			require.Zero(t, src.cut.Load(), "polls that were cut off")
		})
	}
}
