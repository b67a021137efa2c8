//go:build unix

package main

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// A loop is a fast consumer written on the SDK: ten receivers that ask for ten
// messages each, workers, and deletes in batches of ten. More than fifty workers get
// more receivers, one for five: ten receivers can't bring more than a hundred
// messages in a round-trip, however many workers there are. The loop has no
// heartbeats, limits, per-message backoff or dead letters; those are most of the work
// of writing one.
//
// With slots it receives only messages for which a worker is free: each receiver
// takes a free slot, and up to nine more that are free at that moment, and then asks
// for that many messages. It has either that or the speed.
type loop struct {
	client  *sqs.Client
	t       task
	msgs    chan *types.Message
	handled chan *string  // receipt handles
	deletes chan struct{} // one for each request under way
	slots   chan struct{} // one for each busy worker; nil: messages wait for workers
}

const (
	minReceivers = 10
	workersFed   = 5                      // by one receiver, where more of them are needed
	batchSize    = 10                     // the service's
	deleteLinger = 200 * time.Millisecond // how long a delete waits for others
	deleteTries  = 3                      // beyond the SDK's own, for entries that fail
	pause        = time.Second            // after the SDK has given a receive up
)

func runHandWritten(ctx context.Context, t task, slots bool) error {
	receivers := max(minReceivers, t.concurrency/workersFed)
	l := &loop{
		client:  sqs.NewFromConfig(withoutWriteTo(awsConfig(t))),
		t:       t,
		msgs:    make(chan *types.Message),
		handled: make(chan *string, batchSize),
		deletes: make(chan struct{}, receivers),
	}
	if slots {
		l.slots = make(chan struct{}, t.concurrency)
	}
	var receiving, working, deleting sync.WaitGroup
	for range receivers {
		receiving.Go(func() { l.receive(ctx) })
	}
	for range t.concurrency {
		working.Go(func() { l.work(ctx) })
	}
	deleting.Go(l.delete)
	receiving.Wait()
	close(l.msgs)
	working.Wait()
	close(l.handled)
	deleting.Wait()
	return ctx.Err()
}

func (l *loop) receive(ctx context.Context) {
	for {
		n := l.take(ctx)
		if ctx.Err() != nil {
			return
		}
		out, err := l.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
			QueueUrl:              &l.t.queueURL,
			MaxNumberOfMessages:   int32(n),
			WaitTimeSeconds:       int32(l.t.wait / time.Second),
			VisibilityTimeout:     int32(l.t.visibility / time.Second),
			MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{
				types.MessageSystemAttributeNameApproximateReceiveCount,
			},
		})
		if err != nil {
			l.give(n)
			if ctx.Err() == nil {
				slog.Error("receive failed", "error", err)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		l.give(n - len(out.Messages))
		for i := range out.Messages {
			select {
			case l.msgs <- &out.Messages[i]:
			case <-ctx.Done():
				return // the rest is delivered again when its visibility timeout ends
			}
		}
	}
}

// take returns how many messages to ask for.
func (l *loop) take(ctx context.Context) int {
	if l.slots == nil {
		return batchSize
	}
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	for n := 1; n < batchSize; n++ {
		select {
		case l.slots <- struct{}{}:
		default:
			return n
		}
	}
	return batchSize
}

// give frees slots.
func (l *loop) give(n int) {
	if l.slots == nil {
		return
	}
	for range n {
		<-l.slots
	}
}

func (l *loop) work(ctx context.Context) {
	for m := range l.msgs {
		err := l.t.handle(context.WithoutCancel(ctx), []byte(*m.Body))
		l.give(1)
		if err != nil {
			slog.Error("message failed", "id", *m.MessageId, "error", err)
			continue // it is delivered again when its visibility timeout ends
		}
		l.handled <- m.ReceiptHandle
	}
}

// delete collects handled messages, and deletes them in batches.
func (l *loop) delete() {
	var batch []types.DeleteMessageBatchRequestEntry
	linger := time.NewTimer(time.Hour)
	linger.Stop()
	var requests sync.WaitGroup
	defer requests.Wait()
	flush := func() {
		full := batch
		batch = nil
		linger.Stop()
		l.deletes <- struct{}{}
		requests.Go(func() {
			defer func() { <-l.deletes }()
			l.deleteBatch(full)
		})
	}
	for {
		select {
		case handle, ok := <-l.handled:
			if !ok {
				if len(batch) > 0 {
					flush()
				}
				return
			}
			if batch == nil {
				batch = make([]types.DeleteMessageBatchRequestEntry, 0, batchSize)
				linger.Reset(deleteLinger)
			}
			id := strconv.Itoa(len(batch))
			batch = append(batch, types.DeleteMessageBatchRequestEntry{Id: &id, ReceiptHandle: handle})
			if len(batch) == batchSize {
				flush()
			}
		case <-linger.C:
			flush()
		}
	}
}

// deleteBatch deletes a batch, and retries entries that fail.
func (l *loop) deleteBatch(batch []types.DeleteMessageBatchRequestEntry) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for range deleteTries {
		out, err := l.client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &l.t.queueURL, Entries: batch})
		if err != nil {
			slog.Error("delete failed", "error", err)
			return
		}
		if len(out.Failed) == 0 {
			return
		}
		var again []types.DeleteMessageBatchRequestEntry
		for _, f := range out.Failed {
			if f.SenderFault {
				slog.Error("delete refused", "code", *f.Code)
				continue
			}
			i, err := strconv.Atoi(*f.Id)
			if err == nil && i < len(batch) {
				id := strconv.Itoa(len(again))
				again = append(again, types.DeleteMessageBatchRequestEntry{Id: &id, ReceiptHandle: batch[i].ReceiptHandle})
			}
		}
		if batch = again; len(batch) == 0 {
			return
		}
	}
	slog.Error("deletes given up", "messages", len(batch))
}
