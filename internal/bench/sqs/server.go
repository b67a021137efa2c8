//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

const partServe = "serve"

// serve is the server's process. It writes its address, and ends with its
// standard input, so that it can't outlive who started it.
func serve(ctx context.Context, args []string, stdin io.Reader, stdout, _ io.Writer) error {
	if err := parse(flag.NewFlagSet(partServe, flag.ContinueOnError), args, stdout); err != nil {
		return err
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stdout, "http://%s\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{Handler: newQueues(), ReadHeaderTimeout: time.Minute}
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		_ = server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A queueSpec says what a queue is to be like and to hold.
type queueSpec struct {
	Messages, Size      int
	Latency, Visibility time.Duration
}

// A queueState is what a queue holds and what was done with it so far.
type queueState struct {
	Left        int // messages that are not deleted
	Deleted     int
	Received    int // deliveries
	MaxInFlight int // the most messages that were received and not deleted at once
	Calls       int // requests of any kind
	Failed      int // of these, answered with an error
}

// queues serves fake SQS services, each with one queue and with a latency of
// its own, and lets them be made, watched and removed over HTTP.
type queues struct {
	mux http.ServeMux

	mu   sync.Mutex // guards what is below
	last int
	all  map[string]*sqsfake.Server
}

const queueName = "orders"

func newQueues() *queues {
	q := &queues{all: make(map[string]*sqsfake.Server)}
	q.mux.HandleFunc("POST /queues", q.create)
	q.mux.HandleFunc("GET /queues/{id}", q.with(func(w http.ResponseWriter, _ *http.Request, s *sqsfake.Server) {
		st, calls := s.Queue(queueName), s.Stats("")
		reply(w, queueState{
			Left:        st.Visible + st.Delayed + st.InFlight,
			Deleted:     st.Deleted,
			Received:    st.Received,
			MaxInFlight: st.MaxInFlight,
			Calls:       calls.Calls,
			Failed:      calls.Failed,
		})
	}))
	q.mux.HandleFunc("DELETE /queues/{id}", func(_ http.ResponseWriter, r *http.Request) {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.all, r.PathValue("id"))
	})
	q.mux.HandleFunc("POST /sqs/{id}/", q.with(func(w http.ResponseWriter, r *http.Request, s *sqsfake.Server) {
		s.ServeHTTP(w, r)
	}))
	return q
}

func (q *queues) ServeHTTP(w http.ResponseWriter, r *http.Request) { q.mux.ServeHTTP(w, r) }

// with finds the service that a request is for.
func (q *queues) with(f func(http.ResponseWriter, *http.Request, *sqsfake.Server)) http.HandlerFunc {
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
	s := &sqsfake.Server{}
	if err := fill(r.Context(), s, spec); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.Latency = spec.Latency // from now on: nobody has called yet but fill
	s.ResetStats()
	runtime.GC() // what is left of the filling is no part of what is measured

	q.mu.Lock()
	q.last++
	id := strconv.Itoa(q.last)
	q.all[id] = s
	q.mu.Unlock()
	reply(w, id)
}

// fill makes the queue, with its messages.
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
	_ = json.NewEncoder(w).Encode(v) // a caller that has gone is told nothing
}

// A remote is the queues of another process.
type remote struct{ address string }

// A remoteQueue is one of them.
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
func (q remoteQueue) endpoint() string { return q.address + "/sqs/" + q.id + "/" }

func (r remote) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, r.address+path, bytes.NewReader(body))
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
