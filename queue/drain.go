package queue

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/drain"
)

// drain stops receiving and starting, and nacks what has not started. It returns
// how many handlers and receives are left to wait for.
func (e *engine) drain() (handlers, receives int) {
	e.tell(ByDrain, time.Time{})
	now := time.Now()
	e.mu.Lock()
	e.draining = true
	e.releaseWaiting(now)
	for _, s := range []signal{e.wakeIntake, e.wakeDispatch, e.wakeFlush, e.wakeRun} {
		s.set()
	}
	handlers, receives = e.counts[running], e.nPolls
	e.unlock()
	e.endStart()
	return handlers, receives
}

// drainLog is where the beginning and the end of the drain are logged. Nobody
// waits for the drain of a source that has ended, and a host that sets the time
// reports it itself.
func (e *engine) drainLog(ctx context.Context) *slog.Logger {
	var host *drain.Until
	if ctx.Err() == nil || errors.As(context.Cause(ctx), &host) {
		return slog.New(slog.DiscardHandler)
	}
	return e.cfg.Logger.With("consumer", e.cfg.Name)
}

// releaseWaiting nacks everything in hand that does not run: at once what
// has not started, after the rest of its wait what was held. The caller holds mu.
func (e *engine) releaseWaiting(now time.Time) {
	all := slices.Clone(e.all)
	slices.SortFunc(all, func(a, b *delivery) int { return cmp.Compare(a.number, b.number) }) // groups go back in order
	for _, d := range all {
		switch d.state {
		case waiting:
			e.settle(d, settlement{op: opNack, outcome: Released}, now)
		case held:
			e.settle(d, settlement{op: opNack, delay: max(0, d.due.Sub(now)), outcome: Released}, now)
		}
	}
}

// waitIdle waits until nothing is in hand, unsettled or being received, and
// reports whether that came before the timeout.
func (e *engine) waitIdle(timeout <-chan time.Time) bool {
	for {
		e.mu.Lock()
		idle := len(e.all) == 0 && e.nPolls == 0
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
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range e.all {
		if d.state == running {
			d.cancel(ErrDrainTimeout)
		}
	}
}

// abandon leaves the handlers that still run on their own, and returns their
// messages' ids. Their permits stay taken until they return.
func (e *engine) abandon() (ids []string) {
	now := time.Now()
	e.mu.Lock()
	for _, d := range slices.Clone(e.all) {
		if d.state != running {
			continue
		}
		ids = append(ids, d.msg.ID)
		d.orphaned = true
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
	for _, d := range slices.Clone(e.all) {
		unsettled++
		e.end(d, LostLease, now)
	}
	e.unlock()
	return unsettled
}
