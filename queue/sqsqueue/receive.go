package sqsqueue

import (
	"context"
	"crypto/md5" // the service's checksum
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/sqsmessage"
)

// Receive requests up to o.Max messages, at most ten. It waits at the service for
// the first one, for Config.Wait, or for o.Wait or two thirds of o.Lease if that is
// less; then it returns no messages and no error. It makes one request, whose errors
// the package documentation lists.
//
// o.Max must be at least 1; o.Lease must be positive and at most 12 h, and is
// rounded up to whole seconds; o.Wait must not be negative, and is rounded down
// to whole seconds, but not below 1 s. LeaseUntil counts from the start of the
// request, because the service may have delivered the message then.
//
// When its context ends, the request is aborted. Messages that it would have
// returned come back when their lease is over, or on a FIFO queue with one of the
// next receives.
func (q *Queue) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	switch {
	case o.Max < 1:
		return nil, fmt.Errorf("sqsqueue: receive: Max is %d: must be at least 1", o.Max)
	case o.Lease <= 0 || o.Lease > maxVisibility:
		return nil, fmt.Errorf("sqsqueue: receive: Lease is %v: must be positive and at most %v", o.Lease, maxVisibility)
	case o.Wait < 0:
		return nil, fmt.Errorf("sqsqueue: receive: Wait is %v: must not be negative", o.Wait)
	case ctx.Err() != nil:
		return nil, ended(ctx, "receive")
	}
	lease := time.Duration(seconds(o.Lease)) * time.Second // never 0, which would not be sent
	wait := q.wait(o.Wait, lease)
	if q.clientTimeout > 0 && q.clientTimeout <= wait {
		// Each receive of an empty queue would fail, and lose messages that arrive at its end.
		return nil, &requestError{
			op: "receive", url: q.url, class: limiter.ErrMisconfigured,
			advice: "give the HTTP client a longer Timeout, or none, or set Config.Wait to less",
			err:    fmt.Errorf("the client's HTTP client has a Timeout of %v, and the receive waits for %v", q.clientTimeout, wait),
		}
	}
	most := int32(min(o.Max, maxBatch))
	begin := time.Now()
	a := attempt{since: begin}
	if q.fifo {
		a = q.attempts.next(most, begin)
	}
	verify := false
	request := func() (*sqs.ReceiveMessageOutput, error) {
		return do(ctx, q, "receive", wait+q.cfg.Timeout, q.client.ReceiveMessage, &sqs.ReceiveMessageInput{
			QueueUrl:                    &q.url,
			MaxNumberOfMessages:         most,
			VisibilityTimeout:           seconds(lease),
			WaitTimeSeconds:             seconds(wait),
			MessageAttributeNames:       []string{"All"},
			MessageSystemAttributeNames: q.systemAttributes,
			ReceiveRequestAttemptId:     a.id,
		}, func(o *sqs.Options) {
			// The SDK would copy each body once more to verify it.
			verify, o.DisableMessageChecksumValidation = !o.DisableMessageChecksumValidation, true
		})
	}
	out, err := request()
	if refuses(err) && !a.until.IsZero() {
		begin = time.Now()
		a = newAttempt(most, begin)
		out, err = request()
	}
	var all []queue.Message
	if err == nil {
		all, err = q.read(out.Messages, verify)
	}
	if err != nil {
		q.attempts.failed(a, err, lease)
		return nil, err
	}
	now := time.Now()
	since, until := receipt{since: a.since}.String(), begin.Add(lease)
	msgs := make([]*queue.Message, len(all))
	for i := range all {
		m := &all[i]
		m.Receipt = since + m.Receipt
		m.ReceivedAt, m.LeaseUntil = now, until
		msgs[i] = m
	}
	return msgs, nil
}

// wait returns how long a receive may wait: no longer than most, and short enough
// that a message that comes at the end of the wait still has part of its lease. It is
// never 0, which would not be sent.
func (q *Queue) wait(most, lease time.Duration) time.Duration {
	wait, why := q.cfg.Wait, ""
	if part := lease * 2 / 3; part < wait {
		wait, why = part, "two thirds of the lease: the consumer's Lease is short"
	}
	if most > 0 && most < wait {
		wait, why = most, "as long as a drain can wait for a receive: the consumer's DrainTimeout is short"
	}
	wait = max(wait.Truncate(time.Second), time.Second)
	if wait < q.cfg.Wait {
		q.shorter.Do(func() {
			q.cfg.Logger.Info("sqsqueue: receives wait for less than Config.Wait, and cost more requests on an idle queue",
				"queue", q.url, "wait", wait, "config_wait", q.cfg.Wait, "because", why)
		})
	}
	return wait
}

// read converts the service's messages, into one block of memory. With verify it
// fails when a body does not match its checksum.
func (q *Queue) read(natives []types.Message, verify bool) ([]queue.Message, error) {
	all := make([]queue.Message, len(natives))
	for i := range all {
		sqsmessage.Decode(&all[i], &natives[i])
		if !verify || natives[i].MD5OfBody == nil {
			continue
		}
		var is [2 * md5.Size]byte
		sum := md5.Sum(all[i].Body)
		hex.Encode(is[:], sum[:])
		if should := *natives[i].MD5OfBody; string(is[:]) != should {
			err := fmt.Errorf("the body of message %s has the checksum %s: should have %s", all[i].ID, is[:], should)
			return nil, &requestError{op: "receive", url: q.url, class: limiter.ErrUnavailable, err: err}
		}
	}
	return all, nil
}

// A receipt is the service's receipt handle and the earliest time from which its
// message is hidden, where the twelve hours begin. A Message carries both in its
// Receipt, the only field that a source is certain to get back.
type receipt struct {
	handle string
	since  time.Time // zero: unknown
}

func (r receipt) String() string {
	return strconv.FormatInt(r.since.UnixMilli(), 10) + "@" + r.handle
}

// receiptOf returns the message's receipt. It accepts a bare handle, from a receive
// outside this package.
func receiptOf(m *queue.Message) receipt {
	if at, handle, ok := strings.Cut(m.Receipt, "@"); ok {
		if ms, err := strconv.ParseInt(at, 10, 64); err == nil {
			return receipt{handle: handle, since: time.UnixMilli(ms)}
		}
	}
	return receipt{handle: m.Receipt, since: m.ReceivedAt}
}
