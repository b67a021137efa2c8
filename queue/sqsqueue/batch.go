package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
)

var (
	errUnnamed = errors.New("the reply names it neither as done nor as failed")
	errNobody  = errors.New("two replies name none of the messages, which may have been accepted")
)

// A batch is a call for several messages, identified by their index in its arguments.
type batch struct {
	q  *Queue
	op string
	// request makes one request for some messages, ten at most, under these ids.
	request func(ctx context.Context, limit time.Duration, some []int, ids []string) (reply, error)
	// verdict decides what a failure means: done after all (nil), failed, or to be
	// retried. unsure: an earlier request may have done it.
	verdict func(i int, e *requestError, unsure bool) (err error, again bool)
	failed  map[int]error
}

// A reply names the messages of a request that were done, and those that failed,
// by the ids that entryIDs gave them.
type reply struct {
	done   []*string
	failed []types.BatchResultErrorEntry
}

func replyOf[T any](done []T, id func(T) *string, failed []types.BatchResultErrorEntry) reply {
	r := reply{done: make([]*string, len(done)), failed: failed}
	for i := range done {
		r.done[i] = id(done[i])
	}
	return r
}

// entryIDs returns the ids of messages in a request.
func entryIDs(some []int) []string {
	ids := make([]string, len(some))
	for k, i := range some {
		ids[k] = strconv.Itoa(i)
	}
	return ids
}

// An outcome is what a reply says about a message.
type outcome struct {
	named bool
	err   *requestError // nil: done
}

// outcomes returns the outcomes of the messages with these ids.
func (b *batch) outcomes(r reply, ids []string) []outcome {
	all := make([]outcome, len(ids))
	set := func(id *string, err *requestError) {
		if k := slices.Index(ids, aws.ToString(id)); k >= 0 {
			all[k] = outcome{named: true, err: err}
		}
	}
	for _, id := range r.done {
		set(id, nil)
	}
	for _, f := range r.failed {
		set(f.Id, explainEntry(b.op, b.q.url, f))
	}
	return all
}

func (b *batch) fail(i int, err error) {
	if b.failed == nil {
		b.failed = make(map[int]error)
	}
	b.failed[i] = err
}

// result returns the call's error.
func (b *batch) result() error {
	if len(b.failed) == 0 {
		return nil
	}
	return &queue.BatchError{Op: b.op, Failed: b.failed}
}

// run makes requests for the messages, ten at most, until each is done or has
// failed. It retries temporary failures, after a delay, as long as ctx lasts and the
// policy allows.
func (b *batch) run(ctx context.Context, some []int) {
	var unsure map[int]bool
	named, unnamed := false, 0 // whether a reply named any message, and how many replies did not
	for attempt := 1; len(some) > 0; attempt++ {
		if ctx.Err() != nil {
			for _, i := range some {
				b.fail(i, ended(ctx, b.op))
			}
			return
		}
		ids := entryIDs(some)
		answer, err := b.request(ctx, b.q.limit(ctx), some, ids)
		whole, isRequest := err.(*requestError)
		switch {
		case err != nil && !isRequest: // ctx has ended
			for _, i := range some {
				b.fail(i, err)
			}
			return
		case isRequest && whole.class == nil && len(some) > 1:
			// Some servers refuse all messages because of one.
			for _, i := range some {
				b.run(ctx, []int{i})
			}
			return
		}

		outcomes := b.outcomes(answer, ids)
		named = named || slices.ContainsFunc(outcomes, func(o outcome) bool { return o.named })
		if !isRequest && !named && len(answer.done)+len(answer.failed)+len(some) > 1 {
			unnamed++ // a server may leave out a single message by mistake
		}
		var rest []int
		var last error
		for k, o := range outcomes {
			i, e := some[k], o.err
			switch {
			case isRequest:
				e = whole
			case unnamed > 1 && !named:
				e = &requestError{op: b.op, url: b.q.url, class: limiter.ErrMisconfigured, advice: notSQS, err: errNobody}
			case !o.named:
				e = &requestError{op: b.op, url: b.q.url, class: limiter.ErrUnavailable, err: errUnnamed}
			case e == nil:
				delete(b.failed, i)
				continue
			}
			err, again := b.verdict(i, e, unsure[i])
			switch {
			case again:
				rest, last = append(rest, i), err
				b.fail(i, err)
				if e.class == limiter.ErrUnavailable && (isRequest || !o.named) {
					if unsure == nil {
						unsure = make(map[int]bool)
					}
					unsure[i] = true
				}
			case err != nil:
				b.fail(i, err)
			default:
				delete(b.failed, i)
			}
		}
		if len(rest) == 0 {
			return
		}
		delay, ok := b.q.again.Next(attempt, last)
		if !ok {
			return
		}
		if !sleep.For(ctx, delay) {
			for _, i := range rest {
				b.fail(i, fmt.Errorf("%w, after %w", ended(ctx, b.op), b.failed[i]))
			}
			return
		}
		some = rest
	}
}

// limit returns the time limit of a request that can be retried: half of the time
// left in ctx, so that there is time for a second request.
func (q *Queue) limit(ctx context.Context) time.Duration {
	limit := q.cfg.Timeout
	if until, ok := ctx.Deadline(); ok {
		limit = min(limit, max(time.Until(until)/2, time.Second))
	}
	return limit
}
