package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/internal/terminal"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

const (
	poll = time.Second // how long a receive waits for a first message, and so how long a run takes to end

	// settled is how many receives in a row must be empty before a run assumes
	// that no message will follow: longer than a lease or a retry hides a
	// message.
	settled = int((lease + 15*time.Second) / poll)
)

// sqsQueues are two queues of Amazon SQS. They outlive a run, so they may hold
// orders of earlier runs: those are handled like any others, but not counted,
// since the ids of a run's own orders begin with its name.
type sqsQueues struct {
	*sqsqueue.Queue
	dead *sqsqueue.Queue
	run  string

	progress io.Writer

	mu     sync.Mutex        // guards what follows
	open   map[string]bool   // ids of orders that were sent and not acked
	inHand map[string]string // ids of orders, by the message's
	closed bool
	idle   int // receives without a message since something last happened
}

var _ Queues = (*sqsQueues)(nil)

// openSQS opens the queues that the settings name, with a client configured by the
// SDK's environment variables and files.
func openSQS(ctx context.Context, s Settings, progress io.Writer) (*sqsQueues, error) {
	aws, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	q, err := newSQSQueues(sqs.NewFromConfig(aws), s, progress)
	if err != nil {
		return nil, err
	}
	return q, q.check(ctx, s)
}

func newSQSQueues(client sqsqueue.API, s Settings, progress io.Writer) (*sqsQueues, error) {
	orders, err := sqsqueue.New(client, s.QueueURL, sqsqueue.Config{Wait: poll})
	if err != nil {
		return nil, fmt.Errorf("-queue-url: %w", err)
	}
	dead, err := sqsqueue.New(client, s.DeadLetterURL, sqsqueue.Config{Wait: poll})
	if err != nil {
		return nil, fmt.Errorf("-dead-letter-url: %w", err)
	}
	return &sqsQueues{
		Queue: orders, dead: dead, run: s.Run, progress: progress,
		open: make(map[string]bool), inHand: make(map[string]string),
	}, nil
}

// check reports harmful settings of the queues. Its error says why they can't be
// used at all.
func (q *sqsQueues) check(ctx context.Context, s Settings) error {
	cfg, err := ConsumerConfig(s, q.dead)
	if err != nil {
		return err
	}
	findings, err := q.Check(ctx, sqsqueue.CheckConfig{Consumer: cfg})
	if err != nil {
		return fmt.Errorf("-queue-url: %w", err)
	}
	if _, err := q.dead.Check(ctx, sqsqueue.CheckConfig{}); err != nil {
		return fmt.Errorf("-dead-letter-url: %w", err)
	}
	for _, f := range findings {
		_, _ = fmt.Fprintln(q.progress, "check:", terminal.Line(f.String()))
	}
	return nil
}

// DeadLetters implements [Queues].
func (q *sqsQueues) DeadLetters() queue.Sink { return q.dead }

// Open implements [Queues].
func (q *sqsQueues) Open() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open)
}

// Close implements [Queues].
func (q *sqsQueues) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// id returns the id of the order in m, and whether it is of this run.
func (q *sqsQueues) id(m *queue.Message) (id string, ours bool) {
	id = m.Attributes[order.IDAttribute]
	return id, strings.HasPrefix(id, q.run)
}

// Send implements [queue.Sink].
func (q *sqsQueues) Send(ctx context.Context, msgs ...*queue.Message) error {
	q.note(msgs, true) // first, since a message may be acked before Send returns
	err := q.Queue.Send(ctx, msgs...)
	if err != nil {
		q.note(msgs, false)
	}
	return err
}

func (q *sqsQueues) note(msgs []*queue.Message, open bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range msgs {
		if id, _ := q.id(m); open {
			q.open[id] = true
		} else {
			delete(q.open, id)
		}
	}
}

// Receive implements [queue.Source]. SQS does not report when a queue is empty, but
// the orders of a run come to an end.
func (q *sqsQueues) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	if q.ended() {
		return nil, io.EOF
	}
	msgs, err := q.Queue.Receive(ctx, o)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(msgs) > 0:
		q.idle = 0
	case err == nil:
		q.idle++
	}
	for _, m := range msgs {
		if id, ours := q.id(m); ours {
			q.inHand[m.ID] = id
		}
	}
	return msgs, err
}

func (q *sqsQueues) ended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && (len(q.open) == 0 || q.idle >= settled)
}

// Ack implements [queue.Source].
func (q *sqsQueues) Ack(ctx context.Context, msgs ...*queue.Message) error {
	err := q.Queue.Ack(ctx, msgs...)
	var batch *queue.BatchError
	if err != nil && !errors.As(err, &batch) {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.idle = 0
	for i, m := range msgs {
		if batch == nil || batch.Failed[i] == nil {
			delete(q.open, q.inHand[m.ID])
			delete(q.inHand, m.ID)
		}
	}
	return err
}

// Rest implements [Queues]. It deletes nothing: in the end it returns every message
// that it received, of this run or another.
func (q *sqsQueues) Rest(ctx context.Context, missing map[string]bool) (letters, left []*queue.Message, err error) {
	dead, orders := newSweep(q.dead), newSweep(q.Queue)
	defer dead.giveBack(ctx)
	defer orders.giveBack(ctx)
	// A message whose receive failed on the way, because the answer was lost for
	// example, is visible again when its lease ends.
	until := time.Now().Add(lease + 5*time.Second)
	unseen := maps.Clone(missing)
	for n := 0; ; n++ {
		letters, err = q.look(ctx, dead, unseen)
		if err == nil && len(unseen) > 0 {
			left, err = q.look(ctx, orders, unseen)
		}
		if err == nil && len(unseen) == 0 || time.Now().After(until) || errors.Is(err, limiter.ErrMisconfigured) {
			return letters, left, err
		}
		if n == 0 {
			_, _ = fmt.Fprintf(q.progress, "looking for %d orders until %s\n", len(unseen), until.Format(time.TimeOnly))
		}
		if err != nil {
			time.Sleep(poll)
		}
	}
}

// look returns the messages of a queue that belong to this run, and removes their
// ids from unseen.
func (q *sqsQueues) look(ctx context.Context, s *sweep, unseen map[string]bool) ([]*queue.Message, error) {
	err := s.pass(ctx)
	var ours []*queue.Message
	for _, m := range s.found {
		if id, ok := q.id(m); ok {
			ours = append(ours, m)
			delete(unseen, id)
		}
	}
	return ours, err
}

// A sweep reads a queue without deleting anything: received messages stay hidden
// until they are returned.
type sweep struct {
	q     *sqsqueue.Queue
	found map[string]*queue.Message // by the message's ID, as received last
}

func newSweep(q *sqsqueue.Queue) *sweep {
	return &sweep{q: q, found: make(map[string]*queue.Message)}
}

// pass receives until no new message comes.
func (s *sweep) pass(ctx context.Context) error {
	for {
		msgs, err := s.q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: 2 * time.Minute})
		if err != nil {
			return fmt.Errorf("read back %s: %w", s.q.URL(), err)
		}
		before := len(s.found)
		for _, m := range msgs {
			s.found[m.ID] = m
		}
		if len(s.found) == before {
			return nil
		}
	}
}

func (s *sweep) giveBack(ctx context.Context) {
	// Messages that can't be returned are visible again at the end of their lease.
	_ = s.q.Nack(ctx, 0, slices.Collect(maps.Values(s.found))...)
}
