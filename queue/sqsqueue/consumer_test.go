package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/internal/testrun"
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

// ends waits for Run to return by itself.
func (c *consumer) ends(t *testing.T) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(time.Minute):
		t.Fatal("Run goes on")
	}
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
		seed := testrun.Seed(t)
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
			require.Positive(t, c.Stats().Reruns)
		}
		require.Equal(t, groups*each, server.Queue("orders.fifo").Deleted)
	})
}

// 5 % of requests fail, 2 % act but lose their reply, and there are bursts of
// throttling: nothing is lost, and of 4,000 messages a second half at least are kept,
// in the median of three runs.
func TestFaults(t *testing.T) {
	runs := uint64(3)
	if testing.Short() {
		runs = 1
	}
	var rates []float64
	for run := range runs {
		synctest.Test(t, func(t *testing.T) {
			seed := 10 * run
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
			var mu sync.Mutex // guards seen and half
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
			rates = append(rates, n/2/half.Seconds())
			running.stop(t)
		})
	}
	slices.Sort(rates)
	t.Logf("%.0f messages a second", rates)
	if len(rates) > 1 { // one run alone falls below it once in hundreds
		require.Greater(t, rates[len(rates)/2], 2000.0)
	}
}

// During an outage of the service there are few requests, and its end is noticed.
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

// A misconfiguration does not end a consumer that has worked: the consumer logs at
// Error what to do, waits longer and longer, and continues when that is done.
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

// With a DrainTimeout that is shorter than the poll, polls are shorter: whenever the
// drain begins, the open poll is completed, and its messages are returned at once. The
// log says once that polls are shorter.
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

// A misconfiguration ends a consumer that has not worked yet at once, with an error
// that says what to do.
func TestMisconfiguredAtStart(t *testing.T) {
	only := func(status int, code string) sqsfake.Error { // without the older protocol's code in addition
		return sqsfake.Error{Status: status, Code: code, QueryCode: "-", Message: "no"}
	}
	for name, c := range map[string]struct {
		fault sqsfake.Error
		says  string
	}{
		"no queue":                      {sqsfake.QueueDoesNotExist(), "create the queue, or correct its URL"},
		"no queue, new code":            {only(400, "QueueDoesNotExist"), "create the queue, or correct its URL"},
		"no queue, old code":            {only(400, "AWS.SimpleQueueService.NonExistentQueue"), "create the queue, or correct its URL"},
		"access denied":                 {sqsfake.AccessDenied(), "allow these credentials sqs:ReceiveMessage"},
		"access denied, new code":       {only(400, "AccessDeniedException"), "allow these credentials sqs:ReceiveMessage"},
		"access denied, old code":       {only(403, "AccessDenied"), "allow these credentials sqs:ReceiveMessage"},
		"unknown credentials":           {sqsfake.InvalidToken(), "the service does not know them"},
		"unknown credentials, new code": {only(400, "UnrecognizedClientException"), "the service does not know them"},
		"unknown credentials, old code": {only(403, "InvalidClientTokenId"), "the service does not know them"},
		"credentials expired":           {sqsfake.ExpiredToken(), "renew the credentials"},
		"credentials expired, new code": {only(400, "ExpiredTokenException"), "renew the credentials"},
		"credentials expired, old code": {only(403, "ExpiredToken"), "renew the credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{
					Latency: 20 * time.Millisecond,
					Plan:    sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: c.fault}, 1),
				}
				q := newQueue(t, server, false, nil)
				begin := time.Now()
				running := consume(t, q, works(0), queue.Config{})
				running.ends(t)
				require.Equal(t, 20*time.Millisecond, time.Since(begin))
				require.Equal(t, 1, calls(server), "nothing is received by a consumer that ends")
				require.ErrorIs(t, running.err, limiter.ErrMisconfigured)
				require.ErrorContains(t, running.err, c.says)
				require.ErrorContains(t, running.err, q.URL())
			})
		})
	}
	t.Run("queue never made", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := &sqsfake.Server{}
			q, err := sqsqueue.New(server.Client(), server.URL("nowhere"), sqsqueue.Config{})
			require.NoError(t, err)
			running := consume(t, q, works(0), queue.Config{})
			running.ends(t)
			require.ErrorIs(t, running.err, limiter.ErrMisconfigured)
			require.ErrorContains(t, running.err, "create the queue")
		})
	})
}

// runs are those of messages.
type runs struct {
	mu      sync.Mutex     // guards what is below
	n       map[string]int // by message
	running map[string]bool
	twice   []string // messages that ran when they were running already
}

// during returns a handler that takes d and then does f.
func (r *runs) during(d time.Duration, f queue.HandlerFunc) queue.HandlerFunc {
	return func(ctx context.Context, m *queue.Message) error {
		r.mu.Lock()
		if r.n == nil {
			r.n, r.running = make(map[string]int), make(map[string]bool)
		}
		r.n[m.ID]++
		if r.running[m.ID] {
			r.twice = append(r.twice, m.ID)
		}
		r.running[m.ID] = true
		r.mu.Unlock()
		time.Sleep(d)
		r.mu.Lock()
		r.running[m.ID] = false
		r.mu.Unlock()
		return f(ctx, m)
	}
}

// so requires that n messages have run, total times in all, and none of them
// twice at once.
func (r *runs) so(t *testing.T, n, total int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := 0
	for _, times := range r.n {
		sum += times
	}
	require.Equal(t, []int{n, total}, []int{len(r.n), sum})
	require.Empty(t, r.twice)
}

func succeed(context.Context, *queue.Message) error { return nil }

// balanced requires that each delivery of a consumer has come to one outcome.
func balanced(t *testing.T, s queue.Stats) {
	t.Helper()
	require.Equal(t, s.Received, s.Done+s.DeadLettered+s.Retried+s.Released+s.Abandoned+s.LostLease+s.Superseded, "%+v", s)
	require.Zero(t, s.InHand+s.Unsettled, "%+v", s)
}

// A standard queue may deliver deleted messages again. They are handled again or, if
// they come before the reply to the delete, deleted again, and the consumer continues.
func TestDeliveredAfterDelete(t *testing.T) {
	for name, c := range map[string]struct {
		n          int
		after      time.Duration // between the delete and its answer
		superseded bool
	}{
		"later":             {n: 100}, // behind all the others
		"before the answer": {n: 1, after: time.Second, superseded: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{Latency: 20 * time.Millisecond}
				q := newQueue(t, server, false, nil)
				fill(t, server, q, c.n)
				undone := 0
				server.Plan = func(call sqsfake.Call) sqsfake.Fault { // nobody calls yet
					if call.Op != sqsfake.DeleteMessageBatch || call.N > 2 || call.N > c.n {
						return sqsfake.Fault{}
					}
					undone += (call.Entries + 1) / 2
					return sqsfake.Fault{Mode: sqsfake.Undelete, After: c.after}
				}
				var handled runs
				running := consume(t, q, handled.during(10*time.Millisecond, succeed), queue.Config{Concurrency: 5})
				time.Sleep(time.Minute)
				require.Equal(t, c.n, server.Queue("orders").Deleted, "nothing stays")
				require.Equal(t, c.n+undone, server.Queue("orders").Received)
				s := running.Stats()
				if c.superseded {
					require.EqualValues(t, undone, s.Superseded)
					handled.so(t, c.n, c.n) // the work that was done counts
				} else {
					require.GreaterOrEqual(t, undone, 2)
					handled.so(t, c.n, c.n+undone)
					require.EqualValues(t, c.n+undone, s.Done)
				}
				send(t, q, message("more"))
				time.Sleep(time.Minute)
				require.Equal(t, c.n+1, server.Queue("orders").Deleted, "it goes on")
				running.stop(t)
				s = running.Stats()
				require.Zero(t, s.Errors)
				require.EqualValues(t, server.Queue("orders").Received, s.Received)
				balanced(t, s)
			})
		})
	}
}

// The reply to a receive may come when the leases of its messages are over, or nearly:
// messages that are no longer ours do not run, whoever has them by then.
func TestReplyAfterLease(t *testing.T) {
	for name, c := range map[string]struct {
		late  time.Duration
		other bool // another consumer receives what has become visible
		// Of the consumer whose first receive is late, in the end.
		received, lost, done int64
	}{
		"lease is over":              {late: 8 * time.Second, received: 6, lost: 3, done: 3},
		"lease is just over":         {late: 5 * time.Second, received: 6, lost: 3, done: 3},
		"lease is nearly over":       {late: 4900 * time.Millisecond, received: 3, done: 3},
		"another one has it":         {late: 8 * time.Second, other: true, received: 3, lost: 3},
		"another one comes too late": {late: 4900 * time.Millisecond, other: true, received: 3, done: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, lease = 3, 5 * time.Second
				server := &sqsfake.Server{Latency: 20 * time.Millisecond, Plan: sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{After: c.late}, 1)}
				q := newQueue(t, server, false, nil)
				fill(t, server, q, n)
				var handled runs // by both
				handle := handled.during(20*time.Second, succeed)
				running := consume(t, q, handle, queue.Config{Lease: lease})
				if c.other {
					time.Sleep(time.Second)
					defer func(other *consumer) {
						other.stop(t)
						balanced(t, other.Stats())
					}(consume(t, q, handle, queue.Config{Lease: lease}))
				}
				time.Sleep(2 * time.Minute)
				handled.so(t, n, n)
				require.Equal(t, n, server.Queue("orders").Deleted)
				running.stop(t)
				s := running.Stats()
				require.Equal(t, []int64{c.received, c.lost, c.done}, []int64{s.Received, s.LostLease, s.Done})
				require.Zero(t, s.Errors)
				balanced(t, s)
			})
		})
	}
}

// Messages that wait for their next attempt stay in flight. At the service's limit it
// delivers no more, or refuses receives: nothing else goes wrong, and messages that
// become visible make room.
func TestTooManyInFlight(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		t.Run(fmt.Sprint("refuses ", refuses), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n, most, pause = 100, 20, 5 * time.Minute
				server := &sqsfake.Server{MaxInFlight: most, Latency: 20 * time.Millisecond}
				q := newQueue(t, server, false, nil)
				fill(t, server, q, n)
				begin := time.Now()
				if refuses { // most of the time that the first of them wait
					server.Plan = sqsfake.Between(begin.Add(time.Minute), begin.Add(pause-time.Minute), // nobody calls yet
						sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.OverLimit()}))
				}
				var handled runs
				said := &journal{}
				var throttled atomic.Int64
				running := consume(t, q, handled.during(10*time.Millisecond, func(_ context.Context, m *queue.Message) error {
					if m.Attempt == 1 {
						return retry.After(pause, errors.New("not yet"))
					}
					return nil
				}), queue.Config{Logger: slog.New(said), Trace: &queue.Trace{Error: func(info queue.ErrorInfo) {
					require.ErrorIs(t, info.Err, limiter.ErrOverload)
					require.ErrorContains(t, info.Err, "receive")
					throttled.Add(1)
				}}})
				time.Sleep(pause - time.Second)
				handled.so(t, most, most)
				require.Equal(t, most, server.Queue("orders").InFlight)
				require.Less(t, calls(server), 100, "while there is no room")
				time.Sleep(5*pause + time.Minute - time.Since(begin)) // five times twenty that wait
				require.Equal(t, n, server.Queue("orders").Deleted, "nothing is lost")
				handled.so(t, n, 2*n)
				require.Equal(t, most, server.Queue("orders").MaxInFlight)
				require.Empty(t, said.since(time.Time{}, slog.LevelError))
				running.stop(t)
				s := running.Stats()
				require.Equal(t, throttled.Load(), s.Errors)
				require.Equal(t, refuses, s.Errors > 0)
				require.EqualValues(t, n, s.Retried)
				balanced(t, s)
			})
		})
	}
}
