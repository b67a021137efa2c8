package queue

import (
	"context"
	"log/slog"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// drain stops receiving and starting, and nacks what has not started. It returns
// the numbers of running handlers and of receives under way.
func (e *engine) drain() (handlers, receives int) {
	e.tell(limiter.Block{Reason: ByDrain})
	now := time.Now()
	e.mu.Lock()
	e.draining = true
	for e.releaseWaiting(now) {
		e.unlock()
		e.mu.Lock()
	}
	for _, s := range []signal{e.wakeIntake, e.wakeDispatch, e.wakeFlush, e.wakeRun} {
		s.set()
	}
	handlers, receives = e.count[running], len(e.receiving)
	e.unlock()
	e.endStart()
	return handlers, receives
}

// drainLog is the logger for the beginning and the end of the drain. It discards
// them when the source has ended, since nobody waits for that drain, and when
// there is a host, which reports its own.
func (e *engine) drainLog(ctx context.Context) *slog.Logger {
	if ctx.Err() == nil || e.host != nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.cfg.Logger.With("consumer", e.cfg.Name)
}

// releaseChunk is the most that a drain returns before it unlocks mu.
const releaseChunk = 256

// releaseWaiting returns messages that do not run, and reports whether some are
// left for the next call. The caller holds mu.
func (e *engine) releaseWaiting(now time.Time) (more bool) {
	for range releaseChunk {
		d := e.fresh.first
		if d == nil {
			d = e.kept.first
		}
		switch {
		case d == nil:
			return false
		case d.group == nil:
			e.release(d, now)
		default: // the whole group, in order
			for m := d.group.members.first; m != nil; m = d.group.members.next(m) {
				e.release(m, now)
			}
		}
	}
	return true
}

// releaseUnstarted returns messages that were never started, and reports whether
// some are left for the next call. The caller holds mu.
func (e *engine) releaseUnstarted(now time.Time) (more bool) {
	for range releaseChunk {
		if e.fresh.first == nil {
			return false
		}
		e.release(e.fresh.first, now) // in the order of arrival
	}
	return true
}

// release returns a delivery that does not run: at once if it has not started,
// after the rest of its wait if it was held. The caller holds mu.
func (e *engine) release(d *delivery, now time.Time) {
	switch d.state {
	case queued, behind:
		e.settle(d, settlement{op: opNack, outcome: Released}, now)
	case held, due:
		e.settle(d, settlement{op: opNack, delay: max(0, d.due.Sub(now)), outcome: Released}, now)
	}
}

// waitIdle waits until nothing is in flight (see atRest), and reports whether
// that happened before the timeout.
func (e *engine) waitIdle(timeout <-chan time.Time) bool {
	for {
		e.mu.Lock()
		idle := e.atRest()
		e.mu.Unlock()
		if idle {
			return true
		}
		select {
		case <-e.wakeRun:
		case <-timeout:
			return false
		}
	}
}

// cancelAll ends the receives and the handlers that are still under way.
func (e *engine) cancelAll() {
	e.endPolls()
	if !e.deadline.IsZero() {
		return // the deadline has ended the handlers' contexts
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for d := e.busy.first; d != nil; d = e.busy.next(d) {
		d.cancel(ErrDrainTimeout)
	}
}

// abandon stops waiting for the handlers that still run, and returns their
// messages' ids. Their permits stay taken until they return.
func (e *engine) abandon() (ids []string) {
	now := time.Now()
	e.mu.Lock()
	for e.busy.first != nil {
		d := e.busy.first
		ids = append(ids, d.msg.ID)
		d.orphaned = true
		d.failures++
		e.orphans++
		e.end(d, Abandoned, now)
		e.wg.Done() // in place of its goroutine
	}
	e.unlock()
	return ids
}

// giveUp ends all calls and waits for every goroutine. It returns how many
// results were left unsettled: the queue will deliver their messages again.
func (e *engine) giveUp() (unsettled int) {
	e.endPolls()
	e.endCalls()
	e.wg.Wait()
	now := time.Now()
	e.mu.Lock()
	for _, l := range []*list{&e.fresh, &e.kept, &e.busy, &e.out} {
		for l.first != nil {
			unsettled++
			e.end(l.first, LostLease, now)
		}
	}
	e.unlock()
	return unsettled
}
