package queue_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// ----- tools of this package's tests -----

var quiet = slog.New(slog.DiscardHandler)

// A logBuffer may be read while a consumer writes its log to it.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newQueue(t *testing.T, cfg memqueue.Config) *memqueue.Queue {
	t.Helper()
	q, err := memqueue.New(cfg)
	require.NoError(t, err)
	return q
}

// fill sends n messages with the bodies "0", "1", …
func fill(t *testing.T, q queue.Sink, n int) {
	t.Helper()
	for i := range n {
		require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte(strconv.Itoa(i))}))
	}
}

// A running consumer, and how to stop it.
type running struct {
	*queue.Consumer
	t     *testing.T
	stop  context.CancelFunc
	ended chan error
}

func start(t *testing.T, src queue.Source, cfg queue.Config, h queue.HandlerFunc) *running {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	c, err := queue.NewConsumer(src, h, cfg)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	r := &running{Consumer: c, t: t, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- c.Run(ctx) }()
	return r
}

// drain stops the consumer, checks that its counts balance, and returns Run's
// error.
func (r *running) drain() error {
	r.t.Helper()
	r.stop()
	return r.wait()
}

func (r *running) wait() error {
	r.t.Helper()
	err := <-r.ended
	s := r.Stats()
	requireBalanced(r.t, s)
	require.Zero(r.t, s.InHand+s.Unsettled, "in hand after Run")
	return err
}

// requireBalanced checks that every delivery has one outcome or is in flight.
func requireBalanced(t *testing.T, s queue.Stats) {
	t.Helper()
	outcomes := s.Done + s.DeadLettered + s.Retried + s.Released + s.Abandoned + s.LostLease + s.Superseded
	require.Equal(t, s.Received, outcomes+int64(s.InHand+s.Unsettled), "books: %+v", s)
}

func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// A stamped error looks like a client's error.
type stamped struct {
	is    error
	after time.Duration
}

func (e stamped) Error() string             { return "stamped: " + e.is.Error() }
func (e stamped) Is(target error) bool      { return target == e.is }
func (e stamped) RetryAfter() time.Duration { return e.after }

func breaker(t *testing.T) *limiter.Breaker {
	t.Helper()
	b, err := limiter.NewBreaker(limiter.BreakerConfig{})
	require.NoError(t, err)
	return b
}

// ----- construction -----

func TestBadConfigurationIsRefused(t *testing.T) {
	q, h := newQueue(t, memqueue.Config{}), queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil })
	b, other := breaker(t), breaker(t)
	for field, try := range map[string]func() (*queue.Consumer, error){
		"Source":              func() (*queue.Consumer, error) { return queue.NewConsumer(nil, h, queue.Config{}) },
		"Handler":             func() (*queue.Consumer, error) { return queue.NewConsumer(q, nil, queue.Config{}) },
		"Handler is nil":      func() (*queue.Consumer, error) { return queue.NewConsumer(q, queue.HandlerFunc(nil), queue.Config{}) },
		"Config.Concurrency":  func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{Concurrency: -1}) },
		"Concurrency is 1000": func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{Concurrency: 1000_000}) },
		"Config.Lease":        func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{Lease: 1}) },
		"Lease is 13h":        func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{Lease: 13 * time.Hour}) },
		"Config.DrainTimeout": func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{DrainTimeout: -1}) },
		"Config.MaxHold":      func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{MaxHold: 1}) },
		"Config.MaxHeld":      func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{MaxHeld: -1}) },
		"Config.Retry": func() (*queue.Consumer, error) {
			return queue.NewConsumer(q, h, queue.Config{Retry: retry.Policy{BaseDelay: -1}})
		},
		"Retry.MaxAttempts is 7: must be at least 8, or negative for no limit, with Config.LimiterFor": func() (*queue.Consumer, error) {
			return queue.NewConsumer(q, h, queue.Config{
				Retry: retry.Policy{MaxAttempts: 7}, LimiterFor: func(*queue.Message) limiter.Limiter { return nil },
			})
		},
		"Config.Gate": func() (*queue.Consumer, error) { return queue.NewConsumer(q, h, queue.Config{Limiter: b, Gate: b}) },
		"in common": func() (*queue.Consumer, error) {
			return queue.NewConsumer(q, h, queue.Config{Limiter: all(t, b, other), Gate: b})
		},
	} {
		c, err := try()
		require.ErrorContains(t, err, field)
		require.Nil(t, c)
	}
	for _, attempts := range []int{-1, 0, 8} {
		_, err := queue.NewConsumer(q, h, queue.Config{
			Retry: retry.Policy{MaxAttempts: attempts}, LimiterFor: func(*queue.Message) limiter.Limiter { return nil },
		})
		require.NoError(t, err, "MaxAttempts %d", attempts)
	}
	_, err := queue.NewConsumer(nil, nil, queue.Config{Concurrency: -1, Lease: -1})
	for _, field := range []string{"Source", "Handler", "Concurrency", "Lease"} {
		require.ErrorContains(t, err, field, "one error for all of them")
	}
}

func TestRunsOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		r := start(t, q, queue.Config{}, func(context.Context, *queue.Message) error { return nil })
		synctest.Wait()
		require.ErrorContains(t, r.Run(t.Context()), "already running")
		require.NoError(t, r.drain())
		require.Equal(t, queue.ByIdle, r.Stats().Blocked.Reason)

		fill(t, q, 3)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, r.Run(ctx), "and again afterwards")
		require.EqualValues(t, 3, r.Stats().Done)
	})
}

// ----- results: the table of the package documentation -----

func TestResults(t *testing.T) {
	boom := errors.New("boom")
	policy := retry.Policy{MaxAttempts: 3, BaseDelay: 4 * time.Second, Jitter: -1}
	for name, c := range map[string]struct {
		handle  func(attempt int, m *queue.Message) error
		runs    int           // of the handler
		took    time.Duration // until the message was gone
		reason  string        // in the dead letter; "" for none
		outcome func(queue.Stats) int64
	}{
		"success": {
			handle: func(int, *queue.Message) error { return nil },
			runs:   1, outcome: func(s queue.Stats) int64 { return s.Done },
		},
		"a passing failure is given back with backoff": {
			handle: func(n int, _ *queue.Message) error {
				if n < 3 {
					return boom
				}
				return nil
			},
			runs: 3, took: 12 * time.Second, outcome: func(s queue.Stats) int64 { return s.Retried/2 + s.Done - 1 },
		},
		"attempts used up": {
			handle: func(int, *queue.Message) error { return boom },
			runs:   3, took: 12 * time.Second, reason: retry.ReasonExhausted, outcome: func(s queue.Stats) int64 { return s.DeadLettered },
		},
		"permanent": {
			handle: func(int, *queue.Message) error { return retry.Permanent(boom) },
			runs:   1, reason: retry.ReasonPermanent, outcome: func(s queue.Stats) int64 { return s.DeadLettered },
		},
		"undecodable": {
			handle: func(_ int, m *queue.Message) error {
				h := queue.Decode(json.Unmarshal, func(context.Context, *queue.Message, struct{ A int }) error { return nil })
				return h.Handle(context.Background(), m)
			},
			runs: 1, reason: retry.ReasonUndecodable, outcome: func(s queue.Stats) int64 { return s.DeadLettered },
		},
		"a panic is a passing failure": {
			handle: func(n int, _ *queue.Message) error {
				if n == 1 {
					panic(boom)
				}
				return nil
			},
			runs: 2, took: 4 * time.Second, outcome: func(s queue.Stats) int64 { return s.Panics },
		},
		"so is the end of the goroutine": {
			handle: func(n int, _ *queue.Message) error {
				if n == 1 {
					runtime.Goexit()
				}
				return nil
			},
			runs: 2, took: 4 * time.Second, outcome: func(s queue.Stats) int64 { return s.Retried },
		},
		"after: not before": {
			handle: func(n int, _ *queue.Message) error {
				if n == 1 {
					return retry.After(time.Hour, boom)
				}
				return nil
			},
			runs: 2, took: time.Hour, outcome: func(s queue.Stats) int64 { return s.Retried },
		},
		"overload stays in hand": {
			handle: func(n int, _ *queue.Message) error {
				if n == 1 {
					return stamped{limiter.ErrOverload, 5 * time.Minute}
				}
				return nil
			},
			runs: 2, took: 5 * time.Minute, outcome: func(s queue.Stats) int64 { return s.Reruns },
		},
		"misconfigured stays in hand": {
			handle: func(n int, _ *queue.Message) error {
				if n < 4 {
					return stamped{is: limiter.ErrMisconfigured}
				}
				return nil
			},
			runs: 4, took: 28 * time.Second, outcome: func(s queue.Stats) int64 { return s.Reruns / 3 },
		},
		"a longer Retry-After than MaxHold is given back": {
			handle: func(n int, _ *queue.Message) error {
				if n == 1 {
					return stamped{limiter.ErrOverload, 12 * time.Hour}
				}
				return nil
			},
			runs: 2, took: 12 * time.Hour, outcome: func(s queue.Stats) int64 { return s.Released },
		},
	} {
		bubble(t, name, func(t *testing.T) {
			var dead queuetest.Recorder
			q := newQueue(t, memqueue.Config{})
			require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("no json"), Attributes: map[string]string{"a": "b"}}))
			began, runs := time.Now(), 0
			r := start(t, q, queue.Config{Name: "orders", Limiter: all(t), NoBreaker: true, NoPace: true, Retry: policy, DeadLetter: &dead},
				func(_ context.Context, m *queue.Message) error {
					runs++
					defer func() { *m = queue.Message{} }() // handlers may change their copy
					copy(m.Body, "changed")
					m.Attributes["a"] = "changed"
					return c.handle(runs, m)
				})
			for q.Stats().Acked == 0 {
				time.Sleep(100 * time.Millisecond)
			}
			require.InDelta(t, c.took, time.Since(began), float64(time.Second+600*time.Millisecond), "a linger, and whole seconds")
			require.NoError(t, r.drain())
			require.Equal(t, c.runs, runs)
			require.EqualValues(t, 1, c.outcome(r.Stats()), "%+v", r.Stats())
			if c.reason == "" {
				require.Empty(t, dead.Messages())
				return
			}
			require.Len(t, dead.Messages(), 1)
			m := dead.Messages()[0]
			require.Equal(t, "no json", string(m.Body))
			require.Equal(t, "b", m.Attributes["a"])
			record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute])
			require.NoError(t, err)
			require.Equal(t, c.reason, record.Reason)
			require.Equal(t, "orders", record.Source)
			require.Equal(t, runs, record.Attempts)
			require.NotEmpty(t, record.Error)
			require.NotEmpty(t, record.MessageID)
			require.WithinDuration(t, began, record.First, time.Second)
		})
	}
}

func TestWithoutDeadLetterSinkItIsGivenBackForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{})
		q := newQueue(t, memqueue.Config{MaxReceives: 3, DeadLetter: dead})
		fill(t, q, 1)
		var at []time.Duration
		began := time.Now()
		r := start(t, q, queue.Config{Retry: retry.Policy{MaxDelay: time.Minute}}, func(context.Context, *queue.Message) error {
			at = append(at, time.Since(began).Round(10*time.Second))
			return retry.Permanent(io.ErrUnexpectedEOF)
		})
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, []time.Duration{0, time.Minute, 2 * time.Minute}, at, "then the queue's own redrive takes it")
		require.Equal(t, 1, dead.Stats().Visible)
		require.EqualValues(t, 3, r.Stats().Retried)
	})
}

func TestAFailingDeadLetterSinkLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := newQueue(t, memqueue.Config{})
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 3)
		sink := &queuetest.Faulty{Sink: dead, Plan: queuetest.On(queuetest.OpSend, queuetest.Fault{Mode: queuetest.Refuse}, 1, 2, 3, 4)}
		r := start(t, q, queue.Config{DeadLetter: sink}, func(context.Context, *queue.Message) error {
			return retry.Permanent(io.ErrUnexpectedEOF)
		})
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, 3, dead.Stats().Visible)
		require.EqualValues(t, 3, r.Stats().DeadLettered)
		require.EqualValues(t, 4, r.Stats().Retried)
		require.EqualValues(t, 3, q.Stats().Acked)
	})
}

func TestADeadLetterSinkThatIsGoneIsTriedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		gone := &queuetest.Faulty{Sink: newQueue(t, memqueue.Config{}), Plan: func(queuetest.Call) queuetest.Fault { return queuetest.Fault{Mode: queuetest.Refuse} }}
		r := start(t, q, queue.Config{DeadLetter: gone, NoDeadLetterGuard: true, Retry: retry.Policy{Jitter: -1}}, func(context.Context, *queue.Message) error {
			return retry.Permanent(io.ErrUnexpectedEOF)
		})
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 10, r.Stats().DeadLetterCalls, "after 1, 2, 4 s and so on")
		require.NoError(t, r.drain())
	})
}

// ----- leases -----

func TestLeasesAreExtendedInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 100)
		r := start(t, q, queue.Config{Concurrency: 100}, sleeper(constant(90*time.Second)))
		time.Sleep(89 * time.Second)
		require.EqualValues(t, 50, r.Stats().ExtendCalls, "ten calls for a hundred messages, every half lease, but for the first")
		time.Sleep(10 * time.Second)
		require.NoError(t, r.drain())
		require.EqualValues(t, 100, r.Stats().Done)
		require.EqualValues(t, 100, q.Stats().Received, "each delivered once")
	})
}

func TestALostLeaseCancelsItsHandler(t *testing.T) {
	bubble(t, "the queue says so", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{MaxLease: time.Hour})
		fill(t, q, 1)
		var causes []error
		began := time.Now()
		r := start(t, q, queue.Config{Concurrency: 1}, func(ctx context.Context, m *queue.Message) error {
			if m.Attempt > 1 {
				return nil
			}
			<-ctx.Done()
			causes = append(causes, context.Cause(ctx))
			require.InDelta(t, time.Hour, time.Since(began), float64(time.Second))
			return nil
		})
		time.Sleep(2 * time.Hour)
		require.NoError(t, r.drain())
		require.Equal(t, []error{queue.ErrLeaseLost}, causes)
		require.EqualValues(t, 1, r.Stats().LostLease, "its success is not acked, as the message is not ours")
		require.EqualValues(t, 1, r.Stats().Done)
	})
	bubble(t, "extending fails", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		src := &queuetest.Faulty{Source: q, Plan: queuetest.On(queuetest.OpExtend, queuetest.Fault{Mode: queuetest.Refuse})}
		r := start(t, src, queue.Config{Concurrency: 1}, func(ctx context.Context, m *queue.Message) error {
			if m.Attempt == 1 {
				<-ctx.Done()
				require.Equal(t, queue.ErrLeaseLost, context.Cause(ctx))
			}
			return nil
		})
		time.Sleep(time.Minute)
		require.Greater(t, src.Calls(queuetest.OpExtend), 5, "tried again as long as there was time")
		require.NoError(t, r.drain())
		require.EqualValues(t, 1, r.Stats().LostLease)
		require.EqualValues(t, 1, r.Stats().Done)
	})
}

func TestAMessageDeliveredAgainWhileInHandIsNotRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := func(receipt string) *queue.Message {
			return &queue.Message{ID: "a", Receipt: receipt, LeaseUntil: time.Now().Add(time.Minute)}
		}
		var acked []string
		src := &fakeSource{
			receive: []func() []*queue.Message{
				func() []*queue.Message { return []*queue.Message{m("old")} },
				func() []*queue.Message { time.Sleep(time.Second); return []*queue.Message{m("new")} },
			},
			ack: func(msgs []*queue.Message) error {
				for _, m := range msgs {
					acked = append(acked, m.Receipt)
				}
				return nil
			},
		}
		runs := 0
		r := start(t, src, queue.Config{}, func(context.Context, *queue.Message) error {
			runs++
			time.Sleep(10 * time.Second)
			return nil
		})
		require.NoError(t, r.wait())
		require.Equal(t, 1, runs)
		require.Equal(t, []string{"new"}, acked)
		require.EqualValues(t, 1, r.Stats().Superseded)
	})
}

func TestALeaseThatEndsAndComesBackToUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		src := &queuetest.Faulty{Source: q, Plan: queuetest.On(queuetest.OpExtend, queuetest.Fault{Mode: queuetest.Refuse})}
		running := 0
		r := start(t, src, queue.Config{}, func(ctx context.Context, m *queue.Message) error {
			running++
			defer func() { running-- }()
			require.Equal(t, 1, running, "the message runs twice at once")
			if m.Attempt == 1 {
				<-ctx.Done()
				time.Sleep(time.Second)
				return context.Cause(ctx)
			}
			return nil
		})
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.EqualValues(t, 1, r.Stats().Done)
		require.EqualValues(t, 2, r.Stats().Received-r.Stats().Superseded)
	})
}

// A fakeSource plays receives, then ends.
type fakeSource struct {
	mu      sync.Mutex
	receive []func() []*queue.Message
	ack     func([]*queue.Message) error
	nacks   atomic.Int64
}

func (s *fakeSource) Receive(context.Context, queue.ReceiveOptions) ([]*queue.Message, error) {
	s.mu.Lock()
	if len(s.receive) == 0 {
		s.mu.Unlock()
		return nil, io.EOF
	}
	next := s.receive[0]
	s.receive = s.receive[1:]
	s.mu.Unlock()
	return next(), nil
}

func (s *fakeSource) Ack(_ context.Context, msgs ...*queue.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ack == nil {
		return nil
	}
	return s.ack(msgs)
}

func (s *fakeSource) Nack(_ context.Context, _ time.Duration, msgs ...*queue.Message) error {
	s.nacks.Add(int64(len(msgs)))
	return nil
}

func (s *fakeSource) Extend(context.Context, time.Duration, ...*queue.Message) error { return nil }

// ----- settling -----

func TestAcksAreBatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 95)
		r := start(t, q, queue.Config{}, sleeper(constant(time.Millisecond)))
		time.Sleep(time.Second)
		require.EqualValues(t, 10, r.Stats().AckCalls, "nine full ones, and one that lingered")
		require.EqualValues(t, 95, r.Stats().Done)
		require.NoError(t, r.drain())
	})
}

func TestUnconfirmedResultsStopTheReceives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1000)
		src := &queuetest.Faulty{Source: q, Plan: func(c queuetest.Call) queuetest.Fault {
			if c.Op == queuetest.OpAck && time.Now().Before(time.Date(2000, 1, 1, 0, 0, 20, 0, time.UTC)) {
				return queuetest.Fault{Mode: queuetest.Refuse}
			}
			return queuetest.Fault{}
		}}
		var log bytes.Buffer
		r := start(t, src, queue.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, sleeper(constant(time.Millisecond)))
		time.Sleep(10 * time.Second)
		s := r.Stats()
		require.Equal(t, queue.ByUnsettled, s.Blocked.Reason)
		require.LessOrEqual(t, s.Unsettled, 100+10*10, "the bound, and what was in hand or asked for when it was reached: at most a full receive for each slot")
		require.Zero(t, s.Done)
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.EqualValues(t, 1000, r.Stats().Done, "%+v", r.Stats())
		require.EqualValues(t, 1000, q.Stats().Received, "none was delivered twice")
		require.Equal(t, 1, strings.Count(log.String(), "receiving nothing"))
		require.Equal(t, 1, strings.Count(log.String(), "receiving again"))
	})
}

// A slowToAck source is one whose acks take longer than its receives.
type slowToAck struct{ endless }

func (s *slowToAck) Ack(context.Context, ...*queue.Message) error {
	time.Sleep(300 * time.Millisecond)
	return nil
}

func TestResultsThatWaitForAMomentAreNotWorthALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		blocked := 0
		cfg := queue.Config{
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Trace: &queue.Trace{Blocked: func(i queue.BlockedInfo) {
				if i.Block.Reason == queue.ByUnsettled {
					blocked++
				}
			}},
		}
		src := &slowToAck{endless{roundTrip: time.Millisecond}}
		r := start(t, src, cfg, sleeper(constant(time.Millisecond)))
		time.Sleep(10 * time.Second)
		require.NoError(t, r.drain())
		require.NotZero(t, blocked)
		require.NotContains(t, log.String(), "level=WARN")
	})
}

// ----- the dead-letter guard -----

func TestABrokenDeployDoesNotEmptyTheQueueIntoTheDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1000)
		var broken atomic.Bool
		h := func(context.Context, *queue.Message) error {
			if broken.Load() {
				return &queue.DecodeError{Err: io.ErrUnexpectedEOF}
			}
			return nil
		}
		slow := func(ctx context.Context, m *queue.Message) error {
			time.Sleep(100 * time.Millisecond)
			return h(ctx, m)
		}
		r := start(t, q, queue.Config{DeadLetter: &dead}, slow)
		time.Sleep(2*time.Second + 50*time.Millisecond) // no handler ends then
		broken.Store(true)
		time.Sleep(10 * time.Minute)
		require.LessOrEqual(t, len(dead.Messages()), 20+10, "20 and one a minute")
		require.LessOrEqual(t, r.Stats().Retried, int64(3*1000), "each one returned for longer and longer")

		broken.Store(false)
		time.Sleep(time.Hour)
		require.NoError(t, r.drain())
		require.LessOrEqual(t, len(dead.Messages()), 20+10)
		require.EqualValues(t, 1000-len(dead.Messages()), q.Stats().Acked-uint64(len(dead.Messages())), "and works it all off when it is mended")
	})
}

// A program that fails every message, with errors that show nothing about the
// downstream, dead-letters them as exhausted after their last attempt. Their
// earlier results do not count as successes.
func TestTheGuardSeesThroughRetries(t *testing.T) {
	for name, fail := range map[string]func() error{
		"errors": func() error { return io.ErrUnexpectedEOF },
		"panics": func() error { panic("nil map") },
	} {
		bubble(t, name, func(t *testing.T) {
			var dead queuetest.Recorder
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 1000)
			r := start(t, q, queue.Config{DeadLetter: &dead}, func(context.Context, *queue.Message) error {
				time.Sleep(100 * time.Millisecond)
				return fail()
			})
			time.Sleep(6 * time.Hour)
			require.NoError(t, r.drain())
			require.NotEmpty(t, dead.Messages())
			require.LessOrEqual(t, len(dead.Messages()), 20+6*60, "20 and one a minute")
		})
	}
}

func TestTheGuardCanBeTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 100)
		r := start(t, q, queue.Config{DeadLetter: &dead, NoDeadLetterGuard: true}, func(context.Context, *queue.Message) error {
			return retry.Permanent(io.ErrUnexpectedEOF)
		})
		time.Sleep(time.Minute)
		require.NoError(t, r.drain())
		require.Len(t, dead.Messages(), 100)
	})
}

// ----- FIFO -----

func TestGroupsStayInOrder(t *testing.T) {
	const groups, each = 20, 20
	seeds := uint64(20)
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		bubble(t, fmt.Sprint("seed ", seed), func(t *testing.T) {
			q := newQueue(t, memqueue.Config{FIFO: true})
			for i := range each {
				for g := range groups {
					require.NoError(t, q.Send(t.Context(), &queue.Message{
						Body: []byte(strconv.Itoa(i)), Group: strconv.Itoa(g), Dedup: fmt.Sprint(g, "-", i),
					}))
				}
			}
			var mu sync.Mutex
			busy, last, tries := map[string]bool{}, map[string]int{}, map[string]int{}
			h := func(_ context.Context, m *queue.Message) error {
				mu.Lock()
				require.False(t, busy[m.Group], "two of a group at once")
				busy[m.Group] = true
				n, _ := strconv.Atoi(string(m.Body))
				try := m.Group + "-" + string(m.Body)
				tries[try]++
				fail := (uint64(n)*7+seed*13+uint64(tries[try])*3+uint64(len(m.Group)))%5 == 0 && tries[try] < 4
				mu.Unlock()
				time.Sleep(time.Duration(seed%7+1) * 10 * time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				busy[m.Group] = false
				if fail {
					return io.ErrUnexpectedEOF
				}
				require.Equal(t, last[m.Group], n, "group %s out of order", m.Group)
				last[m.Group] = n + 1
				return nil
			}
			var rs []*running
			for range 3 {
				rs = append(rs, start(t, q, queue.Config{Concurrency: 20, Retry: retry.Policy{BaseDelay: time.Second, MaxAttempts: -1}}, h))
			}
			time.Sleep(time.Hour)
			for _, r := range rs {
				require.NoError(t, r.drain())
			}
			for g := range groups {
				require.Equal(t, each, last[strconv.Itoa(g)])
			}
		})
	}
}

func TestFairQueueGroupsAreNotOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		for range 10 {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Group: "tenant"}))
		}
		r := start(t, q, queue.Config{}, sleeper(constant(time.Second)))
		time.Sleep(1500 * time.Millisecond)
		require.EqualValues(t, 10, r.Stats().Done)
		require.NoError(t, r.drain())
	})
}

// ----- the drain -----

func TestADrainGivesBackWhatHasNotStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 100)
		bucket, err := limiter.NewTokenBucket(1, 5)
		require.NoError(t, err)
		src := &queuetest.Faulty{Source: q, Latency: 20 * time.Millisecond}
		r := start(t, src, queue.Config{Concurrency: 20, Limiter: bucket}, sleeper(constant(3*time.Second)))
		time.Sleep(2 * time.Second)
		began := time.Now()
		r.stop()
		time.Sleep(100 * time.Millisecond)
		s := r.Stats()
		require.Zero(t, s.Waiting)
		require.Equal(t, s.Running, s.InHand)
		require.Equal(t, queue.ByDrain, s.Blocked.Reason)
		require.Equal(t, 100-int(s.Done)-s.InHand-s.Unsettled, q.Stats().Visible, "at once")
		require.NoError(t, r.wait())
		require.LessOrEqual(t, time.Since(began), 4*time.Second)
		require.Zero(t, r.Stats().Abandoned+r.Stats().LostLease)
		require.EqualValues(t, 100-r.Stats().Done, q.Stats().Visible)
	})
}

// The caller that ends Run's context can rely on this: no message starts
// afterwards.
func TestNothingStartsOnceTheContextHasEnded(t *testing.T) {
	for range seeds(2000) {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 10)
			starts := 0
			var r *running
			begin := make(chan struct{})
			r = start(t, q, queue.Config{Concurrency: 1}, func(context.Context, *queue.Message) error {
				<-begin
				starts++
				r.stop()
				return nil
			})
			close(begin)
			require.NoError(t, r.wait())
			require.Equal(t, 1, starts)
		})
	}
}

// A landing source is one whose receives must be left to end by themselves, like
// those of SQS.
type landing struct{ queue.Source }

func (s landing) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	o.Stop = nil
	return s.Source.Receive(ctx, o)
}

func TestADrainLetsAReceiveLand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		r := start(t, landing{q}, queue.Config{}, func(context.Context, *queue.Message) error {
			t.Error("must not run")
			return nil
		})
		time.Sleep(time.Second)
		r.stop()
		time.Sleep(time.Second)
		require.Equal(t, 1, r.Stats().Receiving)
		fill(t, q, 1)
		require.NoError(t, r.wait())
		require.Equal(t, 1, q.Stats().Visible)
		require.EqualValues(t, 1, r.Stats().Released)
	})
}

// If a source can stop its receives without risk, the drain of an idle consumer
// waits for nothing, even when another source wraps it.
func TestAnIdleDrainEndsAtOnce(t *testing.T) {
	for name, source := range map[string]func(*memqueue.Queue) queue.Source{
		"in memory": func(q *memqueue.Queue) queue.Source { return q },
		"wrapped":   func(q *memqueue.Queue) queue.Source { return &queuetest.Faulty{Source: q} },
		"scripted":  func(*memqueue.Queue) queue.Source { return queuetest.Script(queuetest.Block()) },
	} {
		bubble(t, name, func(t *testing.T) {
			r := start(t, source(newQueue(t, memqueue.Config{})), queue.Config{}, sleeper(constant(0)))
			time.Sleep(time.Second)
			require.Equal(t, 1, r.Stats().Receiving)
			began := time.Now()
			require.NoError(t, r.drain())
			require.Zero(t, time.Since(began))
			require.Zero(t, r.Stats().Receiving)
			require.Zero(t, r.Stats().Errors)
		})
	}
}

// The log says when a drain begins, what it waits for and until when at most, and
// when it has ended; a healthy consumer logs nothing else.
func TestADrainIsLogged(t *testing.T) {
	withoutTime := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	lines := func(log *bytes.Buffer) []string { return strings.Split(strings.TrimSpace(log.String()), "\n") }
	config := func(log *bytes.Buffer) queue.Config {
		return queue.Config{
			Name: "orders", Concurrency: 3, DrainTimeout: 10 * time.Second,
			Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: withoutTime})),
		}
	}
	bubble(t, "handlers and a receive", func(t *testing.T) {
		var log bytes.Buffer
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 2)
		r := start(t, landing{q}, config(&log), sleeper(constant(3*time.Second)))
		time.Sleep(time.Second)
		require.NoError(t, r.drain())
		require.Equal(t, []string{
			`level=INFO msg="queue: draining" consumer=orders handlers=2 receives=1 until=2000-01-01T00:00:11.000Z`,
			`level=INFO msg="queue: drained" consumer=orders took=7s abandoned=0 unsettled=0`,
		}, lines(&log))
	})
	bubble(t, "handlers that are abandoned", func(t *testing.T) {
		var log bytes.Buffer
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1)
		r := start(t, q, config(&log), sleeper(constant(time.Minute)))
		time.Sleep(time.Second)
		require.Error(t, r.drain())
		require.Len(t, lines(&log), 2, log.String())
		require.Contains(t, lines(&log)[1], "abandoned=1")
		time.Sleep(time.Minute)
	})
	bubble(t, "not the end of a source", func(t *testing.T) {
		var log bytes.Buffer
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 10)
		q.Close()
		require.NoError(t, start(t, q, config(&log), sleeper(constant(time.Second))).wait())
		require.Empty(t, log.String())
	})
}

func TestADrainEndsInTime(t *testing.T) {
	bubble(t, "with a receive that hangs", func(t *testing.T) {
		src := &queuetest.Faulty{Plan: queuetest.On(queuetest.OpReceive, queuetest.Fault{Mode: queuetest.Hang})}
		r := start(t, src, queue.Config{DrainTimeout: 5 * time.Second}, sleeper(constant(0)))
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(t, r.drain())
		require.Equal(t, 5*time.Second, time.Since(began))
	})
	bubble(t, "with handlers that heed their context", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 3)
		var cause error
		r := start(t, q, queue.Config{DrainTimeout: 5 * time.Second, Concurrency: 1}, func(ctx context.Context, _ *queue.Message) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return ctx.Err()
		})
		time.Sleep(time.Second)
		began := time.Now()
		require.NoError(t, r.drain())
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
		require.Equal(t, queue.ErrDrainTimeout, cause)
		require.Equal(t, 3, q.Stats().Visible)
	})
	bubble(t, "with handlers that don't", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 3)
		sem, err := limiter.NewSemaphore(2)
		require.NoError(t, err)
		release := make(chan struct{})
		r := start(t, q, queue.Config{DrainTimeout: 5 * time.Second, Limiter: sem}, func(context.Context, *queue.Message) error {
			<-release
			return nil
		})
		time.Sleep(time.Second)
		began := time.Now()
		err = r.drain()
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
		var abandoned *queue.AbandonedError
		require.ErrorAs(t, err, &abandoned)
		require.Len(t, abandoned.IDs, 2)
		require.EqualValues(t, 2, r.Stats().Abandoned)
		require.Equal(t, 2, sem.Stats().InUse, "their permits stay taken")
		close(release)
		synctest.Wait()
		require.Zero(t, sem.Stats().InUse)
		require.Zero(t, q.Stats().Acked, "and nothing is settled after Run")
	})
	bubble(t, "while the source is dead", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 20)
		var down atomic.Bool
		src := &queuetest.Faulty{Source: q, Plan: func(queuetest.Call) queuetest.Fault {
			if down.Load() {
				return queuetest.Fault{Mode: queuetest.Hang}
			}
			return queuetest.Fault{}
		}}
		r := start(t, src, queue.Config{DrainTimeout: 5 * time.Second}, sleeper(constant(2*time.Second)))
		time.Sleep(time.Second)
		down.Store(true)
		began := time.Now()
		require.ErrorContains(t, r.drain(), "could not be settled")
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
	})
}

func TestTheEndOfTheSourceEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 25)
		q.Close()
		began := time.Now()
		r := start(t, q, queue.Config{}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "7" && m.Attempt < 3 {
				return io.ErrUnexpectedEOF
			}
			time.Sleep(10 * time.Millisecond)
			return nil
		})
		require.NoError(t, r.wait())
		require.EqualValues(t, 25, r.Stats().Done)
		require.Less(t, time.Since(began), 10*time.Second)
	})
}

// ----- a source that fails -----

func TestMisconfigurationAtTheStartIsFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &queuetest.Faulty{Source: newQueue(t, memqueue.Config{}), Plan: queuetest.On(queuetest.OpReceive,
			queuetest.Fault{Mode: queuetest.Refuse, Err: stamped{is: limiter.ErrMisconfigured}})}
		r := start(t, src, queue.Config{Name: "orders"}, sleeper(constant(0)))
		err := r.wait()
		require.ErrorIs(t, err, limiter.ErrMisconfigured)
		require.ErrorContains(t, err, "orders")
	})
}

func TestASourceInTroubleIsWaitedOut(t *testing.T) {
	for name, is := range map[string]error{"later": limiter.ErrMisconfigured, "unavailable": limiter.ErrUnavailable} {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 5)
			var down atomic.Bool
			src := &queuetest.Faulty{Source: q, Plan: func(queuetest.Call) queuetest.Fault {
				if down.Load() {
					return queuetest.Fault{Mode: queuetest.Refuse, Err: stamped{is: is}}
				}
				return queuetest.Fault{}
			}}
			r := start(t, src, queue.Config{}, sleeper(constant(time.Millisecond)))
			time.Sleep(30 * time.Second)
			down.Store(true)
			time.Sleep(time.Hour)
			s := r.Stats()
			require.Equal(t, queue.ByErrors, s.Blocked.Reason)
			require.Less(t, s.ReceiveCalls, int64(500), "an hour of backoff")
			down.Store(false)
			fill(t, q, 5)
			time.Sleep(30 * time.Second)
			require.EqualValues(t, 10, r.Stats().Done)
			require.NoError(t, r.drain())
		})
	}
}

func TestASourceThatDoesNotWaitIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{Wait: -1})
		r := start(t, q, queue.Config{}, sleeper(constant(0)))
		time.Sleep(time.Minute)
		require.Less(t, r.Stats().ReceiveCalls, int64(100))
		require.Equal(t, queue.ByErrors, r.Stats().Blocked.Reason)
		require.NoError(t, r.drain())
	})
}

func TestAnIdleConsumerHasOneReceiveOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 2000)
		r := start(t, q, queue.Config{Concurrency: 100}, sleeper(constant(time.Millisecond)))
		time.Sleep(time.Minute)
		before := r.Stats().ReceiveCalls
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 30, r.Stats().ReceiveCalls-before, "three calls a minute")
		require.NoError(t, r.drain())
	})
}

// ----- trace -----

func TestTraceTellsEveryStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := map[string]int{}
		note := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			seen[what]++
		}
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 20)
		src := &queuetest.Faulty{Source: q, Plan: queuetest.On(queuetest.OpAck, queuetest.Fault{Mode: queuetest.Half}, 1)}
		overloaded := false
		r := start(t, src, queue.Config{
			Concurrency: 2, DeadLetter: &dead, Limiter: breaker(t),
			Trace: &queue.Trace{
				Received:     func(i queue.ReceivedInfo) { note("received") },
				Started:      func(i queue.StartedInfo) { note("started") },
				Finished:     func(i queue.FinishedInfo) { note("finished " + string(i.Outcome)) },
				Held:         func(i queue.HeldInfo) { note("held") },
				DeadLettered: func(i queue.DeadLetteredInfo) { note("dead-lettered " + i.Record.Reason) },
				Settled:      func(i queue.SettledInfo) { note("settled " + i.Op) },
				Extended:     func(i queue.ExtendedInfo) { note("extended") },
				Ended:        func(i queue.EndedInfo) { note("ended " + string(i.Outcome)) },
				Blocked:      func(i queue.BlockedInfo) { note("blocked by " + string(i.Block.Reason)) },
				Unblocked:    func(i queue.UnblockedInfo) { note("unblocked from " + string(i.Block.Reason)) },
				Error:        func(i queue.ErrorInfo) { note("error " + i.Op) },
			},
		}, func(_ context.Context, m *queue.Message) error {
			time.Sleep(time.Second)
			switch {
			case string(m.Body) == "3":
				return retry.Permanent(io.ErrUnexpectedEOF)
			case string(m.Body) == "5" && m.Attempt == 1:
				return io.ErrUnexpectedEOF
			case string(m.Body) == "7" && !overloaded:
				overloaded = true
				return stamped{limiter.ErrOverload, time.Minute}
			}
			return nil
		})
		time.Sleep(5 * time.Minute)
		require.NoError(t, r.drain())
		for _, what := range []string{
			"received", "started", "finished done", "finished retried", "finished dead-lettered", "finished ", "held",
			"dead-lettered permanent", "settled ack", "settled nack", "extended", "ended done", "ended retried", "ended dead-lettered",
			"blocked by handler slots", "unblocked from handler slots", "blocked by drain", "error ack",
		} {
			require.NotZero(t, seen[what], "%s: %v", what, seen)
		}
		require.NotZero(t, seen["blocked by pause"]+seen["blocked by held messages"])
		require.Equal(t, 19, seen["ended done"])
		require.Equal(t, int(r.Stats().Received), seen["ended done"]+seen["ended retried"]+seen["ended dead-lettered"])
	})
}

func TestMiddleware(t *testing.T) {
	var order []string
	mark := func(name string) queue.Middleware {
		return func(next queue.Handler) queue.Handler {
			return queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
				order = append(order, name)
				return next.Handle(ctx, m)
			})
		}
	}
	h := queue.Chain(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }), mark("first"), mark("second"))
	require.NoError(t, h.Handle(t.Context(), &queue.Message{}))
	require.Equal(t, []string{"first", "second"}, order)

	synctest.Test(t, func(t *testing.T) {
		h := queue.Chain(queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error { <-ctx.Done(); return ctx.Err() }), queue.Timeout(time.Second))
		began := time.Now()
		require.ErrorIs(t, h.Handle(t.Context(), &queue.Message{}), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
	})
	require.Panics(t, func() { queue.Timeout(0) })

	bad := queue.Decode(func([]byte, any) error { panic("no") }, func(context.Context, *queue.Message, int) error { return nil })
	require.ErrorIs(t, bad.Handle(t.Context(), &queue.Message{}), retry.ErrPermanent)
}

func TestBatchErrorNamesTheFirst(t *testing.T) {
	err := &queue.BatchError{Op: "ack", Failed: map[int]error{4: io.EOF, 2: queue.ErrLeaseLost}}
	require.ErrorIs(t, err, queue.ErrLeaseLost)
	require.ErrorIs(t, err, io.EOF)
	require.ErrorContains(t, err, "2 of the messages failed, message 2")
	require.True(t, slices.ContainsFunc(err.Unwrap(), func(e error) bool { return e == io.EOF }))
}
