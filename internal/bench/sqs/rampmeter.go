//go:build unix

package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// runRampmeter is rampmeter with its defaults, except for the concurrency and the
// lease, which equals the queue's visibility timeout.
func runRampmeter(ctx context.Context, t task) error {
	q, err := sqsqueue.New(sqs.NewFromConfig(awsConfig(t)), t.queueURL, sqsqueue.Config{Wait: t.wait})
	if err != nil {
		return err
	}
	h := queue.HandlerFunc(func(ctx context.Context, m *queue.Message) error { return t.handle(ctx, m.Body) })
	c, err := queue.NewConsumer(q, h, queue.Config{Concurrency: t.concurrency, Lease: t.visibility})
	if err != nil {
		return err
	}
	return c.Run(ctx)
}
