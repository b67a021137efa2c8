package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// QueuedReport is what became of the spike with a queue and a limited
// consumer between the front door and the API.
type QueuedReport struct {
	Accepted     int          `json:"accepted"`       // orders answered with 200, and those put straight on the queue
	Stored       int          `json:"stored"`         // as the store counts
	DeadLettered int          `json:"dead_lettered"`  // in the dead-letter queue
	Left         int          `json:"left_in_queue"`  // after an interrupt
	Lost         int          `json:"lost"`           // accepted, and in none of the three places
	StoredTwice  int          `json:"stored_twice"`   // as the store counts
	Failed       int          `json:"failed"`         // not accepted
	Requests     int          `json:"requests"`       // this and the following as the API counts
	Rejected429  int          `json:"rejected_429"`   // over a limit
	Outage       int          `json:"failed_503"`     // during the outage
	InFlight     int          `json:"peak_in_flight"` // worked on at once
	Open         int          `json:"peak_open"`      // and with those that were turned away
	OverRate     int          `json:"max_over_rate"`  // above burst + rate*t, over all windows
	Seconds      float64      `json:"seconds"`
	DeadLetters  []DeadLetter `json:"dead_letters"`
}

// A DeadLetter is an order that was given up.
type DeadLetter struct {
	ID       string `json:"id"`
	Reason   string `json:"reason"`
	Error    string `json:"error"`
	Attempts int    `json:"attempts"`
}

// NewConsumer returns the consumer that keeps to the API's limits.
func NewConsumer(s Settings, orders queue.Source, deadLetters queue.Sink, h queue.Handler) (*queue.Consumer, error) {
	breaker, err := limiter.NewBreaker(limiter.BreakerConfig{
		Name: "inventory", OpenFor: 250 * time.Millisecond, MaxOpen: 500 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	rate, err := limiter.NewTokenBucket(s.Rate, s.Burst)
	if err != nil {
		return nil, err
	}
	return queue.NewConsumer(orders, h, queue.Config{
		Name:        "orders",
		Concurrency: s.Concurrency,
		// The handler makes one call, so the call's limits can stand round it. If
		// it made several, the client would acquire the rate, and it would stand
		// in Gate.
		Limiter:    limiter.All(breaker, rate),
		Retry:      retry.Policy{BaseDelay: 200 * time.Millisecond, MaxDelay: 2 * time.Second},
		DeadLetter: deadLetters,
		Logger:     slog.New(slog.DiscardHandler), // the report tells
	})
}

// Queued plays the spike against a front door that only puts orders on a
// queue. The poison orders, which it would refuse, are put there behind its
// back.
func Queued(ctx context.Context, s Settings, sp Spike, p *Progress) (QueuedReport, Timeline, error) {
	fail := func(err error) (QueuedReport, Timeline, error) { return QueuedReport{}, Timeline{}, err }
	orders, err := memqueue.New(memqueue.Config{})
	if err != nil {
		return fail(err)
	}
	dead, err := memqueue.New(memqueue.Config{})
	if err != nil {
		return fail(err)
	}
	api, err := NewAPI(s, sp, nil)
	if err != nil {
		return fail(err)
	}
	store := NewMemoryStore()
	consumer, err := NewConsumer(s, orders, dead, Fulfiller{api.Client, store}.Handler())
	if err != nil {
		api.Close()
		return fail(err)
	}
	url, stop, err := serve(FrontDoor{Submit: Enqueue(orders)})
	if err != nil {
		api.Close()
		return fail(err)
	}
	shop := NewShop(url)

	start := time.Now()
	var accepted ids
	done := p.Watch("queued", len(sp.Arrivals), func() (int, string) {
		stats := consumer.Stats()
		text := quantities("stored", int(stats.Done), "in the queue", orders.Stats().Visible)
		if by := stats.BlockedBy; by != "" && by != queue.ByIdle {
			text += ", waits: " + stats.BlockedBy
		}
		return int(stats.Done + stats.DeadLettered), text
	})
	ran := make(chan error, 1)
	go func() { ran <- consumer.Run(ctx) }()
	sp.Play(ctx, func(a Arrival) {
		var ok bool
		if a.Poison {
			m := &queue.Message{Body: a.Body, Attributes: map[string]string{attributeID: a.ID}}
			ok = orders.Send(ctx, m) == nil
		} else {
			status, err := shop.Place(a.Body)
			ok = err == nil && status == http.StatusOK
		}
		accepted.add(a.ID, ok)
	})
	orders.Close() // the consumer ends when it has done what is in it
	ranErr := <-ran
	took := time.Since(start)
	done()
	shop.Close()
	stop()
	stats, arrivals := api.Close()

	// Where everything is now. What is left in the queue after an interrupt may
	// be hidden for a retry's delay yet.
	read, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	left, leftErr := readAll(read, orders)
	dead.Close()
	letters, deadErr := readAll(read, dead)

	r := QueuedReport{
		Accepted: len(accepted.ok), DeadLettered: len(letters), Left: len(left), Failed: accepted.failed,
		Requests: stats.Requests, Rejected429: stats.RejectedByRate + stats.RejectedByConcurrency, Outage: stats.FailedByOutage,
		InFlight: stats.PeakInFlight, Open: stats.PeakOpen, OverRate: stats.MaxOverRate,
		Seconds: seconds(took), DeadLetters: []DeadLetter{},
	}
	r.Stored, r.StoredTwice = store.Stored()
	found := make(map[string]bool)
	for _, m := range slices.Concat(left, letters) {
		found[m.Attributes[attributeID]] = true
	}
	for _, id := range accepted.ok {
		_, stored, err := store.Get(read, id)
		if err != nil {
			return fail(err)
		}
		if !stored && !found[id] {
			r.Lost++
		}
	}
	for _, m := range letters {
		r.DeadLetters = append(r.DeadLetters, deadLetter(m))
	}
	slices.SortFunc(r.DeadLetters, func(a, b DeadLetter) int { return cmp.Compare(a.ID, b.ID) })
	title := fmt.Sprintf("Through rampmeter: %d stored, %d dead-lettered, %d lost", r.Stored, r.DeadLettered, r.Lost)
	return r, Timeline{title, arrivals}, errors.Join(ranErr, leftErr, deadErr)
}

// deadLetter returns what the consumer wrote on a message that it gave up.
func deadLetter(m *queue.Message) DeadLetter {
	record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute])
	if err != nil {
		record = retry.DeadLetter{Reason: "unknown", Error: err.Error()}
	}
	return DeadLetter{ID: m.Attributes[attributeID], Reason: record.Reason, Error: record.Error, Attempts: record.Attempts}
}

// readAll takes everything out of a queue that was closed.
func readAll(ctx context.Context, q *memqueue.Queue) ([]*queue.Message, error) {
	var all []*queue.Message
	for {
		msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err == nil {
			all = append(all, msgs...)
			err = q.Ack(ctx, msgs...)
		}
		if err != nil {
			return all, fmt.Errorf("read what is left in a queue: %w", err)
		}
	}
}

// ids are the orders that were accepted.
type ids struct {
	mu     sync.Mutex // guards what follows; no lock is needed after the spike
	ok     []string
	failed int
}

func (i *ids) add(id string, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if ok {
		i.ok = append(i.ok, id)
	} else {
		i.failed++
	}
}
