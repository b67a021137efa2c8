package sqslambda

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/host"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
	"github.com/rampmeter/rampmeter/queue/internal/outage"
)

// An invocation runs a consumer over one event, and is that consumer's host.
type invocation struct {
	*function
	name   string
	source *source
	began  time.Time
	end    time.Time // of the handlers' contexts; zero: the function has no deadline
	last   time.Time // end of the calls after that

	mu        sync.Mutex // guards all below
	cancel    context.CancelFunc
	stopped   stopReason
	latest    *time.Timer   // fires when it is too late to start a message; nil: there is no deadline
	downSince time.Time     // when the signs of an outage began, without a success since; zero: there are none
	downFor   string        // the first message that was refused since a success
	downMore  bool          // others were refused, too
	downLong  bool          // there was no success for longestOutage
	over      *time.Timer   // fires when the outage has lasted for longestOutage; nil: there has been none
	runs      int           // handlers that were not cut short
	ran       time.Duration // their total time
}

// A stopReason is why an invocation starts no more messages.
type stopReason string

const (
	goingOn    stopReason = ""
	finished   stopReason = "all is done"
	tooLate    stopReason = "nothing more can be expected to end in time"
	downstream stopReason = "the downstream is not available"
)

// settleMargin returns how long before the function's deadline the handlers' contexts
// end, so that dead letters are sent and delays are set: 1 s, or a sixth of the
// remaining time, if that is less.
func settleMargin(left time.Duration) time.Duration { return min(time.Second, left/6) }

func newInvocation(ctx context.Context, f *function, event events.SQSEvent) *invocation {
	inv := &invocation{function: f, name: f.cfg.Name, began: time.Now()}
	if arn := event.Records[0].EventSourceARN; inv.name == "" {
		inv.name = arn[strings.LastIndexByte(arn, ':')+1:]
	}
	inv.source = newSource(event.Records, inv.began)
	inv.source.nack = inv.hide
	if deadline, ok := ctx.Deadline(); ok {
		margin := settleMargin(deadline.Sub(inv.began))
		inv.end, inv.last = deadline.Add(-margin), deadline.Add(-margin/10)
	}
	return inv
}

// run lets a consumer handle what it can in the time available. Nothing runs after
// it returns, except for handlers that ignore the end of their context.
func (inv *invocation) run(ctx context.Context) {
	runCtx, cancel := context.WithCancel(host.NewContext(context.WithValue(ctx, sourceKey{}, inv.source), inv))
	defer cancel()
	c, err := queue.NewConsumer(inv.source, inv, inv.consumerConfig(inv.name, len(inv.source.records)))
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
		inv.returnRest(ctx) // running handlers continue meanwhile
		err = <-ended
	}
	inv.returnRest(ctx)
	inv.finish()
	if err != nil {
		inv.cfg.Logger.Error("sqslambda: invocation ended with unfinished messages; they are returned", "function", inv.name, "error", err)
	}
}

// Handle is what the consumer calls for each message.
func (inv *invocation) Handle(ctx context.Context, m *queue.Message) error {
	m.ID = inv.source.name(m.ID)
	return inv.handler.Handle(ctx, m)
}

// ----- the host -----

var _ host.Host = (*invocation)(nil)

func (inv *invocation) Deadline() (handlers, run time.Time) { return inv.end, inv.last }

func (inv *invocation) Guard() *judge.Guard { return &inv.guard }

// Guilt also reports whether others succeed, and so whether an innocent message is
// returned rather than waited for: its batch is all that the process works on, and
// waits only for what stops every message, a pause or an outage.
func (inv *invocation) Guilt(id string, receives int, f judge.Facts) (g judge.Guilt, alone, typical bool) {
	return inv.health.failed(time.Now(), inv.source.name(id), receives, f)
}

// Judged records what becomes of a message, and what that says about the downstream.
func (inv *invocation) Judged(id string, receives int, f judge.Facts, v judge.Verdict) {
	now := time.Now()
	fate := decided
	switch {
	case f.Interrupted:
		fate = cut
	case !v.Failed && !f.Postponed && v.Action != judge.Ack:
		fate = refused
	}
	inv.source.note(id, fate, f.Alone && f.Class == limiter.ErrOverload)
	switch {
	case v.Action == judge.Ack:
		inv.health.succeeded(now, inv.source.name(id), receives, f)
		inv.works()
	case fate == refused:
		inv.fails(id, time.Time{})
	}
	if v.Action == judge.Ack || !inv.end.IsZero() && !now.Before(inv.end) {
		inv.took(f.Took)
	}
}

func (inv *invocation) Blocked(b limiter.Block) {
	if b.Reason.Outage() {
		inv.fails("", b.Until)
	}
}

// took records how long a handler took that was not cut short.
func (inv *invocation) took(d time.Duration) {
	inv.health.took(d)
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.runs++
	inv.ran += d
	if inv.latest != nil && inv.stopped == goingOn {
		inv.latest.Reset(time.Until(inv.latestStart()))
	}
}

// ----- when to stop -----

// latestStart returns the latest time to start a message that is to be done in time.
// However long handlers take, messages are started during the first tenth of the
// time, or nothing would ever be tried again.
func (inv *invocation) latestStart() time.Time {
	allowed := inv.end.Sub(inv.began)
	return inv.end.Add(-min(max(inv.health.takes(), time.Millisecond), allowed-allowed/10))
}

// stop makes the consumer drain: messages that have not started are returned.
func (inv *invocation) stop(why stopReason) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.stopped == goingOn {
		inv.stopped = why
		inv.cancel()
	}
}

// fails records a sign of an outage: the id of the message that was refused, if it
// is one, and the end of the outage, if that is known. The invocation stops when the
// outage has lasted for longestOutage, or is known to.
func (inv *invocation) fails(id string, until time.Time) {
	inv.mu.Lock()
	if inv.downSince.IsZero() && inv.stopped == goingOn {
		inv.downSince = time.Now()
		if inv.over == nil {
			inv.over = time.AfterFunc(longestOutage, inv.overlong)
		} else {
			inv.over.Reset(longestOutage)
		}
	}
	switch {
	case inv.downFor == "":
		inv.downFor = id
	case id != "" && id != inv.downFor:
		inv.downMore = true
	}
	hopeless := until.After(inv.downSince.Add(longestOutage)) || inv.downMore && inv.downLong
	inv.mu.Unlock()
	if hopeless {
		inv.stop(downstream)
	}
}

// works records that a message is done. A message that started before a pause or an
// outage says nothing about how long that lasts.
func (inv *invocation) works() {
	inv.mu.Lock()
	failed := !inv.downSince.IsZero()
	inv.downSince, inv.downFor, inv.downMore, inv.downLong = time.Time{}, "", false, false
	if inv.over != nil {
		inv.over.Stop()
	}
	inv.mu.Unlock()
	if failed {
		inv.Blocked(inv.limits.Blocked())
	}
}

// overlong is called when an outage may have lasted for longestOutage. It has if
// the limits still report it, or if several messages were refused and none has
// succeeded; otherwise the fault may lie in one message.
func (inv *invocation) overlong() {
	over := inv.limits.Blocked().Reason.Outage()
	inv.mu.Lock()
	over = (over || inv.downMore) && !inv.downSince.IsZero()
	inv.downSince, inv.downLong = time.Time{}, !inv.downSince.IsZero()
	inv.mu.Unlock()
	if over {
		inv.stop(downstream)
	}
}

// finish stops the timers, and warns of a batch that was too big.
func (inv *invocation) finish() {
	inv.mu.Lock()
	late := inv.stopped == tooLate
	if inv.stopped == goingOn {
		inv.stopped = finished
	}
	for _, timer := range []*time.Timer{inv.latest, inv.over} {
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
	if late && untried > 0 || mean.Seconds()*float64(n) > allowed.Seconds()*float64(inv.cfg.Concurrency) {
		inv.tooBig.Do(func() {
			inv.cfg.Logger.Warn("sqslambda: the batch is too big for the function's timeout: messages are returned untried, which costs a receive each; "+
				"lower the mapping's batch size, or raise the timeout or Config.Concurrency",
				"function", inv.name, "batch", n, "untried", untried, "handler_time", mean, "concurrency", inv.cfg.Concurrency, "time_allowed", allowed)
		})
	}
}

// ----- what is returned -----

// returnRest returns what the consumer has not taken.
func (inv *invocation) returnRest(ctx context.Context) {
	rest := inv.source.close()
	if len(rest) == 0 || ctx.Err() != nil {
		return
	}
	calls, cancel := context.WithDeadline(context.WithoutCancel(ctx), cmp.Or(inv.last, time.Now().Add(30*time.Second)))
	defer cancel()
	inv.hide(calls, 0, rest)
}

// hide hides messages for delay, or for longer because of an outage or because
// they had too little time.
func (inv *invocation) hide(ctx context.Context, delay time.Duration, some []*record) {
	if inv.cfg.Queue == nil || len(some) == 0 {
		return
	}
	inv.mu.Lock()
	down := inv.stopped == downstream
	inv.mu.Unlock()
	remaining := time.Duration(0)
	if b := inv.limits.Blocked(); b.Reason.Outage() && !b.Until.IsZero() {
		remaining = time.Until(b.Until)
	}
	away := make(map[int]time.Duration) // by receives, so that one call hides messages with as many
	calls := make(map[time.Duration][]*queue.Message)
	inv.source.mu.Lock()
	for _, r := range some {
		d := delay
		switch {
		case r.fate == refused && r.throttled: // we were slightly too fast
			d = max(d, min(inv.cfg.Retry.Backoff(r.msg.Attempt), judge.Longest))
		case r.fate == refused, r.fate == untried && down:
			if away[r.msg.Attempt] == 0 {
				away[r.msg.Attempt] = outage.Delay(r.msg.Attempt, remaining)
			}
			d = max(d, away[r.msg.Attempt])
		case r.fate == cut:
			d = max(d, min(inv.cfg.Retry.Backoff(r.msg.Attempt), judge.Longest))
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

// answer returns the function's response.
func (inv *invocation) answer() (events.SQSEventResponse, error) {
	answer := events.SQSEventResponse{BatchItemFailures: []events.SQSBatchItemFailure{}}
	inv.mu.Lock()
	down := inv.stopped == downstream
	inv.mu.Unlock()
	inv.source.mu.Lock()
	defer inv.source.mu.Unlock()
	nameless, ended := 0, 0
	for i := range inv.source.records {
		r := &inv.source.records[i]
		down = down || r.fate == refused && r.state != done
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
	case down && ended == 0 && inv.cfg.OpenBreaker == Error:
		return answer, fmt.Errorf("sqslambda: function %s: %s: all %d messages are returned", inv.name, downstream, len(answer.BatchItemFailures))
	}
	return answer, nil
}
