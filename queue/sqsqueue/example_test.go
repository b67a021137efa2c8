package sqsqueue_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

func ExampleNew() {
	ctx := context.Background()
	var server sqsfake.Server // in place of AWS
	url, err := server.CreateQueue("orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	q, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{})
	if err != nil {
		log.Fatal(err)
	}
	if err := q.Send(ctx, &queue.Message{Body: []byte("hello"), Attributes: map[string]string{"tenant": "7"}}); err != nil {
		log.Fatal(err)
	}
	msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: 30 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range msgs {
		fmt.Printf("%s of tenant %s, attempt %d\n", m.Body, m.Attributes["tenant"], m.Attempt)
	}
	if err := q.Ack(ctx, msgs...); err != nil {
		log.Fatal(err)
	}
	// Output:
	// hello of tenant 7, attempt 1
}

// A message that can never succeed goes to the dead-letter queue, with the reason.
func ExampleQueue() {
	var server sqsfake.Server // in place of AWS
	open := func(name string) *sqsqueue.Queue {
		url, err := server.CreateQueue(name, nil)
		if err != nil {
			log.Fatal(err)
		}
		q, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{Wait: time.Second})
		if err != nil {
			log.Fatal(err)
		}
		return q
	}
	orders, dead := open("orders"), open("orders-dead")

	ctx, cancel := context.WithCancel(context.Background())
	handler := queue.HandlerFunc(func(context.Context, *queue.Message) error {
		defer cancel()
		return retry.Permanent(errors.New("no such product"))
	})
	c, err := queue.NewConsumer(orders, handler, queue.Config{Name: "orders", DeadLetter: dead})
	if err != nil {
		log.Fatal(err)
	}
	if err := orders.Send(ctx, &queue.Message{Body: []byte("order 7")}); err != nil {
		log.Fatal(err)
	}
	if err := c.Run(ctx); err != nil {
		log.Fatal(err)
	}

	msgs, err := dead.Receive(context.Background(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	record, err := retry.ParseDeadLetter(msgs[0].Attributes[retry.DeadLetterAttribute])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s, %s\n", msgs[0].Body, record.Reason, record.Error)
	// Output:
	// order 7: permanent, no such product
}

func ExampleQueue_Check() {
	ctx := context.Background()
	var server sqsfake.Server // in place of AWS
	url, err := server.CreateQueue("orders", map[string]string{"ReceiveMessageWaitTimeSeconds": "20", "VisibilityTimeout": "30"})
	if err != nil {
		log.Fatal(err)
	}
	q, err := sqsqueue.New(server.Client(), url, sqsqueue.Config{})
	if err != nil {
		log.Fatal(err)
	}
	findings, err := q.Check(ctx, sqsqueue.CheckConfig{HandlerTimeout: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range findings {
		fmt.Printf("%s: %s\n", f.Attribute, f.Fix)
	}
	// Output:
	// VisibilityTimeout: set it to 60; six times as much for a Lambda function
	// RedrivePolicy: set it to a dead-letter queue of the same type, with a maxReceiveCount of 24 or more
}
