package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// A play is one run: orders come in, processes come and go, Redis does.
type play struct {
	Settings
	redis  Redis
	queues *Queues
	api    *API
	fleet  *Fleet
	show   *Table

	start time.Time // when orders began to come

	mu       sync.Mutex // guards what follows
	accepted map[string]bool
	failed   int // orders that the queue did not take
	sendErr  error
}

// poison is how many orders can't succeed: every second is cut off, the others
// are for a SKU that the API does not know.
const poison = 5

func (p *play) run(interrupt context.Context) (Report, error) {
	r := Report{Limits: limitsReport{p.Rate, p.Burst, p.Concurrency}, DeadLetters: []DeadLetter{}}
	p.accepted = make(map[string]bool)
	for range p.Processes {
		if err := p.fleet.Start(); err != nil {
			return r, errors.Join(err, p.stop())
		}
	}
	p.start = time.Now()
	stopShow := p.watch()

	// Whatever fails ends the run.
	ctx, fail := context.WithCancelCause(interrupt)
	defer fail(nil)
	feeding, fed := context.WithTimeout(ctx, p.For+p.Solo)
	defer fed()
	var wg sync.WaitGroup
	wg.Go(func() { p.feed(feeding) })
	every(feeding, &wg, time.Second, func() {
		if err := p.fleet.Failed(); err != nil {
			fail(err)
		}
	})
	if p.Outage > 0 {
		wg.Go(func() {
			if err := p.outage(feeding, &r); err != nil {
				fail(err)
			}
		})
	}

	// The first act: everybody, with losses.
	act, done := context.WithTimeout(ctx, p.For)
	if p.Kill > 0 {
		every(act, &wg, p.Kill, func() {
			p.fleet.KillOldest()
			r.Killed++
			if err := p.fleet.Start(); err != nil {
				fail(err)
			}
		})
	}
	<-act.Done()
	done()
	p.judge(&r)
	// The second: one of them.
	if p.Solo > 0 && ctx.Err() == nil {
		if err := p.solo(ctx, &r); err != nil {
			fail(err)
		}
	}
	wg.Wait()
	p.finish(ctx)
	r.Seconds = seconds(time.Since(p.start))
	stopShow()
	if interrupt.Err() != nil {
		_, _ = fmt.Fprintf(p.show, "interrupted: waiting up to %v for %d processes to finish what they have begun; press Ctrl-C again to stop now\n",
			stopLimit, len(p.fleet.working()))
	}
	err := p.stop()
	switch {
	case interrupt.Err() != nil:
		r.Interrupted = true
	case ctx.Err() != nil:
		err = errors.Join(context.Cause(ctx), err)
	}
	return r, errors.Join(err, p.sendErr, p.count(context.WithoutCancel(ctx), &r))
}

// every calls f now and then until ctx ends, in a goroutine of the group.
func every(ctx context.Context, wg *sync.WaitGroup, d time.Duration, f func()) {
	wg.Go(func() {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if ctx.Err() == nil {
					f()
				}
			case <-ctx.Done():
				return
			}
		}
	})
}

// stopLimit is how long the processes may take for what they have begun.
const stopLimit = 45 * time.Second

// stop has the processes finish what they have begun.
func (p *play) stop() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), stopLimit, fmt.Errorf("%v have passed", stopLimit))
	defer cancel()
	return p.fleet.Stop(ctx)
}

// senders is how many requests may be under way to the queue.
const senders = 8

// feed sends orders until ctx ends: a tenth more than the limits allow, and a
// second's worth at once, so that there is always work.
func (p *play) feed(ctx context.Context) {
	lanes, err := limiter.NewSemaphore(senders)
	if err != nil {
		panic(err) // a constant is out of range
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	rate := p.Capacity()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	made, poisoned := 0, 0
	for {
		due := int(rate * (1 + 1.1*time.Since(p.start).Seconds()))
		for made < due {
			batch := make([]sent, 0, 10)
			for made < due && len(batch) < cap(batch) {
				made++
				o := Order{ID: fmt.Sprintf("%s-%06d", p.Name, made), SKU: sku}
				var isPoison bool
				if isPoison = poisoned < poison && time.Since(p.start) > p.For*time.Duration(poisoned+1)/(poison+2); isPoison {
					poisoned++
				}
				batch = append(batch, newSent(o, isPoison, poisoned))
			}
			permit, err := lanes.Acquire(ctx)
			if err != nil {
				return
			}
			wg.Go(func() {
				defer permit.Release(nil)
				// What was begun is finished, so that it is known.
				taken, err := p.queues.Send(context.WithoutCancel(ctx), batch)
				p.note(len(batch), taken, err)
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// newSent makes an order ready to be sent.
func newSent(o Order, isPoison bool, number int) sent {
	if isPoison && number%2 == 0 {
		o.SKU = "NO-SUCH-SKU"
	}
	body, err := json.Marshal(o)
	if err != nil {
		panic(err) // an Order has only strings
	}
	if isPoison && number%2 == 1 {
		body = body[:len(body)/2]
	}
	return sent{o.ID, body}
}

func (p *play) note(of int, taken []sent, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range taken {
		p.accepted[o.id] = true
	}
	p.failed += of - len(taken)
	if p.sendErr == nil && err != nil {
		p.sendErr = fmt.Errorf("send orders: %w", err)
	}
}

func (p *play) sent() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.accepted)
}

// outage stops Redis in the middle of the first act.
func (p *play) outage(ctx context.Context, r *Report) error {
	if !wait(ctx, p.For/2-p.Outage/2) {
		return nil
	}
	from := time.Now()
	if err := p.redis.Stop(); err != nil {
		return fmt.Errorf("stop Redis: %w", err)
	}
	_, _ = fmt.Fprintln(p.show, "Redis is stopped")
	wait(ctx, p.Outage)
	if err := p.redis.Start(); err != nil {
		return err
	}
	to := time.Now()
	_, _ = fmt.Fprintln(p.show, "Redis is back, empty")
	r.Outage = &outageReport{Mode: p.OnOutage.String(), from: from, to: to}
	return nil
}

// solo has all but one process rest.
func (p *play) solo(ctx context.Context, r *Report) error {
	from := time.Now()
	if err := p.fleet.Rest(true); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(p.show, "all but one process rest")
	wait(ctx, settleIn)
	settled, busyThen := time.Now(), p.api.Busy()
	wait(ctx, p.Solo-settleIn)
	to := time.Now()
	record, took := p.api.Record(), to.Sub(settled).Seconds()
	r.Solo = &soloReport{
		Seconds:         seconds(to.Sub(from)),
		RateUsed:        ratio(float64(len(record.Between(settled, to))), p.Rate*took),
		ConcurrencyUsed: ratio((p.api.Busy() - busyThen).Seconds(), float64(p.Concurrency)*took),
		ReachedAfter:    seconds(record.Reaches(from, to, time.Second, 0.9*p.Capacity())),
	}
	return p.fleet.Rest(false)
}

// wait reports whether the time has passed before ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// judge says how much of the limits was used in the first act, while there was
// always work, and by whom.
func (p *play) judge(r *Report) {
	to, busy := time.Now(), p.api.Busy()
	record := p.api.Record()
	if len(record) == 0 {
		return
	}
	from := record[0].at
	record = record.Between(from, to)
	took := to.Sub(from).Seconds()
	r.RateUsed = ratio(float64(len(record)-p.Burst), p.Rate*took)
	r.ConcurrencyUsed = ratio(busy.Seconds(), float64(p.Concurrency)*took)
	rates := record.Rates(p.fleet.Rows(), from, to)
	r.Jain = ratio(Jain(rates), 1)
	r.FirstAfter = seconds(from.Sub(p.start))
}

// finish waits until all orders are done that can be, or nothing has happened
// for longer than a lease.
func (p *play) finish(ctx context.Context) {
	last, since := -1, time.Now()
	for ctx.Err() == nil && time.Since(since) < p.Lease+5*time.Second {
		done, _ := p.api.Served()
		if done >= p.sent()-poison && p.missing() <= poison {
			return
		}
		if done != last {
			last, since = done, time.Now()
		}
		wait(ctx, 100*time.Millisecond)
	}
}

func (p *play) missing() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.accepted {
		if !p.api.Done(id) {
			n++
		}
	}
	return n
}

// watch shows how it goes until the returned function is called.
func (p *play) watch() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	show := func() {
		stats := p.api.Stats()
		done, open := p.api.Served()
		p.show.Show(fmt.Sprintf("%3.0f s: %d of %d orders done; the API sees %d in flight, %d over a limit",
			time.Since(p.start).Seconds(), done, p.sent(), open, stats.RejectedByRate+stats.RejectedByConcurrency), p.fleet.Rows())
	}
	var wg sync.WaitGroup
	every(ctx, &wg, p.show.Every(), show)
	return func() {
		cancel()
		wg.Wait()
		show()
	}
}
