package queue_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/host"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
	"github.com/rampmeter/rampmeter/retry"
)

// A finite source has a number of messages, without leases, and then ends.
type finite struct{ left int }

func (s *finite) Receive(_ context.Context, o queue.ReceiveOptions) (msgs []*queue.Message, err error) {
	for ; o.Max > 0 && s.left > 0; o.Max-- {
		s.left--
		id := strconv.Itoa(s.left)
		msgs = append(msgs, &queue.Message{ID: id, Receipt: id})
	}
	if s.left == 0 {
		err = io.EOF
	}
	return msgs, err
}

func (s *finite) Ack(context.Context, ...*queue.Message) error                   { return nil }
func (s *finite) Nack(context.Context, time.Duration, ...*queue.Message) error   { return nil }
func (s *finite) Extend(context.Context, time.Duration, ...*queue.Message) error { return nil }

func sleepMillisecond(context.Context, *queue.Message) error {
	time.Sleep(time.Millisecond)
	return nil
}

func failMillisecond(context.Context, *queue.Message) error {
	time.Sleep(time.Millisecond)
	return errors.New("?")
}

// Without the look-ahead a free slot waits for no more slots than there are.
func TestOneSlotIsFilledAtOnce(t *testing.T) {
	for _, c := range []struct {
		concurrency int
		within      time.Duration
	}{{1, 2100 * time.Millisecond}, {4, 600 * time.Millisecond}} {
		bubble(t, strconv.Itoa(c.concurrency), func(t *testing.T) {
			r := start(t, &finite{left: 2000}, queue.Config{Concurrency: c.concurrency, NoLookAhead: true}, sleepMillisecond)
			began := time.Now()
			require.NoError(t, r.wait())
			require.Less(t, time.Since(began), c.within)
		})
	}
}

// Results that are all different, so that none shares a call, do not wait for
// others once they keep the consumer from receiving.
func TestResultsThatStopTheReceivesDontLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, &finite{left: 2000}, queue.Config{
			Concurrency: 1, NoLookAhead: true, NoDeadLetterGuard: true, Retry: retry.Policy{BaseDelay: time.Hour, MaxDelay: time.Hour},
		}, failMillisecond)
		began := time.Now()
		require.NoError(t, r.wait())
		require.Less(t, time.Since(began), 4*time.Second)
		require.EqualValues(t, 2000, r.Stats().Retried)
	})
}

// An until is a host with a deadline.
type until struct{ at time.Time }

func (u until) Deadline() (handlers, run time.Time) { return u.at, u.at.Add(time.Second) }
func (until) Guard() *judge.Guard                   { return nil }
func (until) Guilt(string, int, judge.Facts) (judge.Guilt, bool, bool) {
	return judge.Innocent, false, false
}
func (until) Judged(id string, _ int, _ judge.Facts, _ judge.Verdict) {}
func (until) Blocked(limiter.Block)                                   {}

// The host of a Run may set the deadline of its handlers, instead of
// DrainTimeout, and reports the drain itself.
func TestADrainUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c, err := queue.NewConsumer(&finite{left: 2}, queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
			<-ctx.Done()
			require.Equal(t, context.DeadlineExceeded, ctx.Err())
			return ctx.Err()
		}), queue.Config{Concurrency: 1, NoLookAhead: true, Logger: slog.New(slog.NewTextHandler(&log, nil)), DrainTimeout: time.Hour})
		require.NoError(t, err)
		began := time.Now()
		ctx, cancel := context.WithTimeout(host.NewContext(t.Context(), until{began.Add(90 * time.Second)}), time.Minute)
		defer cancel()
		require.NoError(t, c.Run(ctx))
		require.Equal(t, 90*time.Second, time.Since(began))
		require.EqualValues(t, 1, c.Stats().Released)
		require.NotContains(t, log.String(), "drain")
	})
}
