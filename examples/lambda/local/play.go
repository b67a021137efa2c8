//go:build unix

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
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/examples/internal/interrupt"
	"github.com/rampmeter/rampmeter/examples/orders/order"
	"github.com/rampmeter/rampmeter/inventory/inventorytest"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// countLimit is how long counting the results may take.
const countLimit = time.Minute

// Play starts everything, puts the orders on the queue, waits until it is empty,
// and counts the results, even when ctx ends early.
func Play(ctx context.Context, set Settings, progress io.Writer) (Report, error) {
	log := &Progress{w: progress}
	load, err := NewLoad(set)
	if err != nil {
		return Report{}, err
	}
	k := newKiller(set)
	s, err := NewStack(ctx, set, load.Stock, log, k.watch)
	if err != nil {
		return Report{}, err
	}
	defer s.Close()

	orders, err := sqsqueue.New(s.SQS, s.QueueURL, sqsqueue.Config{})
	if err != nil {
		return Report{}, err
	}
	if err := orders.Send(ctx, load.Messages...); err != nil {
		return Report{}, fmt.Errorf("send orders: %w", err)
	}
	log.Say("%d messages are in the queue", len(load.Messages))

	timeout, _ := set.Timeouts()
	said := interrupt.Say(ctx, log, func() string {
		return fmt.Sprintf("interrupted: waiting up to %v for the invocations under way, then counting for up to %v", timeout, countLimit)
	})
	start := time.Now()
	mapped, stopMapping := context.WithCancel(ctx)
	defer stopMapping()
	ran := make(chan error, 1)
	go func() { ran <- s.Mapping.Run(mapped) }()
	k.run(s.Function.Kill)
	stopSaying := log.Every(func() string {
		m, stats := s.Mapping.Stats(), s.API.Stats()
		return fmt.Sprintf("%d of %d messages done, stock taken for %d of %d orders, %d functions at work, %d killed",
			m.Deleted, len(load.Messages), stats.AppliedOnce, set.Orders, m.Concurrency, k.killed())
	})
	err = s.untilEmpty(ctx)
	took := time.Since(start)
	k.stop()
	stopMapping()
	err = errors.Join(err, <-ran)
	said()
	stopSaying()
	if err != nil && ctx.Err() == nil {
		return Report{}, err
	}

	// ctx may have ended, and the calls in flight with it.
	count, cancel := context.WithTimeout(context.WithoutCancel(ctx), countLimit)
	defer cancel()
	r := Report{
		Orders: len(load.Valid), Poison: len(load.Poison), Messages: len(load.Messages),
		Kills: k.killed(), Seconds: took.Seconds(), Interrupted: ctx.Err() != nil, limits: set,
	}
	if err := r.count(count, s, load); err != nil {
		return Report{}, err
	}
	return r, nil
}

// untilEmpty waits until the queue is empty.
func (s *Stack) untilEmpty(ctx context.Context) error {
	// Once could be chance: the figures are approximate.
	for seen := 0; seen < 3; {
		n, err := s.backlog(ctx)
		if err != nil {
			return err
		}
		if seen++; n > 0 {
			seen = 0
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// count fills in the final counts.
func (r *Report) count(ctx context.Context, s *Stack, load Load) error {
	letters, err := s.deadLetters(ctx)
	if err != nil {
		return err
	}
	// A process that is killed between the hand-off and the delete leaves two
	// copies, with the same order id and reason.
	r.DeadLetters = slices.CompactFunc(letters, func(a, b DeadLetter) bool { return a.ID == b.ID && a.Reason == b.Reason })
	dead := make(map[string]bool)
	for _, d := range r.DeadLetters {
		if reason := load.Poison[d.ID]; reason == "" || reason != d.Reason {
			r.GivenUpWrong++
		}
		dead[d.ID] = true
	}
	if r.Left, err = s.backlog(ctx); err != nil {
		return err
	}
	missing := 0
	for id, want := range load.Valid {
		got, ok, err := s.Table.Get(ctx, id)
		switch {
		case err != nil:
			return err
		case ok && got == want:
			r.Stored++
		case ok:
			r.StoredWrong++
		case !dead[id]:
			missing++
		}
	}
	r.Lost = max(0, missing-r.Left) // what is left in the queue is not lost
	items, err := s.items(ctx)
	if err != nil {
		return err
	}
	r.StoredWrong += items - r.Stored - r.StoredWrong // items that nobody ordered

	stats := s.API.Stats()
	r.Requests, r.Rejected429 = stats.Requests, stats.RejectedByRate+stats.RejectedByConcurrency
	r.OverRate, r.InFlight = stats.MaxOverRate, stats.PeakInFlight
	r.AppliedOnce, r.AppliedTwice = stats.AppliedOnce, stats.AppliedTwice
	r.StockRight = maps.Equal(s.API.Stock(), load.Left())

	m, p := s.Mapping.Stats(), s.Function.Stats()
	r.Functions, r.Invocations, r.Failed, r.Throttles, r.Receives = p.PeakLive, m.Invocations, m.FunctionErrors, m.Throttles, m.Received
	r.ColdStarts = len(p.ColdStarts)
	if n := len(p.ColdStarts); n > 0 {
		slices.Sort(p.ColdStarts)
		r.ColdMedian = float64(p.ColdStarts[n/2].Microseconds()) / 1000
	}
	return nil
}

// deadLetters takes everything out of the dead-letter queue.
func (s *Stack) deadLetters(ctx context.Context) ([]DeadLetter, error) {
	q, err := sqsqueue.New(s.SQS, s.DeadLetter, sqsqueue.Config{Wait: time.Second})
	if err != nil {
		return nil, err
	}
	letters := []DeadLetter{}
	for {
		msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: time.Minute})
		if err != nil {
			return nil, fmt.Errorf("read the dead-letter queue: %w", err)
		}
		if len(msgs) == 0 {
			slices.SortFunc(letters, func(a, b DeadLetter) int { return cmp.Compare(a.ID, b.ID) })
			return letters, nil
		}
		for _, m := range msgs {
			d := DeadLetter{ID: m.Attributes[order.IDAttribute], Reason: "none"}
			if record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute]); err == nil {
				d.Reason, d.Error, d.Attempts = record.Reason, record.Error, record.Attempts
			}
			letters = append(letters, d)
		}
		if err := q.Ack(ctx, msgs...); err != nil {
			return nil, fmt.Errorf("read the dead-letter queue: %w", err)
		}
	}
}

// A killer kills a function process while the API works on one of its requests,
// once per fixed number of requests.
type killer struct {
	kills    int
	every    int64 // requests
	requests atomic.Int64
	done     atomic.Int64
	due      chan struct{}
	over     chan struct{} // closed by stop
	ended    chan struct{} // closed when nothing more is killed
}

func newKiller(set Settings) *killer {
	k := &killer{kills: set.Kills, due: make(chan struct{}, set.Kills), over: make(chan struct{}), ended: make(chan struct{})}
	if set.Kills > 0 {
		k.every = int64(set.Orders / (set.Kills + 1))
	}
	return k
}

// watch lets the API report its requests.
func (k *killer) watch(cfg inventorytest.Config) inventorytest.Config {
	if k.kills == 0 {
		return cfg
	}
	latency := cfg.Latency
	cfg.LatencyFunc = func(*http.Request) time.Duration {
		if n := k.requests.Add(1); n%k.every == 0 && n/k.every <= int64(k.kills) {
			k.due <- struct{}{} // it has room for all
		}
		return latency
	}
	return cfg
}

// run kills until stop is called. It calls kill, which reports whether there was a
// process to kill.
func (k *killer) run(kill func() bool) {
	go func() {
		defer close(k.ended)
		for {
			select {
			case <-k.due:
				if kill() {
					k.done.Add(1)
				}
			case <-k.over:
				return
			}
		}
	}()
}

// stop returns when nothing more is killed.
func (k *killer) stop() {
	close(k.over)
	<-k.ended
}

func (k *killer) killed() int { return int(k.done.Load()) }
