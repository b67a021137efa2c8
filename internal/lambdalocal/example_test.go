package lambdalocal_test

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

func ExampleMapping() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var server sqsfake.Server
	url, err := server.CreateQueue("orders", map[string]string{"VisibilityTimeout": "60"})
	if err != nil {
		fmt.Println(err)
		return
	}
	body := "a dozen of eggs"
	if _, err := server.Client().SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body}); err != nil {
		fmt.Println(err)
		return
	}

	f, err := lambdalocal.NewFunction(lambdalocal.FunctionConfig{
		Start: func() lambdalocal.Handler {
			fmt.Println("cold start")
			return func(_ context.Context, e events.SQSEvent) (out events.SQSEventResponse, err error) {
				fmt.Println(e.Records[0].Body)
				stop()
				return out, nil
			}
		},
		Timeout: 10 * time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := lambdalocal.NewMapping(lambdalocal.MappingConfig{Client: server.Client(), QueueURL: url, Function: f, PartialResponses: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := m.Run(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("deleted", m.Stats().Deleted)
	// Output:
	// cold start
	// a dozen of eggs
	// deleted 1
}
