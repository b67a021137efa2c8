package idempotent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/results"
	"github.com/rampmeter/rampmeter/retry"
)

// KeyAttribute is the message attribute that [DefaultKey] takes the key from.
const KeyAttribute = "idempotency-key"

// DefaultKey returns the attribute [KeyAttribute] if the message has it, and otherwise
// the SHA-256 of the body. Two orders with equal bodies are then one operation: put
// what distinguishes them into the body, or set the attribute.
//
// A message's id is not a suitable key: a message that was sent twice, or moved back
// from a dead-letter queue, has a new one. Nor is a deduplication id: the queue forgets
// it after five minutes, and a dead letter has a different one.
func DefaultKey(m *queue.Message) (string, error) {
	if key := m.Attributes[KeyAttribute]; key != "" {
		return key, nil
	}
	sum := sha256.Sum256(m.Body)
	return hex.EncodeToString(sum[:]), nil
}

// Config configures a [Middleware]. The zero Config is a good start.
type Config struct {
	// Key returns the key of the message's operation, an order's id for example. A
	// key is 1 to 1024 bytes. An error dead-letters the message, unless it is marked
	// as temporary by one of limiter's errors; a [queue.DecodeError] sets the reason
	// that the body can't be read. Defaults to [DefaultKey].
	Key func(*queue.Message) (string, error)

	// Timeout limits a handler whose context has no deadline; the claim on its
	// key ends a second after the deadline. The message waits for that long after a
	// crash, and so does a second delivery that meets the run. A good value is several
	// times the handler's duration. 1 s to 12 h; defaults to 5 min.
	Timeout time.Duration

	// Keep is how long a success, a failure or an unfinished run is remembered,
	// counted from the end of its claim. It should be longer than the retention of
	// the queue and of its dead-letter queue together. 1 min to 10 years; defaults to
	// 30 days (14 days is the longest retention of SQS).
	Keep time.Duration

	// OnDone is called instead of the handler for a message whose operation has
	// already succeeded, with the result that the handler passed to [SetResult].
	// Without OnDone the message is acked.
	OnDone func(ctx context.Context, m *queue.Message, result []byte) error

	// Logger logs what an operator must know. Defaults to slog.Default().
	Logger *slog.Logger
}

const (
	maxKey        = 1024
	claimMargin   = time.Second            // how long a claim outlasts its run's deadline
	recordTimeout = 5 * time.Second        // for reporting to the store how a run ended
	recordPause   = 500 * time.Millisecond // between two attempts to record a success, at most
)

// A Middleware runs an operation once, however often its messages are
// delivered. Create one with [New] and pass its Wrap to [queue.Chain]. Several
// consumers may use it at the same time.
type Middleware struct {
	store Store
	cfg   Config
	name  string        // random; the prefix of its runs' owners
	count atomic.Uint64 // of runs
	stats struct{ runs, done, busy, inDoubt, late, unrecorded atomic.Int64 }
}

// Stats counts what a [Middleware] has done.
type Stats struct {
	Runs    int64 // of handlers
	Done    int64 // deliveries of operations that had succeeded before: not run
	Busy    int64 // deliveries while another run was in progress: postponed
	InDoubt int64 // runs of an operation of which an earlier run never reported its end, and may have had its effect
	Late    int64 // runs that ended after their claim: another may have run, too
	// Unrecorded is how many runs succeeded but could not be recorded in time: their
	// messages are acked, and would run again if delivered again.
	Unrecorded int64
}

// New returns a middleware that keeps its records in store. It fails when store is nil,
// a nil pointer, or a [Memory] that another middleware uses, and when a field of cfg is
// invalid; the error names it.
func New(store Store, cfg Config) (*Middleware, error) {
	if nils.Is(store) {
		return nil, fmt.Errorf("idempotent: New: store is %s", nils.Describe(store))
	}
	if cfg.Key == nil {
		cfg.Key = DefaultKey
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Minute
	}
	if cfg.Timeout < time.Second || cfg.Timeout > 12*time.Hour {
		return nil, fmt.Errorf("idempotent: New: Config.Timeout is %v: must be from 1s to 12h, or 0 for the default", cfg.Timeout)
	}
	if cfg.Keep == 0 {
		cfg.Keep = 30 * 24 * time.Hour
	}
	if cfg.Keep < time.Minute || cfg.Keep > 10*365*24*time.Hour {
		return nil, fmt.Errorf("idempotent: New: Config.Keep is %v: must be from 1m to 10 years, or 0 for the default", cfg.Keep)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if m, ok := store.(*Memory); ok && m.taken.Swap(true) {
		return nil, errors.New("idempotent: New: store is a Memory that another Middleware has: give each operation a Memory of its own, and several consumers of one operation the same Middleware")
	}
	return &Middleware{store: store, cfg: cfg, name: rand.Text() + "-"}, nil
}

// Stats returns the counts.
func (w *Middleware) Stats() Stats {
	s := &w.stats
	return Stats{
		Runs: s.runs.Load(), Done: s.done.Load(), Busy: s.busy.Load(),
		InDoubt: s.inDoubt.Load(), Late: s.late.Load(), Unrecorded: s.unrecorded.Load(),
	}
}

// Wrap makes next run once per key. It is a [queue.Middleware]. When next is nil,
// it returns nil, which [queue.NewConsumer] refuses. All handlers that it wraps are one
// operation: a handler that does something else needs its own Middleware, and its own
// store or namespace of the store.
func (w *Middleware) Wrap(next queue.Handler) queue.Handler {
	if nils.Is(next) {
		return nil
	}
	return queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error {
		key, err := w.key(m)
		if err != nil {
			return err
		}
		run := &runContext{Context: ctx}
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(w.cfg.Timeout)
			run.own.parent, run.own.deadline = ctx, deadline
			run.Context = &run.own
			defer run.own.end()
		}
		until := deadline.Add(claimMargin)
		run.claim = Claim{Key: key, Owner: w.owner(), Until: until, Keep: until.Add(w.cfg.Keep), Fresh: m.Attempt == 1}
		record, err := w.store.Claim(run.Context, run.claim)
		if err != nil {
			if limiter.Classify(err) == limiter.ErrUnavailable || run.Err() != nil {
				w.release(run, false) // the claim may have been made, and would block the key until its end
			}
			return fmt.Errorf("idempotent: claim key %q: %w", key, err)
		}
		switch record.State {
		case Done:
			w.stats.done.Add(1)
			if w.cfg.OnDone == nil {
				return nil
			}
			return w.cfg.OnDone(run.Context, m, record.Result)
		case Busy:
			w.stats.busy.Add(1)
			return queue.Postpone(time.Until(record.Until), fmt.Errorf("idempotent: key %q: a run is under way", key))
		}
		if record.InDoubt {
			w.stats.inDoubt.Add(1)
			w.cfg.Logger.Warn("idempotent: an earlier run of this key has ended without a word, and may have had its effect",
				"key", key, "message", m.ID)
		}
		run.claim.InDoubt = record.InDoubt
		return w.run(run, next, m)
	})
}

// owner returns a unique name for a run.
func (w *Middleware) owner() string {
	var b [48]byte
	return string(strconv.AppendUint(append(b[:0], w.name...), w.count.Add(1), 36))
}

func (w *Middleware) key(m *queue.Message) (string, error) {
	key, err := w.cfg.Key(m)
	switch {
	case err != nil && limiter.Classify(err) != nil:
		return "", fmt.Errorf("idempotent: key of the message: %w", err)
	case err != nil:
		return "", retry.Permanent(fmt.Errorf("idempotent: key of the message: %w", err))
	case key == "" || len(key) > maxKey:
		return "", retry.Permanent(fmt.Errorf("idempotent: the message's key has %d bytes: must have 1 to %d", len(key), maxKey))
	}
	return key, nil
}

// run calls the handler and reports to the store how it ended.
func (w *Middleware) run(ctx *runContext, next queue.Handler, m *queue.Message) (err error) {
	w.stats.runs.Add(1)
	returned := false
	defer func() {
		if !returned { // a panic, which continues to the consumer
			w.failed(ctx)
		}
	}()
	err = next.Handle(ctx, m)
	returned = true

	switch class := limiter.Classify(err); {
	case err == nil:
		w.done(ctx, m)
		return nil
	case postponed(err):
		w.release(ctx, false) // the handler says it did not run: nothing has failed or is in doubt
		return err
	case errors.Is(err, retry.ErrPermanent):
		// A message that is redriven later starts with no failures.
		w.release(ctx, true)
		return err
	case class == limiter.ErrOverload || class == limiter.ErrMisconfigured || ctx.Err() != nil && ended(ctx):
		w.release(ctx, false) // not the message's fault
		return err
	}
	n := w.failed(ctx)
	if n == 0 {
		return err // the store did not record it, so only the queue's count is known
	}
	if m.Attempt > 0 {
		n = min(n, m.Attempt) // during an outage one delivery may run more than once
	}
	return queue.Attempted(n, err)
}

// postponed reports whether err comes from [queue.Postpone], called by the handler or
// by an inner middleware.
func postponed(err error) bool {
	_, ok := results.IsPostponed(err)
	return ok
}

// ended reports whether the consumer has ended the run for its own reasons.
func ended(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return errors.Is(cause, queue.ErrLeaseLost) || errors.Is(cause, queue.ErrDrainTimeout)
}

// telling returns the context for reporting to the store how the run ended, which
// must work even if the run's own context has ended.
func (c *runContext) telling() *deadlineContext {
	c.tell.parent, c.tell.detached, c.tell.deadline = c.Context, true, time.Now().Add(recordTimeout)
	return &c.tell
}

// done records a success. The message is acked even if that fails: the work is
// done, and running it again would be worse.
func (w *Middleware) done(run *runContext, m *queue.Message) {
	ctx := run.telling()
	defer ctx.end()
	err := w.store.Done(ctx, run.claim, run.result)
	if err != nil && !final(err) {
		waits, policy := context.Context(ctx), retry.Policy{MaxAttempts: 5, BaseDelay: 50 * time.Millisecond}
		if run.Err() == nil { // a consumer waits for its handler until its context ends, and hardly longer
			limited, cancel := context.WithDeadline(run, ctx.deadline)
			defer cancel()
			waits, policy.MaxAttempts, policy.MaxDelay = limited, -1, recordPause
		}
		err = retry.Do(waits, policy, func(context.Context) error {
			err := w.store.Done(ctx, run.claim, run.result)
			if final(err) {
				err = retry.Permanent(err)
			}
			return err
		})
	}
	switch {
	case err == nil:
	case errors.Is(err, ErrNotOwner):
		w.stats.late.Add(1)
		w.cfg.Logger.Warn("idempotent: a run has outlasted its claim, and another may have run, too", "key", run.claim.Key, "message", m.ID)
	case errors.Is(err, ErrResultTooLarge):
		w.cfg.Logger.Error("idempotent: a success is remembered without its result", "key", run.claim.Key, "message", m.ID, "error", err)
	default:
		w.stats.unrecorded.Add(1)
		w.cfg.Logger.Error("idempotent: a success could not be recorded; the message is acked", "key", run.claim.Key, "message", m.ID, "error", err)
	}
}

// final reports whether the store would return the same error again.
func final(err error) bool {
	return errors.Is(err, ErrNotOwner) || errors.Is(err, ErrResultTooLarge) || errors.Is(err, retry.ErrPermanent)
}

// failed counts a failure and returns how many there are, or 0 if the store did not
// record it: the claim then ends by itself.
func (w *Middleware) failed(run *runContext) int {
	ctx := run.telling()
	defer ctx.end()
	n, err := w.store.Failed(ctx, run.claim)
	w.unrecorded(run.claim, err)
	return n
}

// release releases the claim without counting a failure.
func (w *Middleware) release(run *runContext, forget bool) {
	ctx := run.telling()
	defer ctx.end()
	w.unrecorded(run.claim, w.store.Release(ctx, run.claim, forget))
}

// unrecorded notes that the store did not record what became of a claim.
func (w *Middleware) unrecorded(c Claim, err error) {
	switch {
	case err == nil:
	case errors.Is(err, ErrNotOwner):
		w.stats.late.Add(1)
	default:
		w.cfg.Logger.Warn("idempotent: a claim could not be given up and will end by itself", "key", c.Key, "until", c.Until, "error", err)
	}
}
