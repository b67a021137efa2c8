package deadletter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

func TestBadConfigIsRefused(t *testing.T) {
	q, other := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
	at := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	for want, cfg := range map[string]deadletter.Config{
		"Config.Filter.From is 2026-01-02 00:00:01 +0000 UTC": {Filter: deadletter.Filter{From: at.Add(time.Second), Until: at}},
		"Config.Filter.From is 2026-01-02 00:00:00 +0000 UTC": {Filter: deadletter.Filter{From: at, Until: at}},
		"Config.Max is -1":      {Max: -1},
		"Config.Lease is 1s":    {Lease: time.Second},
		"Config.Lease is 13h":   {Lease: 13 * time.Hour},
		"Config.Wait is 999ms":  {Wait: 999 * time.Millisecond},
		"Config.Wait is 21s":    {Wait: 21 * time.Second},
		"Config.Wait is -1s":    {Wait: -time.Second},
		"Config.Lease is -1m0s": {Lease: -time.Minute},
		"Config.Limiter is nil": {Limiter: (*limiter.Breaker)(nil)},
	} {
		_, err := deadletter.Redrive(t.Context(), q, other, cfg)
		require.ErrorContains(t, err, "deadletter: redrive: "+want)
		for _, err := range deadletter.List(t.Context(), q, cfg) {
			require.ErrorContains(t, err, "deadletter: list: "+want)
		}
	}
	var none *memqueue.Queue
	for _, from := range []queue.Source{nil, none} {
		_, err := deadletter.Redrive(t.Context(), from, q, deadletter.Config{})
		require.ErrorContains(t, err, "from is nil")
		for _, err := range deadletter.List(t.Context(), from, deadletter.Config{}) {
			require.ErrorContains(t, err, "from is nil")
		}
	}
	for _, to := range []queue.Sink{nil, none} {
		_, err := deadletter.Redrive(t.Context(), q, to, deadletter.Config{})
		require.ErrorContains(t, err, "to is nil")
	}
	_, err := deadletter.Redrive(t.Context(), q, none, deadletter.Config{DryRun: true})
	require.ErrorContains(t, err, "to is nil (a *memqueue.Queue)")
}

// A queue is not redriven to itself, which would cost its letters their records.
// What can't be compared is not the same.
func TestSameQueueIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, q, 3, 0)
		time.Sleep(time.Second)
		for _, cfg := range []deadletter.Config{{}, {DryRun: true}} {
			_, err := deadletter.Redrive(t.Context(), q, q, cfg)
			require.ErrorContains(t, err, "to is from")
			require.Equal(t, 3, q.Stats().Visible)
		}
		for _, l := range list(t, q, deadletter.Config{}) {
			require.True(t, l.Recorded)
		}
		both := incomparable{q, orders, nil}
		s, err := deadletter.Redrive(t.Context(), both, both, deadletter.Config{})
		require.NoError(t, err)
		require.Equal(t, 3, s.Redriven)
	})
}

// incomparable is two queues in a value that panics when it is compared.
type incomparable struct {
	queue.Source
	queue.Sink
	_ []int
}

// A listing sees every letter once, however long it takes, and leaves all of
// them visible.
func TestListTakesNothing(t *testing.T) {
	for name, slow := range map[string]time.Duration{"fast": 0, "slow": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 253
				dead := newQueue(t, memqueue.Config{})
				fill(t, dead, n, 0)
				seen := make(map[string]int)
				for l, err := range deadletter.List(t.Context(), dead, deadletter.Config{}) {
					require.NoError(t, err)
					require.True(t, l.Recorded)
					require.Equal(t, record(len(seen)), l.Record)
					seen[string(l.Message.Body)]++
					time.Sleep(slow)
				}
				require.Len(t, seen, n)
				s := dead.Stats()
				require.Equal(t, n, s.Visible, "%+v", s)
				require.EqualValues(t, n, s.Received, "received again, so a lease had ended")
			})
		})
	}
}

func TestListEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{})
		fill(t, dead, 50, 0)
		for l, err := range deadletter.List(t.Context(), dead, deadletter.Config{}) {
			require.NoError(t, err)
			if string(l.Message.Body) == "m13" {
				break
			}
		}
		require.Equal(t, 50, dead.Stats().Visible)
		require.Len(t, list(t, dead, deadletter.Config{Max: 7}), 7)
		require.Equal(t, 50, dead.Stats().Visible)
		require.Len(t, list(t, dead, deadletter.Config{Filter: deadletter.Filter{Sources: []string{"orders"}}}), 25)

		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		enough := errors.New("enough")
		n := 0
		for _, err := range deadletter.List(ctx, dead, deadletter.Config{}) {
			if err != nil {
				require.ErrorIs(t, err, enough)
				break
			}
			n++
			cancel(enough)
		}
		require.Equal(t, 10, n, "what was received is still listed")
		require.Equal(t, 50, dead.Stats().Visible)
	})
}

// Letters that arrive during a listing are not listed, and do not prolong it.
func TestListEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{})
		fill(t, dead, 30, 0)
		time.Sleep(time.Second)
		var feed sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		feed.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
				_ = dead.Send(t.Context(), &queue.Message{Body: []byte("new")})
			}
		})
		require.Len(t, list(t, dead, deadletter.Config{}), 30)
		stop()
		feed.Wait()
		require.Zero(t, dead.Stats().InFlight)
	})
}

func TestRedrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 95
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, n, 0)
		time.Sleep(time.Hour)
		var results []deadletter.Result
		s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{
			OnResult: func(r deadletter.Result) { results = append(results, r) },
		})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: n, Matched: n, Redriven: n}, s)
		require.Zero(t, dead.Stats().Visible+dead.Stats().InFlight)
		require.Len(t, results, n)
		for i, r := range results {
			require.Equal(t, deadletter.Redriven, r.Outcome)
			require.Equal(t, i+1, r.Summary.Redriven)
			require.Equal(t, fmt.Sprint("m", i), string(r.Letter.Message.Body))
		}
		for i, m := range drain(t, orders) {
			require.Equal(t, fmt.Sprint("m", i), string(m.Body))
			require.Equal(t, 1, m.Attempt, "it would be exhausted early")
			history, err := deadletter.ParseHistory(m.Attributes[deadletter.HistoryAttribute])
			require.NoError(t, err)
			require.Equal(t, deadletter.History{Redrives: 1, Run: s.Run, Attempts: record(i).Attempts, First: record(i).First, Last: record(i)}, history)
			delete(m.Attributes, deadletter.HistoryAttribute)
			require.Equal(t, map[string]string{"color": fmt.Sprint(i)}, m.Attributes)
		}
	})
}

// A message that is given up, redriven and given up again, by a consumer, has one
// record, and knows of its first life.
func TestLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		require.NoError(t, orders.Send(t.Context(), &queue.Message{Body: []byte("order"), Attributes: map[string]string{"id": "17"}}))
		born := time.Now()
		consume := func(handle error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			c, err := queue.NewConsumer(orders, queue.HandlerFunc(func(context.Context, *queue.Message) error { return handle }), queue.Config{
				Name: "orders", Concurrency: 1, DeadLetter: dead, Retry: retry.Policy{MaxAttempts: 4}, Logger: quiet,
			})
			require.NoError(t, err)
			require.NoError(t, c.Run(ctx))
		}
		for life := 1; life <= 3; life++ {
			consume(fmt.Errorf("trouble %d", life))
			letters := list(t, dead, deadletter.Config{})
			require.Len(t, letters, 1)
			l := letters[0]
			require.Equal(t, retry.ReasonExhausted, l.Record.Reason)
			require.Contains(t, l.Record.Error, fmt.Sprint("trouble ", life))
			require.Equal(t, 4, l.Record.Attempts)
			require.Equal(t, 4*life, l.Attempts())
			require.True(t, l.First().Equal(born), "%v", l.First())
			require.Equal(t, life-1, l.History.Redrives)
			if life > 1 {
				require.Contains(t, l.History.Last.Error, fmt.Sprint("trouble ", life-1))
			}
			require.Equal(t, "17", l.Message.Attributes["id"])
			time.Sleep(time.Minute)
			s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{Logger: quiet})
			require.NoError(t, err)
			require.Equal(t, 1, s.Redriven)
		}
		consume(nil)
		require.Zero(t, orders.Stats().Visible+dead.Stats().Visible)
	})
}

func TestRedriveSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 60, 0)
		cfg := deadletter.Config{Filter: deadletter.Filter{Reasons: []string{retry.ReasonExhausted}}, DryRun: true}

		s, err := deadletter.Redrive(t.Context(), dead, nil, cfg)
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 60, Matched: 20, Kept: 60}, s)
		require.Equal(t, 60, dead.Stats().Visible)

		cfg.Max = 3
		s, err = deadletter.Redrive(t.Context(), dead, nil, cfg)
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 10, Matched: 3, Kept: 10}, s, "no more than it would have sent")
		require.Equal(t, 60, dead.Stats().Visible)

		cfg.DryRun, cfg.Max = false, 13
		s, err = deadletter.Redrive(t.Context(), dead, orders, cfg)
		require.NoError(t, err)
		requireAddsUp(t, s)
		require.Equal(t, 13, s.Redriven)
		require.Equal(t, 40, s.Examined, "four receives bring them")
		require.Equal(t, 47, dead.Stats().Visible)

		cfg.Max = 0
		s, err = deadletter.Redrive(t.Context(), dead, orders, cfg)
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 47, Matched: 7, Redriven: 7, Kept: 40}, s)
		for _, l := range list(t, dead, deadletter.Config{}) {
			require.NotEqual(t, retry.ReasonExhausted, l.Record.Reason)
		}
		require.Equal(t, 40, dead.Stats().Visible)
		require.Len(t, drain(t, orders), 20)
	})
}

// Refused letters do not count towards Max.
func TestMaxWithRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 8, 0)
		sink := &picky{Sink: orders, refuse: refuse("m0", "m1", "m2")}
		s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{Max: 3, Logger: quiet})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 8, Matched: 8, Redriven: 3, Failed: 3, Kept: 2}, s)
		require.Equal(t, map[string]int{"m3": 1, "m4": 1, "m5": 1}, bodies(drain(t, orders)))
	})
}

// A letter that one receive brings twice is sent once.
func TestTwiceInOneReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 45, 0)
		s, err := deadletter.Redrive(t.Context(), repeating{dead}, orders, deadletter.Config{Logger: quiet})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 45, Matched: 45, Redriven: 45}, s)
		require.Len(t, drain(t, orders), 45)
	})
}

// repeating is a queue that delivers every message twice.
type repeating struct{ queue.Source }

func (r repeating) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	msgs, err := r.Source.Receive(ctx, o)
	for _, m := range msgs {
		msgs = append(msgs, m.Clone())
	}
	return msgs, err
}

// A message that the destination refuses stays unchanged, and is tried once.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 40, 0)
		sink := &picky{Sink: orders, refuse: refuse("m3", "m17", "m39")}
		var failed []string
		s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{OnResult: func(r deadletter.Result) {
			if r.Outcome == deadletter.Failed {
				require.ErrorIs(t, r.Err, errRefused)
				failed = append(failed, string(r.Letter.Message.Body))
			}
		}})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 40, Matched: 40, Redriven: 37, Failed: 3}, s)
		require.Equal(t, []string{"m3", "m17", "m39"}, failed)
		require.Equal(t, 7, sink.calls, "four batches, and once more without the history")
		letters := list(t, dead, deadletter.Config{})
		require.Len(t, letters, 3)
		require.Equal(t, record(3), letters[0].Record)
	})
}

// A message that has no room for its history goes without.
func TestNoRoomForTheHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		full := make(map[string]string)
		for i := range 10 {
			full[fmt.Sprint("a", i)] = "x"
		}
		require.NoError(t, dead.Send(t.Context(), &queue.Message{Body: []byte("full"), Attributes: full}))
		fill(t, dead, 5, 0)
		s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{})
		require.NoError(t, err)
		require.Equal(t, 6, s.Redriven)
		for _, m := range drain(t, orders) {
			if string(m.Body) == "full" {
				require.Equal(t, full, m.Attributes)
			} else {
				require.Contains(t, m.Attributes, deadletter.HistoryAttribute)
			}
		}
	})
}

// A redrive waits for the end of an outage of the destination; a permanent failure of
// the destination ends the redrive. Either way no letter is lost or left hidden.
func TestTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		until  time.Duration
		ends   bool
		doubt  int // letters that may have been accepted, if it ends
		within time.Duration
	}{
		"short outage":  {err: limiter.ErrUnavailable, until: 300 * time.Millisecond}, // seven jittered delays add up to less once in a hundred million runs
		"long outage":   {err: limiter.ErrUnavailable, until: time.Hour, ends: true, doubt: 10},
		"overload":      {err: overload(time.Minute), until: time.Minute},
		"misconfigured": {err: limiter.ErrMisconfigured, until: time.Hour, ends: true, within: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				fill(t, dead, 30, 0)
				begin := time.Now()
				sink := &picky{Sink: orders, refuse: func(*queue.Message) error {
					if time.Since(begin) < c.until {
						return fmt.Errorf("%w", c.err)
					}
					return nil
				}}
				s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{Logger: quiet})
				requireAddsUp(t, s)
				require.Zero(t, dead.Stats().InFlight)
				if !c.ends {
					require.NoError(t, err)
					require.Equal(t, 30, s.Redriven)
					require.Len(t, drain(t, orders), 30)
					return
				}
				require.ErrorIs(t, err, c.err)
				require.Equal(t, c.doubt, s.InDoubt)
				require.Equal(t, 30, dead.Stats().Visible)
				if c.within > 0 {
					require.Less(t, time.Since(begin), c.within)
				}
			})
		})
	}
}

// With a breaker a redrive waits for the end of an outage of any length.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 30, 0)
		time.Sleep(time.Second)
		begin := time.Now()
		sink := &picky{Sink: orders, refuse: func(*queue.Message) error {
			if time.Since(begin) < 3*time.Hour {
				return limiter.ErrUnavailable
			}
			return nil
		}}
		breaker, err := limiter.NewBreaker(limiter.BreakerConfig{})
		require.NoError(t, err)
		s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{Limiter: breaker, Logger: quiet})
		require.NoError(t, err)
		require.Equal(t, 30, s.Redriven)
		require.Zero(t, dead.Stats().Visible+dead.Stats().InFlight)
		require.Less(t, sink.calls, 1000)
	})
}

// Temporary failures do not use up Max, and failures of a part of each batch do not end
// a redrive that makes progress.
func TestTroubleAndProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 300, 0)
		f := &queuetest.Faulty{Sink: orders, Plan: queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.Refuse, Err: limiter.ErrUnavailable}, 1)}
		s, err := deadletter.Redrive(t.Context(), dead, f, deadletter.Config{Max: 10, Logger: quiet})
		require.NoError(t, err)
		require.Equal(t, 10, s.Redriven)

		f.Plan = queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.Half, Err: overload(time.Second)})
		s, err = deadletter.Redrive(t.Context(), dead, &picky{Sink: f}, deadletter.Config{Logger: quiet, Filter: deadletter.Filter{Sources: []string{"orders"}}})
		require.ErrorIs(t, err, limiter.ErrOverload, "the last one of a batch is always refused")
		require.Positive(t, s.Redriven)

		n := 0
		sink := &picky{Sink: orders, refuse: func(*queue.Message) error {
			if n++; n%3 == 0 {
				return limiter.ErrOverload
			}
			return nil
		}}
		left := 290 - s.Redriven
		s, err = deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{Logger: quiet})
		require.NoError(t, err)
		require.Equal(t, left, s.Redriven)
	})
}

// overload is a 429 with that Retry-After.
type overload time.Duration

func (o overload) Error() string             { return "slow down" }
func (o overload) Is(target error) bool      { return target == limiter.ErrOverload }
func (o overload) RetryAfter() time.Duration { return time.Duration(o) }

// If a call fails as a whole, with an error that says nothing about the downstream, its
// letters are in doubt, and the redrive continues with the others.
func TestInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 30, 0)
		sink := &queuetest.Faulty{Sink: orders, Plan: queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.LoseReply}, 2)}
		s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{Logger: quiet})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 30, Matched: 30, Redriven: 20, InDoubt: 10}, s)
		require.Equal(t, 10, dead.Stats().Visible)
		require.Equal(t, 30, orders.Stats().Visible)
	})
}

// A letter that was accepted but could not be deleted is deleted later, and not sent
// again.
func TestAckFails(t *testing.T) {
	for name, c := range map[string]struct {
		fails []int // acks
	}{
		"twice":  {[]int{1, 2}},
		"longer": {[]int{1, 2, 3, 4, 5, 6}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				fill(t, dead, 30, 0)
				source := &queuetest.Faulty{Source: dead, Plan: queuetest.On(queuetest.OpAck, queuetest.Fault{Mode: queuetest.Refuse}, c.fails...)}
				s, err := deadletter.Redrive(t.Context(), source, orders, deadletter.Config{Logger: quiet})
				require.NoError(t, err)
				requireAddsUp(t, s)
				require.Equal(t, 30, s.Redriven)
				require.Len(t, drain(t, orders), 30)
				require.Zero(t, dead.Stats().Visible)
			})
		})
	}
}

// A redrive that can't delete what it sends ends before it has doubled the queue,
// and says so.
func TestNothingCanBeDeleted(t *testing.T) {
	errSlow := errors.New("not now")
	for name, c := range map[string]struct {
		err     error
		of      int // letters of which one can't be deleted
		doubled int // letters that are in both queues in the end
		ends    bool
	}{
		"not allowed":           {fmt.Errorf("AccessDenied: %w", limiter.ErrMisconfigured), 1, 10, true},
		"not allowed for a few": {fmt.Errorf("AccessDenied: %w", limiter.ErrMisconfigured), 60, 1, true},
		"fails":                 {errSlow, 1, 10, true},
		"leases are lost":       {queue.ErrLeaseLost, 1, 10, true},
		"fails for one of two":  {errSlow, 2, 10, true},
		"fails for some":        {errSlow, 7, 10, true},
		"fails for a few":       {errSlow, 60, 9, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 500
				dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				fill(t, dead, n, 0)
				time.Sleep(time.Second)
				source := &undeletable{Source: dead, of: c.of, err: c.err, id: make(map[string]bool)}
				s, err := deadletter.Redrive(t.Context(), source, orders, deadletter.Config{Logger: quiet})
				requireAddsUp(t, s)
				require.Equal(t, c.doubled, s.InDoubt, "%+v", s)
				require.Equal(t, s.Redriven+s.InDoubt, orders.Stats().Visible)
				time.Sleep(time.Hour) // what was lost comes back
				require.Equal(t, n-s.Redriven, dead.Stats().Visible)
				if !c.ends {
					require.NoError(t, err)
					require.Equal(t, n, s.Redriven+s.InDoubt)
					return
				}
				require.ErrorIs(t, err, c.err)
				require.ErrorContains(t, err, "deadletter: redrive: delete what was sent")
				require.Less(t, s.Redriven+s.InDoubt, n)
			})
		})
	}
}

// undeletable is a queue in which one in of messages can't be deleted.
type undeletable struct {
	queue.Source
	of  int
	err error
	id  map[string]bool // whether it can't be, by the message's id
}

func (u *undeletable) Ack(ctx context.Context, msgs ...*queue.Message) error {
	failed := make(map[int]error)
	for i, m := range msgs {
		no, known := u.id[m.ID]
		if !known {
			no = len(u.id)%u.of == 0
			u.id[m.ID] = no
		}
		if no {
			failed[i] = u.err
		} else if err := u.Source.Ack(ctx, m); err != nil {
			failed[i] = err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &queue.BatchError{Op: "ack", Failed: failed}
}

// When its context has ended, a redrive or a listing returns even if the queue no
// longer answers.
func TestQueueThatHangs(t *testing.T) {
	const n = 5000
	for name, c := range map[string]struct {
		own  time.Duration // after which the source fails by itself
		acks bool          // they hang, too
		max  time.Duration
	}{
		"give back":                   {own: time.Hour, max: 31 * time.Second},
		"give back, timeouts":         {own: 10 * time.Second, max: 31 * time.Second},
		"delete and give back":        {own: time.Hour, acks: true, max: 31 * time.Second},
		"delete and give back, early": {own: 10 * time.Second, acks: true, max: 31 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				fill(t, dead, n, 0)
				time.Sleep(time.Second)
				source := hanging{Source: dead, own: c.own, acks: c.acks}
				var cancelled time.Time
				enough := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				end := func() {
					cancelled = time.Now()
					cancel(enough)
				}
				kept, sends := 0, 0
				sink := &picky{Sink: orders, whole: func() error {
					if sends++; c.acks {
						end()
					}
					return nil
				}}
				_, err := deadletter.Redrive(ctx, source, sink, deadletter.Config{
					Logger: quiet,
					Filter: deadletter.Filter{Func: func(l deadletter.Letter) bool {
						if kept++; kept == n && !c.acks {
							end()
						}
						return c.acks && kept > n-10
					}},
				})
				require.ErrorIs(t, err, enough)
				require.Less(t, time.Since(cancelled), c.max)

				ctx, cancel = context.WithCancelCause(t.Context())
				defer cancel(nil)
				time.Sleep(time.Hour) // leases end
				got := 0
				for _, err = range deadletter.List(ctx, source, deadletter.Config{Logger: quiet}) {
					if got++; got == n-10 {
						end()
					}
				}
				require.ErrorIs(t, err, enough)
				require.Less(t, time.Since(cancelled), c.max)
			})
		})
	}
}

// hanging is a queue that does not answer nacks, nor acks if acks is set.
type hanging struct {
	queue.Source
	own  time.Duration
	acks bool
}

var errTimeout = errors.New("no answer")

func (h hanging) Ack(ctx context.Context, msgs ...*queue.Message) error {
	if h.acks {
		return h.hang(ctx, msgs)
	}
	return h.Source.Ack(ctx, msgs...)
}

func (h hanging) Nack(ctx context.Context, _ time.Duration, msgs ...*queue.Message) error {
	return h.hang(ctx, msgs)
}

// hang fails like a queue that makes several requests, each with an error.
func (h hanging) hang(ctx context.Context, msgs []*queue.Message) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.own, errTimeout)
	defer cancel()
	<-ctx.Done()
	failed := make(map[int]error)
	for i := range msgs {
		failed[i] = context.Cause(ctx)
	}
	return &queue.BatchError{Op: "settle", Failed: failed}
}

// A chunk of letters that can't be returned does not keep the others hidden.
func TestGiveBackGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{})
		fill(t, dead, 1000, 0)
		f := &queuetest.Faulty{Source: dead, Plan: queuetest.On(queuetest.OpNack, queuetest.Fault{Mode: queuetest.Refuse}, 1, 5)}
		require.Len(t, list(t, f, deadletter.Config{}), 1000)
		require.Equal(t, 800, dead.Stats().Visible)
	})
}

// A limiter that fails ends a redrive with its error.
func TestLimiterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		noLimits := errors.New("no limits for this key")
		keyed, err := limiter.NewKeyed(func(string) (limiter.Limiter, error) { return nil, noLimits })
		require.NoError(t, err)
		semaphore, err := limiter.NewSemaphore(1)
		require.NoError(t, err)
		for name, l := range map[string]limiter.Limiter{"Ready": keyed.For("x"), "Acquire": ready{keyed.For("x"), semaphore}} {
			dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
			fill(t, dead, 30, 0)
			s, err := deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{Limiter: l})
			require.ErrorIs(t, err, noLimits, name)
			require.ErrorContains(t, err, "deadletter: redrive: Config.Limiter: ", name)
			require.Zero(t, s.Redriven, name)
			require.Equal(t, 30, dead.Stats().Visible, name)
		}
	})
}

// ready is a limiter whose Ready is another's.
type ready struct {
	limiter.Limiter
	other limiter.Limiter
}

func (r ready) Ready(ctx context.Context, n int, d time.Duration) (int, error) {
	return r.other.Ready(ctx, n, d)
}

// A redrive remembers almost nothing about letters with an outcome.
func TestLongRedriveIsSmall(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 20_000
	before, after := heap(), uint64(0)
	s, err := deadletter.Redrive(t.Context(), &endless{of: n}, nowhere{}, deadletter.Config{OnResult: func(r deadletter.Result) {
		if r.Summary.Redriven == n {
			after = heap()
		}
	}})
	require.NoError(t, err)
	require.Equal(t, n, s.Redriven)
	require.Less(t, (after-min(after, before))/n, uint64(60), "bytes for each")
}

// endless makes letters while they are received.
type endless struct{ n, of int }

func (e *endless) Receive(context.Context, queue.ReceiveOptions) ([]*queue.Message, error) {
	if e.n >= e.of {
		return nil, io.EOF
	}
	msgs := make([]*queue.Message, 10)
	for i := range msgs {
		e.n++
		id := fmt.Sprintf("%08d-e29b-41d4-a716-446655440000", e.n)
		msgs[i] = &queue.Message{ID: id, Receipt: id, Body: make([]byte, 1000)}
	}
	return msgs, nil
}

func (*endless) Ack(context.Context, ...*queue.Message) error                   { return nil }
func (*endless) Nack(context.Context, time.Duration, ...*queue.Message) error   { return nil }
func (*endless) Extend(context.Context, time.Duration, ...*queue.Message) error { return nil }

type nowhere struct{}

func (nowhere) Send(context.Context, ...*queue.Message) error { return nil }

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 100, 0)
		bucket, err := limiter.NewTokenBucket(2, 5)
		require.NoError(t, err)
		sink := &picky{Sink: orders}
		begin := time.Now()
		var last time.Time
		s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{Limiter: bucket, OnResult: func(deadletter.Result) { last = time.Now() }})
		require.NoError(t, err)
		require.Equal(t, 100, s.Redriven)
		require.Equal(t, 47500*time.Millisecond, last.Sub(begin).Round(10*time.Millisecond))
		require.Equal(t, 5, sink.sizes[0], "the burst goes in one call")
		require.EqualValues(t, 100, dead.Stats().Received)
	})
}

// A redrive that takes hours receives every letter once, and costs few extensions.
func TestSlowRedriveKeepsItsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 500, 0)
		bucket, err := limiter.NewTokenBucket(0.02, 1) // 50 s each
		require.NoError(t, err)
		extended := 0
		source := &queuetest.Faulty{Source: dead, Plan: func(c queuetest.Call) queuetest.Fault {
			if c.Op == queuetest.OpExtend {
				extended += len(c.Messages)
			}
			return queuetest.Fault{}
		}}
		s, err := deadletter.Redrive(t.Context(), source, orders, deadletter.Config{Limiter: bucket, Filter: deadletter.Filter{Sources: []string{"orders"}}})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 500, Matched: 250, Redriven: 250, Kept: 250}, s)
		require.EqualValues(t, 500, dead.Stats().Received, "received again, so a lease had ended")
		require.Less(t, extended, 8*500, "of three and a half hours")
		require.Equal(t, 250, dead.Stats().Visible)
	})
}

// A consumer that still fails sends everything back at once; each letter is
// redriven once nevertheless, also when the clocks differ.
func TestNoCircle(t *testing.T) {
	for name, skew := range map[string]time.Duration{"same clock": 0, "queue's clock is behind": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				fill(t, dead, 100, 0)
				time.Sleep(time.Second)
				var sent sync.Map
				handler := queue.HandlerFunc(func(_ context.Context, m *queue.Message) error {
					n, _ := sent.LoadOrStore(string(m.Body), new(int))
					*n.(*int)++
					return retry.Permanent(errors.New("still no stock"))
				})
				c, err := queue.NewConsumer(orders, handler, queue.Config{Concurrency: 10, DeadLetter: dead, NoDeadLetterGuard: true, Logger: quiet})
				require.NoError(t, err)
				ctx, stop := context.WithCancel(t.Context())
				var consumer sync.WaitGroup
				consumer.Go(func() { _ = c.Run(ctx) })
				bucket, err := limiter.NewTokenBucket(10, 1)
				require.NoError(t, err)
				s, err := deadletter.Redrive(t.Context(), behind{dead, skew}, orders, deadletter.Config{Limiter: bucket, Logger: quiet})
				require.NoError(t, err)
				requireAddsUp(t, s)
				require.Equal(t, 100, s.Redriven)
				require.Positive(t, s.Newer)
				stop()
				consumer.Wait()
				sent.Range(func(body, n any) bool {
					require.Equal(t, 1, *n.(*int), body)
					return true
				})
				require.Equal(t, 100, dead.Stats().Visible)
			})
		})
	}
}

// behind is a queue whose clock is behind ours.
type behind struct {
	queue.Source
	d time.Duration
}

func (b behind) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	msgs, err := b.Source.Receive(ctx, o)
	for _, m := range msgs {
		m.SentAt = m.SentAt.Add(-b.d)
	}
	return msgs, err
}

// Cancelled at any moment, a redrive leaves nothing hidden, and knows exactly
// what it did.
func TestCancel(t *testing.T) {
	for ms := range 40 {
		synctest.Test(t, func(t *testing.T) {
			dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
			fill(t, dead, 50, 0)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(ms)*7*time.Millisecond)
			defer cancel()
			f := &queuetest.Faulty{Source: careless{dead}, Sink: orders, Latency: 20 * time.Millisecond}
			s, err := deadletter.Redrive(ctx, f, sinkOf(f), deadletter.Config{Logger: quiet})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			requireAddsUp(t, s)
			require.Zero(t, s.InDoubt+s.Failed)
			require.Zero(t, dead.Stats().InFlight)
			require.Equal(t, s.Redriven, orders.Stats().Visible)
			require.Equal(t, 50-s.Redriven, dead.Stats().Visible)
		})
	}
}

// A receive that waits for nothing does not keep the end of the context waiting
// where it can stop without risk.
func TestAnIdleSweepEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 5, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		s, err := deadletter.Redrive(ctx, dead, orders, deadletter.Config{DryRun: true, Wait: 20 * time.Second})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.Equal(t, 5, s.Examined)
		require.Equal(t, 5, dead.Stats().Visible)
	})
}

// careless is a queue that continues a receive after its caller has gone, and delivers
// messages that nobody receives.
type careless struct{ *memqueue.Queue }

func (c careless) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	msgs, err := c.Queue.Receive(context.WithoutCancel(ctx), o)
	time.Sleep(20 * time.Millisecond)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return msgs, err
}

// A standard queue may deliver again what was deleted, and may look empty for a
// moment. Nothing is sent twice, and nothing is missed.
func TestUnreliableQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 100, 0)
		s, err := deadletter.Redrive(t.Context(), &unreliable{Queue: dead}, orders, deadletter.Config{})
		require.NoError(t, err)
		require.Equal(t, deadletter.Summary{Run: s.Run, Examined: 100, Matched: 100, Redriven: 100}, s)
		require.Len(t, drain(t, orders), 100)
		require.Zero(t, dead.Stats().Visible+dead.Stats().InFlight)
	})
}

type unreliable struct {
	*memqueue.Queue
	receives int
	undone   int
}

func (u *unreliable) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	if u.receives++; u.receives%2 == 0 {
		return nil, nil
	}
	return u.Queue.Receive(ctx, o)
}

func (u *unreliable) Ack(ctx context.Context, msgs ...*queue.Message) error {
	if u.undone < 5 {
		u.undone++
		return u.Nack(ctx, 0, msgs...)
	}
	return u.Queue.Ack(ctx, msgs...)
}

// Two concurrent redrives whose leases can't be extended leave letters to each other
// when they lose the lease, so nothing is sent twice.
func TestLostLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 100, 0)
		time.Sleep(time.Second)
		bucket, err := limiter.NewTokenBucket(0.05, 1) // ten letters take 200 s at least
		require.NoError(t, err)
		semaphore, err := limiter.NewSemaphore(2)
		require.NoError(t, err)
		limit, err := limiter.All(semaphore, bucket)
		require.NoError(t, err)
		var both sync.WaitGroup
		total := 0
		var mu sync.Mutex
		for range 2 {
			both.Go(func() {
				f := &queuetest.Faulty{Source: dead, Plan: queuetest.On(queuetest.OpExtend, queuetest.Fault{Mode: queuetest.Refuse})}
				s, err := deadletter.Redrive(t.Context(), f, orders, deadletter.Config{Limiter: limit, Logger: quiet})
				mu.Lock()
				defer mu.Unlock()
				require.NoError(t, err)
				requireAddsUp(t, s)
				total += s.Redriven
			})
		}
		both.Wait()
		require.Greater(t, dead.Stats().Received, uint64(100), "no lease had ended")
		require.Equal(t, 100, total)
		free, err := semaphore.Ready(t.Context(), 2, 0)
		require.NoError(t, err)
		require.Equal(t, 2, free)
		for body, n := range bodies(drain(t, orders)) {
			require.Equal(t, 1, n, body)
		}
	})
}

// Every permit is released, whatever happens to its letter.
func TestPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
		fill(t, dead, 50, 0)
		semaphore, err := limiter.NewSemaphore(3)
		require.NoError(t, err)
		sink := &picky{Sink: orders, refuse: refuse("m3", "m17")}
		s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{Limiter: semaphore})
		require.NoError(t, err)
		require.Equal(t, 48, s.Redriven)
		free, err := semaphore.Ready(t.Context(), 3, 0)
		require.NoError(t, err)
		require.Equal(t, 3, free)
		for _, n := range sink.sizes {
			require.LessOrEqual(t, n, 3)
		}
	})
}

func TestFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{FIFO: true}), newQueue(t, memqueue.Config{FIFO: true})
		for i := range 60 { // they were sent there a moment ago
			require.NoError(t, orders.Send(t.Context(), &queue.Message{Body: []byte("x"), Group: "g", Dedup: fmt.Sprint("first-", i)}))
		}
		drain(t, orders)
		fill(t, dead, 60, 4)
		sink := &picky{Sink: orders, refuse: refuse("m21")} // of group 1
		s, err := deadletter.Redrive(t.Context(), dead, sink, deadletter.Config{})
		require.NoError(t, err)
		requireAddsUp(t, s)
		require.Equal(t, 1, s.Failed)
		require.Equal(t, 50, s.Redriven, "three groups, and of the second one what was before")
		next := make(map[string]int)
		for _, m := range drain(t, orders) {
			var i, g int
			_, err := fmt.Sscanf(string(m.Body)+" "+m.Group, "m%d g%d", &i, &g)
			require.NoError(t, err)
			require.Equal(t, i%4, g)
			require.Equal(t, next[m.Group]*4+g, i, "order in the group")
			next[m.Group]++
		}
		s, err = deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{})
		require.NoError(t, err)
		require.Equal(t, 10, s.Redriven)
		require.Len(t, drain(t, orders), 10)
	})
}

// A redrive whose acks are lost is repeated: a FIFO queue has no message twice.
func TestRepeatedOnFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, orders := newQueue(t, memqueue.Config{FIFO: true}), newQueue(t, memqueue.Config{FIFO: true})
		fill(t, dead, 20, 20)
		f := &queuetest.Faulty{Source: dead, Plan: queuetest.On(queuetest.OpAck, queuetest.Fault{Mode: queuetest.Refuse})}
		s, err := deadletter.Redrive(t.Context(), f, orders, deadletter.Config{Logger: quiet})
		require.ErrorIs(t, err, queuetest.ErrInjected)
		require.Equal(t, 10, s.InDoubt)
		require.Equal(t, 10, orders.Stats().Visible)
		s, err = deadletter.Redrive(t.Context(), dead, orders, deadletter.Config{})
		require.NoError(t, err)
		require.Equal(t, 20, s.Redriven)
		for body, n := range bodies(drain(t, orders)) {
			require.Equal(t, 1, n, body)
		}
	})
}

// A fault at any one call: no message is lost, none is left hidden but for what a
// lost receive has taken, and the counts are right.
func TestOneFault(t *testing.T) {
	for _, mode := range []queuetest.Mode{queuetest.Refuse, queuetest.LoseReply, queuetest.Half} {
		for k := 1; k <= 30; k++ {
			synctest.Test(t, func(t *testing.T) {
				dead, orders := newQueue(t, memqueue.Config{}), newQueue(t, memqueue.Config{})
				fill(t, dead, 50, 0)
				f := &queuetest.Faulty{Source: dead, Sink: orders, Plan: queuetest.OnCall(k, queuetest.Fault{Mode: mode})}
				s, err := deadletter.Redrive(t.Context(), f, sinkOf(f), deadletter.Config{Logger: quiet})
				require.NoError(t, err)
				requireAddsUp(t, s)
				time.Sleep(time.Hour)
				there, left := bodies(drain(t, orders)), bodies(drain(t, dead))
				for i := range 50 {
					body := fmt.Sprint("m", i)
					require.Positive(t, there[body]+left[body], "call %d, mode %d: %s is lost", k, mode, body)
					require.LessOrEqual(t, there[body], 1, "call %d, mode %d", k, mode)
					require.LessOrEqual(t, left[body], 1, "call %d, mode %d", k, mode)
				}
				require.Equal(t, s.Redriven, 50-len(left), "call %d, mode %d: %+v", k, mode, s)
			})
		}
	}
}

// Letters that are left out of a list as newer than it are counted, and that is said
// once, with how much newer they are.
func TestListSaysWhatItLeavesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, err := memqueue.New(memqueue.Config{})
		require.NoError(t, err)
		require.NoError(t, dead.Send(t.Context(), &queue.Message{Body: []byte("a")}, &queue.Message{Body: []byte("b")}))
		time.Sleep(time.Minute)
		list := func(from queue.Source) (n int, said string) {
			var log bytes.Buffer
			for _, err := range deadletter.List(t.Context(), from, deadletter.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}) {
				require.NoError(t, err)
				n++
			}
			return n, log.String()
		}
		n, said := list(behind{dead, -10 * time.Minute})
		require.Zero(t, n)
		require.Contains(t, said, "letters=2 newer_by=9m0s")
		require.Equal(t, 1, strings.Count(said, "\n"))
		n, said = list(dead)
		require.Equal(t, 2, n)
		require.Empty(t, said)
	})
}
