package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// workerArg is the argument with which the program starts itself as a worker.
const workerArg = "worker"

// The commands of a worker, a line each, after its Task. The end of its input ends
// it.
const (
	commandWork = "work" // as it does from the beginning
	commandRest = "rest"
)

// A Task is the first line that a worker reads.
type Task struct {
	Limits
	Worker   string // its name
	Name     string // of the limits
	OnOutage string
	Lease    time.Duration

	Redis, API              string
	SQS                     string // of a fake service, or ""
	QueueURL, DeadLetterURL string
}

// A Status is what a worker writes now and then, a line each.
type Status struct {
	State   string  `json:"state"`
	Share   float64 `json:"share"`  // requests a second
	Places  int     `json:"places"` // requests at once
	Running int     `json:"running"`
	Done    int64   `json:"done"`
	Calls   uint64  `json:"calls"` // to Redis
	Failed  uint64  `json:"failed_calls"`
	Missed  uint64  `json:"missed"` // permissions that ran out unused
	Waits   string  `json:"waits"`  // for what, if it receives nothing
}

// statusEvery is how often.
const statusEvery = 250 * time.Millisecond

// work is a worker process. It returns the exit code.
func work(stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(os.Interrupt) // a terminal sends it to all; the parent ends us
	logging.Disable()           // the limiters' State says it
	in := bufio.NewScanner(stdin)
	var task Task
	if !in.Scan() {
		_, _ = fmt.Fprintln(stderr, "worker: no task on stdin")
		return 2
	}
	err := json.Unmarshal(in.Bytes(), &task)
	if err == nil {
		var w *worker
		if w, err = newWorker(task, stderr); err == nil {
			err = w.run(in, json.NewEncoder(stdout))
		}
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// A worker consumes the queue within the fleet's limits.
type worker struct {
	redis   *redis.Client
	rate    *redislimiter.TokenBucket
	places  *redislimiter.Semaphore
	orders  *sqsqueue.Queue
	handler queue.Handler
	cfg     queue.Config

	mu       sync.Mutex // guards what follows
	consumer *queue.Consumer
	before   int64 // done by earlier consumers
}

// newWorker sets up one process's part of the fleet: all there is to do.
func newWorker(t Task, stderr io.Writer) (*worker, error) {
	var fleet redislimiter.Config
	if t.OnOutage == redislimiter.Closed.String() {
		fleet.OnOutage = redislimiter.Closed
	}
	client := redis.NewClient(&redis.Options{Addr: t.Redis, ContextTimeoutEnabled: true})
	rate, errRate := redislimiter.NewTokenBucket(client, t.Name+"-rate", t.Rate, t.Burst, fleet)
	places, errPlaces := redislimiter.NewSemaphore(client, t.Name+"-concurrency", t.Concurrency, fleet)
	breaker, errBreaker := limiter.NewBreaker(limiter.BreakerConfig{Name: "inventory"})
	limit, errLimit := limiter.All(breaker, rate, places)
	sqs, errSQS := newSQS(t.SQS)
	if err := errors.Join(errRate, errPlaces, errBreaker, errLimit, errSQS); err != nil {
		return nil, err
	}
	orders, errOrders := sqsqueue.New(sqs, t.QueueURL, sqsqueue.Config{Wait: time.Second}) // so that a worker ends within that
	dead, errDead := sqsqueue.New(sqs, t.DeadLetterURL, sqsqueue.Config{})
	api, errAPI := inventory.New(inventory.Config{BaseURL: t.API, Token: "example"}.WithTransport(func(base http.RoundTripper) http.RoundTripper {
		return signed{t.Worker, base}
	}))
	if err := errors.Join(errOrders, errDead, errAPI); err != nil {
		return nil, err
	}
	return &worker{
		redis: client, rate: rate, places: places, orders: orders,
		handler: queue.Decode(json.Unmarshal, func(ctx context.Context, _ *queue.Message, o Order) error {
			_, err := api.Adjust(ctx, inventory.Adjustment{SKU: o.SKU, Delta: -1, Reference: o.ID, IdempotencyKey: o.ID})
			return err
		}),
		cfg: queue.Config{
			Name:        "orders",
			Concurrency: t.Concurrency, // all of the fleet's places may be here
			Limiter:     limit,
			Retry:       retry.Policy{BaseDelay: 200 * time.Millisecond, MaxDelay: 2 * time.Second},
			DeadLetter:  dead,
			Lease:       t.Lease,
			Logger:      slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		},
	}, nil
}

// run obeys the commands until the input ends.
func (w *worker) run(in *bufio.Scanner, out *json.Encoder) error {
	stopped := make(chan struct{})
	var reports sync.WaitGroup
	reports.Go(func() {
		tick := time.NewTicker(statusEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = out.Encode(w.status()) // without a parent, the input has ended too
			case <-stopped:
				return
			}
		}
	})

	rest, err := w.work()
	for err == nil && in.Scan() {
		switch in.Text() {
		case commandRest:
			err = rest()
		case commandWork:
			rest, err = w.work()
		}
	}
	if err == nil {
		err = rest()
	}
	// What is given back now, the others have at once.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = w.places.Close(ctx) // without Redis it runs out there
	_ = w.rate.Close(ctx)
	close(stopped)
	reports.Wait()
	return errors.Join(err, out.Encode(w.status()), w.redis.Close())
}

// work consumes until the returned function is called, which waits for what is
// under way.
func (w *worker) work() (rest func() error, err error) {
	c, err := queue.NewConsumer(w.orders, w.handler, w.cfg)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.consumer = c
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	return sync.OnceValue(func() error {
		cancel()
		err := <-ran
		w.mu.Lock()
		defer w.mu.Unlock()
		w.before += c.Stats().Done
		w.consumer = nil
		return err
	}), nil
}

func (w *worker) status() Status {
	rate, places := w.rate.Stats(), w.places.Stats()
	s := Status{
		State: rate.State.String(), Share: rate.Share, Places: places.Share,
		Calls: rate.Calls + places.Calls, Failed: rate.Failures + places.Failures, Missed: rate.Missed,
		Waits: "rests",
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Done = w.before
	if w.consumer != nil {
		stats := w.consumer.Stats()
		s.Done += stats.Done
		s.Running, s.Waits = stats.Running, string(stats.Blocked.Reason)
	}
	return s
}

// signed tells the API which process it is that asks, so that it can say who
// got how much.
type signed struct {
	worker string
	base   http.RoundTripper
}

const workerHeader = "X-Worker"

func (s signed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(workerHeader, s.worker)
	return s.base.RoundTrip(r)
}
