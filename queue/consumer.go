package queue

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
	"github.com/rampmeter/rampmeter/queue/internal/limits"
)

// A Consumer receives messages only when its limits say that they can start, runs
// a [Handler] for each, and acks, nacks or dead-letters them by the handler's
// result. Make one with [NewConsumer]. Its methods may be called concurrently.
type Consumer struct {
	src     Source
	handler Handler
	cfg     Config
	limits  limiter.Limiter // Limiter and Gate together, checked before a receive
	keys    *limits.Keys

	// mu guards all below, and all of the engine's state. It is never held
	// across a call to the source, a limiter, the handler or a trace.
	mu       sync.Mutex
	stats    Stats
	capacity int     // how many handlers may run at once
	paused   bool    // by hand
	why      error   // paused: the reason, if any
	active   *engine // nil: not running
	others   judge.Comparison
	memory   memory
	troubles troubles
	rations  judge.Guard // has its own lock
	orphans  int         // handlers that earlier runs have abandoned, and that still occupy their slots
}

// NewConsumer returns a consumer of src that runs h. It fails when src or h is
// nil, or a nil pointer, and when a field of cfg is invalid; the error names
// each.
func NewConsumer(src Source, h Handler, cfg Config) (*Consumer, error) {
	cfg, err := cfg.withDefaults()
	if nils.Is(h) {
		err = errors.Join(fmt.Errorf("Handler is %s", nils.Describe(h)), err)
	}
	if nils.Is(src) {
		err = errors.Join(fmt.Errorf("Source is %s", nils.Describe(src)), err)
	} else if reflect.ValueOf(src).Comparable() && any(src) == any(cfg.DeadLetter) {
		err = errors.Join(errors.New("Config.DeadLetter is the Source itself: must be another queue, or dead letters come back"), err)
	}
	asked := cfg.Limiter
	if err == nil && cfg.Gate != nil {
		asked, err = limiter.All(cfg.Limiter, cfg.Gate)
	}
	keys, keysErr := limits.NewKeys(cfg.defaults())
	if err = errors.Join(err, keysErr); err != nil {
		return nil, fmt.Errorf("queue: NewConsumer: %w", err)
	}
	return &Consumer{src: src, handler: h, cfg: cfg, limits: asked, keys: keys, capacity: cfg.Concurrency}, nil
}

// Stats returns a snapshot of the consumer's counts.
func (c *Consumer) Stats() Stats {
	block, pace := c.limits.Blocked(), 0.0
	if paces := limits.Of[*limiter.AdaptiveRate](c.limits); len(paces) > 0 {
		pace = paces[0].Stats().Pace
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Pace = pace
	if e := c.active; e != nil {
		e.snapshot(&s, block)
	} else {
		s.Blocked = limiter.Block{Reason: ByIdle}
	}
	return s
}

// SetConcurrency changes how many handlers may run at once to n, 1 to 100,000,
// overriding Config.Concurrency. It fails, changing nothing, when n is out of
// that range. When n is lower than before, running handlers finish, and nothing
// starts until fewer than n run.
func (c *Consumer) SetConcurrency(n int) error {
	if n < 1 || n > maxConcurrency {
		return fmt.Errorf("queue: consumer %s: SetConcurrency: n is %d: must be from 1 to %d", c.cfg.Name, n, maxConcurrency)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.capacity = n
	if e := c.active; e != nil {
		e.wakeDispatch.set()
		e.wakeIntake.set()
	}
	return nil
}

// Pause stops the consumer from receiving and starting messages until
// [Consumer.Resume]. Messages that have not started are returned to the queue at
// once, and no attempt counts; running handlers continue, and held messages stay
// held. The reason why appears in Stats, Trace and the log; it may be empty. A
// later Pause replaces it. A consumer may be paused before it runs, and stays
// paused from one Run to the next.
func (c *Consumer) Pause(why string) {
	c.mu.Lock()
	c.paused, c.why = true, nil
	if why != "" {
		c.why = errors.New(why)
	}
	e := c.active
	if e == nil {
		c.mu.Unlock()
		return
	}
	now := time.Now()
	for e.releaseUnstarted(now) {
		e.unlock()
		c.mu.Lock()
	}
	e.wakeIntake.set()
	e.unlock()
}

// Resume ends a [Consumer.Pause].
func (c *Consumer) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused, c.why = false, nil
	if e := c.active; e != nil {
		e.wakeDispatch.set()
		e.wakeIntake.set()
	}
}

// Run consumes until ctx is done, or until the source has ended (io.EOF) and
// every message has come to its outcome. When ctx is done it drains: see
// "Shutdown" in the package documentation.
//
// Run returns nil after a clean drain, at most DrainTimeout and a second after
// ctx is done. Otherwise the error says what was left: [*AbandonedError] for
// handlers that ignore their context, results that could not be settled, or the
// source's error if a receive fails because of a misconfiguration
// (limiter.ErrMisconfigured) before any has succeeded; later on Run waits such an
// error out with backoff.
//
// These time limits hold for sources, sinks and limiters that return when their
// context ends, as they must; Run waits for one that does not.
//
// A consumer runs once at a time; Run may be called again after it returned.
func (c *Consumer) Run(ctx context.Context) error {
	e := newEngine(ctx, c)
	c.mu.Lock()
	if c.active != nil {
		c.mu.Unlock()
		return fmt.Errorf("queue: consumer %s: Run: already running", c.cfg.Name)
	}
	c.active = e
	c.mu.Unlock()
	var err error
	if ctx.Err() == nil { // else not even one receive
		err = e.run(ctx)
	}
	c.mu.Lock()
	c.active = nil
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("queue: consumer %s: %w", c.cfg.Name, err)
	}
	return nil
}

// With these timings at the end of a drain, Run returns within a second after
// DrainTimeout, as documented.
const (
	drainGrace = 500 * time.Millisecond // for cancelled handlers to return
	drainFlush = 400 * time.Millisecond // then, for the last results to be settled
	callLimit  = 30 * time.Second       // for any one call to the source but Receive, and to the dead-letter sink
)

// run drives the engine's goroutines. It is the only place that starts the
// long-lived ones, and it has seen all of them end when it returns.
func (e *engine) run(ctx context.Context) error {
	grace, flush := drainGrace, drainFlush
	if e.host != nil {
		handlers, last := e.host.Deadline()
		if !handlers.IsZero() {
			var cancel context.CancelFunc
			e.handlers, cancel = context.WithDeadline(e.base, handlers)
			defer cancel()
			e.deadline, e.telling = handlers, time.Until(handlers)/2
			grace = last.Sub(handlers) / 2
			flush = grace
		}
	}
	for _, loop := range []func(){e.intake, e.dispatch, e.keepLeases, e.flush} {
		e.wg.Go(loop)
	}
	select {
	case <-ctx.Done():
	case <-e.finished: // the source has ended and nothing is left, or it can't work at all
	}
	handlers, receives := e.drain()

	began, timeout := time.Now(), e.cfg.DrainTimeout
	if !e.deadline.IsZero() {
		timeout = max(time.Until(e.deadline), 0)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	logger := e.drainLog(ctx)
	logger.Info("queue: draining", "handlers", handlers, "receives", receives, "until", began.Add(timeout))
	idle := e.waitIdle(timer.C)
	if !idle {
		e.cancelAll()
		timer.Reset(grace)
		idle = e.waitIdle(timer.C)
	}
	var abandoned []string
	if !idle {
		abandoned = e.abandon()
		timer.Reset(flush)
		e.waitIdle(timer.C)
	}
	unsettled := e.giveUp()
	logger.Info("queue: drained", "took", time.Since(began), "abandoned", len(abandoned), "unsettled", unsettled)

	errs := []error{e.fatal}
	if len(abandoned) > 0 {
		errs = append(errs, &AbandonedError{IDs: abandoned, After: timeout + grace})
	}
	if unsettled > 0 {
		errs = append(errs, fmt.Errorf("drain: %d results could not be settled: the queue will deliver these messages again", unsettled))
	}
	return errors.Join(errs...)
}
