//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

const partServe = "serve"

// serve is the server's process. It writes a remote, and ends with its standard
// input, so that it can't outlive the process that started it.
func serve(ctx context.Context, args []string, stdin io.Reader, stdout, _ io.Writer) error {
	fs := flag.NewFlagSet(partServe, flag.ContinueOnError)
	secure := fs.Bool("tls", false, "serve the queues over TLS")
	if err := parse(fs, args, stdout); err != nil {
		return err
	}
	all := newQueues()
	// Two listeners, so that only the consumers' connections are counted.
	service := &http.Server{Handler: &all.service, ReadHeaderTimeout: time.Minute, ConnState: all.connection}
	control := &http.Server{Handler: &all.control, ReadHeaderTimeout: time.Minute}
	scheme, where := "http", remote{}
	if *secure {
		certificate, text, err := selfSigned()
		if err != nil {
			return err
		}
		scheme, where.Certificate = "https", text
		service.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
		service.Protocols = new(http.Protocols)
		service.Protocols.SetHTTP1(true) // Amazon's SQS speaks HTTP/1.1 only
	}
	var listen net.ListenConfig
	ended := make(chan error, 2)
	for _, s := range []*http.Server{service, control} {
		l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return errors.Join(err, service.Close())
		}
		if s == service {
			where.Service = scheme + "://" + l.Addr().String()
		} else {
			where.Control = "http://" + l.Addr().String()
		}
		go func() {
			if s.TLSConfig != nil {
				ended <- s.ServeTLS(l, "", "")
			} else {
				ended <- s.Serve(l)
			}
		}()
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		_, _ = service.Close(), control.Close()
	}()
	if err := json.NewEncoder(stdout).Encode(where); err != nil {
		return err
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
	}
	return nil
}

// selfSigned returns a certificate for this machine, and as PEM.
func selfSigned() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(text), nil
}

// A queueSpec says how to create and fill a queue.
type queueSpec struct {
	Messages, Size      int
	Latency, Visibility time.Duration
}

// A queueState has the content and the counts of a queue so far.
type queueState struct {
	Left        int // messages that are not deleted
	Deleted     int
	Received    int // deliveries
	MaxInFlight int // peak number of messages received and not deleted
	MaxReceives int // peak number of open receives
	Calls       int // requests of any kind
	Failed      int // of these, answered with an error

	// From a second after the first request: connections to all queues, and messages
	// that were deleted from this one.
	LateOpened, LateDeleted int
}

// queues serves fake SQS services, each with one queue and its own latency, and
// creates, reports and removes them over HTTP.
type queues struct {
	service http.ServeMux // of the queues
	control http.ServeMux
	opened  atomic.Int64 // connections to service

	mu   sync.Mutex // guards all below
	last int
	all  map[string]*served
}

// A served is the service of one queue, with its counts one second after the first
// request.
type served struct {
	sqsfake.Server
	first  sync.Once
	second atomic.Pointer[late]
}

type late struct{ opened, deleted int }

const queueName = "orders"

func newQueues() *queues {
	q := &queues{all: make(map[string]*served)}
	q.control.HandleFunc("POST /queues", q.create)
	q.control.HandleFunc("GET /queues/{id}", q.with(func(w http.ResponseWriter, _ *http.Request, s *served) {
		reply(w, q.state(s))
	}))
	q.control.HandleFunc("DELETE /queues/{id}", func(_ http.ResponseWriter, r *http.Request) {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.all, r.PathValue("id"))
	})
	q.service.HandleFunc("POST /sqs/{id}/", q.with(func(w http.ResponseWriter, r *http.Request, s *served) {
		s.first.Do(func() {
			time.AfterFunc(time.Second, func() {
				s.second.Store(&late{int(q.opened.Load()), s.Queue(queueName).Deleted})
			})
		})
		s.ServeHTTP(w, r)
	}))
	return q
}

func (q *queues) state(s *served) queueState {
	st, calls := s.Queue(queueName), s.Stats("")
	now := queueState{
		Left:        st.Visible + st.Delayed + st.InFlight,
		Deleted:     st.Deleted,
		Received:    st.Received,
		MaxInFlight: st.MaxInFlight,
		MaxReceives: s.Stats(sqsfake.ReceiveMessage).MaxOpen,
		Calls:       calls.Calls,
		Failed:      calls.Failed,
	}
	if then := s.second.Load(); then != nil {
		now.LateOpened, now.LateDeleted = int(q.opened.Load())-then.opened, st.Deleted-then.deleted
	}
	return now
}

func (q *queues) connection(_ net.Conn, s http.ConnState) {
	if s == http.StateNew {
		q.opened.Add(1)
	}
}

// with finds the service that a request is for.
func (q *queues) with(f func(http.ResponseWriter, *http.Request, *served)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q.mu.Lock()
		s := q.all[r.PathValue("id")]
		q.mu.Unlock()
		if s == nil {
			http.NotFound(w, r)
			return
		}
		f(w, r, s)
	}
}

func (q *queues) create(w http.ResponseWriter, r *http.Request) {
	var spec queueSpec
	if err := json.NewDecoder(r.Body).Decode(&spec); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s := &served{}
	if err := fill(r.Context(), &s.Server, spec); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.Latency = spec.Latency // from now on: only fill has called so far
	s.ResetStats()
	runtime.GC() // the rest of the filling is not measured

	q.mu.Lock()
	q.last++
	id := strconv.Itoa(q.last)
	q.all[id] = s
	q.mu.Unlock()
	reply(w, id)
}

// fill creates the queue with its messages.
func fill(ctx context.Context, s *sqsfake.Server, spec queueSpec) error {
	url, err := s.CreateQueue(queueName, map[string]string{
		"VisibilityTimeout": strconv.Itoa(int(spec.Visibility / time.Second)),
	})
	if err != nil {
		return err
	}
	client := s.Client()
	for first := 0; first < spec.Messages; first += 10 {
		in := &sqs.SendMessageBatchInput{QueueUrl: &url}
		for i := first; i < min(first+10, spec.Messages); i++ {
			id, body := strconv.Itoa(i), bodyOf(i, spec.Size)
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &body})
		}
		out, err := client.SendMessageBatch(ctx, in)
		if err != nil {
			return err
		}
		if len(out.Failed) > 0 {
			return fmt.Errorf("message %s was not accepted: %s", *out.Failed[0].Id, *out.Failed[0].Message)
		}
	}
	return nil
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a caller that has gone gets no answer
}

// A remote is the queues of another process: the URLs of the service and of its
// control, and the service's certificate, "" without TLS.
type remote struct{ Service, Control, Certificate string }

// A remoteQueue is one of those queues.
type remoteQueue struct {
	remote
	id string
}

func (r remote) create(ctx context.Context, spec queueSpec) (remoteQueue, error) {
	q := remoteQueue{remote: r}
	return q, r.call(ctx, http.MethodPost, "/queues", spec, &q.id)
}

func (q remoteQueue) state(ctx context.Context) (s queueState, err error) {
	return s, q.call(ctx, http.MethodGet, "/queues/"+q.id, nil, &s)
}

func (q remoteQueue) remove(ctx context.Context) error {
	return q.call(ctx, http.MethodDelete, "/queues/"+q.id, nil, nil)
}

// endpoint is where consumers find the service of the queue.
func (q remoteQueue) endpoint() string { return q.Service + "/sqs/" + q.id + "/" }

func (r remote) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.Control+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, strings.TrimSpace(string(answer)))
	case out == nil:
		return nil
	}
	return json.Unmarshal(answer, out)
}
