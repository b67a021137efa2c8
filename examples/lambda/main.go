// Lambda is the order function: it takes orders from an SQS queue, reserves
// their stock at a third party's inventory API, and stores them in DynamoDB. An
// order that can never succeed goes to the dead-letter queue with its reason.
//
// The README describes how to run the whole stack on this machine, and how to
// build, deploy and remove it.
package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

func main() {
	logger := newLogger(os.Stderr)
	f, err := start(context.Background(), os.Getenv, logger)
	if err != nil {
		logger.Error("the function can't start", "error", err)
		os.Exit(1)
	}
	lambda.Start(f)
}

// newLogger returns a JSON logger that writes durations as text ("1.5s"): as numbers
// they would be nanoseconds.
func newLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Value.Kind() == slog.KindDuration {
				a.Value = slog.StringValue(a.Value.Duration().String())
			}
			return a
		},
	}))
}

// start makes the function of this instance; all its invocations share its
// limiters.
func start(ctx context.Context, getenv func(string) string, logger *slog.Logger) (Function, error) {
	cfg, err := ParseEnv(getenv)
	if err != nil {
		return nil, err
	}
	aws, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	return New(ctx, cfg, Clients{
		SQS:      sqs.NewFromConfig(aws),
		DynamoDB: dynamodb.NewFromConfig(aws),
		Secrets:  secretsmanager.NewFromConfig(aws),
	}, logger)
}
