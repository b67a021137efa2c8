package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// consumer is one that runs until the test's end, or until stop.
type consumer struct {
	*queue.Consumer
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned err
	err    error
}

func consume(t *testing.T, src queue.Source, h queue.HandlerFunc, cfg queue.Config) *consumer {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := queue.NewConsumer(src, h, cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	running := &consumer{Consumer: c, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(running.done)
		running.err = c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-running.done
	})
	return running
}

func (c *consumer) stop(t *testing.T) {
	t.Helper()
	c.cancel()
	<-c.done
	require.NoError(t, c.err)
}

// fill sends n messages without the consumer's calls being counted.
func fill(t *testing.T, server *sqsfake.Server, q *sqsqueue.Queue, n int) {
	t.Helper()
	for i := 0; i < n; i += 1000 {
		send(t, q, messages(min(1000, n-i))...)
	}
	server.ResetStats()
}

func works(d time.Duration) queue.HandlerFunc {
	return func(context.Context, *queue.Message) error {
		time.Sleep(d)
		return nil
	}
}

// calls is how many requests the server has got.
func calls(server *sqsfake.Server) int { return server.Stats("").Calls }

func TestCostAtSaturation(t *testing.T) {
	for _, concurrency := range []int{10, 50, 200} {
		for name, c := range map[string]struct {
			plan sqsfake.Plan
			most float64
		}{
			"full":  {nil, 0.22},
			"fewer": {sqsfake.Fewer(7, 0.3), 0.32}, // a server that often returns less than it is asked for
		} {
			t.Run(fmt.Sprint(name, "/", concurrency), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := &sqsfake.Server{Plan: c.plan, Latency: 20 * time.Millisecond}
					q := newQueue(t, server, false, nil)
					n := 2000 + 50*concurrency
					fill(t, server, q, n)
					running := consume(t, q, works(10*time.Millisecond), queue.Config{Concurrency: concurrency})
					until := func(done int) (time.Time, int) {
						for running.Stats().Done < int64(done) {
							time.Sleep(5 * time.Millisecond)
						}
						return time.Now(), int(running.Stats().Done)
					}
					begin, before := until(n / 2) // it has found its speed
					end, after := until(n * 9 / 10)
					share := float64(after-before) / end.Sub(begin).Seconds() * 0.01 / float64(concurrency)
					until(n)
					spent := float64(calls(server)) / float64(n)
					t.Logf("%.3f calls per message, %.0f %% of the ideal rate", spent, 100*share)
					require.Less(t, spent, c.most)
					require.Greater(t, share, 0.85)
					running.stop(t)
				})
			})
		}
	}
}

func TestCostOfTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Latency: 20 * time.Millisecond}
		q := newQueue(t, server, false, nil)
		running := consume(t, q, works(10*time.Millisecond), queue.Config{})
		const n = 500
		for range n {
			send(t, q, message("a"))
			time.Sleep(30 * time.Millisecond) // and 20 ms for the send
		}
		time.Sleep(time.Second)
		spent := calls(server) - server.Stats(sqsfake.SendMessageBatch).Calls
		t.Logf("%.3f calls per message", float64(spent)/n)
		require.Equal(t, int64(n), running.Stats().Done)
		require.LessOrEqual(t, float64(spent)/n, 1.2)
		running.stop(t)
	})
}

func TestCostOfIdling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Latency: 20 * time.Millisecond}
		q := newQueue(t, server, false, nil)
		running := consume(t, q, works(0), queue.Config{Concurrency: 200})
		time.Sleep(time.Hour)
		require.LessOrEqual(t, calls(server), 180)
		require.Equal(t, 1, server.Stats(sqsfake.ReceiveMessage).MaxOpen)
		running.stop(t)
	})
}

func TestCostOfHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Latency: 20 * time.Millisecond}
		q := newQueue(t, server, false, nil)
		fill(t, server, q, 100)
		running := consume(t, q, works(time.Hour+time.Minute), queue.Config{Concurrency: 100})
		time.Sleep(time.Minute)
		require.Equal(t, 100, running.Stats().Running)
		server.ResetStats()
		const halves = 240 // half leases of 15 s in an hour
		time.Sleep(time.Hour - time.Minute)
		beats := server.Stats(sqsfake.ChangeMessageVisibilityBatch).Calls
		t.Logf("%.1f calls per half lease", float64(beats)/halves)
		require.LessOrEqual(t, beats, 10*halves)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 100, server.Queue("orders").Deleted)
		require.Equal(t, 100, server.Queue("orders").Received, "each was delivered once")
		running.stop(t)
	})
}

// Slow handlers get what they have slots for, and not more.
func TestNoOverPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{Latency: 20 * time.Millisecond}
		q := newQueue(t, server, false, nil)
		fill(t, server, q, 200)
		var mu sync.Mutex // guards what is below
		seen := make(map[string]int)
		latest := time.Duration(0)
		running := consume(t, q, func(_ context.Context, m *queue.Message) error {
			mu.Lock()
			seen[m.ID]++
			latest = max(latest, time.Since(m.ReceivedAt))
			mu.Unlock()
			time.Sleep(2 * time.Second)
			return nil
		}, queue.Config{Concurrency: 5, Lease: 6 * time.Second})
		for running.Stats().Done < 200 {
			require.LessOrEqual(t, server.Queue("orders").InFlight, 5+10, "in hand, and done but not yet deleted")
			time.Sleep(100 * time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, seen, 200)
		require.Equal(t, 200, server.Queue("orders").Received, "none was delivered twice")
		require.Less(t, latest, 100*time.Millisecond)
		running.stop(t)
	})
}

func TestLongHandlers(t *testing.T) {
	t.Run("90 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{Latency: 20 * time.Millisecond}
			q := newQueue(t, server, false, nil)
			fill(t, server, q, 30)
			running := consume(t, q, works(90*time.Second), queue.Config{Concurrency: 10})
			time.Sleep(5 * time.Minute)
			require.Equal(t, int64(30), running.Stats().Done)
			require.Equal(t, 30, server.Queue("orders").Received)
			running.stop(t)
		})
	})
	t.Run("more than 12 h", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{Latency: 20 * time.Millisecond}
			q := newQueue(t, server, false, nil)
			fill(t, server, q, 1)
			begin := time.Now()
			var after time.Duration
			var cause error
			over := make(chan struct{})
			running := consume(t, q, func(ctx context.Context, m *queue.Message) error {
				if m.Attempt > 1 {
					return nil
				}
				<-ctx.Done()
				after, cause = time.Since(begin), context.Cause(ctx)
				close(over)
				return ctx.Err()
			}, queue.Config{})
			<-over
			time.Sleep(time.Minute)
			require.ErrorIs(t, cause, queue.ErrLeaseLost)
			require.InDelta(t, 12*time.Hour, after, float64(5*time.Second))
			require.Less(t, after, 12*time.Hour)
			stats := running.Stats()
			require.Equal(t, []int64{2, 1, 1}, []int64{stats.Received, stats.LostLease, stats.Done})
			running.stop(t)
		})
	})
}

// Three consumers of a FIFO queue, with failures: the successes of a group are
// in order, and no two messages of a group are handled at once.
func TestGroupsStayInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const groups, each = 50, 40
		seed := rand.Uint64()
		server := &sqsfake.Server{Latency: 20 * time.Millisecond}
		q := newQueue(t, server, true, nil)
		var msgs []*queue.Message
		for i := range groups * each {
			msgs = append(msgs, &queue.Message{Body: []byte(fmt.Sprint(i / groups)), Group: fmt.Sprint("g", i%groups), Dedup: fmt.Sprint(i)})
		}
		send(t, q, msgs...)
		var (
			mu     sync.Mutex // guards what is below
			random = rand.New(rand.NewPCG(seed, 0))
			busy   = make(map[string]bool)
			next   = make(map[string]int)
			done   int
		)
		handle := func(_ context.Context, m *queue.Message) error {
			mu.Lock()
			if busy[m.Group] {
				t.Errorf("two messages of %s at once (seed %d)", m.Group, seed)
			}
			busy[m.Group] = true
			d, fails := time.Duration(random.IntN(100))*time.Millisecond, random.IntN(10) == 0
			mu.Unlock()
			time.Sleep(d)
			mu.Lock()
			defer mu.Unlock()
			busy[m.Group] = false
			if fails {
				return errors.New("fails")
			}
			if want := fmt.Sprint(next[m.Group]); want != string(m.Body) {
				t.Errorf("message %s of %s where %s was next (seed %d)", m.Body, m.Group, want, seed)
			}
			next[m.Group]++
			done++
			return nil
		}
		var all []*consumer
		for range 3 {
			all = append(all, consume(t, q, handle, queue.Config{Concurrency: 20, Retry: retry.Policy{MaxAttempts: -1, BaseDelay: time.Second, MaxDelay: 2 * time.Second}}))
		}
		time.Sleep(20 * time.Minute)
		mu.Lock()
		require.Equal(t, groups*each, done, "seed %d", seed)
		mu.Unlock()
		for _, c := range all {
			c.stop(t)
			require.Greater(t, c.Stats().Done, int64(groups*each/10), "each has a good part (seed %d)", seed)
			require.Positive(t, c.Stats().Retried)
		}
		require.Equal(t, groups*each, server.Queue("orders.fifo").Deleted)
	})
}

// 5 % of requests fail, 2 % act but lose their reply, and there are bursts of
// throttling: nothing is lost, and much of the rate is kept.
func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seed := rand.Uint64()
		server := &sqsfake.Server{Latency: 5 * time.Millisecond}
		q := newQueue(t, server, false, nil)
		const n = 8_000
		fill(t, server, q, n)
		begin := time.Now()
		server.Plan = sqsfake.First( // nobody calls yet
			sqsfake.Between(begin.Add(time.Second), begin.Add(1250*time.Millisecond), sqsfake.Random(seed, 1, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()})),
			sqsfake.Random(seed+1, 0.05, sqsfake.Fault{Mode: sqsfake.Refuse}, sqsfake.Fault{Mode: sqsfake.Reset}, sqsfake.Fault{Mode: sqsfake.FailEntries}, sqsfake.Fault{Mode: sqsfake.OmitEntries}),
			sqsfake.Random(seed+2, 0.02, sqsfake.Fault{Mode: sqsfake.LoseReply}, sqsfake.Fault{Mode: sqsfake.Truncate}, sqsfake.Fault{Mode: sqsfake.OmitDone}),
		)
		var mu sync.Mutex // guards seen
		seen := make(map[string]bool)
		half := time.Duration(0)
		running := consume(t, q, func(_ context.Context, m *queue.Message) error {
			time.Sleep(5 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if seen[m.ID] = true; len(seen) == n/2 {
				half = time.Since(begin)
			}
			return nil
		}, queue.Config{Concurrency: 20})
		time.Sleep(3 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, seen, n, "seed %d", seed)
		require.Equal(t, n, server.Queue("orders").Deleted, "seed %d", seed)
		rate := n / 2 / half.Seconds()
		t.Logf("%.0f messages a second", rate)
		require.Greater(t, rate, 2000.0, "seed %d", seed)
		running.stop(t)
	})
}

// While the service is away there are few requests, and it is noticed when it is
// back.
func TestServiceAway(t *testing.T) {
	for name, fault := range map[string]sqsfake.Fault{
		"resets":     {Mode: sqsfake.Reset},
		"black hole": {Mode: sqsfake.Hang},
		"no queue":   {Mode: sqsfake.Refuse, Err: sqsfake.QueueDoesNotExist()},
		"throttled":  {Mode: sqsfake.Refuse, Err: sqsfake.Throttled()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				away := time.Now().Add(time.Minute)
				back := away.Add(10 * time.Minute)
				server := &sqsfake.Server{
					Latency: 5 * time.Millisecond,
					Plan:    sqsfake.Between(away, back, func(sqsfake.Call) sqsfake.Fault { return fault }),
				}
				q := newQueue(t, server, false, nil)
				fill(t, server, q, 100)
				running := consume(t, q, works(time.Millisecond), queue.Config{})
				time.Sleep(time.Until(away))
				require.Equal(t, 100, server.Queue("orders").Deleted)
				server.ResetStats()
				time.Sleep(time.Until(back))
				require.Less(t, calls(server), 120)
				require.NotZero(t, running.Stats().Errors)
				fill(t, server, q, 100)
				time.Sleep(time.Minute)
				require.Equal(t, 200, server.Queue("orders").Deleted)
				running.stop(t)
			})
		})
	}
}

// A journal is what a consumer has logged.
type journal struct {
	mu      sync.Mutex // guards records
	records []slog.Record
}

func (l *journal) Enabled(context.Context, slog.Level) bool { return true }
func (l *journal) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *journal) WithGroup(string) slog.Handler            { return l }
func (l *journal) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records = append(l.records, r)
	return nil
}

// since returns the records of a level since then, with their attributes as text.
func (l *journal) since(from time.Time, level slog.Level) (texts []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.records {
		if r.Level != level || r.Time.Before(from) {
			continue
		}
		text := r.Message
		r.Attrs(func(a slog.Attr) bool {
			text += " " + a.String()
			return true
		})
		texts = append(texts, text)
	}
	return texts
}

// What only a person can put right does not end a consumer that has worked: it
// says what to do, at Error, waits longer and longer, and goes on when it has
// been done.
func TestMisconfiguredLater(t *testing.T) {
	for name, c := range map[string]struct {
		fault sqsfake.Error // Code "": the queue is deleted, and made again
		says  string
	}{
		"queue deleted":      {says: "create the queue, or correct its URL"},
		"access denied":      {fault: sqsfake.AccessDenied(), says: "allow these credentials sqs:ReceiveMessage"},
		"credentials expire": {fault: sqsfake.ExpiredToken(), says: "renew the credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				away := time.Now().Add(5 * time.Minute)
				back := away.Add(30 * time.Minute)
				server := &sqsfake.Server{Latency: 20 * time.Millisecond}
				if c.fault.Code != "" {
					server.Plan = sqsfake.Between(away, back, func(call sqsfake.Call) sqsfake.Fault {
						return sqsfake.Fault{Mode: sqsfake.Refuse, Err: c.fault}
					})
				}
				q := newQueue(t, server, false, nil)
				fill(t, server, q, 100)
				var mu sync.Mutex // guards delays
				var delays []time.Duration
				said := &journal{}
				running := consume(t, q, works(time.Millisecond), queue.Config{
					Logger: slog.New(said),
					Trace: &queue.Trace{Error: func(info queue.ErrorInfo) {
						mu.Lock()
						defer mu.Unlock()
						require.ErrorIs(t, info.Err, limiter.ErrMisconfigured)
						delays = append(delays, info.RetryIn)
					}},
				})
				time.Sleep(time.Until(away))
				require.EqualValues(t, 100, running.Stats().Done)
				require.Empty(t, said.since(time.Time{}, slog.LevelError))
				if c.fault.Code == "" {
					_, err := server.Client().DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: aws.String(q.URL())})
					require.NoError(t, err)
				}
				time.Sleep(time.Until(back))
				loud := said.since(away, slog.LevelError)
				require.NotEmpty(t, loud)
				require.Less(t, len(loud), 200, "in half an hour")
				for _, text := range loud {
					require.Contains(t, text, c.says)
					require.Contains(t, text, q.URL())
				}
				mu.Lock()
				require.Less(t, delays[0], time.Second)
				require.GreaterOrEqual(t, delays[len(delays)-1], 10*time.Second)
				mu.Unlock()
				if c.fault.Code == "" {
					_, err := server.CreateQueue("orders", nil)
					require.NoError(t, err)
				}
				fill(t, server, q, 100)
				time.Sleep(30 * time.Second)
				require.EqualValues(t, 200, running.Stats().Done)
				require.Empty(t, said.since(time.Now().Add(-time.Second), slog.LevelError))
				running.stop(t)
			})
		})
	}
}

// With a DrainTimeout that is shorter than the poll would be, polls are shorter:
// whenever the drain begins, the open one lands, and what it brings is given
// back at once. The log says so, once.
func TestDrainLetsPollsLand(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(fmt.Sprint("busy ", busy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const drain = 10 * time.Second
				server := &sqsfake.Server{Latency: 20 * time.Millisecond, LingeringPolls: true}
				said := &journal{}
				q, err := sqsqueue.New(server.Client(), newQueue(t, server, false, nil).URL(), sqsqueue.Config{Logger: slog.New(said)})
				require.NoError(t, err)
				const lease = 10 * time.Minute // what a drain leaves behind is hidden for the rest of the test
				for i := range 30 {
					running := consume(t, q, works(10*time.Millisecond), queue.Config{DrainTimeout: drain, Lease: lease})
					time.Sleep(time.Duration(i) * 500 * time.Millisecond)
					running.cancel()
					begin := time.Now()
					if busy { // while the drain waits for the poll
						time.Sleep(time.Duration(i) * 250 * time.Millisecond)
						send(t, q, message("late"))
					}
					<-running.done
					require.NoError(t, running.err)
					require.LessOrEqual(t, time.Since(begin), drain+time.Second)
					require.Zero(t, server.Queue("orders").InFlight, "nothing waits for the end of a lease")
				}
				require.Zero(t, server.Stats(sqsfake.ReceiveMessage).Failed, "polls that were cut off")
				notes := said.since(time.Time{}, slog.LevelInfo)
				require.Len(t, notes, 1)
				require.Contains(t, notes[0], "wait=8s config_wait=20s because=as long as a drain can wait for a receive")
				if busy {
					require.Equal(t, 30, server.Queue("orders").Visible+server.Queue("orders").Deleted)
				}
			})
		})
	}
}

func TestMisconfiguredAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &sqsfake.Server{}
		q, err := sqsqueue.New(server.Client(), server.URL("nowhere"), sqsqueue.Config{})
		require.NoError(t, err)
		running := consume(t, q, works(0), queue.Config{})
		<-running.done
		require.ErrorIs(t, running.err, limiter.ErrMisconfigured)
		require.ErrorContains(t, running.err, "create the queue")
	})
}
