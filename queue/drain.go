package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// drain stops receiving and starting, and gives back what has not started.
func (e *engine) drain() {
	e.tell(limiter.Block{Reason: ByDrain})
	now := time.Now()
	e.mu.Lock()
	e.draining = true
	e.releaseWaiting(now)
	for _, s := range []signal{e.wakeIntake, e.wakeDispatch, e.wakeFlush, e.wakeRun} {
		s.set()
	}
	e.unlock()
	e.endStart()
}

// releaseWaiting returns everything in hand that does not run: at once what has
// not started, after the rest of its wait what was held. The caller holds mu.
func (e *engine) releaseWaiting(now time.Time) {
	for d := e.hand.first; d != nil; { // in the order of arrival, so that groups go back in order
		next := e.hand.next(d)
		switch d.state {
		case queued, behind:
			e.settle(d, settlement{op: opNack, outcome: Released}, now)
		case held, due:
			e.settle(d, settlement{op: opNack, delay: max(0, d.due.Sub(now)), outcome: Released}, now)
		}
		d = next
	}
}

// waitIdle waits until nothing is in hand, unsettled or being received, and
// reports whether that came before the timeout.
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
	e.mu.Lock()
	defer e.mu.Unlock()
	for d := e.hand.first; d != nil; d = e.hand.next(d) {
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
	for d := e.hand.first; d != nil; {
		abandoned := d
		if d = e.hand.next(d); abandoned.state != running {
			continue
		}
		ids = append(ids, abandoned.msg.ID)
		abandoned.orphaned = true
		e.orphans++
		e.end(abandoned, Abandoned, now)
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
	for _, l := range []*list{&e.hand, &e.out} {
		for l.first != nil {
			unsettled++
			e.end(l.first, LostLease, now)
		}
	}
	e.unlock()
	return unsettled
}
