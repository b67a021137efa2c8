//go:build unix

package sqsqueue_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

// bodied returns messages with these bodies.
func bodied(bodies ...string) []*queue.Message {
	msgs := make([]*queue.Message, len(bodies))
	for i, body := range bodies {
		msgs[i] = message(body)
	}
	return msgs
}

// A consumer process is killed at random moments while messages flow, and
// started again. Nothing is lost. Messages that failed for good are in the dead-letter
// queue, with their reason. Only messages that were in flight or unconfirmed when their
// process was killed are handled again.
func TestLiveCrash(t *testing.T) {
	client := liveClient(t)
	t.Parallel()
	const kills, n, bad = 50, 5000, 100
	seed := testrun.Seed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	q, dead := liveQueue(t, client, false), liveQueue(t, client, false)

	var bodies []string
	for i := range n {
		kind := "good"
		if i < bad {
			kind = "bad"
		}
		bodies = append(bodies, fmt.Sprint(kind, "-", i))
	}
	random.Shuffle(n, func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
	var feed sync.WaitGroup
	feed.Go(func() {
		for some := range slices.Chunk(bodies, 10) {
			if err := q.Send(t.Context(), bodied(some...)...); err != nil {
				t.Errorf("Send: %v", err)
			}
			time.Sleep(80 * time.Millisecond)
		}
	})

	cfg := workerConfig{
		Endpoint: liveEndpoint(t), Queue: q.URL(), DeadLetter: dead.URL(),
		Concurrency: 10, Lease: 5 * time.Second, Work: 30 * time.Millisecond,
	}
	var workers []*worker
	for range kills {
		w := startWorker(t, cfg)
		workers = append(workers, w)
		time.Sleep(time.Duration(random.Int64N(int64(1800 * time.Millisecond))))
		w.kill()
	}
	last := startWorker(t, cfg)
	workers = append(workers, last)
	feed.Wait()
	empties(t, client, q, time.Minute)
	last.terminate()

	// The messages that each process held when it ended, and those that were begun again.
	var (
		done                   = make(map[string]bool)
		unconfirmed            = make(map[string]bool) // was started by the last process that did, and not confirmed there
		seen                   = make(map[string]bool)
		allowed, again, landed int
	)
	for i, w := range workers {
		confirmed, here := make(map[string]bool), make(map[string]bool)
		for _, l := range w.lines() {
			switch l.kind {
			case started:
				if seen[l.about] {
					again++
					if !unconfirmed[l.about] || here[l.about] {
						t.Errorf("process %d handled %s again, which was neither in hand nor unsettled at a kill (seed %d)", i, l.about, seed)
					}
				}
				seen[l.about], here[l.about] = true, true
			case finished:
				done[l.about] = true
			case acked:
				confirmed[l.about] = true
			}
		}
		if len(here) > 0 && w != last {
			landed++
		}
		for body := range here {
			if unconfirmed[body] = !confirmed[body]; unconfirmed[body] {
				allowed++
			}
		}
	}
	t.Logf("%d kills, %d of them of a process that had begun to handle messages; %d messages were handled again, of %d that were in hand or unsettled", kills, landed, again, allowed)
	require.Greater(t, landed, kills/2, "processes live too short for the test to say anything")

	records := make(map[string]retry.DeadLetter)
	copies := 0
	for {
		msgs := receive(t, dead, 10, time.Minute)
		if len(msgs) == 0 {
			break
		}
		for _, m := range msgs {
			record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute])
			require.NoError(t, err, "%s", m.Body)
			records[string(m.Body)] = record
			copies++
		}
		require.NoError(t, dead.Ack(t.Context(), msgs...))
	}
	t.Logf("%d dead letters of %d messages", copies, len(records))
	for _, body := range bodies {
		if strings.HasPrefix(body, "good") {
			require.True(t, done[body], "%s is lost (seed %d)", body, seed)
			require.NotContains(t, records, body)
			continue
		}
		require.Contains(t, records, body, "lost (seed %d)", seed)
		require.Equal(t, retry.ReasonPermanent, records[body].Reason)
		require.Contains(t, records[body].Error, "this is "+body)
	}
}

// Two hundred drains by SIGTERM, of processes that share a queue under load, and
// some of an empty one. Nothing is lost or left hidden: the lease is longer than
// the test, and every received message went to a process that returned it before the
// next receive.
func TestLiveDrain(t *testing.T) {
	client := liveClient(t)
	t.Parallel()
	const (
		terms, atOnce = 200, 5
		idle          = 10
		drainTimeout  = 5 * time.Second
		lease         = 20 * time.Minute
	)
	seed := testrun.Seed(t)
	q := liveQueue(t, client, false)
	cfg := workerConfig{
		Endpoint: liveEndpoint(t), Queue: q.URL(),
		Concurrency: 10, Lease: lease, DrainTimeout: drainTimeout, Work: 60 * time.Millisecond,
	}

	// The queue is never empty while processes come and go.
	ctx, full := context.WithCancel(t.Context())
	sent := 0
	more := func(n int) {
		for i := 0; i < n; i += 10 {
			var bodies []string
			for range 10 {
				kind := "quick"
				if sent%50 == 0 {
					kind = "slow"
				}
				bodies = append(bodies, fmt.Sprint(kind, "-", sent))
				sent++
			}
			if err := q.Send(context.WithoutCancel(ctx), bodied(bodies...)...); err != nil {
				t.Errorf("Send: %v", err)
			}
		}
	}
	var feed sync.WaitGroup
	more(200)
	feed.Go(func() {
		for ctx.Err() == nil {
			if visible, _ := holds(t, client, q); visible < 100 {
				more(100)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})

	var (
		mu      sync.Mutex // guards workers
		workers []*worker
		slots   sync.WaitGroup
	)
	for slot := range atOnce {
		random := rand.New(rand.NewPCG(seed, uint64(slot)))
		slots.Go(func() {
			for range terms / atOnce {
				w := startWorker(t, cfg)
				w.wait(started)
				time.Sleep(time.Duration(random.Int64N(int64(500 * time.Millisecond))))
				w.terminate()
				mu.Lock()
				workers = append(workers, w)
				mu.Unlock()
			}
		})
	}
	slots.Wait()
	full()
	feed.Wait()
	last := startWorker(t, cfg)
	workers = append(workers, last)
	empties(t, client, q, 30*time.Second)
	last.terminate()

	type delivery struct {
		body    string
		attempt int64
	}
	var (
		drains   []time.Duration
		handled  = make(map[string]int)
		receives = make(map[delivery]time.Time)
		back     = make(map[delivery]time.Time) // when it was returned
	)
	for _, w := range workers {
		drains = append(drains, w.drained())
		for _, l := range w.lines() {
			switch l.kind {
			case finished:
				handled[l.about]++
			case received:
				receives[delivery{l.about, l.n}] = l.at
			case released:
				back[delivery{l.about, l.n}] = l.at
			}
		}
	}
	require.Len(t, handled, sent, "lost (seed %d)", seed)
	gap := time.Duration(0)
	for d, at := range receives {
		if d.attempt == 1 {
			continue
		}
		before := delivery{d.body, d.attempt - 1}
		require.Contains(t, receives, before, "a receive has brought it to nobody (seed %d)", seed)
		require.Contains(t, back, before, "nobody had given it back (seed %d)", seed)
		gap = max(gap, at.Sub(back[before]))
	}
	for body, times := range handled {
		require.Equal(t, 1, times, "%s was handled so often (seed %d)", body, seed)
	}
	longest := slices.Max(drains)
	t.Logf("%d messages, %d given back and received again within %v; drains took %v in the mean, %v at the longest",
		sent, len(back), gap, mean(drains), longest)
	require.NotEmpty(t, back, "the drains found nothing in hand")
	require.Less(t, gap, time.Minute, "it waited for more than its turn; the lease is %v", lease)
	require.LessOrEqual(t, longest, drainTimeout+time.Second)

	// On the empty queue a drain waits for the poll, which is short enough.
	var idlers []*worker
	for range idle {
		idlers = append(idlers, startWorker(t, cfg))
	}
	random := rand.New(rand.NewPCG(seed, atOnce))
	for _, w := range idlers {
		w.wait(requested)
	}
	for _, w := range idlers {
		delay := time.Duration(random.Int64N(int64(3 * time.Second)))
		slots.Go(func() {
			time.Sleep(delay)
			w.terminate()
		})
	}
	slots.Wait()
	var waits []time.Duration
	for _, w := range idlers {
		waits = append(waits, w.drained())
	}
	t.Logf("drains of an idle consumer took %v in the mean, %v at the longest", mean(waits), slices.Max(waits))
	require.LessOrEqual(t, slices.Max(waits), drainTimeout+time.Second)

	// None of them has left a poll behind that takes new messages.
	var bodies []string
	for i := range 50 {
		bodies = append(bodies, fmt.Sprint("last-", i))
	}
	require.NoError(t, q.Send(t.Context(), bodied(bodies...)...))
	w := startWorker(t, cfg)
	empties(t, client, q, 20*time.Second)
	w.terminate()
	for _, l := range w.lines() {
		if l.kind == received {
			require.EqualValues(t, 1, l.n, "%s went to a poll that nobody waits for", l.about)
		}
	}
}

func mean(ds []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range ds {
		sum += d
	}
	return sum / time.Duration(max(len(ds), 1))
}
