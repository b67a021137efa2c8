package idempotent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

var quiet = slog.New(slog.DiscardHandler)

// A process is everything of one process that can be cut off: after the crash
// nothing that it does reaches the queue, the store or the far side.
type process struct {
	mu    sync.Mutex // guards all below
	left  int        // steps until the crash; negative: none is planned
	after bool       // the last step still acts
	dead  bool
}

var errCrashed = errors.New("the process has crashed")

// step does act, unless the process is dead by then, and fails if it is dead
// afterwards.
func (p *process) step(act func() error) error {
	p.mu.Lock()
	if p.left == 0 && !p.dead {
		p.dead = true
		if p.after {
			p.mu.Unlock()
			_ = act()
			return errCrashed
		}
	}
	p.left--
	dead := p.dead
	p.mu.Unlock()
	if dead {
		return errCrashed
	}
	return act()
}

func (p *process) crashed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// source is the queue as a process sees it.
type source struct {
	queue.Source
	p *process
}

func (s source) Receive(ctx context.Context, o queue.ReceiveOptions) (msgs []*queue.Message, err error) {
	if s.p.crashed() {
		<-ctx.Done()
		return nil, errCrashed
	}
	return s.Source.Receive(ctx, o)
}

func (s source) Ack(ctx context.Context, msgs ...*queue.Message) error {
	return s.p.step(func() error { return s.Source.Ack(ctx, msgs...) })
}

func (s source) Nack(ctx context.Context, d time.Duration, msgs ...*queue.Message) error {
	return s.p.step(func() error { return s.Source.Nack(ctx, d, msgs...) })
}

func (s source) Extend(ctx context.Context, d time.Duration, msgs ...*queue.Message) error {
	if s.p.crashed() {
		return errCrashed
	}
	return s.Source.Extend(ctx, d, msgs...)
}

// store is the store as a process sees it.
type store struct {
	idempotent.Store
	p *process
}

func (s store) Claim(ctx context.Context, c idempotent.Claim) (r idempotent.Record, err error) {
	err = s.p.step(func() error { r, err = s.Store.Claim(ctx, c); return err })
	return r, err
}

func (s store) Done(ctx context.Context, c idempotent.Claim, result []byte, keep time.Time) error {
	return s.p.step(func() error { return s.Store.Done(ctx, c, result, keep) })
}

func (s store) Failed(ctx context.Context, c idempotent.Claim, keep time.Time) (n int, err error) {
	err = s.p.step(func() error { n, err = s.Store.Failed(ctx, c, keep); return err })
	return n, err
}

func (s store) Release(ctx context.Context, c idempotent.Claim, forget bool) error {
	return s.p.step(func() error { return s.Store.Release(ctx, c, forget) })
}

// Where a run has its effect.
type setting int

const (
	farSideHonoursKey setting = iota // and so has the effect once, whoever asks
	effectWithRecord                 // one write for both
	effectAlone                      // nothing keeps it together with the record
)

// Twenty consumers, and a thousand operations delivered five times each in
// random overlap, with a crash at every kind of step: once where the far side
// knows the key, once where effect and record are one write, and otherwise one
// repeat per crash at most, each of them counted as in doubt.
func TestOnce(t *testing.T) {
	for name, how := range map[string]setting{
		"far side honours the key": farSideHonoursKey,
		"effect with the record":   effectWithRecord,
		"effect alone":             effectAlone,
	} {
		t.Run(name, func(t *testing.T) {
			rounds := 6
			if testing.Short() {
				rounds = 1
			}
			for seed := range uint64(rounds) {
				synctest.Test(t, func(t *testing.T) { once(t, how, seed) })
			}
		})
	}
}

func once(t *testing.T, how setting, seed uint64) {
	const operations, deliveries, consumers, crashes = 1000, 5, 20, 80
	rnd := rand.New(rand.NewPCG(seed, uint64(how)))
	q, err := memqueue.New(memqueue.Config{})
	require.NoError(t, err)
	remembered, err := idempotent.NewMemory(10 * operations)
	require.NoError(t, err)
	var messages []*queue.Message
	for i := range operations * deliveries {
		messages = append(messages, &queue.Message{Body: []byte(strconv.Itoa(i % operations))})
	}
	rnd.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	for _, m := range messages {
		require.NoError(t, q.Send(t.Context(), m))
	}

	var mu sync.Mutex
	effects, running := map[string]int{}, map[string]int{}
	fault := rand.New(rand.NewPCG(seed, 99))
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return fault.IntN(n)
	}
	var inDoubt, crashed int64
	type consumer struct {
		p     *process
		w     *idempotent.Middleware
		stop  context.CancelFunc
		ended chan error
	}
	start := func(left int) *consumer {
		p := &process{left: left, after: rnd.IntN(2) == 0}
		w, err := idempotent.New(store{remembered, p}, idempotent.Config{Timeout: 10 * time.Second, Logger: quiet})
		require.NoError(t, err)
		h := w.Wrap(queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
			claim, ok := idempotent.Current(ctx)
			require.True(t, ok)
			mu.Lock()
			running[claim.Key]++
			if !p.crashed() {
				require.LessOrEqual(t, running[claim.Key], 2, "runs of one key: one that was cut off, and one")
			}
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				running[claim.Key]--
			}()
			time.Sleep(time.Duration(draw(1500)) * time.Millisecond)
			if draw(10) == 0 {
				return errors.New("passing trouble")
			}
			// The effect, which a crash comes before or after.
			return p.step(func() error {
				if how == effectWithRecord {
					if err := remembered.Done(ctx, claim, nil, time.Now().Add(time.Hour)); err != nil {
						return err
					}
				}
				mu.Lock()
				defer mu.Unlock()
				if how != farSideHonoursKey || effects[claim.Key] == 0 {
					effects[claim.Key]++
				}
				return nil
			})
		}))
		c, err := queue.NewConsumer(source{q, p}, h, queue.Config{Concurrency: 5, Lease: 5 * time.Second, Limiter: limiter.All(), Logger: quiet, DrainTimeout: time.Second})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		run := &consumer{p: p, w: w, stop: stop, ended: make(chan error, 1)}
		go func() { run.ended <- c.Run(ctx) }()
		return run
	}
	bury := func(c *consumer) {
		c.stop()
		if err := <-c.ended; err != nil && !c.p.crashed() {
			t.Log("drain:", err) // handlers that were cut off
		}
		inDoubt += c.w.Stats().InDoubt
		if c.p.crashed() {
			crashed++
		}
	}
	running20 := make([]*consumer, consumers)
	for i := range running20 {
		running20[i] = start(-1)
	}
	for range crashes {
		i := rnd.IntN(consumers)
		bury(running20[i])
		running20[i] = start(rnd.IntN(30))
		time.Sleep(time.Duration(rnd.IntN(400)) * time.Millisecond)
	}
	time.Sleep(time.Minute)
	for i, c := range running20 { // those that are dead come back
		bury(c)
		running20[i] = start(-1)
	}
	time.Sleep(time.Hour)
	for _, c := range running20 {
		bury(c)
	}

	what := fmt.Sprintf("seed %d", seed)
	s := q.Stats()
	require.Zero(t, s.Visible+s.Delayed+s.InFlight, "%s: left in the queue", what)
	require.Len(t, effects, operations, what)
	repeats := 0
	for _, n := range effects {
		repeats += n - 1
	}
	t.Logf("%s: %d crashes, %d runs in doubt, %d repeats", what, crashed, inDoubt, repeats)
	require.NotZero(t, crashed, what)
	if how != effectAlone {
		require.Zero(t, repeats, what)
		return
	}
	require.LessOrEqual(t, repeats, int(crashed), "%s: repeats: a crash comes between one effect and its record", what)
	require.LessOrEqual(t, repeats, int(inDoubt), "%s: each is counted", what)
}
