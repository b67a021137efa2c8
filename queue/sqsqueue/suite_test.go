package sqsqueue_test

import (
	"context"
	"testing"
	"time"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

func TestSource(t *testing.T) {
	for name, cfg := range map[string]queuetest.Config{
		"standard": {},
		"fifo":     {FIFO: true},
	} {
		cfg.Synctest, cfg.NoEmptyBody, cfg.NoBinary = true, true, true
		cfg.Lease, cfg.LeaseUnit, cfg.MaxLease = 20*time.Second, time.Second, 12*time.Hour
		t.Run(name, func(t *testing.T) {
			queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
				return newQueue(t, &sqsfake.Server{}, cfg.FIFO, nil)
			}, cfg)
		})
		t.Run(name+", with faults", func(t *testing.T) {
			cfg.Slack = 5 * time.Second // of what is tried again
			queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
				seed := testrun.Seed(t)
				server := &sqsfake.Server{Plan: faults(seed, cfg.FIFO), Latency: 10 * time.Millisecond}
				return persistent{newQueue(t, server, cfg.FIFO, nil)}
			}, cfg)
		})
	}
}

// faults are those that the callers of a queue need not notice, up to three in a
// row for each operation. The lost replies are those of requests that can be
// repeated: on a standard queue not those of a send, whose messages would then be there
// twice, or of a receive, whose messages stay hidden. On a FIFO queue entries of one
// send that fail alone are overtaken by the others. And if it is unknown whether a
// message was returned, and the retry says that its lease is over, that is success,
// which the suite does not expect.
func faults(seed uint64, fifo bool) sqsfake.Plan {
	random := func(faults ...sqsfake.Fault) sqsfake.Plan {
		seed++
		return sqsfake.Random(seed, 0.1, faults...)
	}
	modes := func(modes ...sqsfake.Mode) sqsfake.Plan {
		var faults []sqsfake.Fault
		for _, mode := range modes {
			faults = append(faults, sqsfake.Fault{Mode: mode})
		}
		return random(faults...)
	}
	throttled := random(sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()})
	entries, omitted := modes(sqsfake.FailEntries), modes(sqsfake.OmitEntries)
	unanswered := modes(sqsfake.Refuse, sqsfake.Reset)
	lost := modes(sqsfake.LoseReply, sqsfake.Truncate, sqsfake.OmitDone)
	fewer := sqsfake.Fewer(seed, 0.3)
	inRow := make(map[sqsfake.Op]int)
	return func(c sqsfake.Call) sqsfake.Fault {
		var plans []sqsfake.Plan
		switch {
		case c.Op == sqsfake.ChangeMessageVisibilityBatch:
			plans = []sqsfake.Plan{throttled, entries}
		case c.Op == sqsfake.DeleteMessageBatch:
			plans = []sqsfake.Plan{throttled, entries, unanswered, omitted, lost}
		case c.Op == sqsfake.ReceiveMessage && fifo:
			plans = []sqsfake.Plan{throttled, unanswered, lost, fewer}
		case c.Op == sqsfake.ReceiveMessage:
			plans = []sqsfake.Plan{throttled, unanswered, fewer}
		case fifo:
			plans = []sqsfake.Plan{throttled, unanswered, lost}
		default:
			plans = []sqsfake.Plan{throttled, entries, unanswered, omitted}
		}
		f := sqsfake.First(plans...)(c)
		if inRow[c.Op]++; f.Mode == sqsfake.Succeed || inRow[c.Op] > 3 {
			inRow[c.Op] = 0
			return sqsfake.Fault{Max: f.Max}
		}
		return f
	}
}

// A persistent queue is one whose receives are made again when they fail, as a
// consumer does.
type persistent struct{ *sqsqueue.Queue }

func (p persistent) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	for {
		msgs, err := p.Queue.Receive(ctx, o)
		if class := limiter.Classify(err); ctx.Err() != nil || class != limiter.ErrUnavailable && class != limiter.ErrOverload {
			return msgs, err
		}
	}
}
