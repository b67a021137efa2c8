package sqslambda_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
	"github.com/rampmeter/rampmeter/retry"
)

type order struct {
	SKU string
}

// batch is an event as Lambda sends it.
func batch(bodies ...string) events.SQSEvent {
	var e events.SQSEvent
	for i, body := range bodies {
		e.Records = append(e.Records, events.SQSMessage{
			MessageId:      fmt.Sprint("message ", i),
			Body:           body,
			EventSourceARN: "arn:aws:sqs:eu-central-1:123456789012:orders",
			Attributes:     map[string]string{"ApproximateReceiveCount": "1"},
		})
	}
	return e
}

// One message succeeds, one fails and is returned, one can't be decoded and is
// dead-lettered.
func ExampleHandler() {
	dead, err := memqueue.New(memqueue.Config{}) // in production an sqsqueue.Queue, like Config.Queue
	if err != nil {
		log.Fatal(err)
	}
	reserve := func(_ context.Context, _ *queue.Message, o order) error {
		if o.SKU == "lamp" {
			return errors.New("the warehouse is closed")
		}
		fmt.Println("reserved:", o.SKU)
		return nil
	}
	f, err := sqslambda.Handler(queue.Decode(json.Unmarshal, reserve), sqslambda.Config{
		DeadLetter: dead,
		Retry:      retry.Policy{MaxAttempts: 20}, // with a maxReceiveCount of 50
		Logger:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}

	// In a function: lambda.Start(f)
	answer, err := f(context.Background(), batch(`{"SKU":"chair"}`, `{"SKU":"lamp"}`, `chair`))
	if err != nil {
		log.Fatal(err)
	}
	text, err := json.Marshal(answer)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", text)

	msgs, err := dead.Receive(context.Background(), queue.ReceiveOptions{Max: 10, Lease: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	record, err := retry.ParseDeadLetter(msgs[0].Attributes[retry.DeadLetterAttribute])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(record.MessageID, "of", record.Source, "is", record.Reason)
	// Output:
	// reserved: chair
	// {"batchItemFailures":[{"itemIdentifier":"message 1"}]}
	// message 2 of orders is undecodable
}

// An existing function gains limits, retries and dead letters with a reason, without
// any change to it.
func ExampleWrap() {
	existing := func(_ context.Context, e events.SQSEvent) error {
		for _, r := range e.Records {
			fmt.Println("handled:", r.Body)
		}
		return nil
	}
	f, err := sqslambda.Handler(sqslambda.Wrap(existing), sqslambda.Config{})
	if err != nil {
		log.Fatal(err)
	}
	answer, err := f(context.Background(), batch("chair", "lamp"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("returned:", len(answer.BatchItemFailures))
	// Output:
	// handled: chair
	// handled: lamp
	// returned: 0
}

// Ten processes share fifty messages a second.
func ExampleFleetLimit() {
	share, err := sqslambda.FleetLimit{Rate: 50, MaxConcurrency: 10}.Limiter()
	if err != nil {
		log.Fatal(err)
	}
	breaker, err := limiter.NewBreaker(limiter.BreakerConfig{Name: "inventory"})
	if err != nil {
		log.Fatal(err)
	}
	limit, err := limiter.All(breaker, share)
	if err != nil {
		log.Fatal(err)
	}
	cfg := sqslambda.Config{Limiter: limit}
	fmt.Printf("%.0f a second here, %d at once, %T\n", share.Stats().Rate, share.Stats().Burst, cfg)
	// Output:
	// 5 a second here, 1 at once, sqslambda.Config
}

// How long an outage of the downstream may last before it sends messages to the
// dead-letter queue, depending on the queue's maxReceiveCount.
func ExampleOutageSpan() {
	for _, n := range []int{5, 20, 50} {
		fmt.Println(n, sqslambda.OutageSpan(n))
	}
	// Output:
	// 5 15m30s
	// 20 4h0m30s
	// 50 11h30m30s
}
