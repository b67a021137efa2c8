package idempotenttest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// An Effect is how a run's effect relates to its record.
type Effect int

// The effects, and how often an operation may have each.
const (
	AtDownstream Effect = iota // the downstream honours the key: once
	WithRecord                 // one write is effect and record: once
	Alone                      // effect and record are separate: at most one repeat per crash, which is counted
)

// Effects are all effects, by name.
func Effects() map[string]Effect {
	return map[string]Effect{"effect at a downstream that honours the key": AtDownstream, "effect with the record": WithRecord, "effect alone": Alone}
}

// TestCrashes runs twenty consumers on this many operations through s, each delivered
// five times in an order that depends on seed. The processes crash before or after any
// call to the queue, the store or the downstream, and others replace them. TestCrashes
// reports to t every operation that was not done, or was done too often. Call it in a
// bubble of testing/synctest: it takes more than an hour of the bubble's time. The
// store must be unused, and needs room for ten times the operations.
func TestCrashes(t T, s idempotent.Store, effect Effect, operations int, seed uint64) {
	t.Helper()
	if nils.Is(s) {
		t.Errorf("idempotenttest: TestCrashes: s is %s", nils.Describe(s))
		return
	}
	const deliveries, consumers = 5, 20
	crashes := max(20, operations*8/100)
	rnd := rand.New(rand.NewPCG(seed, uint64(effect)))
	q, err := memqueue.New(memqueue.Config{})
	if err != nil {
		panic(err) // of the zero Config
	}
	noLimit, err := limiter.All()
	if err != nil {
		panic(err) // of none
	}
	var messages []*queue.Message
	for i := range operations * deliveries {
		messages = append(messages, &queue.Message{Body: []byte(strconv.Itoa(i % operations))})
	}
	rnd.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	if err := q.Send(t.Context(), messages...); err != nil {
		t.Errorf("send: %v", err)
		return
	}

	far := &downstream{rnd: rand.New(rand.NewPCG(seed, 99)), effects: make(map[string]int), doubts: make(map[string]int), running: make(map[string]int)}
	type consumer struct {
		p     *process
		w     *idempotent.Middleware
		stop  context.CancelFunc
		ended chan error
	}
	start := func(left int) *consumer {
		p := &process{left: left, after: rnd.IntN(2) == 0}
		w, err := idempotent.New(store{s, p}, idempotent.Config{Timeout: 10 * time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			panic(err) // of a good Config
		}
		handler := queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
			claim, _ := idempotent.Current(ctx)
			if n := far.begin(claim); n > 2 && !p.crashed() {
				t.Errorf("seed %d: %d runs of key %s at the same time: one that was cut off, and one, are all there may be", seed, n, claim.Key)
			}
			defer far.end(claim)
			time.Sleep(time.Duration(far.draw(1500)) * time.Millisecond)
			if far.draw(10) == 0 {
				return errors.New("passing trouble")
			}
			// The effect. A crash may come before or after it.
			return p.step(func() error {
				if effect == WithRecord {
					if err := record(ctx, s, claim); err != nil {
						return err
					}
				}
				far.have(claim, effect)
				return nil
			})
		})
		c, err := queue.NewConsumer(source{q, p}, w.Wrap(handler), queue.Config{
			Concurrency: 5, Lease: 5 * time.Second, Limiter: noLimit, DrainTimeout: time.Second, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			panic(err) // of a good Config
		}
		ctx, stop := context.WithCancel(t.Context())
		run := &consumer{p: p, w: w, stop: stop, ended: make(chan error, 1)}
		go func() { run.ended <- c.Run(ctx) }()
		return run
	}
	all := make([]*consumer, consumers)
	for i := range all {
		all[i] = start(-1)
	}
	replace := func(i, left int) {
		all[i].stop() // unless it has crashed, it drains
		all = append(all, all[i])
		all[i] = start(left)
	}
	for range crashes {
		replace(rnd.IntN(consumers), rnd.IntN(20))
		time.Sleep(time.Duration(rnd.IntN(150)) * time.Millisecond)
	}
	time.Sleep(time.Minute)
	for i := range consumers { // replace those that crashed
		replace(i, -1)
	}
	time.Sleep(time.Hour)
	var inDoubt, crashed int64
	for _, c := range all {
		c.stop()
		switch err := <-c.ended; {
		case c.p.crashed():
			crashed++
		case err != nil:
			t.Logf("drain: %v", err) // handlers that were cut short
		}
		inDoubt += c.w.Stats().InDoubt
	}

	what := fmt.Sprintf("seed %d", seed)
	if n := q.Stats(); n.Visible+n.Delayed+n.InFlight > 0 {
		t.Errorf("%s: left in the queue: %+v", what, n)
	}
	if len(far.effects) != operations {
		t.Errorf("%s: %d operations of %d were done", what, len(far.effects), operations)
	}
	repeats := 0
	for key, n := range far.effects {
		repeats += n - 1
		if n-1 > far.doubts[key] {
			t.Errorf("%s: key %s: %d repeats, and %d runs with a doubt: each must be", what, key, n-1, far.doubts[key])
		}
	}
	t.Logf("%s: %d operations, %d crashes, %d runs in doubt, %d repeats", what, operations, crashed, inDoubt, repeats)
	switch {
	case crashed == 0:
		t.Errorf("%s: nothing has crashed", what)
	case effect != Alone && repeats > 0:
		t.Errorf("%s: %d repeats: there must be none", what, repeats)
	case repeats > int(crashed) || repeats > int(inDoubt):
		t.Errorf("%s: %d repeats, %d crashes, %d runs counted as in doubt: each repeat needs both", what, repeats, crashed, inDoubt)
	}
}

// record stands for the one write that is both effect and record. When it returns, the
// caller knows whether the write was made, as with a transaction that is repeated with
// the same token until that is known.
func record(ctx context.Context, s idempotent.Store, c idempotent.Claim) (err error) {
	for range 100 {
		err = s.Done(context.WithoutCancel(ctx), c, nil)
		if err == nil || errors.Is(err, idempotent.ErrNotOwner) {
			break
		}
	}
	return err
}

// downstream simulates the downstream: it counts the effects and the runs.
type downstream struct {
	mu      sync.Mutex // guards all below
	rnd     *rand.Rand
	effects map[string]int // by key
	doubts  map[string]int
	running map[string]int
}

func (f *downstream) draw(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rnd.IntN(n)
}

func (f *downstream) begin(c idempotent.Claim) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running[c.Key]++
	if c.InDoubt {
		f.doubts[c.Key]++
	}
	return f.running[c.Key]
}

func (f *downstream) end(c idempotent.Claim) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running[c.Key]--
}

func (f *downstream) have(c idempotent.Claim, e Effect) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e != AtDownstream || f.effects[c.Key] == 0 {
		f.effects[c.Key]++
	}
}

// A process simulates a process that can crash: after the crash none of its calls
// reach the queue, the store or the downstream.
type process struct {
	mu    sync.Mutex // guards all below
	left  int        // steps until the crash; negative: none is planned
	after bool       // the crash comes after the last step, which still acts
	dead  bool
}

var errCrashed = errors.New("idempotenttest: the process has crashed")

// step calls act, unless the process is dead by then, and fails if it is dead
// afterwards.
func (p *process) step(act func() error) error {
	p.mu.Lock()
	acts := !p.dead
	if p.left == 0 && !p.dead {
		p.dead, acts = true, p.after
	}
	p.left--
	dead := p.dead
	p.mu.Unlock()
	switch {
	case !dead:
		return act()
	case acts:
		_ = act()
	}
	return errCrashed
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

func (s source) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
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

func (s store) Done(ctx context.Context, c idempotent.Claim, result []byte) error {
	return s.p.step(func() error { return s.Store.Done(ctx, c, result) })
}

func (s store) Failed(ctx context.Context, c idempotent.Claim) (n int, err error) {
	err = s.p.step(func() error { n, err = s.Store.Failed(ctx, c); return err })
	return n, err
}

func (s store) Release(ctx context.Context, c idempotent.Claim, forget bool) error {
	return s.p.step(func() error { return s.Store.Release(ctx, c, forget) })
}
