package lambdalocal_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

// A stage is a queue with a dead-letter queue, in a bubble, and a mapping of it.
type stage struct {
	*testing.T
	*sqsfake.Server
	client *sqs.Client
	url    string
	name   string
	*lambdalocal.Mapping
	stop func() // ends the mapping
}

// A setup is what is not usual about a stage.
type setup struct {
	fifo       bool
	visibility int // seconds, default 60
	maxReceive int // default 1000
	server     *sqsfake.Server
}

func stageOf(t *testing.T, s setup, f func(*stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := &stage{T: t, Server: &sqsfake.Server{}, name: "orders"}
		if s.server != nil {
			st.Plan, st.Latency = s.server.Plan, s.server.Latency
		}
		if s.visibility == 0 {
			s.visibility = 60
		}
		if s.maxReceive == 0 {
			s.maxReceive = 1000
		}
		dead, attributes := "dead", map[string]string{"VisibilityTimeout": fmt.Sprint(s.visibility)}
		if s.fifo {
			st.name, dead = "orders.fifo", "dead.fifo"
			attributes["FifoQueue"], attributes["ContentBasedDeduplication"] = "true", "true"
			_, err := st.CreateQueue(dead, map[string]string{"FifoQueue": "true"})
			require.NoError(t, err)
		} else {
			_, err := st.CreateQueue(dead, nil)
			require.NoError(t, err)
		}
		attributes["RedrivePolicy"] = fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":%d}`, st.ARN(dead), s.maxReceive)
		url, err := st.CreateQueue(st.name, attributes)
		require.NoError(t, err)
		st.url, st.client = url, st.Client()
		st.stop = func() {}
		defer func() { st.stop() }()
		f(st)
	})
}

// send sends n messages, with the bodies "0", "1", …
func (s *stage) send(n int) {
	s.Helper()
	for first := 0; first < n; first += 10 {
		in := &sqs.SendMessageBatchInput{QueueUrl: &s.url}
		for i := first; i < min(n, first+10); i++ {
			text := fmt.Sprint(i)
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: &text, MessageBody: &text})
		}
		_, err := s.client.SendMessageBatch(s.Context(), in)
		require.NoError(s, err)
	}
}

func (s *stage) sendTo(group, body string) {
	s.Helper()
	in := &sqs.SendMessageInput{QueueUrl: &s.url, MessageBody: &body}
	if group != "" {
		in.MessageGroupId = &group
	}
	_, err := s.client.SendMessage(s.Context(), in)
	require.NoError(s, err)
}

// run starts a mapping.
func (s *stage) run(f lambdalocal.Invoker, change func(*lambdalocal.MappingConfig)) {
	s.Helper()
	cfg := lambdalocal.MappingConfig{Client: s.client, QueueURL: s.url, Function: f}
	if change != nil {
		change(&cfg)
	}
	var err error
	s.Mapping, err = lambdalocal.NewMapping(cfg)
	require.NoError(s, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Mapping.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(s, <-done)
		st := s.Mapping.Stats()
		require.Equal(s, st.Received, st.Deleted+st.Undeleted+st.Returned+st.Dropped, "%+v", st)
		require.Zero(s, st.Concurrency)
		require.Zero(s, st.Pollers)
	})
}

// after lets so much time pass.
func (s *stage) after(d time.Duration) lambdalocal.Stats {
	time.Sleep(d) // in a bubble
	synctest.Wait()
	return s.Mapping.Stats()
}

// left is how many messages the queue has.
func (s *stage) left() int {
	q := s.Queue(s.name)
	return q.Visible + q.Delayed + q.InFlight
}

// A raw is an invoker with configurable responses.
type raw struct {
	timeout time.Duration
	f       func(events.SQSEvent) ([]byte, error)

	mu     sync.Mutex // guards events
	events []events.SQSEvent
}

func answering(f func(events.SQSEvent) ([]byte, error)) *raw {
	return &raw{timeout: 10 * time.Second, f: f}
}

func (r *raw) Timeout() time.Duration { return r.timeout }

func (r *raw) Invoke(_ context.Context, payload []byte) ([]byte, error) {
	var e events.SQSEvent
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	return r.f(e)
}

func (r *raw) seen() []events.SQSEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events
}

// ok succeeds with every event.
func ok(events.SQSEvent) ([]byte, error) { return []byte(`{"batchItemFailures":[]}`), nil }

func bodies(e events.SQSEvent) []string {
	out := []string{}
	for _, r := range e.Records {
		out = append(out, r.Body)
	}
	return out
}
