package lambdalocal

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/internal/sleep"
)

const (
	maxReceive = 10               // messages of a request
	maxPoll    = 20 * time.Second // of a receive
	callLimit  = 10 * time.Second // of a request, in addition to its wait at the service
)

// poller takes one batch after the other.
func (r *run) poller() {
	failures := 0 // receives in a row
	for r.stays() {
		batch, since, err := r.gather()
		if err != nil {
			if r.ctx.Err() == nil {
				r.m.count(func(s *Stats) { s.ReceiveErrors++ })
				sleep.For(r.ctx, backoff(failures, time.Second, maxPoll))
				failures++
			}
			continue
		}
		failures = 0
		if len(batch) == 0 {
			r.empty()
			continue
		}
		r.found()
		for len(batch) > 0 {
			var payload []byte
			var in []record
			payload, in, batch = eventOf(batch)
			r.m.count(func(s *Stats) { s.Batches++ })
			r.handle(payload, in, since.Add(r.visibility))
		}
	}
}

// gather waits for a batch. It returns none after an empty long poll. since is when the
// first message was received.
func (r *run) gather() (batch []record, since time.Time, err error) {
	size := r.m.cfg.BatchSize
	batch, err = r.receive(size, maxPoll)
	if err != nil || len(batch) == 0 {
		return nil, time.Time{}, err
	}
	since = time.Now()
	until := since.Add(r.m.cfg.Window)
	bytes := sizeOf(batch)
	for len(batch) < size && bytes < maxPayload && r.ctx.Err() == nil {
		left := time.Until(until)
		if left <= 0 {
			break
		}
		// Waits are in whole seconds, and 0 means the queue's own.
		if left < time.Second {
			sleep.For(r.ctx, left)
			break
		}
		more, err := r.receive(size-len(batch), min(left.Truncate(time.Second), maxPoll))
		if err != nil {
			if r.ctx.Err() == nil {
				r.m.count(func(s *Stats) { s.ReceiveErrors++ })
				sleep.For(r.ctx, min(time.Second, time.Until(until)))
			}
			continue
		}
		batch = append(batch, more...)
		bytes += sizeOf(more)
	}
	return batch, since, nil
}

func sizeOf(batch []record) (n int) {
	for _, r := range batch {
		n += len(r.json)
	}
	return n
}

// receive makes one receive of at most n messages.
func (r *run) receive(n int, wait time.Duration) ([]record, error) {
	ctx, cancel := context.WithTimeout(r.ctx, wait+callLimit)
	defer cancel()
	out, err := r.m.cfg.Client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl:                    &r.m.cfg.QueueURL,
		MaxNumberOfMessages:         int32(min(n, maxReceive)),
		WaitTimeSeconds:             int32(wait / time.Second),
		MessageAttributeNames:       []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
	}, plainBody)
	if err != nil {
		return nil, err
	}
	batch := make([]record, len(out.Messages))
	for i, message := range out.Messages {
		if batch[i], err = newRecord(r.arn, message); err != nil {
			return nil, err
		}
	}
	r.m.count(func(s *Stats) { s.Received += len(batch) })
	return batch, nil
}

// handle invokes the function with a batch, whose messages are hidden until until, and
// deletes the messages that did not fail.
func (r *run) handle(payload []byte, batch []record, until time.Time) {
	if r.m.fifo {
		keys := groupsOf(batch)
		r.groups.lock(keys)
		defer r.groups.unlock(keys)
	}
	response, err := r.invoke(payload, until)
	if errors.Is(err, ErrThrottled) {
		r.m.count(func(s *Stats) { s.Dropped += len(batch) })
		return
	}
	if err != nil {
		r.m.count(func(s *Stats) { s.Returned += len(batch) })
		return
	}
	var failed map[string]bool
	if r.m.cfg.PartialResponses {
		if failed, err = failuresOf(response, batch); err != nil {
			r.m.count(func(s *Stats) {
				s.Malformed++
				s.Returned += len(batch)
			})
			return
		}
	}
	var done []record
	for _, record := range batch {
		if !failed[aws.ToString(record.message.MessageId)] {
			done = append(done, record)
		}
	}
	r.m.count(func(s *Stats) {
		if len(failed) > 0 {
			s.PartialResponses++
		}
		s.Returned += len(batch) - len(done)
	})
	for len(done) > 0 {
		n := min(len(done), maxReceive)
		r.delete(done[:n])
		done = done[n:]
	}
}

// invoke invokes the function. While the function is throttled, invoke retries for as
// long as the messages are hidden.
func (r *run) invoke(payload []byte, until time.Time) ([]byte, error) {
	for attempt := 0; ; attempt++ {
		round := r.round()
		r.m.count(func(s *Stats) {
			s.Concurrency++
			s.PeakConcurrency = max(s.PeakConcurrency, s.Concurrency)
		})
		response, err := r.m.cfg.Function.Invoke(context.WithoutCancel(r.ctx), payload)
		throttled := errors.Is(err, ErrThrottled)
		r.m.count(func(s *Stats) {
			s.Concurrency--
			switch {
			case throttled:
				s.Throttles++
			case err != nil:
				s.FunctionErrors++
				fallthrough
			default:
				s.Invocations++
			}
		})
		if err == nil {
			r.succeeded(round)
			return response, nil
		}
		r.failed(round)
		delay := backoff(attempt, 250*time.Millisecond, 10*time.Second)
		if !throttled || time.Now().Add(delay).After(until) || !sleep.For(r.ctx, delay) {
			return nil, err
		}
	}
}

// delete deletes messages, ten at most.
func (r *run) delete(done []record) {
	left := make(map[string]types.DeleteMessageBatchRequestEntry, len(done))
	for i, record := range done {
		id := strconv.Itoa(i)
		left[id] = types.DeleteMessageBatchRequestEntry{Id: &id, ReceiptHandle: record.message.ReceiptHandle}
	}
	ctx := context.WithoutCancel(r.ctx) // done messages are deleted even after the run ends
	for attempt := 0; attempt < 4 && len(left) > 0; attempt++ {
		if attempt > 0 {
			sleep.For(ctx, backoff(attempt-1, 100*time.Millisecond, time.Second))
		}
		r.tryDelete(ctx, left)
	}
	r.m.count(func(s *Stats) { s.Undeleted += len(left) })
}

// tryDelete deletes the messages in left, and removes from left those that SQS has
// deleted.
func (r *run) tryDelete(ctx context.Context, left map[string]types.DeleteMessageBatchRequestEntry) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	in := &sqs.DeleteMessageBatchInput{QueueUrl: &r.m.cfg.QueueURL}
	for _, entry := range left {
		in.Entries = append(in.Entries, entry)
	}
	out, err := r.m.cfg.Client.DeleteMessageBatch(ctx, in, plainBody)
	if err != nil {
		return
	}
	for _, entry := range out.Successful {
		delete(left, aws.ToString(entry.Id))
	}
	r.m.count(func(s *Stats) { s.Deleted += len(in.Entries) - len(left) })
}

// backoff returns first, doubled for each earlier attempt, and at most most.
func backoff(attempt int, first, most time.Duration) time.Duration {
	return min(first<<min(attempt, 10), most)
}

// plainBody makes the SDK send a request with a body that has no method but Read and
// Close. The SDK closes the body as soon as the reply's header arrives. If WriteTo is
// still writing the body, it then returns io.EOF, which net/http takes for a broken
// request: it closes the connection before it reads the reply of a fast server.
func plainBody(o *sqs.Options) { o.HTTPClient = plainClient{o.HTTPClient} }

type plainClient struct{ sqs.HTTPClient }

func (c plainClient) Do(req *http.Request) (*http.Response, error) {
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = readCloser{req.Body}
	}
	return c.HTTPClient.Do(req)
}

// A readCloser hides the other methods of a body.
type readCloser struct{ io.ReadCloser }
