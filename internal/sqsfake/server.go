package sqsfake

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

const (
	// Endpoint is the server's address for a [Server.Client].
	Endpoint = "http://sqs.test"

	region  = "us-east-1"
	account = "000000000000"
)

// A Server is an SQS service. The zero Server has no queues and is ready to use. It
// must not be copied.
type Server struct {
	// Plan is called for every request. Default: no faults.
	Plan Plan
	// Latency is the network latency added to every request, half of it before and
	// half of it after the request is acted on.
	Latency time.Duration
	// MaxInFlight is how many messages of a queue may be in flight. Default
	// 120,000.
	MaxInFlight int
	// LingeringPolls makes a long poll continue to its end although its caller has
	// gone. Nobody receives the messages that it takes, and they stay hidden for their
	// visibility timeout.
	LingeringPolls bool

	mu      sync.Mutex // guards what is below, the queues too, and calls of Plan
	queues  map[string]*queue
	deleted map[string]time.Time // when queues were deleted, by name
	moves   []*move              // message move tasks, the latest last
	stats   map[Op]*Stats        // of all operations under ""
	calls   map[Op]int           // as Plan counts them, under "" in total
}

var (
	_ http.Handler   = (*Server)(nil)
	_ sqs.HTTPClient = (*Server)(nil)
)

// CreateQueue creates a queue as the operation of that name does, but neither calls
// Plan nor counts as a request, and returns the queue's URL.
func (s *Server) CreateQueue(name string, attributes map[string]string) (url string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.createQueue(time.Now(), name, attributes); err != nil {
		return "", err
	}
	return s.URL(name), nil
}

// URL returns the URL of the queue with that name, whether or not it exists.
func (s *Server) URL(name string) string { return Endpoint + "/" + account + "/" + name }

// ARN returns the ARN of the queue with that name, whether or not it exists. It is used
// in a RedrivePolicy.
func (s *Server) ARN(name string) string { return arn(name) }

func arn(name string) string { return "arn:aws:sqs:" + region + ":" + account + ":" + name }

// Client returns an SDK client that calls the server in process. It has
// static credentials and makes one attempt for each call, unless options say
// otherwise.
func (s *Server) Client(options ...func(*sqs.Options)) *sqs.Client {
	return NewClient(Endpoint, append([]func(*sqs.Options){func(o *sqs.Options) { o.HTTPClient = s }}, options...)...)
}

// NewClient returns an SDK client for a server at an HTTP endpoint. It has static
// credentials and makes one attempt for each call, unless options say otherwise.
func NewClient(endpoint string, options ...func(*sqs.Options)) *sqs.Client {
	return sqs.New(sqs.Options{
		BaseEndpoint: &endpoint,
		Region:       region,
		Retryer:      aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "FAKE", SecretAccessKey: "fake"}, nil
		}),
	}, options...)
}

// Stats are the figures of an operation.
type Stats struct {
	Calls    int // requests that arrived, including those that failed
	Failed   int // requests whose reply was an error, or that got no reply
	Messages int // messages received; entries that were sent, deleted or changed
	Empty    int // receives that succeeded without a message
	Open     int // requests in progress
	MaxOpen  int // the maximum of Open
	Bytes    int // of the bodies of requests and replies
	Billed   int // requests as the service bills them: one for each 64 KiB begun of the larger body
}

// Stats returns the figures of op; of all operations together if op is "".
func (s *Server) Stats(op Op) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.stats[op]; st != nil {
		return *st
	}
	return Stats{}
}

// ResetStats resets the figures of all operations to 0, except Open, and MaxOpen to
// Open. The numbers that Plan gets are not reset.
func (s *Server) ResetStats() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.stats {
		*st = Stats{Open: st.Open, MaxOpen: st.Open}
	}
}

// QueueStats are the figures of a queue.
type QueueStats struct {
	Visible, Delayed, InFlight int // messages now
	Sent                       int // messages accepted, without suppressed duplicates
	Received                   int // times that a message was received
	Deleted                    int // messages deleted
	Redriven                   int // messages moved to the dead-letter queue
	Expired                    int // messages dropped at the end of their retention
	MaxInFlight                int // the maximum of InFlight
}

// Queue returns the figures of a queue by its name or URL. They are 0 for a queue that
// does not exist.
func (s *Server) Queue(name string) QueueStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[nameOf(name)]
	if q == nil {
		return QueueStats{}
	}
	q.advance(time.Now())
	return q.figures()
}

func (q *queue) figures() QueueStats {
	st := q.counts
	st.Visible = len(q.messages) - st.Delayed - st.InFlight
	return st
}

// A Message is a message in a queue.
type Message struct {
	ID       string
	Body     string
	Group    string
	Dedup    string
	Receives int // in all queues
	SentAt   time.Time
	// VisibleAt is when it becomes visible again. Zero: it is visible.
	VisibleAt time.Time
	// Attributes are the values of the user attributes, Binary ones as bytes.
	Attributes map[string]string
}

// Messages returns the messages of a queue by its name or URL, in the order in which
// they were added to it.
func (s *Server) Messages(name string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[nameOf(name)]
	if q == nil {
		return nil
	}
	q.advance(time.Now())
	var all []*message
	for _, m := range q.messages {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *message) int { return cmp.Compare(a.seq, b.seq) })
	var out []Message
	for _, m := range all {
		o := Message{ID: m.id, Body: m.body, Group: m.group, Dedup: m.dedup, Receives: m.receives, SentAt: m.sent, Attributes: make(map[string]string)}
		if m.hidden() {
			o.VisibleAt = m.until
		}
		for name, a := range m.attributes {
			o.Attributes[name] = a.text()
		}
		out = append(out, o)
	}
	return out
}

// nameOf returns the queue's name from its URL or name.
func nameOf(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }
