package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
)

var (
	errNil     = errors.New("sqsqueue: message is nil")
	errReceipt = errors.New("sqsqueue: message has no Receipt")
	errTooLong = fmt.Errorf("it was received %v ago, and can't be hidden for longer", maxVisibility)
)

const clockMargin = 500 * time.Millisecond // requests take different times to reach the service

// Ack deletes messages, in requests of ten. A message that no longer exists counts as
// deleted. If the service reports that it no longer accepts a message's receipt, the
// message fails with [queue.ErrLeaseLost]: it has been received again, or, on a FIFO
// queue, its lease is over.
func (q *Queue) Ack(ctx context.Context, msgs ...*queue.Message) error {
	b := &batch{q: q, op: "ack"}
	b.request = func(ctx context.Context, limit time.Duration, some []int, ids []string) (reply, error) {
		handles := make([]string, len(some))
		entries := make([]types.DeleteMessageBatchRequestEntry, len(some))
		for k, i := range some {
			handles[k] = receiptOf(msgs[i]).handle
			entries[k] = types.DeleteMessageBatchRequestEntry{Id: &ids[k], ReceiptHandle: &handles[k]}
		}
		in := &sqs.DeleteMessageBatchInput{QueueUrl: &q.url, Entries: entries}
		out, err := do(ctx, q, b.op, limit, q.client.DeleteMessageBatch, in)
		if err != nil {
			return reply{}, err
		}
		return replyOf(out.Successful, func(e types.DeleteMessageBatchResultEntry) *string { return e.Id }, out.Failed), nil
	}
	b.verdict = func(_ int, e *requestError, _ bool) (error, bool) {
		if e.lost() {
			return &leaseLost{e}, false
		}
		return e, e.passing()
	}
	return b.settle(ctx, msgs)
}

// Nack makes messages visible after delay, rounded up to whole seconds, but at
// the latest 12 h after they were received, in requests of ten. A message whose
// lease is over fails with [queue.ErrLeaseLost].
func (q *Queue) Nack(ctx context.Context, delay time.Duration, msgs ...*queue.Message) error {
	if delay < 0 {
		return fmt.Errorf("sqsqueue: nack: delay is %v: must not be negative", delay)
	}
	v := q.newVisibility("nack", delay, msgs)
	verdict := v.verdict
	v.verdict = func(i int, e *requestError, unsure bool) (error, bool) {
		if unsure && delay == 0 && e.lost() {
			return nil, false // the request whose reply was lost did it
		}
		return verdict(i, e, unsure)
	}
	return v.settle(ctx, msgs)
}

// Extend makes messages visible lease from now, rounded up to whole seconds, but
// at the latest 12 h after they were received, in requests of ten, and sets
// their LeaseUntil to the result. A message whose lease is over, or whose 12 h are
// used up, fails with [queue.ErrLeaseLost].
func (q *Queue) Extend(ctx context.Context, lease time.Duration, msgs ...*queue.Message) error {
	if lease < 0 {
		return fmt.Errorf("sqsqueue: extend: lease is %v: must not be negative", lease)
	}
	v := q.newVisibility("extend", lease, msgs)
	v.spent = lease > 0
	err := v.settle(ctx, msgs)
	for i, until := range v.until {
		if v.failed[i] == nil && !until.IsZero() {
			msgs[i].LeaseUntil = until
		}
	}
	return err
}

// A visibility is a batch that changes when messages become visible.
type visibility struct {
	batch
	msgs  []*queue.Message
	d     time.Duration
	most  []int32     // by message: seconds to request at most; halved when the service refuses
	until []time.Time // by message: what the last request for it asked for
	spent bool        // fail a message whose twelve hours are used up
}

func (q *Queue) newVisibility(op string, d time.Duration, msgs []*queue.Message) *visibility {
	v := &visibility{msgs: msgs, d: d, most: make([]int32, len(msgs)), until: make([]time.Time, len(msgs))}
	for i := range v.most {
		v.most[i] = seconds(maxVisibility)
	}
	v.batch = batch{q: q, op: op, request: v.change, verdict: v.judge}
	return v
}

func (v *visibility) settle(ctx context.Context, msgs []*queue.Message) error {
	if v.spent {
		now := time.Now()
		for i, m := range msgs {
			if m != nil && left(receiptOf(m), now) < 1 {
				v.fail(i, &leaseLost{errTooLong})
			}
		}
	}
	return v.batch.settle(ctx, msgs)
}

func (v *visibility) change(ctx context.Context, limit time.Duration, some []int, ids []string) (reply, error) {
	in := &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &v.q.url}
	now := time.Now()
	for k, i := range some {
		r := receiptOf(v.msgs[i])
		s := min(seconds(v.d), v.most[i], max(left(r, now), 0))
		v.until[i] = now.Add(time.Duration(s) * time.Second)
		in.Entries = append(in.Entries, types.ChangeMessageVisibilityBatchRequestEntry{
			Id: &ids[k], ReceiptHandle: &r.handle, VisibilityTimeout: s,
		})
		v.most[i] = s
	}
	out, err := do(ctx, v.q, v.op, limit, v.q.client.ChangeMessageVisibilityBatch, in)
	if err != nil {
		return reply{}, err
	}
	return replyOf(out.Successful, func(e types.ChangeMessageVisibilityBatchResultEntry) *string { return e.Id }, out.Failed), nil
}

func (v *visibility) judge(i int, e *requestError, _ bool) (error, bool) {
	switch {
	case e.beyondLimit() && v.most[i] > 1:
		// The start of the twelve hours is unknown, or the clock was changed meanwhile.
		v.most[i] /= 2
		return e, true
	case e.lost(), e.beyondLimit():
		return &leaseLost{e}, false
	}
	return e, e.passing()
}

// left returns how many more seconds the message may be hidden.
func left(r receipt, now time.Time) int32 {
	if r.since.IsZero() {
		return seconds(maxVisibility)
	}
	left := r.since.Add(maxVisibility).Sub(now)
	if left < maxVisibility {
		left -= clockMargin
	}
	return int32(max(min(left, maxVisibility), 0) / time.Second)
}

// settle makes the requests for all messages.
func (b *batch) settle(ctx context.Context, msgs []*queue.Message) error {
	if ctx.Err() != nil {
		return ended(ctx, b.op)
	}
	some := make([]int, 0, len(msgs))
	for i, m := range msgs {
		switch {
		case b.failed[i] != nil:
		case m == nil:
			b.fail(i, errNil)
		case receiptOf(m).handle == "":
			b.fail(i, errReceipt)
		default:
			some = append(some, i)
		}
	}
	for some := range slices.Chunk(some, maxBatch) {
		b.run(ctx, some)
	}
	return b.result()
}
