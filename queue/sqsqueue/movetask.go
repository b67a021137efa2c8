package sqsqueue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
)

// MoveAPI is the part of the SDK that [Move] calls. *sqs.Client implements it.
type MoveAPI interface {
	GetQueueAttributes(context.Context, *sqs.GetQueueAttributesInput, ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error)
	ListDeadLetterSourceQueues(context.Context, *sqs.ListDeadLetterSourceQueuesInput, ...func(*sqs.Options)) (*sqs.ListDeadLetterSourceQueuesOutput, error)
	StartMessageMoveTask(context.Context, *sqs.StartMessageMoveTaskInput, ...func(*sqs.Options)) (*sqs.StartMessageMoveTaskOutput, error)
	ListMessageMoveTasks(context.Context, *sqs.ListMessageMoveTasksInput, ...func(*sqs.Options)) (*sqs.ListMessageMoveTasksOutput, error)
	CancelMessageMoveTask(context.Context, *sqs.CancelMessageMoveTaskInput, ...func(*sqs.Options)) (*sqs.CancelMessageMoveTaskOutput, error)
}

var _ MoveAPI = (*sqs.Client)(nil)

// MoveConfig configures [Move]. The zero MoveConfig returns each message to the queue
// that the service moved it from, at a rate that the service chooses.
type MoveConfig struct {
	// To is the URL of the destination. Default: for each message the queue that the
	// service moved it from. Messages that were sent to the dead-letter queue, as a
	// Consumer does, have no such queue, and need To.
	To string
	// Rate is the maximum number of messages moved per second, 1 to 500. Default 0:
	// the service chooses.
	Rate int
	// OnProgress is called with the progress every two seconds, from the goroutine of
	// Move.
	OnProgress func(MoveProgress)
}

// MoveProgress is the progress of a [Move].
type MoveProgress struct {
	Moved int64 // messages, approximately
	Total int64 // messages that were there at the start, approximately. 0: unknown
}

// ErrNotMovable means that the service can't move these messages itself. Use the
// deadletter package's Redrive.
var ErrNotMovable = errors.New("the service does not move these messages itself; deadletter.Redrive does")

const (
	maxMoveRate = 500 // messages a second
	movePoll    = 2 * time.Second
	moveMissing = 5 // listings in a row that may lack the task: the list may lag
)

// Move makes the service move all messages of the dead-letter queue at fromURL, as
// its console's redrive does (a message move task), and waits for the end of the task.
// It costs no receives, and the task continues if the process dies. The package
// documentation lists the conditions under Moving dead letters. Otherwise the error
// answers errors.Is for [ErrNotMovable], and says why.
//
// When ctx ends, Move cancels the task, which leaves the remaining messages where they
// are, and returns the cause of ctx. Move also fails when fromURL or a field of cfg is
// out of range, which the error names; when the queue already has a task; when the
// task fails or somebody cancels it; and when a request fails, as listed in the package
// documentation.
//
// Move needs sqs:StartMessageMoveTask, sqs:ListMessageMoveTasks,
// sqs:CancelMessageMoveTask, sqs:ListDeadLetterSourceQueues, sqs:ReceiveMessage,
// sqs:DeleteMessage and sqs:GetQueueAttributes on the dead-letter queue, and
// sqs:SendMessage and sqs:GetQueueAttributes on the destination.
func Move(ctx context.Context, client MoveAPI, fromURL string, cfg MoveConfig) (MoveProgress, error) {
	if nils.Is(client) {
		return MoveProgress{}, fmt.Errorf("sqsqueue: Move: client is %s", nils.Describe(client))
	}
	switch {
	case fromURL == "":
		return MoveProgress{}, errors.New("sqsqueue: Move: fromURL is empty: must be the URL of a dead-letter queue")
	case cfg.To == fromURL:
		return MoveProgress{}, errors.New("sqsqueue: Move: MoveConfig.To is fromURL: must be another queue")
	case cfg.Rate < 0 || cfg.Rate > maxMoveRate:
		return MoveProgress{}, fmt.Errorf("sqsqueue: Move: MoveConfig.Rate is %d: must be from 1 to %d, or 0 for the service's own", cfg.Rate, maxMoveRate)
	case cfg.To != "" && strings.HasSuffix(cfg.To, ".fifo") != strings.HasSuffix(fromURL, ".fifo"):
		return MoveProgress{}, fmt.Errorf("sqsqueue: Move: one of the queues is FIFO and the other is not: %w", ErrNotMovable)
	}
	m := mover{client: client, q: &Queue{url: fromURL, cfg: Config{Timeout: 10 * time.Second}}, cfg: cfg}
	if err := m.start(ctx); err != nil {
		return MoveProgress{}, err
	}
	err := m.wait(ctx)
	return m.progress, err
}

// A mover is one Move.
type mover struct {
	client   MoveAPI
	q        *Queue // the dead-letter queue, for its requests' errors
	cfg      MoveConfig
	arn      string
	before   int64  // when the queue's previous task was started, in ms; 0: there was none
	handle   string // of our task
	progress MoveProgress
}

func (m *mover) start(ctx context.Context) error {
	arnOf := func(url string) (string, error) {
		out, err := do(ctx, &Queue{url: url}, "move", m.q.cfg.Timeout, m.client.GetQueueAttributes, &sqs.GetQueueAttributesInput{
			QueueUrl: &url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn},
		})
		if err != nil {
			return "", err
		}
		return out.Attributes[string(types.QueueAttributeNameQueueArn)], nil
	}
	var err error
	if m.arn, err = arnOf(m.q.url); err != nil {
		return err
	}
	in := &sqs.StartMessageMoveTaskInput{SourceArn: &m.arn}
	if m.cfg.To != "" {
		to, err := arnOf(m.cfg.To)
		if err != nil {
			return err
		}
		in.DestinationArn = &to
	}
	if m.cfg.Rate > 0 {
		rate := int32(m.cfg.Rate)
		in.MaxNumberOfMessagesPerSecond = &rate
	}
	sources, err := do(ctx, m.q, "move", m.q.cfg.Timeout, m.client.ListDeadLetterSourceQueues, &sqs.ListDeadLetterSourceQueuesInput{QueueUrl: &m.q.url})
	if err != nil {
		return m.without(err)
	}
	if len(sources.QueueUrls) == 0 {
		return fmt.Errorf("sqsqueue: move: queue %s is not the dead-letter queue of any redrive policy: %w", m.q.url, ErrNotMovable)
	}
	latest, err := m.latest(ctx)
	if err != nil {
		return m.without(err)
	}
	if latest != nil && (aws.ToString(latest.Status) == "RUNNING" || aws.ToString(latest.Status) == "CANCELLING") {
		return fmt.Errorf("sqsqueue: move: queue %s has a task under way that has moved %d messages: wait for its end, or cancel it", m.q.url, latest.ApproximateNumberOfMessagesMoved)
	}
	if latest != nil {
		m.before = latest.StartedTimestamp
	}
	// The call outlives ctx: a task without a handle could not be cancelled, and
	// cancelling is the first thing that wait does if ctx has ended.
	task, err := do(context.WithoutCancel(ctx), m.q, "move", m.q.cfg.Timeout, m.client.StartMessageMoveTask, in)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%w, and the task was not started, or its start was not answered: %w", ended(ctx, "move"), err)
	case err != nil:
		return m.without(err)
	}
	m.handle = aws.ToString(task.TaskHandle)
	return nil
}

// without explains an error of a server that knows the queue: if it does not know the
// operation, it has no tasks.
func (m *mover) without(err error) error {
	if e, ok := err.(*requestError); ok && (e.advice == notSQS || e.named("UnsupportedOperation")) {
		return fmt.Errorf("sqsqueue: move: queue %s: the server has no message move tasks for it: %w: %w", m.q.url, ErrNotMovable, e.err)
	}
	return err
}

// latest returns the queue's latest task, nil if there is none.
func (m *mover) latest(ctx context.Context) (*types.ListMessageMoveTasksResultEntry, error) {
	out, err := do(ctx, m.q, "move", m.q.cfg.Timeout, m.client.ListMessageMoveTasks, &sqs.ListMessageMoveTasksInput{SourceArn: &m.arn})
	if err != nil || len(out.Results) == 0 {
		return nil, err
	}
	return &out.Results[0], nil
}

// wait polls the task until it is over. A queue has one task at a time, so ours is
// the latest; its handle is listed only while it runs, and the list may lag.
func (m *mover) wait(ctx context.Context) error {
	for missing, failures := 0, 0; ; {
		if !sleep.For(ctx, movePoll) {
			return m.cancel(ctx)
		}
		task, err := m.latest(ctx)
		switch {
		case ctx.Err() != nil:
			return m.cancel(ctx)
		case err != nil:
			if failures++; failures >= 30 || !errors.Is(err, limiter.ErrOverload) && !errors.Is(err, limiter.ErrUnavailable) {
				return fmt.Errorf("%w: the task goes on", err)
			}
			continue
		}
		failures = 0
		status := ""
		if task != nil && (aws.ToString(task.TaskHandle) == m.handle || aws.ToString(task.TaskHandle) == "" && task.StartedTimestamp > m.before) {
			status = aws.ToString(task.Status)
			m.progress.Moved = task.ApproximateNumberOfMessagesMoved
			if n := task.ApproximateNumberOfMessagesToMove; n != nil {
				m.progress.Total = *n
			}
			if m.cfg.OnProgress != nil {
				m.cfg.OnProgress(m.progress)
			}
		}
		switch status {
		case "COMPLETED":
			return nil
		case "FAILED":
			return m.failed(aws.ToString(task.FailureReason))
		case "CANCELLED":
			return fmt.Errorf("sqsqueue: move: queue %s: somebody has cancelled the task after %d messages", m.q.url, m.progress.Moved)
		case "":
			if missing++; missing >= moveMissing {
				return fmt.Errorf("sqsqueue: move: queue %s: the task is not among the queue's tasks any more: look at what is in the queue", m.q.url)
			}
		default:
			missing = 0
		}
	}
}

// failed returns the error of a task that failed.
func (m *mover) failed(reason string) error {
	if reason == "CouldNotDetermineMessageSource" {
		return fmt.Errorf("sqsqueue: move: queue %s: %s: the service did not move a message there itself, so it was sent there, as a consumer does with its dead letters: set MoveConfig.To (%d messages are moved): %w",
			m.q.url, reason, m.progress.Moved, ErrNotMovable)
	}
	return fmt.Errorf("sqsqueue: move: queue %s: the task has failed after %d messages: %s", m.q.url, m.progress.Moved, reason)
}

// cancel cancels the task because ctx has ended.
func (m *mover) cancel(ctx context.Context) error {
	out, err := do(context.WithoutCancel(ctx), m.q, "move", m.q.cfg.Timeout, m.client.CancelMessageMoveTask, &sqs.CancelMessageMoveTaskInput{TaskHandle: &m.handle})
	if err != nil {
		return fmt.Errorf("%w, and the task could not be cancelled: %w", ended(ctx, "move"), err)
	}
	m.progress.Moved = out.ApproximateNumberOfMessagesMoved
	return ended(ctx, "move")
}
