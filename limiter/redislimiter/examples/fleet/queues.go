package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// Queues are that of the orders and that of those that were given up: on
// Amazon SQS, or on a fake of it that is served here over loopback.
type Queues struct {
	orders, dead *sqsqueue.Queue
	fake         *http.Server // nil: not ours
	endpoint     string
	lease        time.Duration
	say          io.Writer
	serving      sync.WaitGroup
}

// OpenQueues opens the queues that the settings name, or serves some. What takes
// long is said.
func OpenQueues(s Settings, say io.Writer) (*Queues, error) {
	q := &Queues{lease: s.Lease, say: say}
	url, deadURL := s.QueueURL, s.DeadLetterURL
	if url == "" {
		server := &sqsfake.Server{}
		var err, errDead error
		url, err = server.CreateQueue("orders", map[string]string{"VisibilityTimeout": strconv.Itoa(int(s.Lease / time.Second))})
		deadURL, errDead = server.CreateQueue("orders-dead", nil)
		ln, errListen := net.Listen("tcp", "127.0.0.1:0")
		if err := errors.Join(err, errDead, errListen); err != nil {
			return nil, fmt.Errorf("serve queues: %w", err)
		}
		q.fake, q.endpoint = &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second}, "http://"+ln.Addr().String()
		q.serving.Go(func() { _ = q.fake.Serve(ln) }) // until Close, as its error says
	}
	client, err := newSQS(q.endpoint)
	if err == nil {
		q.orders, err = sqsqueue.New(client, url, sqsqueue.Config{Wait: time.Second})
	}
	if err == nil {
		q.dead, err = sqsqueue.New(client, deadURL, sqsqueue.Config{Wait: time.Second})
	}
	if err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

// newSQS returns a client for the fake service at an endpoint, or for Amazon
// SQS, or what stands for it, as the environment says. It knows only the
// variables: that is what the SDK has without further modules.
func newSQS(endpoint string) (*sqs.Client, error) {
	if endpoint != "" {
		return sqsfake.NewClient(endpoint), nil
	}
	region, key, secret := os.Getenv("AWS_REGION"), os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if region == "" || key == "" || secret == "" {
		return nil, errors.New("for -queue-url, set AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: \"aws configure export-credentials --format env\" tells the last two")
	}
	o := sqs.Options{Region: region, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: key, SecretAccessKey: secret, SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment"}, nil
	})}
	if url := os.Getenv("AWS_ENDPOINT_URL_SQS"); url != "" {
		o.BaseEndpoint = &url
	}
	return sqs.New(o), nil
}

// Endpoint is that of the fake service, or "".
func (q *Queues) Endpoint() string { return q.endpoint }

// URL is that of the queue of orders.
func (q *Queues) URL() string { return q.orders.URL() }

// DeadLetterURL is that of the other one.
func (q *Queues) DeadLetterURL() string { return q.dead.URL() }

// Send puts up to ten orders on the queue, and returns those that it took.
func (q *Queues) Send(ctx context.Context, orders []sent) (taken []sent, err error) {
	msgs := make([]*queue.Message, len(orders))
	for i, o := range orders {
		msgs[i] = &queue.Message{Body: o.body, Attributes: map[string]string{idAttribute: o.id}}
	}
	err = q.orders.Send(ctx, msgs...)
	var batch *queue.BatchError
	switch {
	case err == nil:
		return orders, nil
	case !errors.As(err, &batch):
		return nil, err
	}
	for i, o := range orders {
		if batch.Failed[i] == nil {
			taken = append(taken, o)
		}
	}
	return taken, err
}

// A sent order is one as it goes to the queue.
type sent struct {
	id   string
	body []byte
}

// idAttribute carries the order's id beside the body, which may be broken.
const idAttribute = "order-id"

// Rest looks for orders that nobody has done: among the dead letters and in the
// queue, until all are found, or could not be there any more. It deletes
// nothing: what it has received it gives back.
func (q *Queues) Rest(ctx context.Context, missing map[string]bool) (letters, left []*queue.Message, err error) {
	missing = maps.Clone(missing)
	dead, orders := &sweep{q: q.dead}, &sweep{q: q.orders}
	defer dead.giveBack(ctx)
	defer orders.giveBack(ctx)
	// What a killed process had in hand is visible again when its lease is over.
	ctx, cancel := context.WithTimeout(ctx, q.lease+5*time.Second)
	defer cancel()
	for n := 0; ; n++ {
		err := dead.pass(ctx, missing)
		if err == nil && len(missing) > 0 {
			err = orders.pass(ctx, missing)
		}
		if len(missing) == 0 || ctx.Err() != nil {
			return dead.found, orders.found, nil
		}
		if err != nil {
			return dead.found, orders.found, err
		}
		if n == 0 {
			_, _ = fmt.Fprintf(q.say, "looking for %d orders for up to %v: killed processes had them in hand\n", len(missing), q.lease+5*time.Second)
		}
	}
}

// A sweep reads a queue.
type sweep struct {
	q        *sqsqueue.Queue
	received []*queue.Message
	found    []*queue.Message // of these, those that were missing
}

// pass receives until nothing comes.
func (s *sweep) pass(ctx context.Context, missing map[string]bool) error {
	for len(missing) > 0 {
		msgs, err := s.q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		if err != nil {
			return fmt.Errorf("look into %s: %w", s.q.URL(), err)
		}
		s.received = append(s.received, msgs...)
		for _, m := range msgs {
			if id := m.Attributes[idAttribute]; missing[id] {
				delete(missing, id)
				s.found = append(s.found, m)
			}
		}
		if len(msgs) == 0 {
			return nil
		}
	}
	return nil
}

func (s *sweep) giveBack(ctx context.Context) {
	for msgs := range slices.Chunk(s.received, 10) {
		_ = s.q.Nack(ctx, 0, msgs...) // it comes back at the end of its lease
	}
}

// Close stops serving.
func (q *Queues) Close() {
	if q.fake != nil {
		_ = q.fake.Close() // nobody uses it any more
	}
	q.serving.Wait()
}
