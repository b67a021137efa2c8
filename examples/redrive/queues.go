package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/examples/internal/interrupt"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// queues are the queues of a command.
type queues struct {
	client *sqs.Client
	dead   queue.Source
	to     queue.Sink
	size   func(ctx context.Context) int // of dead, approximately; 0: unknown
}

// connect returns a client configured by the SDK's environment variables and files.
func connect(ctx context.Context) (*sqs.Client, error) {
	aws, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	return sqs.NewFromConfig(aws), nil
}

// open opens the queues that the settings name.
func (p program) open(ctx context.Context, s Settings) (queues, error) {
	client, err := p.connect(ctx)
	if err != nil {
		return queues{}, err
	}
	q := queues{client: client}
	quiet := sqsqueue.Config{Logger: slog.New(slog.DiscardHandler)} // it would log short waits, which are intended
	if q.dead, err = sqsqueue.New(q.client, s.DeadLetterURL, quiet); err != nil {
		return q, fmt.Errorf("-dead-letter-url: %w", err)
	}
	q.size = func(ctx context.Context) int { return size(ctx, q.client, s.DeadLetterURL) }
	if s.Command != "redrive" || s.Native || s.DryRun {
		return q, nil
	}
	to := s.QueueURL
	if to == "" {
		if to, err = source(ctx, q.client, s.DeadLetterURL); err != nil {
			return q, err
		}
	}
	if q.to, err = sqsqueue.New(q.client, to, sqsqueue.Config{}); err != nil {
		return q, fmt.Errorf("-queue-url: %w", err)
	}
	return q, nil
}

// size returns the number of visible messages in a queue.
func size(ctx context.Context, client *sqs.Client, url string) int {
	const name = types.QueueAttributeNameApproximateNumberOfMessages
	out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{name}})
	if err != nil {
		return 0 // it is for the progress bar only
	}
	n, err := strconv.Atoi(out.Attributes[string(name)])
	if err != nil {
		return 0
	}
	return n
}

// source returns the queue that names the dead-letter queue in its redrive policy.
func source(ctx context.Context, client *sqs.Client, dead string) (string, error) {
	out, err := client.ListDeadLetterSourceQueues(ctx, &sqs.ListDeadLetterSourceQueuesInput{QueueUrl: &dead})
	switch {
	case err != nil:
		return "", fmt.Errorf("-queue-url is missing, and where the letters come from is unknown: %w", err)
	case len(out.QueueUrls) == 0:
		return "", errors.New("-queue-url is missing, and no queue has this one in its redrive policy")
	case len(out.QueueUrls) > 1:
		return "", fmt.Errorf("-queue-url is missing, and several queues have this one in their redrive policy: %s", strings.Join(out.QueueUrls, ", "))
	}
	return out.QueueUrls[0], nil
}

// native lets the service move the messages.
func (p program) native(ctx context.Context, q queues, s Settings) error {
	progress := NewProgress(p.progress, 0)
	defer interrupt.Say(ctx, progress, func() string {
		return "interrupted: waiting up to 20s for the service to cancel the move, which goes on otherwise"
	})()
	moved, err := sqsqueue.Move(ctx, q.client, s.DeadLetterURL, sqsqueue.MoveConfig{
		To: s.QueueURL, Rate: int(s.Rate),
		OnProgress: func(m sqsqueue.MoveProgress) { progress.Line(fmt.Sprintf("moved: %d of %d", m.Moved, m.Total)) },
	})
	if errors.Is(err, sqsqueue.ErrNotMovable) {
		hint := "leave out -native, and this program moves them itself"
		if s.QueueURL == "" {
			hint = "say where to with -queue-url, or " + hint
		}
		err = fmt.Errorf("%w (%s)", err, hint)
	}
	return errors.Join(err, newPrinter(p.out, s.JSON).moved(moved))
}
