package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// A job is one run of a handler.
type job struct {
	at        time.Time // when it was chosen
	d         *delivery
	m         *Message // as received; the handler gets a copy
	ctx       context.Context
	cancel    context.CancelCauseFunc
	run       int
	waited    time.Duration
	heldSince time.Time      // since when the message has been held, on and off; zero: never
	own       limiter.Permit // of the message's own limiter
}

func (j job) heldFor(now time.Time) time.Duration {
	if j.heldSince.IsZero() {
		return 0
	}
	return now.Sub(j.heldSince)
}

// dispatch is the loop that starts handlers: it waits for a free slot and a
// message that may start, then for the limiter, and only then chooses the
// message, since the wait may be long. It ends when the drain begins.
func (e *engine) dispatch() {
	timer := newTimer()
	for {
		e.mu.Lock()
		ok, wait := e.startable(time.Now())
		e.mu.Unlock()
		if !ok {
			if !e.wakeDispatch.sleep(e.starts, timer, wait) {
				return
			}
			continue
		}
		permit, err := e.acquire()
		if e.starts.Err() != nil {
			permit.Cancel()
			return
		}
		if err != nil { // only a foreign limiter fails for another reason
			e.failed("acquire", err, time.Second)
			if !sleep.For(e.starts, time.Second) {
				return
			}
			continue
		}
		if j, ok := e.next(); ok {
			e.wg.Add(1) // not in work, so that Run can't miss it
			go e.work(j, permit)
		} else {
			permit.Cancel()
		}
	}
}

// acquire waits for the permit of the next start, and records that it has to, and
// until when, if that is known.
func (e *engine) acquire() (limiter.Permit, error) {
	if permit, ok := e.cfg.Limiter.TryAcquire(); ok {
		return permit, nil
	}
	e.awaitPermit(true, e.cfg.Limiter.Blocked().Until)
	defer e.awaitPermit(false, time.Time{})
	return e.cfg.Limiter.Acquire(e.starts)
}

func (e *engine) awaitPermit(is bool, until time.Time) {
	e.mu.Lock()
	e.awaitsPermit, e.permitAt = is, until
	e.nudgeIntake(time.Now())
	e.mu.Unlock()
}

// startable reports whether a handler could be started if the limiter admits it;
// if not, after how long it could be (0: when something changes). The caller
// holds mu.
func (e *engine) startable(now time.Time) (ok bool, wait time.Duration) {
	if e.draining || e.paused || e.until.Err() != nil || e.count[running] >= e.slots() {
		return false, 0
	}
	e.ripen(now)
	if e.turns.first() != nil {
		return true, 0
	}
	if d, ok := e.holds.top(); ok {
		return false, d.due.Sub(now)
	}
	return false, 0
}

// next starts the message whose turn it is, with a permit of its own limiter if
// it has one. Lanes whose limiter refuses are parked.
func (e *engine) next() (job, bool) {
	for {
		now := time.Now()
		e.mu.Lock()
		d := e.chosen(now)
		if d == nil {
			e.unlock()
			return job{}, false
		}
		l := d.lane
		if l.own == nil {
			j := e.start(d, now)
			e.unlock()
			return j, true
		}
		e.unlock()

		own, admitted := l.own.TryAcquire()
		var until time.Time
		if !admitted {
			until = l.own.Blocked().Until
		}
		now = time.Now()
		e.mu.Lock()
		if !admitted {
			e.standAside(l, until, now)
			e.unlock()
			continue
		}
		if d = e.chosen(now); d != nil {
			d = e.head(l, now)
		}
		if d == nil { // another has taken it meanwhile
			e.unlock()
			own.Cancel()
			continue
		}
		j := e.start(d, now)
		j.own = own
		e.unlock()
		return j, true
	}
}

// chosen is the delivery that is to run now, or nil. The caller holds mu.
func (e *engine) chosen(now time.Time) *delivery {
	for {
		if ok, _ := e.startable(now); !ok {
			return nil
		}
		if d := e.head(e.turns.first(), now); d != nil {
			return d
		}
	}
}

// head is the lane's delivery to run next, or nil. It ends those that have lost
// their lease. The caller holds mu.
func (e *engine) head(l *lane, now time.Time) *delivery {
	for d := l.first(); d != nil; d = l.first() {
		if d.ours(now) {
			return d
		}
		e.lose(d, now)
	}
	return nil
}

// start makes d run. The caller holds mu.
func (e *engine) start(d *delivery, now time.Time) job {
	again := d.state == due
	e.ledger.start(d)
	if again {
		e.changed(now)
	}
	d.lane.started(now)
	e.pace.started(now)
	d.runs++
	if d.runs > 1 {
		e.stats.Reruns++
	}
	j := job{at: now, d: d, m: d.msg, run: d.runs, waited: now.Sub(d.since), heldSince: d.heldSince}
	j.ctx, j.cancel = context.WithCancelCause(e.handlers)
	d.cancel = j.cancel
	if e.limited {
		e.limited = false
		e.wakeIntake.set()
	}
	return j
}

// work runs one message, and then further ones for as long as one may start at
// once.
func (e *engine) work(j job, permit limiter.Permit) {
	orphaned := false
	defer func() {
		if !orphaned { // else Run has stopped waiting for it
			e.wg.Done()
		}
	}()
	for {
		more := false
		e.runJob(j, permit, &orphaned, &more)
		if orphaned || !more {
			return
		}
		var ok bool
		if permit, ok = e.cfg.Limiter.TryAcquire(); !ok {
			e.wakeDispatch.set()
			return
		}
		if j, ok = e.next(); !ok {
			permit.Cancel()
			e.wakeDispatch.set() // something has changed: the dispatcher waits for it
			return
		}
	}
}

// runJob calls the handler and passes on its result, even when the handler ends
// its goroutine with runtime.Goexit, as a failing test does.
func (e *engine) runJob(j job, permit limiter.Permit, orphaned, more *bool) {
	call(e.cfg.Trace.Started, StartedInfo{Message: j.m, Run: j.run, Waited: j.waited})
	var err error
	returned := false
	defer func() {
		var result judge.Result
		if v := recover(); !returned {
			if v == nil {
				v = "runtime.Goexit was called"
			}
			result = judge.Result{Err: e.panicked(j, v, debug.Stack()), Panicked: true}
		} else {
			result = judge.Read(err, e.cfg.Retry, func(v any, stack []byte) error { return e.panicked(j, v, stack) })
		}
		*orphaned, *more = e.finish(&j, permit, result)
	}()
	err = e.handler.Handle(j.ctx, j.m.Clone())
	returned = true
}

// panicked turns a panic into the error of its message.
func (e *engine) panicked(j job, v any, stack []byte) error {
	e.mu.Lock()
	e.stats.Panics++
	e.mu.Unlock()
	e.cfg.Logger.Error("queue: handler panicked", "consumer", e.cfg.Name, "message", j.m.ID,
		"panic", fmt.Sprint(v), "stack", string(stack))
	return &PanicError{Value: v, Stack: stack}
}
