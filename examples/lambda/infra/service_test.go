package infra_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// accepted: a server that enforces the service's rules accepts the queues as
// described, and the library's own check has no findings.
func accepted(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	var server sqsfake.Server
	urls, err := createQueues(&server, s)
	if err != nil {
		return problems{err.Error()}
	}
	client := server.Client()
	orders, err := sqsqueue.New(client, urls["OrdersQueue"], sqsqueue.Config{})
	if err != nil {
		return problems{err.Error()}
	}
	dead, err := sqsqueue.New(client, urls["DeadLetterQueue"], sqsqueue.Config{})
	if err != nil {
		return problems{err.Error()}
	}
	findings, err := orders.Check(context.Background(), sqsqueue.CheckConfig{
		Consumer: queue.Config{
			DeadLetter: dead,
			Retry:      retry.Policy{MaxAttempts: int(number(at(s.properties("OrdersFunction"), "Environment", "Variables", "MAX_ATTEMPTS")))},
		},
		HandlerTimeout: time.Duration(number(s.properties("OrdersFunction")["Timeout"])) * time.Second,
	})
	if err != nil {
		return problems{err.Error()}
	}
	for _, f := range findings {
		found = append(found, f.String())
	}
	return found
}

// createQueues makes the stack's queues, and returns their URLs by resource.
func createQueues(server *sqsfake.Server, s *stack) (urls map[string]string, err error) {
	urls = map[string]string{}
	arn := func(resource string) string { return "arn:aws:sqs:us-east-1:000000000000:" + resource }
	for _, name := range []string{"DeadLetterQueue", "OrdersQueue"} {
		attributes := map[string]string{}
		for attribute, v := range s.properties(name) {
			if policy, ok := v.(object); ok {
				if policy["deadLetterTargetArn"] == "<DeadLetterQueue.Arn>" {
					policy["deadLetterTargetArn"] = arn("DeadLetterQueue")
				}
				written, err := json.Marshal(policy)
				if err != nil {
					return nil, err
				}
				v = string(written)
			}
			attributes[attribute] = fmt.Sprint(v)
		}
		if urls[name], err = server.CreateQueue(name, attributes); err != nil {
			return nil, fmt.Errorf("create %s: %w", name, err)
		}
	}
	return urls, nil
}
