package sqslambda

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/drain"
	"github.com/rampmeter/rampmeter/queue/internal/outage"
	"github.com/rampmeter/rampmeter/queue/internal/results"
	"github.com/rampmeter/rampmeter/retry"
)

// An invocation is one event on its way through the engine.
type invocation struct {
	*function
	name   string
	source *source
	began  time.Time
	end    time.Time // of the handlers' contexts; zero: the function has no deadline
	last   time.Time // of the calls after it

	mu      sync.Mutex // guards all below
	cancel  context.CancelCauseFunc
	stopped stopReason
	latest  *time.Timer // when nothing can be started any more; nil: there is no deadline
	trouble trouble
	runs    int           // handlers that ran as long as they wished
	ran     time.Duration // their time
}

// A trouble is what an invocation knows of the far side.
type trouble struct {
	since  time.Time   // zero: none
	result bool        // a handler's result said so, not only the limits
	over   *time.Timer // when it has lasted too long
}

// A stopReason is why an invocation starts nothing more.
type stopReason string

const (
	goingOn  stopReason = ""
	finished stopReason = "all is done"
	tooLate  stopReason = "nothing more can be expected to end in time"
	farSide  stopReason = "the far side is in trouble"
	guarding stopReason = "most messages would be dead-lettered"
)

// outage reports whether messages that were not tried are to stay away.
func (s stopReason) outage() bool { return s == farSide || s == guarding }

// settleMargin is how long before the function's own end the handlers' contexts
// end, so that dead letters are sent and delays are set: 1 s, or a sixth of the
// time there is, if that is less.
func settleMargin(left time.Duration) time.Duration { return min(time.Second, left/6) }

func newInvocation(ctx context.Context, f *function, event events.SQSEvent) *invocation {
	inv := &invocation{function: f, name: f.cfg.Name, began: time.Now()}
	if arn := event.Records[0].EventSourceARN; inv.name == "" {
		inv.name = arn[strings.LastIndexByte(arn, ':')+1:]
	}
	inv.source = newSource(event.Records, inv.began)
	inv.source.nack = inv.giveBack
	if deadline, ok := ctx.Deadline(); ok {
		margin := settleMargin(deadline.Sub(inv.began))
		inv.end, inv.last = deadline.Add(-margin), deadline.Add(-margin/10)
	}
	return inv
}

// run has the engine do what it can in the time there is. Nothing runs when it
// returns, but for handlers that ignore the end of their context.
func (inv *invocation) run(ctx context.Context) {
	runCtx, cancel := context.WithCancelCause(context.WithValue(ctx, sourceKey{}, inv.source))
	defer cancel(nil)
	cfg := inv.engineConfig(inv.name, len(inv.source.records))
	cfg.Trace = inv.trace()
	if !inv.end.IsZero() { // for a ctx that ends before its deadline
		cfg.DrainTimeout = min(max(inv.end.Sub(inv.began), 1), 24*time.Hour)
	}
	c, err := queue.NewConsumer(inv.source, inv, cfg)
	if err != nil { // Handler has checked it
		inv.cfg.Logger.Error("sqslambda: batch returned", "function", inv.name, "error", err)
		return
	}
	inv.mu.Lock()
	inv.cancel = cancel
	if !inv.end.IsZero() {
		inv.latest = time.AfterFunc(time.Until(inv.latestStart()), func() { inv.stop(tooLate) })
	}
	inv.mu.Unlock()

	ended := make(chan error, 1)
	go func() { ended <- c.Run(runCtx) }()
	select {
	case err = <-ended:
	case <-runCtx.Done():
		inv.returnRest(ctx) // while the handlers that run may run on
		err = <-ended
	}
	inv.returnRest(ctx)
	inv.finish()
	if err != nil {
		inv.cfg.Logger.Error("sqslambda: invocation ended with messages in hand; they are returned", "function", inv.name, "error", err)
	}
}

// latestStart is when a message may be started at the latest, if it is to be
// done in time. However long they take, a tenth of the time is for starts, or
// nothing would ever be tried again.
func (inv *invocation) latestStart() time.Time {
	takes := min(max(inv.lately.long(), time.Millisecond), inv.end.Sub(inv.began)*9/10)
	return inv.end.Add(-takes)
}

// stop has the engine drain: what has not started is given back.
func (inv *invocation) stop(why stopReason) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.stopped != goingOn {
		return
	}
	inv.stopped = why
	if inv.end.IsZero() {
		inv.cancel(nil)
	} else {
		inv.cancel(&drain.Until{Time: inv.end})
	}
}

// finish ends the timers, and says what the batch was too big for.
func (inv *invocation) finish() {
	inv.mu.Lock()
	late := inv.stopped == tooLate
	if inv.stopped == goingOn {
		inv.stopped = finished
	}
	for _, timer := range []*time.Timer{inv.latest, inv.trouble.over} {
		if timer != nil {
			timer.Stop()
		}
	}
	mean := inv.ran / time.Duration(max(inv.runs, 1))
	inv.mu.Unlock()
	if inv.end.IsZero() {
		return
	}
	n, untried := inv.source.count()
	allowed := inv.end.Sub(inv.began)
	if late && untried > 0 || mean > allowed*time.Duration(inv.cfg.Concurrency)/time.Duration(n) {
		inv.tooBig.Do(func() {
			inv.cfg.Logger.Warn("sqslambda: the batch is too big for the function's timeout: messages are returned untried, which costs a receive each; "+
				"lower the mapping's batch size, or raise the timeout or Config.Concurrency",
				"function", inv.name, "batch", n, "untried", untried, "handler_time", mean, "concurrency", inv.cfg.Concurrency, "time_allowed", allowed)
		})
	}
}

// trace is the user's, and tells inv of the far side.
func (inv *invocation) trace() *queue.Trace {
	t := *inv.cfg.Trace
	t.Finished = func(i queue.FinishedInfo) {
		_, postponed := results.IsPostponed(i.Err)
		switch class := limiter.Classify(i.Err); {
		case i.Err == nil:
			inv.calm()
		case postponed:
		case errors.Is(i.Err, retry.ErrPermanent):
		case class == limiter.ErrOverload, class == limiter.ErrMisconfigured,
			class == limiter.ErrUnavailable && limiter.Tripped(inv.limits):
			inv.alarm(true, time.Time{})
		}
		if f := inv.cfg.Trace.Finished; f != nil {
			f(i)
		}
	}
	t.Blocked = func(i queue.BlockedInfo) {
		if i.Block.Reason.Outage() {
			inv.alarm(false, i.Block.Until)
		}
		if f := inv.cfg.Trace.Blocked; f != nil {
			f(i)
		}
	}
	return &t
}

// alarm notes that the far side is in trouble, and until when if that is known.
// The invocation stops when it has lasted too long, or is known to.
func (inv *invocation) alarm(result bool, until time.Time) {
	inv.mu.Lock()
	t := &inv.trouble
	t.result = t.result || result
	if t.since.IsZero() && inv.stopped == goingOn {
		t.since = time.Now()
		if t.over == nil {
			t.over = time.AfterFunc(maxTrouble, inv.overlong)
		} else {
			t.over.Reset(maxTrouble)
		}
	}
	hopeless := until.After(t.since.Add(maxTrouble))
	inv.mu.Unlock()
	if hopeless {
		inv.stop(farSide)
	}
}

// calm notes that the far side is well.
func (inv *invocation) calm() {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.trouble.since, inv.trouble.result = time.Time{}, false
	if inv.trouble.over != nil {
		inv.trouble.over.Stop()
	}
}

// overlong is called when the trouble has lasted for too long.
func (inv *invocation) overlong() {
	tripped := limiter.Tripped(inv.limits)
	inv.mu.Lock()
	t := &inv.trouble
	over := !t.since.IsZero() && (t.result || tripped)
	if !over {
		t.since = time.Time{} // only the limits said so, and do no more
	}
	inv.mu.Unlock()
	if over {
		inv.stop(farSide)
	}
}

// returnRest gives back what the engine has not taken.
func (inv *invocation) returnRest(ctx context.Context) {
	rest := inv.source.close()
	if len(rest) == 0 || ctx.Err() != nil {
		return
	}
	calls, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	if !inv.last.IsZero() {
		cancel()
		calls, cancel = context.WithDeadline(context.WithoutCancel(ctx), inv.last)
	}
	defer cancel()
	inv.giveBack(calls, 0, rest)
}

// giveBack hides messages for as long as they should stay away: delay, or longer
// if the far side is in trouble or they took too long.
func (inv *invocation) giveBack(ctx context.Context, delay time.Duration, some []*record) {
	if inv.cfg.Queue == nil || len(some) == 0 {
		return
	}
	inv.mu.Lock()
	trouble := inv.stopped.outage()
	inv.mu.Unlock()
	remaining := time.Duration(0)
	if b := inv.limits.Blocked(); b.Reason.Outage() && !b.Until.IsZero() {
		remaining = time.Until(b.Until)
	}
	away := make(map[int]time.Duration) // by receives: what comes back together is hidden by one call
	calls := make(map[time.Duration][]*queue.Message)
	inv.source.mu.Lock()
	for _, r := range some {
		d := delay
		switch {
		case r.outage, trouble && !r.judged:
			if away[r.msg.Attempt] == 0 {
				away[r.msg.Attempt] = outage.Delay(r.msg.Attempt, remaining)
			}
			d = max(d, away[r.msg.Attempt])
		case r.overran:
			d = max(d, inv.cfg.Retry.Backoff(r.msg.Attempt))
		}
		d = (d + time.Second - 1).Truncate(time.Second)
		calls[d] = append(calls[d], &r.msg)
	}
	inv.source.mu.Unlock()
	var wg sync.WaitGroup
	for d, msgs := range calls {
		wg.Go(func() {
			if err := inv.cfg.Queue.Nack(ctx, d, msgs...); err != nil {
				inv.cfg.Logger.Warn("sqslambda: delay not set: messages come back when their visibility timeout ends",
					"function", inv.name, "messages", len(msgs), "delay", d, "error", err)
			}
		})
	}
	wg.Wait()
}

// answer is what the function returns.
func (inv *invocation) answer() (events.SQSEventResponse, error) {
	answer := events.SQSEventResponse{BatchItemFailures: []events.SQSBatchItemFailure{}}
	inv.mu.Lock()
	why := inv.stopped
	inv.mu.Unlock()
	inv.source.mu.Lock()
	defer inv.source.mu.Unlock()
	nameless, ended := 0, 0
	for i := range inv.source.records {
		r := &inv.source.records[i]
		if r.outage && r.state != done && !why.outage() {
			why = farSide
		}
		switch {
		case r.state == done:
			ended++
		case r.nameless:
			nameless++
		default:
			answer.BatchItemFailures = append(answer.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: r.msg.ID})
		}
	}
	switch {
	case nameless > 0:
		return answer, fmt.Errorf("sqslambda: function %s: %d messages that are to be delivered again have no messageId: the whole batch is returned", inv.name, nameless)
	case why.outage() && ended == 0 && inv.cfg.OpenBreaker == Error:
		return answer, fmt.Errorf("sqslambda: function %s: %s: all %d messages are returned", inv.name, why, len(answer.BatchItemFailures))
	}
	return answer, nil
}
