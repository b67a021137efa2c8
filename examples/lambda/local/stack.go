//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/examples/orders/store"
	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
)

const (
	region = "us-east-1"
	token  = "local-inventory-token" //nolint:gosec // of the API in this process
)

// function is the package to compile and run.
const function = "github.com/rampmeter/rampmeter/examples/lambda"

// A Stack is the template's stack on this machine.
type Stack struct {
	SQS        *sqs.Client
	QueueURL   string
	DeadLetter string // URL
	DynamoDB   *dynamodb.Client
	TableName  string
	Table      *store.Table
	API        *inventorytest.Server
	Function   *lambdalocal.Process
	Mapping    *lambdalocal.Mapping

	close []func() // in reverse
}

// Close stops and removes everything that NewStack created.
func (s *Stack) Close() {
	for i := len(s.close) - 1; i >= 0; i-- {
		s.close[i]()
	}
	s.close = nil
}

func (s *Stack) onClose(f func()) { s.close = append(s.close, f) }

// NewStack starts everything. The API has the given stock, and calls each for
// every request that it handles.
func NewStack(ctx context.Context, set Settings, stock map[string]int, log *Progress, api func(inventorytest.Config) inventorytest.Config) (_ *Stack, err error) {
	s := &Stack{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	sqsURL, dynamoURL, err := s.servers(ctx, set, log)
	if err != nil {
		return nil, err
	}
	if err := s.queues(ctx, set, sqsURL); err != nil {
		return nil, err
	}
	if err := s.table(ctx, dynamoURL); err != nil {
		return nil, err
	}
	secretURL, stop, err := serveSecret(token)
	if err != nil {
		return nil, err
	}
	s.onClose(stop)
	s.API, err = inventorytest.New(api(inventorytest.Config{
		Token: token, Stock: stock, Rate: set.Rate, Burst: set.APIBurst(), Concurrency: set.Functions, Latency: set.Latency,
	}))
	if err != nil {
		return nil, err
	}
	apiURL, err := s.API.Start()
	if err != nil {
		return nil, err
	}
	s.onClose(func() { _ = s.API.Close() }) // no caller is left

	binary, err := s.build(ctx, log)
	if err != nil {
		return nil, err
	}
	timeout, _ := set.Timeouts()
	cfg := lambdalocal.ProcessConfig{
		Path: binary, Name: "orders", Region: region, Memory: 256, Timeout: timeout, Concurrency: set.Functions,
		Env: []string{
			"AWS_ENDPOINT_URL_SQS=" + sqsURL,
			"AWS_ENDPOINT_URL_DYNAMODB=" + dynamoURL,
			"AWS_ENDPOINT_URL_SECRETS_MANAGER=" + secretURL,
			"QUEUE_URL=" + s.QueueURL,
			"DEAD_LETTER_URL=" + s.DeadLetter,
			"ORDERS_TABLE=" + s.TableName,
			"INVENTORY_URL=" + apiURL,
			"TOKEN_SECRET_ARN=inventory-token",
			"RATE=" + strconv.FormatFloat(set.Rate, 'f', -1, 64),
			"BURST=" + strconv.Itoa(set.APIBurst()),
			"MAX_CONCURRENCY=" + strconv.Itoa(set.Functions),
			"MAX_ATTEMPTS=" + strconv.Itoa(maxAttempts),
		},
	}
	if set.Logs {
		cfg.Output = log
	}
	if s.Function, err = lambdalocal.NewProcess(cfg); err != nil {
		return nil, err
	}
	s.onClose(s.Function.Close)
	s.Mapping, err = lambdalocal.NewMapping(lambdalocal.MappingConfig{
		Client: s.SQS, QueueURL: s.QueueURL, Function: s.Function,
		BatchSize: batchSize, MaxConcurrency: max(2, set.Functions), // Lambda's least; one process throttles the second
		PartialResponses: true, SlowDown: true,
	})
	return s, err
}

// servers returns the endpoints of SQS and DynamoDB, and starts the servers that the
// settings don't name.
func (s *Stack) servers(ctx context.Context, set Settings, log *Progress) (sqsURL, dynamoURL string, err error) {
	sqsURL, dynamoURL = set.SQS, set.DynamoDB
	if sqsURL != "" && dynamoURL != "" {
		return sqsURL, dynamoURL, nil
	}
	dir, err := install(ctx, log)
	if err != nil {
		return "", "", err
	}
	for _, server := range []struct {
		what string
		url  *string
	}{{"sqs", &sqsURL}, {"dynamodb", &dynamoURL}} {
		if *server.url != "" {
			continue
		}
		url, stop, err := startServer(ctx, dir, server.what)
		if err != nil {
			return "", "", err
		}
		s.onClose(stop)
		*server.url = url
		log.Say("%s at %s", server.what, url)
	}
	return sqsURL, dynamoURL, nil
}

// queues makes the queue and its dead-letter queue.
func (s *Stack) queues(ctx context.Context, set Settings, endpoint string) error {
	s.SQS = sqs.New(sqs.Options{
		BaseEndpoint: &endpoint, Region: region, Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
	})
	_, visible := set.Timeouts()
	name := "orders-" + rand.Text()
	create := func(name string, attributes map[string]string) (url, arn string, err error) {
		made, err := s.SQS.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
		if err != nil {
			return "", "", fmt.Errorf("create queue %s: %w", name, err)
		}
		s.onClose(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_, _ = s.SQS.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: made.QueueUrl}) // the server may be gone
		})
		out, err := s.SQS.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl: made.QueueUrl, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn},
		})
		if err != nil {
			return "", "", fmt.Errorf("attributes of queue %s: %w", name, err)
		}
		return *made.QueueUrl, out.Attributes[string(types.QueueAttributeNameQueueArn)], nil
	}
	seconds := strconv.Itoa(int(visible / time.Second))
	var arn string
	var err error
	if s.DeadLetter, arn, err = create(name+"-dead", map[string]string{"VisibilityTimeout": seconds}); err != nil {
		return err
	}
	s.QueueURL, _, err = create(name, map[string]string{
		"VisibilityTimeout": seconds,
		"RedrivePolicy":     fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":%d}`, arn, maxReceiveCount),
	})
	return err
}

// table makes the table.
func (s *Stack) table(ctx context.Context, endpoint string) (err error) {
	s.DynamoDB = dynamodb.New(dynamodb.Options{
		BaseEndpoint: &endpoint, Region: region, Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
	})
	s.TableName = "orders-" + rand.Text()
	if err := store.CreateTable(ctx, s.DynamoDB, s.TableName); err != nil {
		return err
	}
	s.onClose(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _ = s.DynamoDB.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &s.TableName}) // the server may be gone
	})
	s.Table, err = store.New(s.DynamoDB, s.TableName)
	return err
}

// build compiles the function for this machine.
func (s *Stack) build(ctx context.Context, log *Progress) (binary string, err error) {
	dir, err := os.MkdirTemp("", "rampmeter-")
	if err != nil {
		return "", err
	}
	s.onClose(func() { _ = os.RemoveAll(dir) }) // the system removes leftovers
	log.Say("compiling the function")
	binary = filepath.Join(dir, "bootstrap")
	if out, err := exec.CommandContext(ctx, "go", "build", "-tags", "lambda.norpc", "-o", binary, function).CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the function, from within the repository: %w: %s", errors.Join(err, context.Cause(ctx)), out)
	}
	return binary, nil
}

// backlog is the number of messages in the queue, visible and hidden.
func (s *Stack) backlog(ctx context.Context) (int, error) {
	out, err := s.SQS.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: &s.QueueURL,
		AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameApproximateNumberOfMessages,
			types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
			types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
		},
	})
	if err != nil {
		return 0, fmt.Errorf("attributes of the queue: %w", err)
	}
	n := 0
	for name, text := range out.Attributes {
		m, err := strconv.Atoi(text)
		if err != nil {
			return 0, fmt.Errorf("attributes of the queue: %s: %w", name, err)
		}
		n += m
	}
	return n, nil
}

// items is how many there are in the table.
func (s *Stack) items(ctx context.Context) (int, error) {
	n := 0
	pages := dynamodb.NewScanPaginator(s.DynamoDB, &dynamodb.ScanInput{TableName: &s.TableName, ConsistentRead: aws.Bool(true), Select: "COUNT"})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return 0, fmt.Errorf("count the table's items: %w", err)
		}
		n += int(page.Count)
	}
	return n, nil
}
