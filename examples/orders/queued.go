package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/examples/internal/interrupt"
	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/internal/terminal"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

// QueuedReport is the result of the spike with a queue and a limited
// consumer between the front door and the API.
type QueuedReport struct {
	Accepted     int          `json:"accepted"`       // orders answered with 200, and those put straight on the queue
	Stored       int          `json:"stored"`         // of these, as the store counts
	DeadLettered int          `json:"dead_lettered"`  // in the dead-letter queue
	Left         int          `json:"left_in_queue"`  // of the accepted, after an interrupt
	Lost         int          `json:"lost"`           // accepted, and in none of the three
	StoredTwice  int          `json:"stored_twice"`   // as the store counts
	Failed       int          `json:"failed"`         // not accepted
	Requests     int          `json:"requests"`       // this and the following as the API counts
	Rejected429  int          `json:"rejected_429"`   // over a limit
	Outage       int          `json:"failed_503"`     // during the outage
	InFlight     int          `json:"peak_in_flight"` // handled concurrently
	Open         int          `json:"peak_open"`      // including refused ones
	OverRate     int          `json:"max_over_rate"`  // above burst + rate*t, over all windows
	Seconds      float64      `json:"seconds"`
	DeadLetters  []DeadLetter `json:"dead_letters"`

	// Orders that were stored but not accepted in this run: the queue took them but
	// its answer did not arrive in time, or another run had accepted them and this
	// one found them in the queue.
	Unconfirmed int `json:"stored_unconfirmed,omitempty"`
	Earlier     int `json:"stored_of_earlier_runs,omitempty"`
}

// A DeadLetter is an order in the dead-letter queue.
type DeadLetter struct {
	ID       string `json:"id"`
	Reason   string `json:"reason"`
	Error    string `json:"error"`
	Attempts int    `json:"attempts"`
}

// lease is how long an order that the consumer received is hidden from others.
const lease = 30 * time.Second

// drainTimeout is how long the consumer waits for running handlers after an
// interrupt.
const drainTimeout = 30 * time.Second

// ConsumerConfig returns the consumer's settings, which keep it within the API's
// limits.
func ConsumerConfig(s Settings, deadLetters queue.Sink) (queue.Config, error) {
	breaker, err := limiter.NewBreaker(limiter.BreakerConfig{
		Name: "inventory", OpenFor: 250 * time.Millisecond, MaxOpen: 500 * time.Millisecond,
	})
	if err != nil {
		return queue.Config{}, err
	}
	rate, err := limiter.NewTokenBucket(s.Rate, s.Burst)
	if err != nil {
		return queue.Config{}, err
	}
	// The handler makes one call, so the call's limits can apply to the handler. If it
	// made several, the client would acquire the rate, and the rate would be the Gate.
	limit, err := limiter.All(breaker, rate)
	if err != nil {
		return queue.Config{}, err
	}
	return queue.Config{
		Name:        "orders",
		Concurrency: s.Concurrency,
		Limiter:     limit,
		Retry:       retry.Policy{BaseDelay: 200 * time.Millisecond, MaxDelay: 2 * time.Second},
		DeadLetter:  deadLetters,
		Lease:       lease,

		DrainTimeout: drainTimeout,
	}, nil
}

// Queued plays the spike against a front door that only puts orders on a
// queue. The poison orders, which it would refuse, are put on the queue
// directly.
func Queued(ctx context.Context, s Settings, sp Spike, queues Queues, p *Progress) (QueuedReport, Timeline, error) {
	fail := func(err error) (QueuedReport, Timeline, error) { return QueuedReport{}, Timeline{}, err }
	cfg, err := ConsumerConfig(s, queues.DeadLetters())
	if err != nil {
		return fail(err)
	}
	cfg.Logger = p.Logger()
	api, err := NewAPI(s, sp, nil)
	if err != nil {
		return fail(err)
	}
	store := order.NewMemoryStore()
	consumer, err := queue.NewConsumer(queues, order.Fulfiller{Inventory: api.Client, Store: store}.Handler(), cfg)
	if err != nil {
		api.Close()
		return fail(err)
	}
	var first refusal
	submit := Enqueue(queues)
	url, stop, err := serve(FrontDoor{Submit: func(ctx context.Context, o order.Order) error {
		return first.note(p.Lines(), submit(ctx, o))
	}})
	if err != nil {
		api.Close()
		return fail(err)
	}
	shop := NewShop(url)

	start := time.Now()
	var taken accepted
	done := p.Watch("queued", len(sp.Arrivals), func() (int, string) {
		stats := consumer.Stats()
		open := queues.Open()
		text := quantities("stored", int(stats.Done), "in the queue", open)
		if b := stats.Blocked; b.Reason != "" && b.Reason != queue.ByIdle {
			text += ", waits: " + limiter.Block{Reason: b.Reason, Name: b.Name}.String()
		}
		return max(taken.count()-open, 0), text // an order may be in the queue but not yet confirmed
	})
	said := interrupt.Say(ctx, p.Lines(), func() string {
		s := consumer.Stats()
		return fmt.Sprintf("draining: waiting up to %v for what is under way (handlers: %d, receives: %d)", drainTimeout, s.Running, s.Receiving)
	})
	ran := make(chan error, 1)
	go func() { ran <- consumer.Run(ctx) }()
	sp.Play(ctx, func(a Arrival) {
		var ok bool
		if a.Poison {
			m := &queue.Message{Body: a.Body, Attributes: map[string]string{order.IDAttribute: a.ID}}
			ok = first.note(p.Lines(), queues.Send(context.WithoutCancel(ctx), m)) == nil // as a sender outside this program would
		} else {
			status, err := shop.Place(a.Body)
			ok = err == nil && status == http.StatusOK
		}
		taken.add(a.ID, ok)
	})
	queues.Close() // the consumer ends when the queues are empty
	ranErr := <-ran
	took := time.Since(start)
	said()
	done()
	shop.Close()
	stop()
	stats, arrivals := api.Close()

	// Where everything is now, after an interrupt too.
	ctx = context.WithoutCancel(ctx)
	r := QueuedReport{
		Accepted: len(taken.ids), Failed: taken.failed,
		Requests: stats.Requests, Rejected429: stats.RejectedByRate + stats.RejectedByConcurrency, Outage: stats.FailedByOutage,
		InFlight: stats.PeakInFlight, Open: stats.PeakOpen, OverRate: stats.MaxOverRate,
		Seconds: seconds(took), DeadLetters: []DeadLetter{},
	}
	missing := maps.Clone(taken.ids)
	for _, a := range sp.Arrivals {
		_, stored, err := store.Get(ctx, a.ID)
		switch {
		case err != nil:
			return fail(err)
		case stored && missing[a.ID]:
			r.Stored++
			delete(missing, a.ID)
		case stored:
			r.Unconfirmed++
		}
	}
	all, repeats := store.Stored()
	r.Earlier, r.StoredTwice = all-r.Stored-r.Unconfirmed, repeats

	letters, left, restErr := queues.Rest(ctx, missing)
	for _, m := range letters {
		delete(missing, m.Attributes[order.IDAttribute])
	}
	lost := maps.Clone(missing)
	for _, m := range left {
		delete(lost, m.Attributes[order.IDAttribute])
	}
	r.DeadLettered, r.Left, r.Lost = len(letters), len(missing)-len(lost), len(lost)
	for _, m := range letters {
		r.DeadLetters = append(r.DeadLetters, deadLetter(m))
	}
	slices.SortFunc(r.DeadLetters, func(a, b DeadLetter) int { return cmp.Compare(a.ID, b.ID) })
	title := fmt.Sprintf("Through rampmeter: %d stored, %d dead-lettered, %d lost", r.Stored, r.DeadLettered, r.Lost)
	var sendErr error
	if r.Accepted == 0 && r.Failed > 0 {
		sendErr = first.ofAll(r.Failed)
	}
	return r, Timeline{title, arrivals}, errors.Join(sendErr, ranErr, restErr)
}

// A refusal is the first error with which the queue refused an order. Customers do not
// see it.
type refusal struct {
	once sync.Once
	err  error
}

// note returns err, and writes it to w if it is the first.
func (f *refusal) note(w io.Writer, err error) error {
	if err != nil {
		f.once.Do(func() {
			f.err = err
			_, _ = fmt.Fprintln(w, "an order is not accepted:", terminal.Line(err.Error()))
		})
	}
	return err
}

// ofAll returns the error of a pass that has accepted none of n orders.
func (f *refusal) ofAll(n int) error {
	if f.err == nil {
		return fmt.Errorf("none of %d orders was accepted", n)
	}
	return fmt.Errorf("none of %d orders was accepted, the first one for this: %w", n, f.err)
}

// deadLetter returns the record that the consumer attached to a dead letter.
func deadLetter(m *queue.Message) DeadLetter {
	record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute])
	if err != nil {
		record = retry.DeadLetter{Reason: "unknown", Error: err.Error()}
	}
	return DeadLetter{ID: m.Attributes[order.IDAttribute], Reason: record.Reason, Error: record.Error, Attempts: record.Attempts}
}

// accepted are the orders whose customers were promised that they will be
// fulfilled.
type accepted struct {
	mu     sync.Mutex // guards what follows; no lock is needed after the spike
	ids    map[string]bool
	failed int
}

func (a *accepted) add(id string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !ok:
		a.failed++
	case a.ids == nil:
		a.ids = map[string]bool{id: true}
	default:
		a.ids[id] = true
	}
}

func (a *accepted) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.ids)
}
