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
	// Endpoint is where a [Server.Client] believes the server to be.
	Endpoint = "http://sqs.test"

	region  = "us-east-1"
	account = "000000000000"
)

// A Server is an SQS service. The zero Server has no queues and is ready. Don't
// copy it.
type Server struct {
	// Plan is asked about every request. Default: nothing fails.
	Plan Plan
	// Latency is how long every request takes more, half of it before and half of
	// it after it is acted on, as a network does.
	Latency time.Duration
	// MaxInFlight is how many messages of a queue may be in flight. Default
	// 120,000.
	MaxInFlight int
	// LingeringPolls makes a long poll whose caller has gone go on until it would
	// have ended: what it takes then is received by nobody, and stays hidden for
	// its visibility timeout.
	LingeringPolls bool

	mu      sync.Mutex // guards what is below, the queues too, and calls of Plan
	queues  map[string]*queue
	deleted map[string]time.Time // when queues were, by name
	moves   []*move              // message move tasks, the latest last
	stats   map[Op]*Stats        // of all operations under ""
	calls   map[Op]int           // as Plan counts them, under "" in total
}

var (
	_ http.Handler   = (*Server)(nil)
	_ sqs.HTTPClient = (*Server)(nil)
)

// CreateQueue makes a queue as the operation of that name does, but neither
// asks Plan nor counts, and returns its URL.
func (s *Server) CreateQueue(name string, attributes map[string]string) (url string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.createQueue(time.Now(), name, attributes); err != nil {
		return "", err
	}
	return s.URL(name), nil
}

// URL is that of the queue of that name, whether there is one or not.
func (s *Server) URL(name string) string { return Endpoint + "/" + account + "/" + name }

// ARN is that of the queue of that name, whether there is one or not. It goes
// into a RedrivePolicy.
func (s *Server) ARN(name string) string { return arn(name) }

func arn(name string) string { return "arn:aws:sqs:" + region + ":" + account + ":" + name }

// Client returns a client of the SDK that calls the server in process. It has
// static credentials and makes one attempt for each call, unless options say
// otherwise.
func (s *Server) Client(options ...func(*sqs.Options)) *sqs.Client {
	return NewClient(Endpoint, append([]func(*sqs.Options){func(o *sqs.Options) { o.HTTPClient = s }}, options...)...)
}

// NewClient returns a client for a server that is reached over HTTP. It has
// static credentials and makes one attempt for each call, unless options say
// otherwise.
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
	Calls    int // requests that came in, those that failed included
	Failed   int // requests that were answered with an error, or not at all
	Messages int // messages given out; entries that were sent, deleted or changed
	Empty    int // receives that succeeded without a message
	Open     int // requests that are being answered
	MaxOpen  int // the most that Open was
	Bytes    int // of the bodies of requests and answers
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

// ResetStats sets the figures of all operations back to 0, but for Open, and
// MaxOpen to what Open is. Plan goes on counting.
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
	MaxInFlight                int // the most that InFlight was
}

// Queue returns the figures of a queue by its name or URL. A queue that there
// is not has none.
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

// A Message is one that a queue holds.
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

// Messages returns the messages of a queue by its name or URL, in the order in
// which they came into it.
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

// nameOf is the name of the queue of a URL, or of a name.
func nameOf(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }
