//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// runWatermill is watermill's router with watermill-aws's subscriber. A
// subscription delivers one message at a time and waits for its ack, so the router
// has one handler for each slot, each with its own subscription to the same queue.
// batch is the number of messages per receive: the default is one; ten makes fewer
// calls, but messages wait in the subscriber. Deletes are one by one and can't be
// batched.
func runWatermill(ctx context.Context, t task, batch int32) error {
	logger := watermill.NopLogger{}
	sub, err := wsqs.NewSubscriber(wsqs.SubscriberConfig{
		AWSConfig:                   withoutWriteTo(awsConfig(t)),
		QueueUrlResolver:            wsqs.TransparentUrlResolver{},
		DoNotCreateQueueIfNotExists: true,
		GenerateReceiveMessageInput: func(_ context.Context, url wsqs.QueueURL) (*sqs.ReceiveMessageInput, error) {
			queueURL := string(url)
			return &sqs.ReceiveMessageInput{
				QueueUrl:              &queueURL,
				MessageAttributeNames: []string{"All"},
				MaxNumberOfMessages:   batch,
				WaitTimeSeconds:       int32(t.wait / time.Second),
				VisibilityTimeout:     int32(t.visibility / time.Second),
			}, nil
		},
	}, logger)
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 30 * time.Second}, logger)
	if err != nil {
		return err
	}
	for i := range t.concurrency {
		router.AddConsumerHandler(fmt.Sprintf("orders-%d", i), t.queueURL, sub, func(m *message.Message) error {
			return t.handle(m.Context(), m.Payload)
		})
	}
	return router.Run(ctx)
}
