package queue_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/retry"
)

// A brittle error panics in one of its methods, as one that wraps a nil pointer
// does.
type brittle struct{ in string }

func (e *brittle) at(method string) {
	if e.in == method {
		panic("nil pointer in " + method)
	}
}
func (e *brittle) Error() string             { e.at("Error"); return "brittle" }
func (e *brittle) Unwrap() error             { e.at("Unwrap"); return nil }
func (e *brittle) Is(error) bool             { e.at("Is"); return false }
func (e *brittle) As(any) bool               { e.at("As"); return false }
func (e *brittle) Timeout() bool             { e.at("Timeout"); return false }
func (e *brittle) Temporary() bool           { return false }
func (e *brittle) RetryAfter() time.Duration { e.at("RetryAfter"); return 0 }
func (e *brittle) Reason() string            { e.at("Reason"); return "brittle" }

// An apiError is a client's error type, used by pointer.
type apiError struct{ cause error }

func (e *apiError) Error() string { return "api: " + e.cause.Error() }
func (e *apiError) Unwrap() error { return e.cause }

// An error whose methods panic fails its own message, and nothing else.
func TestResult_ErrorThatPanics(t *testing.T) {
	errs := map[string]error{
		"a typed nil":          (*apiError)(nil),
		"a typed nil, joined":  errors.Join(io.EOF, (*apiError)(nil)),
		"a typed nil, wrapped": fmt.Errorf("call: %w", retry.After(time.Second, (*apiError)(nil))),
	}
	for _, method := range []string{"Error", "Unwrap", "Is", "As", "Timeout", "RetryAfter", "Reason"} {
		errs[method] = &brittle{in: method}
		errs["permanent, "+method] = retry.Permanent(&brittle{in: method})
	}
	for name, failure := range errs {
		bubble(t, name, func(t *testing.T) {
			var dead queuetest.Recorder
			adaptive, err := limiter.NewAdaptive(limiter.AdaptiveConfig{Max: 100})
			require.NoError(t, err)
			q := newQueue(t, memqueue.Config{})
			fill(t, q, 10)
			r := start(t, q, queue.Config{Limiter: adaptive, DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
				if string(m.Body) == "3" && m.Attempt == 1 {
					return failure
				}
				return nil
			})
			time.Sleep(time.Minute)
			require.NoError(t, r.drain())
			s := r.Stats()
			require.EqualValues(t, 10, s.Done+s.DeadLettered, "%+v", s)
			require.GreaterOrEqual(t, s.Done, int64(9))
		})
	}
}

// No delay overflows, however long it is.
func TestResult_LongestDelay(t *testing.T) {
	for name, failure := range map[string]func() error{
		"After, a year":      func() error { return retry.After(365*24*time.Hour, errors.New("no")) },
		"After, the largest": func() error { return retry.After(math.MaxInt64, errors.New("no")) },
		"After, until 9999": func() error {
			return retry.After(time.Until(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)), errors.New("no"))
		},
		"Postpone, the largest":    func() error { return queue.Postpone(math.MaxInt64, nil) },
		"overload, the largest":    func() error { return retry.After(math.MaxInt64, limiter.ErrOverload) },
		"unavailable, the largest": func() error { return retry.After(math.MaxInt64, limiter.ErrUnavailable) },
	} {
		for _, fifo := range []bool{false, true} {
			bubble(t, fmt.Sprintf("%s, fifo %v", name, fifo), func(t *testing.T) {
				q := newQueue(t, memqueue.Config{Wait: time.Second, FIFO: fifo})
				require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("x"), Group: "g", Dedup: "x"}))
				r := start(t, q, queue.Config{Limiter: all(t), NoBreaker: true, NoPace: true, Trace: &queue.Trace{Settled: func(i queue.SettledInfo) {
					require.NoError(t, i.Err)
					require.Positive(t, i.Delay)
				}}}, func(context.Context, *queue.Message) error { return failure() })
				time.Sleep(10 * time.Minute)
				require.NoError(t, r.drain())
				s := r.Stats()
				require.EqualValues(t, 1, s.Received)
				require.EqualValues(t, 1, s.Released+s.Retried, "%+v", s)
			})
		}
	}
}

// Nacks whose delays are close share calls, and none is hidden for less than it
// must be, or for more than an eighth longer.
func TestResult_DelaysShareCalls(t *testing.T) {
	bubble(t, "backoffs of 1 to 5 min", func(t *testing.T) {
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 1000)
		var mu sync.Mutex
		calls, delayed := 0, 0
		r := start(t, q, queue.Config{Concurrency: 100, Limiter: all(t), NoBreaker: true, NoPace: true, Trace: &queue.Trace{Settled: func(i queue.SettledInfo) {
			if i.Op != "nack" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			calls++
			for _, m := range i.Messages {
				n, _ := strconv.Atoi(string(m.Body))
				least := time.Minute + time.Duration(n)*240*time.Millisecond
				require.GreaterOrEqual(t, i.Delay, least)
				require.LessOrEqual(t, i.Delay, least*9/8)
				delayed++
			}
		}}}, func(_ context.Context, m *queue.Message) error {
			n, _ := strconv.Atoi(string(m.Body))
			time.Sleep(10 * time.Millisecond)
			return retry.After(time.Minute+time.Duration(n)*240*time.Millisecond, errors.New("later"))
		})
		time.Sleep(30 * time.Second)
		require.NoError(t, r.drain())
		require.Equal(t, 1000, delayed)
		require.LessOrEqual(t, calls, 150, "nacks for 1000 messages")
	})
}

// One message that is always refused, as if by the downstream as a whole, among
// many that are not: the others continue, and it ends exhausted.
func TestResult_OneMessageIsAlwaysRefused(t *testing.T) {
	for name, failure := range map[string]error{
		"429": stamped{limiter.ErrOverload, -1},
		"403": stamped{limiter.ErrMisconfigured, -1},
		"503": stamped{limiter.ErrUnavailable, -1},
	} {
		for _, bad := range []string{"7", "5000"} {
			bubble(t, name+" for message "+bad, func(t *testing.T) {
				var dead queuetest.Recorder
				q := newQueue(t, memqueue.Config{})
				fill(t, q, 10_000)
				r := start(t, q, queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
					time.Sleep(50 * time.Millisecond)
					if string(m.Body) == bad {
						return failure
					}
					return nil
				})
				time.Sleep(5 * time.Minute)
				require.Greater(t, r.Stats().Done, int64(9000))
				time.Sleep(15 * time.Hour)
				require.NoError(t, r.drain())
				require.EqualValues(t, 9999, r.Stats().Done)
				require.Len(t, dead.Messages(), 1)
			})
		}
	}
}

// A producer sent a hundred messages that can't be decoded, and was fixed. On a
// queue with a good message a minute they are dead-lettered within the hour, and
// no good message waits for them.
func TestGuard_QuietQueue(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		var mu sync.Mutex
		var latest time.Duration
		r := start(t, q, queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
			if string(m.Body) == "bad" {
				return &queue.DecodeError{Err: io.ErrUnexpectedEOF}
			}
			mu.Lock()
			defer mu.Unlock()
			latest = max(latest, time.Since(m.SentAt))
			return nil
		})
		for range 100 {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("bad")}))
		}
		for range 60 {
			require.NoError(t, q.Send(t.Context(), &queue.Message{Body: []byte("good")}))
			time.Sleep(time.Minute)
		}
		early := len(dead.Messages())
		time.Sleep(24 * time.Hour)
		require.NoError(t, r.drain())
		require.Less(t, latest, time.Minute)
		require.Greater(t, early, 60)
		require.Len(t, dead.Messages(), 100)
	})
}

// A queue of mostly poison messages drains at nearly full speed.
func TestGuard_MostlyPoison(t *testing.T) {
	bubble(t, "60 %", func(t *testing.T) {
		var dead queuetest.Recorder
		q := newQueue(t, memqueue.Config{})
		fill(t, q, 2000)
		r := start(t, q, queue.Config{DeadLetter: &dead}, func(_ context.Context, m *queue.Message) error {
			time.Sleep(100 * time.Millisecond)
			if n, _ := strconv.Atoi(string(m.Body)); n%5 < 3 {
				return &queue.DecodeError{Err: io.ErrUnexpectedEOF}
			}
			return nil
		})
		time.Sleep(21 * time.Second)
		require.NoError(t, r.drain())
		require.EqualValues(t, 800, r.Stats().Done)
		require.Len(t, dead.Messages(), 1200)
	})
}
