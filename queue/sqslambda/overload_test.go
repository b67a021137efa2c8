package sqslambda_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// limiters are the limiters that obey a Retry-After, up to n at once.
func limiters(n int) map[string]func(t *testing.T) limiter.Limiter {
	breaker := func(t *testing.T) limiter.Limiter {
		t.Helper()
		b, err := limiter.NewBreaker(limiter.BreakerConfig{})
		require.NoError(t, err)
		return b
	}
	adaptive := func(t *testing.T) limiter.Limiter {
		t.Helper()
		a, err := limiter.NewAdaptive(limiter.AdaptiveConfig{Max: n, Initial: n})
		require.NoError(t, err)
		return a
	}
	rate := func(t *testing.T) limiter.Limiter {
		t.Helper()
		a, err := limiter.NewAdaptiveRate(limiter.AdaptiveRateConfig{})
		require.NoError(t, err)
		return a
	}
	return map[string]func(t *testing.T) limiter.Limiter{
		"the default":              func(*testing.T) limiter.Limiter { return nil },
		"Adaptive":                 adaptive,
		"AdaptiveRate":             rate,
		"Adaptive and Breaker":     func(t *testing.T) limiter.Limiter { return all(t, adaptive(t), breaker(t)) },
		"AdaptiveRate and Breaker": func(t *testing.T) limiter.Limiter { return all(t, rate(t), breaker(t)) },
	}
}

// An invocation waits for a throttled message if the wait is short, and otherwise
// returns it until the downstream's Retry-After is over, with all untried messages.
func TestAThrottledBatchComesBackWhenItMay(t *testing.T) {
	for name, c := range map[string]struct {
		after    time.Duration
		receives int           // so far
		returned bool          // else it is waited for
		least    time.Duration // before it comes back
		most     time.Duration
	}{
		"in a moment":           {after: 300 * time.Millisecond},
		"in a second":           {after: time.Second},
		"in half a minute":      {after: 30 * time.Second, returned: true, least: 30 * time.Second, most: 38 * time.Second},
		"in some minutes":       {after: 5 * time.Minute, returned: true, least: 5 * time.Minute, most: 7 * time.Minute},
		"in some, come often":   {after: 5 * time.Minute, receives: 40, returned: true, least: 5 * time.Minute, most: 15 * time.Minute},
		"in a while, come much": {after: 10 * time.Second, receives: 3, returned: true, least: 2 * time.Minute, most: 150 * time.Second},
		// Untried messages come back after a quarter of an hour at most: the message with
		// the Retry-After may be an exception.
		"in an hour": {after: time.Hour, returned: true, least: 15 * time.Minute, most: 15 * time.Minute},
	} {
		for with, l := range limiters(10) {
			bubble(t, name+" with "+with, func(t *testing.T) {
				q, dead := &sourceQueue{}, &sink{}
				began, calls := time.Now(), 0
				f := newFunction(t, func(context.Context, *queue.Message) error {
					calls++
					if time.Since(began) < c.after {
						return fmt.Errorf("reserve: %w", limited{c.after - time.Since(began)})
					}
					return nil
				}, sqslambda.Config{Queue: q, DeadLetter: dead, Limiter: l(t), Retry: retry.Policy{MaxAttempts: 2}})
				got := returned(t, f, 30*time.Second, received(newEvent(10), max(c.receives, 1)))
				require.Empty(t, dead.ids(), "however often it was received")
				if !c.returned {
					require.Empty(t, got)
					require.Equal(t, 11, calls, "one meets the limit, and runs again")
					require.Empty(t, q.delays(t))
					return
				}
				require.Zero(t, time.Since(began), "what is known to take long is not waited for")
				require.Equal(t, 1, calls, "and nothing else is tried")
				require.Equal(t, numbers(0, 9), got)
				delays := q.delays(t)
				require.Len(t, delays, 10)
				require.GreaterOrEqual(t, delays["0"], c.after, "as the Retry-After says")
				delete(delays, "0")
				for id, d := range delays {
					require.GreaterOrEqual(t, d, c.least, id)
					require.LessOrEqual(t, d, c.most, id)
				}
			})
		}
	}
}

// Messages that arrive while the downstream is known to refuse are returned untried for
// that long, and later ones are handled.
func TestAProcessRemembersHowLongItMustNotCall(t *testing.T) {
	for with, l := range limiters(10) {
		bubble(t, with, func(t *testing.T) {
			q := &sourceQueue{}
			began, calls := time.Now(), 0
			f := newFunction(t, func(context.Context, *queue.Message) error {
				calls++
				if left := 4*time.Minute - time.Since(began); left > 0 {
					return limited{left}
				}
				return nil
			}, sqslambda.Config{Queue: q, Limiter: l(t)})
			for _, at := range []time.Duration{0, time.Minute, 3 * time.Minute, 3*time.Minute + 50*time.Second} {
				time.Sleep(at - time.Since(began))
				q.calls = nil
				require.Equal(t, numbers(0, 4), returned(t, f, 30*time.Second, newEvent(5)))
				for id, d := range q.delays(t) {
					require.GreaterOrEqual(t, time.Since(began)+d, 4*time.Minute, id)
				}
			}
			require.Equal(t, 1, calls)
			time.Sleep(time.Minute)
			require.Empty(t, returned(t, f, 30*time.Second, newEvent(5)))
			require.Equal(t, 6, calls)
		})
	}
}

// An API that answers 429 with a Retry-After costs a message one receive at most,
// and gets no more calls than the processes have handlers.
func TestThrottlingDeadLettersNothing(t *testing.T) {
	const (
		processes, concurrency = 5, 4
		maxReceives            = 3
	)
	messages := 2000
	if testing.Short() {
		messages = 500
	}
	for name, l := range limiters(concurrency) {
		for _, after := range []time.Duration{30 * time.Second, 4 * time.Minute} {
			bubble(t, fmt.Sprint(name, ", ", after), func(t *testing.T) {
				var server sqsfake.Server
				deadURL, err := server.CreateQueue("dead", nil)
				require.NoError(t, err)
				url, err := server.CreateQueue("orders", map[string]string{
					"VisibilityTimeout": strconv.Itoa(int(visibility / time.Second)),
					"RedrivePolicy":     fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":%d}`, server.ARN("dead"), maxReceives),
				})
				require.NoError(t, err)
				client := server.Client()
				for i := range messages {
					body := strconv.Itoa(i)
					_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body})
					require.NoError(t, err)
				}
				q, err := sqsqueue.New(client, url, sqsqueue.Config{})
				require.NoError(t, err)
				dead, err := sqsqueue.New(client, deadURL, sqsqueue.Config{})
				require.NoError(t, err)

				opens := time.Now().Add(500*time.Millisecond + after)
				var mu sync.Mutex // guards all below
				refused, done, receives := 0, map[string]bool{}, map[int]int{}
				handle := func(_ context.Context, m *queue.Message) error {
					time.Sleep(20*time.Millisecond + rand.N(60*time.Millisecond))
					mu.Lock()
					defer mu.Unlock()
					if left := time.Until(opens); 0 < left && left <= after {
						refused++
						return limited{left}
					}
					if done[string(m.Body)] {
						return errors.New("twice")
					}
					done[string(m.Body)] = true
					receives[m.Attempt]++
					return nil
				}
				f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{
					Start: func() lambdalocal.Handler {
						h, err := sqslambda.Handler(queue.HandlerFunc(handle), sqslambda.Config{
							Queue: q, DeadLetter: dead, Concurrency: concurrency, Limiter: l(t), Logger: quiet, Retry: retry.Policy{MaxAttempts: maxReceives - 1},
						})
						require.NoError(t, err)
						return h
					},
					Timeout: functionTimeout, Concurrency: processes,
				})
				require.NoError(t, err)
				mapping, err := lambdalocal.NewMapping(lambdalocal.MappingConfig{
					Client: client, QueueURL: url, Function: f, MaxConcurrency: processes, PartialResponses: true,
				})
				require.NoError(t, err)
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { require.NoError(t, mapping.Run(ctx)) })
				for now := server.Queue("orders"); now.Visible+now.InFlight > 0; now = server.Queue("orders") {
					require.Less(t, time.Until(opens), time.Hour, "%+v", now)
					require.Greater(t, time.Until(opens), -time.Hour, "%+v", now)
					time.Sleep(time.Second)
				}
				stop()
				wg.Wait()
				f.Wait()
				t.Logf("messages by receives: %v; refused: %d", receives, refused)
				require.Empty(t, server.Messages("dead"))
				require.Len(t, done, messages)
				require.Positive(t, refused)
				require.LessOrEqual(t, refused, processes*concurrency)
				require.GreaterOrEqual(t, receives[1]+receives[2], messages*99/100, "one receive more at the most, but for a few in the ramp: %v", receives)
			})
		}
	}
}
