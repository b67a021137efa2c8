package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A scenario is a limit and a fleet that shares it.
type scenario struct {
	Name, Title string
	Rate, Burst int
	Processes   int
	Workers     int           // in each process, that start one message after the other
	Latency     time.Duration // of the network to Redis, there and back
	Demand      float64       // messages a second that arrive, evenly, at each process; 0: there is always one
}

func scenarios() []scenario {
	return []scenario{
		{Name: "thousand", Title: "A limit of 1,000 a second, more work than that", Rate: 1000, Burst: 100, Processes: 8, Workers: 8, Latency: time.Millisecond},
		{Name: "half", Title: "A limit of 1,000 a second, work for half of it", Rate: 1000, Burst: 100, Processes: 8, Workers: 8, Latency: time.Millisecond, Demand: 62.5},
		{Name: "ten thousand", Title: "A limit of 10,000 a second, more work than that", Rate: 10_000, Burst: 1000, Processes: 8, Workers: 8, Latency: time.Millisecond},
		{Name: "no latency", Title: "A limit of 100,000 a second, Redis on the same machine", Rate: 100_000, Burst: 10_000, Processes: 8, Workers: 8},
	}
}

// A bench runs the measurements.
type bench struct {
	addr     string
	rounds   int
	long     time.Duration // how long one run is measured
	progress io.Writer
}

// warmUp is how long a run lasts before it is measured: by then every process has
// joined and knows its share.
const warmUp = 3 * time.Second

// run runs every contender in every scenario, one after the other and every second
// time in reverse order.
func (b bench) run(ctx context.Context, scenarios []scenario) (report, error) {
	r := report{
		Date: time.Now(), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(),
		Rounds: b.rounds, Seconds: b.long.Seconds(),
	}
	for _, s := range scenarios {
		res := result{scenario: s}
		runs := make(map[string][]figures)
		for round := range b.rounds {
			order := contenders()
			if round%2 == 1 {
				slices.Reverse(order)
			}
			for _, c := range order {
				_, _ = fmt.Fprintf(b.progress, "%s: %s, %d of %d\n", s.Name, c.name, round+1, b.rounds)
				f, err := b.measure(ctx, s, c)
				if err != nil {
					return r, fmt.Errorf("%s: %s: %w", s.Name, c.name, err)
				}
				runs[c.name] = append(runs[c.name], f)
			}
		}
		for _, c := range contenders() {
			res.Limiters = append(res.Limiters, limiterRuns{c.name, runs[c.name]})
		}
		r.Scenarios = append(r.Scenarios, res)
	}
	return r, nil
}

// figures are the figures of one run.
type figures struct {
	Rate     float64       `json:"starts_per_second"`
	Calls    float64       `json:"calls_per_start"`
	P50      time.Duration `json:"wait_p50_ns"`
	P99      time.Duration `json:"wait_p99_ns"`
	OverRate int           `json:"max_over_rate"` // above burst + rate*t, over all windows
}

// A start is one message, as the process that starts it sees it.
type start struct {
	at   time.Time
	wait time.Duration
}

func (b bench) measure(ctx context.Context, s scenario, c contender) (f figures, err error) {
	key := "bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	var calls atomic.Int64
	var processes []process
	var clients []*redis.Client
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		for _, p := range processes {
			err = errors.Join(err, p.close(ctx))
		}
		for _, client := range clients {
			err = errors.Join(err, client.Close())
		}
	}()
	for range s.Processes {
		client := redis.NewClient(&redis.Options{Addr: b.addr, PoolSize: s.Workers, ContextTimeoutEnabled: true}) // or redislimiter takes a copy without the hook
		client.AddHook(wire{&calls, s.Latency})
		clients = append(clients, client)
		p, err := c.join(client, key, s.Rate, s.Burst)
		if err != nil {
			return f, err
		}
		processes = append(processes, p)
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lanes := make([][]start, s.Processes*s.Workers) // a goroutine each
	failed := make([]error, len(lanes))
	var wg sync.WaitGroup
	began := time.Now()
	for i := range lanes {
		p, worker := processes[i/s.Workers], i%s.Workers
		wg.Go(func() { lanes[i], failed[i] = s.work(ctx, p, began, worker) })
	}
	wait(ctx, warmUp)
	from, before := time.Now(), calls.Load()
	wait(ctx, b.long)
	to, after := time.Now(), calls.Load()
	interrupted := context.Cause(ctx)
	stop()
	wg.Wait()
	if err := errors.Join(append(failed, interrupted)...); err != nil {
		return f, err
	}

	var all []start
	for _, l := range lanes {
		all = append(all, l...)
	}
	slices.SortFunc(all, func(a, b start) int { return a.at.Compare(b.at) })
	f.OverRate = overRate(all, float64(s.Rate), float64(s.Burst))
	var waits []time.Duration
	for _, a := range all {
		if !a.at.Before(from) && a.at.Before(to) {
			waits = append(waits, a.wait)
		}
	}
	if len(waits) == 0 {
		return f, errors.New("nothing was started")
	}
	slices.Sort(waits)
	f.P50, f.P99 = waits[len(waits)/2], waits[len(waits)*99/100]
	f.Rate = float64(len(waits)) / to.Sub(from).Seconds()
	f.Calls = float64(after-before) / float64(len(waits))
	return f, nil
}

// work starts messages until ctx ends.
func (s scenario) work(ctx context.Context, p process, began time.Time, worker int) (starts []start, err error) {
	for n := 0; ; n++ {
		if s.Demand > 0 { // this worker's next message
			wait(ctx, time.Until(began.Add(time.Duration(float64(n*s.Workers+worker)/s.Demand*float64(time.Second)))))
		}
		asked := time.Now()
		if err = p.acquire(ctx); err != nil {
			if ctx.Err() != nil {
				err = nil // that is the cause
			}
			return starts, err
		}
		now := time.Now()
		starts = append(starts, start{now, now.Sub(asked)})
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// overRate returns the largest number of starts above burst + rate*t over all
// windows. The worst window that ends with a start extends the worst window that
// ended with the start before, or begins with this start.
func overRate(starts []start, rate, burst float64) int {
	var level, peak float64
	for i, s := range starts {
		if i > 0 {
			level = max(0, level-rate*s.at.Sub(starts[i-1].at).Seconds())
		}
		level++
		peak = max(peak, level)
	}
	return max(0, int(math.Ceil(peak-burst-1e-6)))
}
