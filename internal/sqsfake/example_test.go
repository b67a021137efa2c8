package sqsfake_test

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

func Example() {
	var server sqsfake.Server
	url, err := server.CreateQueue("orders", map[string]string{"VisibilityTimeout": "60"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, client, body := context.Background(), server.Client(), "hello"
	if _, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body}); err != nil {
		fmt.Println(err)
		return
	}
	out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(*out.Messages[0].Body, server.Queue("orders").InFlight, server.Stats("").Calls)
	// Output: hello 1 2
}

func ExampleServer_plan() {
	server := sqsfake.Server{Plan: sqsfake.First(
		sqsfake.On(sqsfake.SendMessage, sqsfake.Fault{Mode: sqsfake.LoseReply}, 1),
		sqsfake.On(sqsfake.SendMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}, 2),
	)}
	url, err := server.CreateQueue("orders", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	client, body := server.Client(), "hello"
	for range 3 {
		_, err := client.SendMessage(context.Background(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: &body})
		fmt.Println(err == nil, server.Queue("orders").Sent)
	}
	// Output:
	// false 1
	// false 1
	// true 2
}
