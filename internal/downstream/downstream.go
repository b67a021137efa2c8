// Package downstream simulates a downstream of limited capacity behind a concurrency
// limiter, with as many callers as the limiter allows, and measures the result. It
// runs in the time of the calling goroutine, which is virtual in a testing/synctest
// bubble.
package downstream

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"
)

// A Client is a limiter as the simulation uses it. Its methods are called from
// one goroutine.
type Client interface {
	// Limit returns how many operations may be in flight now.
	Limit() int
	// Try starts an operation, if one may start now. The caller must call end when the
	// operation ends, and report whether the service refused it.
	Try() (end func(refused bool), ok bool)
}

// Config configures the service, and its capacity over time.
type Config struct {
	// Capacity returns how many operations the service does at once.
	Capacity func(at time.Duration) int
	// Queue is how many more operations the service queues, as a multiple of the
	// capacity, before it refuses. Negative: it never refuses.
	Queue float64
	// Service is the mean duration of an operation. Durations are distributed
	// exponentially.
	Service time.Duration
	// Refusal is the duration of a refusal.
	Refusal time.Duration
	// Length is how long the simulation runs.
	Length time.Duration
	// Steps are the times at which the capacity changes, beginning with 0.
	Steps []time.Duration
	// Settling is the time after each step in which the limit is not yet measured.
	Settling time.Duration
	Seed     uint64
}

// Result is the result of a simulation. "Settled" means without the Settling after
// each step.
type Result struct {
	Good    int           // operations that were done
	Refused float64       // share of operations that were refused, settled
	P99     time.Duration // of the durations of done operations, settled
	Means   []float64     // for each step the mean of limit over capacity, settled
	Settled []time.Duration
	// for each step how long it took until the mean of limit over capacity in
	// ten seconds was within a fifth of 1 for the first time; negative: never
}

// window is the period of the mean that determines whether a limit has settled.
const window = 10 * time.Second

type operation struct {
	start, end time.Duration
	served     bool
	done       func(refused bool)
}

// byEnd is a heap.
type byEnd []*operation

func (h byEnd) Len() int           { return len(h) }
func (h byEnd) Less(i, j int) bool { return h[i].end < h[j].end }
func (h byEnd) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byEnd) Push(x any)        { *h = append(*h, x.(*operation)) }
func (h *byEnd) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// Run runs a client that always has more to do against the service.
func Run(c Client, cfg Config) Result {
	var (
		r       = rand.New(rand.NewPCG(cfg.Seed, 0))
		begin   = time.Now()
		busy    int
		waiting []*operation
		running byEnd
		m       = meter{cfg: cfg}
	)
	serve := func(o *operation, now time.Duration) {
		busy++
		o.served = true
		o.end = now + time.Duration(r.ExpFloat64()*float64(cfg.Service))
		heap.Push(&running, o)
	}
	for {
		now := time.Since(begin)
		if now >= cfg.Length {
			break
		}
		capacity := cfg.Capacity(now)
		for busy < capacity && len(waiting) > 0 {
			serve(waiting[0], now)
			waiting = waiting[1:]
		}
		for {
			done, ok := c.Try()
			if !ok {
				break
			}
			o := &operation{start: now, done: done}
			switch {
			case busy < capacity:
				serve(o, now)
			case cfg.Queue < 0 || float64(len(waiting)) < cfg.Queue*float64(capacity):
				waiting = append(waiting, o)
			default:
				o.end = now + cfg.Refusal
				heap.Push(&running, o)
			}
		}
		next := cfg.Length
		if len(running) > 0 {
			next = min(next, running[0].end)
		}
		next = min(next, now+window/10) // to see changes of limits that are not used up
		m.span(now, next, float64(c.Limit())/float64(capacity))
		time.Sleep(next - now)
		if len(running) > 0 && running[0].end <= next {
			o := heap.Pop(&running).(*operation)
			if o.served {
				busy--
			}
			m.end(o)
			o.done(!o.served)
		}
	}
	for _, o := range append(running, waiting...) {
		o.done(false) // the result no longer counts
	}
	return m.result()
}

// A meter collects the figures of a simulation.
type meter struct {
	cfg           Config
	good, refused int // refused and accepted count only settled operations
	accepted      int
	took          []time.Duration
	sums          []float64 // by step
	lengths       []float64
	sum, length   float64 // in the window
	from          time.Duration
	settled       []time.Duration
}

// step returns the index of the step at that time, and whether it is settled.
func (m *meter) step(at time.Duration) (i int, settled bool) {
	for i+1 < len(m.cfg.Steps) && m.cfg.Steps[i+1] <= at {
		i++
	}
	return i, at-m.cfg.Steps[i] >= m.cfg.Settling
}

func (m *meter) span(from, to time.Duration, ratio float64) {
	i, settled := m.step(from)
	for len(m.sums) <= i {
		m.sums, m.lengths, m.settled = append(m.sums, 0), append(m.lengths, 0), append(m.settled, -1)
		m.sum, m.length, m.from = 0, 0, from
	}
	d := (to - from).Seconds()
	if settled {
		m.sums[i] += ratio * d
		m.lengths[i] += d
	}
	m.sum += ratio * d
	m.length += d
	if to-m.from >= window {
		if mean := m.sum / m.length; m.settled[i] < 0 && mean > 0.8 && mean < 1.2 {
			m.settled[i] = m.from - m.cfg.Steps[i]
		}
		m.sum, m.length, m.from = 0, 0, to
	}
}

func (m *meter) end(o *operation) {
	if o.served {
		m.good++
	}
	_, settled := m.step(o.start)
	switch {
	case !settled:
	case o.served:
		m.accepted++
		m.took = append(m.took, o.end-o.start)
	default:
		m.refused++
	}
}

func (m *meter) result() Result {
	r := Result{Good: m.good, Settled: m.settled}
	for i, sum := range m.sums {
		r.Means = append(r.Means, sum/m.lengths[i])
	}
	if n := m.refused + m.accepted; n > 0 {
		r.Refused = float64(m.refused) / float64(n)
	}
	if len(m.took) > 0 {
		slices.Sort(m.took)
		r.P99 = m.took[len(m.took)*99/100]
	}
	return r
}

// Stepped returns a capacity that takes each of the given values for that long, and
// the times at which it changes.
func Stepped(each time.Duration, capacities ...int) (capacity func(time.Duration) int, steps []time.Duration) {
	for i := range capacities {
		steps = append(steps, time.Duration(i)*each)
	}
	return func(at time.Duration) int {
		return capacities[min(int(at/each), len(capacities)-1)]
	}, steps
}

// Known returns a client whose limit is the capacity.
func Known(cfg Config) Client {
	return &known{cfg: cfg, begin: time.Now()}
}

type known struct {
	cfg      Config
	begin    time.Time
	inFlight int
}

func (k *known) Limit() int { return k.cfg.Capacity(time.Since(k.begin)) }

func (k *known) Try() (end func(refused bool), ok bool) {
	if k.inFlight >= k.Limit() {
		return nil, false
	}
	k.inFlight++
	return func(bool) { k.inFlight-- }, true
}
