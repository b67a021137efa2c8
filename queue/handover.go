package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
	"github.com/rampmeter/rampmeter/retry"
)

// handOver sends a copy of the message to the dead-letter sink and acks the
// message if the sink has accepted it. The lease is kept meanwhile.
func (e *engine) handOver(j job, reason string, cause error) {
	e.mu.Lock()
	m, attempts := j.d.msg, j.d.failures
	e.mu.Unlock()
	record := retry.DeadLetter{
		Reason: reason, Error: fmt.Sprint(cause), Attempts: attempts, Source: e.cfg.Name, MessageID: m.ID,
		First: m.FirstReceivedAt, Last: time.Now(),
	}
	if record.First.IsZero() {
		record.First = m.ReceivedAt
	}
	copied := m.Clone()
	copied.Delay = 0
	if m.ordered() {
		copied.Dedup = m.ID // a copy sent twice arrives once
	}
	if copied.Attributes == nil {
		copied.Attributes = make(map[string]string, 1)
	}
	copied.Attributes[retry.DeadLetterAttribute] = record.Encode()

	ctx, cancel := context.WithTimeout(e.calls, callLimit)
	err := errorOf(e.cfg.DeadLetter.Send(ctx, copied), 0)
	cancel()
	retryIn := time.Duration(0)
	if err != nil {
		retryIn = e.cfg.Retry.Backoff(max(m.Attempt, j.run))
		e.failed("dead-letter", err, retryIn)
	} else {
		call(e.cfg.Trace.DeadLettered, DeadLetteredInfo{Message: m, Record: record})
		e.cfg.Logger.Warn("queue: message dead-lettered", "consumer", e.cfg.Name, "message", m.ID,
			"reason", reason, "error", cause, "attempts", record.Attempts)
	}

	now := time.Now()
	e.mu.Lock()
	e.stats.DeadLetterCalls++
	d := j.d
	if err != nil {
		e.guard.Returned(now)
		d.failures = max(0, d.failures-1) // it must fail once more before it is handed over again
	}
	switch {
	case d.lost:
		e.returnGroup(d, now)
		e.end(d, LostLease, now)
	case err != nil && d.group != nil && e.policy.Stays(&judge.Facts{
		Ordered: true, Draining: e.draining, Held: j.heldFor(now), InHand: now.Sub(m.ReceivedAt),
	}, retryIn):
		e.hold(d, now, retryIn, true, false) // messages behind it use up no receives
	case err != nil:
		e.returnGroup(d, now)
		e.settle(d, settlement{op: opNack, delay: retryIn, outcome: Retried}, now)
	default:
		e.settle(d, settlement{op: opAck, outcome: DeadLettered}, now)
	}
	e.unlock()
}
