//go:build unix

package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"gocloud.dev/pubsub/awssnssqs"
)

// runGoCloud uses gocloud.dev's subscription as its documentation shows: a semaphore
// bounds the handlers, and is acquired before Receive, so that Receive returns a
// message only when a handler is free. Polls are long (its default is short polls
// and pauses of 250 ms), and bodies raw, so that it does not look for SNS's envelope
// in each. Receives and deletes of ten, and up to a hundred of each at once, are its
// defaults; its look-ahead, two seconds' worth of messages, is not configurable.
func runGoCloud(ctx context.Context, t task) error {
	client := sqs.NewFromConfig(withoutWriteTo(awsConfig(t)))
	sub := awssnssqs.OpenSubscription(ctx, client, t.queueURL, &awssnssqs.SubscriptionOptions{
		Raw:      true,
		WaitTime: t.wait,
	})
	defer func() { _ = sub.Shutdown(context.WithoutCancel(ctx)) }()
	var working sync.WaitGroup
	defer working.Wait()
	slots := make(chan struct{}, t.concurrency)
	for {
		slots <- struct{}{}
		m, err := sub.Receive(ctx)
		if err != nil {
			return err
		}
		working.Go(func() {
			defer func() { <-slots }()
			if err := t.handle(context.WithoutCancel(ctx), m.Body); err != nil {
				slog.Error("message failed", "id", m.LoggableID, "error", err)
				m.Nack()
				return
			}
			m.Ack()
		})
	}
}
