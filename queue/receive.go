package queue

import (
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// receive makes one call and accepts the messages that it returns. failures is
// how many receives had failed in a row when this one was decided, and inFlight
// how many were in flight, this one included.
func (e *engine) receive(p *poll, failures, inFlight int) {
	n := p.asked
	if e.until.Err() != nil { // ended since the receive was decided
		e.mu.Lock()
		e.answered(p)
		e.changed(time.Now())
		e.unlock()
		return
	}
	e.tell(limiter.Block{})
	began := time.Now()
	msgs, err := e.src.Receive(e.polls, ReceiveOptions{Max: n, Lease: e.cfg.Lease, Wait: e.cfg.pollWait(), Stop: e.starts.Done()})
	now := time.Now()
	took := now.Sub(began)
	live := msgs[:0]
	for _, m := range msgs {
		if m != nil {
			live = append(live, m)
		}
	}
	call(e.cfg.Trace.Received, ReceivedInfo{Asked: n, Messages: live, Took: took, Err: err})

	var own []limiter.Limiter
	var errs []error
	if e.cfg.LimiterFor != nil {
		own, errs = make([]limiter.Limiter, len(live)), make([]error, len(live))
		for i, m := range live {
			own[i], errs[i] = e.limiterOf(m)
		}
	}

	e.mu.Lock()
	e.answered(p)
	e.stats.ReceiveCalls++
	deliveries := make([]delivery, len(live))
	fresh := 0
	for i, m := range live {
		d := &deliveries[i]
		var l limiter.Limiter
		if own != nil {
			l = own[i]
		}
		if e.accept(d, m, l, now) {
			fresh++
		}
		if errs != nil && errs[i] != nil && (d.state == queued || d.state == behind) {
			e.refuse(d, errs[i], now)
		}
	}
	if e.paused {
		for e.releaseUnstarted(now) { // a few messages: one call
		}
	}
	e.shed(now)
	var retryIn time.Duration
	failed := false
	switch {
	case err == io.EOF: // unwrapped: a wrapped one is a broken connection
		e.eof = true
		e.wakeFlush.set()
	case err != nil && (e.draining || e.polls.Err() != nil):
		// The drain has ended it.
	case err != nil:
		failed = true
		retryIn = e.backOff(now, failures)
		if !e.everWorked && errors.Is(err, limiter.ErrMisconfigured) && e.fatal == nil {
			e.fatal = err
			if !e.isFinished {
				e.isFinished = true
				close(e.finished)
			}
		}
	case fresh == 0:
		if len(live) == 0 {
			e.stats.EmptyReceives++
		}
		e.everWorked = true
		e.ladder.restart()
		e.failures, e.receiveAt = 0, time.Time{}
		if took < minPoll && !e.draining {
			e.idle(now)
		}
	default:
		e.everWorked = true
		e.failures, e.idles, e.receiveAt = 0, 0, time.Time{}
		e.pace.received(took, n > 1 && len(live) >= n)
		e.ladder.landed(now, arrival{
			asked: n, got: len(live), took: took, began: inFlight, inFlight: len(e.receiving) + 1,
			slots: e.capacity, look: e.pace.outlook(now, e.capacity),
		})
	}
	for e.draining && e.releaseWaiting(now) {
	}
	e.wakeDispatch.set()
	e.wakeIntake.set()
	e.changed(now)
	e.unlock()
	if failed {
		e.failed("receive", err, retryIn)
	}
	if err := errors.Join(errs...); err != nil {
		e.failed("choose limiter", err, 0)
	}
}

// refuse returns a message that can't be run, since its limiter is unknown. The
// caller holds mu.
func (e *engine) refuse(d *delivery, err error, now time.Time) {
	d.err = err
	// Full jitter may draw 0, and each return costs a receive.
	delay := max(e.cfg.Retry.Backoff(d.msg.Attempt), minRefusal)
	e.returnGroup(d, now)
	e.settle(d, settlement{op: opNack, delay: delay, outcome: Retried}, now)
}

const (
	minRefusal = time.Second // before a message whose limiter is unknown is received again

	minPoll     = 50 * time.Millisecond // a receive that returns nothing new sooner than this does not wait for messages
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 20 * time.Second
	shortPoll   = 20 * time.Millisecond // first pause after a receive of a source that does not wait
	longestIdle = time.Second           // and the longest
)

// backOff records a failed receive and returns how long the next one waits. A
// single failure among successes costs only its own call, and half of the
// parallel receives; after failures in a row the wait grows. The caller holds mu.
func (e *engine) backOff(now time.Time, before int) time.Duration {
	e.ladder.halve()
	if before != e.failures {
		return max(0, e.receiveAt.Sub(now)) // began before the last failure, and failed for the same reason
	}
	e.failures++
	if e.failures == 1 {
		return 0
	}
	e.ladder.restart()
	d := maxBackoff
	if n := e.failures - 2; n < 10 {
		d = min(d, minBackoff<<n)
	}
	d = d/2 + rand.N(d/2+1)
	e.receiveAt = now.Add(d)
	return d
}

// idle slows down on a source that returns at once when it has nothing new. The
// caller holds mu.
func (e *engine) idle(now time.Time) {
	e.idles = min(e.idles+1, 10)
	e.receiveAt = now.Add(min(longestIdle, shortPoll<<(e.idles-1)))
}
