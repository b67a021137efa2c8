//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"golang.org/x/time/rate"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A downstream is an API, and its consumers' knowledge of it.
type downstream struct {
	Name, Title string
	api         apiSpec
	processes   int     // consumers that are independent of each other; 0: one
	known       float64 // the rate that they are set to; 0: unknown to them
	burst       int     // with it
}

const (
	downstreamSlots = 10
	// callsAlone is the client that makes one call after the other in each slot.
	callsAlone = "calls without a limit"
)

func downstreams(span time.Duration) []downstream {
	bucket := apiSpec{Rate: 50, Burst: 10, RetryAfter: time.Second}
	bare := apiSpec{Rate: 50, Burst: 10}
	return []downstream{
		{Name: "retry-after", Title: "50/s, burst 10; 429 with Retry-After 1; nobody knows the limit", api: bucket},
		{Name: "bare", Title: "50/s, burst 10; bare 429; nobody knows the limit", api: bare},
		{Name: "two-processes", Title: "the first, two processes", api: bucket, processes: 2},
		{Name: "known", Title: "the first, the limit is known", api: bucket, known: 50, burst: 10},
		{Name: "noise", Title: "any rate; bare 429 to 5 % of the requests", api: apiSpec{Noise: 0.05}},
		{Name: "outage", Title: "any rate; 503 for a quarter of the time", api: apiSpec{Down: span / 4, Up: span / 2}},
	}
}

// A clientRun is the run of one kind of client against a downstream.
type clientRun struct {
	Share        float64  `json:"share_of_what_it_gives"` // in the second half
	FirstHalf    float64  `json:"share_in_the_first_half"`
	Refused      float64  `json:"refused_per_1000_requests"` // in the second half
	InPause      int      `json:"requests_during_a_retry_after"`
	FailedCalls  int      `json:"calls_that_met_the_outage"`
	BackAfter    *float64 `json:"seconds_until_90_percent_after_the_outage"` // nil: there was none, or it was not reached
	seconds      []second
	hadAnOutage  bool
	beforeOutage float64
}

// A downstreamRun is the result of one downstream.
type downstreamRun struct {
	Name    string               `json:"name"`
	Title   string               `json:"title"`
	Clients map[string]clientRun `json:"clients"`
}

// compareDownstreams runs rampmeter and the loop against each downstream, all at the
// same time, since they wait more than they work.
func compareDownstreams(ctx context.Context, span time.Duration, asJSON bool, picture string, progress *progress, stdout io.Writer) error {
	defer progress.end()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the loop logs each call that is interrupted at the end
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, remote, err := startServer(ctx, false)
	if err != nil {
		return err
	}
	all := downstreams(span)
	runs := make([]downstreamRun, len(all))
	errs := make([]error, 3*len(all))
	var group sync.WaitGroup
	var mu sync.Mutex
	for i, d := range all {
		runs[i] = downstreamRun{Name: d.Name, Title: d.Title, Clients: make(map[string]clientRun)}
		for k, client := range []string{rampmeter, handWritten, callsAlone} {
			if client == callsAlone && d.api.Noise == 0 {
				continue
			}
			group.Go(func() {
				r, err := d.run(ctx, remote, client, span)
				if err != nil {
					errs[3*i+k] = fmt.Errorf("%s, %s: %w", d.Name, client, err)
					cancel()
					return
				}
				mu.Lock()
				defer mu.Unlock()
				runs[i].Clients[client] = r
			})
		}
	}
	progress.scenario = "downstreams"
	began := time.Now()
	progress.tell(fmt.Sprintf("%d of them at once, for %v", len(all), span))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-tick.C:
			progress.tell(fmt.Sprintf("%d of them at once, %v of %v", len(all), time.Since(began).Round(time.Second), span))
		}
	}
	if err := errors.Join(errs...); err != nil {
		server.kill()
		return err
	}
	if err := server.stop(nil); err != nil {
		return err
	}
	for _, r := range runs { // the throughput of unrestricted calls is the capacity
		if alone, ok := r.Clients[callsAlone]; ok {
			for name, c := range r.Clients {
				c.Share, c.FirstHalf = share(c.Share, alone.Share), share(c.FirstHalf, alone.FirstHalf)
				r.Clients[name] = c
			}
			delete(r.Clients, callsAlone)
		}
	}
	if picture != "" {
		f, err := os.Create(picture)
		if err != nil {
			return err
		}
		drawn := drawDownstream(f, all[0], runs[0], span)
		if err := errors.Join(drawn, f.Close()); err != nil {
			return err
		}
	}
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(runs)
	}
	_, err = io.WriteString(stdout, downstreamTable(runs, span))
	return err
}

func share(of, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return of / whole
}

// run lets one kind of client consume a queue in front of the API for that long.
func (d downstream) run(ctx context.Context, r remote, client string, span time.Duration) (clientRun, error) {
	a, err := startAPI(ctx, d.api, 1)
	if err != nil {
		return clientRun{}, err
	}
	defer a.close()
	most := d.api.Rate
	if most == 0 {
		most = downstreamSlots / apiLeast.Seconds()
	}
	messages := int(most*span.Seconds()) + 100
	if client == callsAlone {
		messages = 0
	}
	q, err := r.create(ctx, queueSpec{Messages: messages, Size: messageSize, Visibility: 30 * time.Second})
	if err != nil {
		return clientRun{}, fmt.Errorf("fill the queue: %w", err)
	}
	outer := context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	processes := max(1, d.processes)
	errs := make([]error, processes)
	var all sync.WaitGroup
	for i := range processes {
		all.Go(func() {
			c := caller{url: a.url, name: strconv.Itoa(i)}
			t := task{
				endpoint: q.endpoint(), queueURL: q.endpoint() + queueName,
				concurrency: downstreamSlots, visibility: 30 * time.Second, wait: time.Second,
			}
			switch client {
			case rampmeter:
				errs[i] = d.rampmeter(ctx, t, c)
			case handWritten:
				t.handle = d.loopHandler(ctx, c)
				if err := runHandWritten(ctx, t, false); ctx.Err() == nil {
					errs[i] = err
				}
			default:
				d.alone(ctx, c)
			}
		})
	}
	all.Wait()
	return d.figures(a, span), errors.Join(errors.Join(errs...), q.remove(outer))
}

// rampmeter is a consumer with its defaults.
func (d downstream) rampmeter(ctx context.Context, t task, c caller) error {
	q, err := sqsqueue.New(sqs.NewFromConfig(awsConfig(t)), t.queueURL, sqsqueue.Config{Wait: t.wait})
	if err != nil {
		return err
	}
	cfg := queue.Config{Concurrency: t.concurrency, Lease: t.visibility, Logger: slog.New(slog.DiscardHandler), DrainTimeout: 5 * time.Second}
	if d.known > 0 {
		if cfg.Limiter, err = limiter.NewTokenBucket(d.known, d.burst); err != nil {
			return err
		}
	}
	consumer, err := queue.NewConsumer(q, queue.HandlerFunc(func(ctx context.Context, _ *queue.Message) error {
		res, err := c.call(ctx)
		if err != nil {
			return err
		}
		return limiter.ResponseError(res)
	}), cfg)
	if err != nil {
		return err
	}
	if err := consumer.Run(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// loopHandler is the usual code around a call: a rate.Limiter if the rate is
// known, and a retry after the Retry-After, or after a jittered backoff.
func (d downstream) loopHandler(until context.Context, c caller) func(context.Context, []byte) error {
	limit := rate.NewLimiter(rate.Inf, 0)
	if d.known > 0 {
		limit = rate.NewLimiter(rate.Limit(d.known), d.burst)
	}
	return func(_ context.Context, _ []byte) error {
		for try := 0; ; try++ {
			if err := limit.Wait(until); err != nil {
				return until.Err()
			}
			res, err := c.call(until)
			switch {
			case err != nil:
				return err
			case res.StatusCode == http.StatusOK:
				return nil
			}
			wait := rand.N(min(100*time.Millisecond<<min(try, 10), 20*time.Second))
			if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil {
				wait = time.Duration(s) * time.Second
			}
			select {
			case <-time.After(wait):
			case <-until.Done():
				return until.Err()
			}
		}
	}
}

// alone makes one call after the other in each slot.
func (d downstream) alone(ctx context.Context, c caller) {
	var all sync.WaitGroup
	for range downstreamSlots {
		all.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.call(ctx)
			}
		})
	}
	all.Wait()
}

// A caller calls an API, under its name.
type caller struct{ url, name string }

func (c caller) call(ctx context.Context) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set(clientHeader, c.name)
	res, err := apiClient.Do(req)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return res, res.Body.Close()
}

var apiClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}

// figures sums up the counts of an API.
func (d downstream) figures(a *api, span time.Duration) clientRun {
	seconds, inPause := a.counted()
	r := clientRun{InPause: inPause, seconds: seconds}
	half := min(int(span/time.Second)/2, len(seconds))
	sum := func(of []second) (accepted, refused int) {
		for _, s := range of {
			accepted += s.Accepted
			refused += s.Refused
			r.FailedCalls += s.Failed
		}
		return accepted, refused
	}
	gives := d.api.Rate
	if gives == 0 {
		gives = 1
	}
	accepted, _ := sum(seconds[:half])
	r.FirstHalf = share(float64(accepted), gives*float64(half)+float64(d.api.Burst))
	accepted, refused := sum(seconds[half:])
	r.Share = share(float64(accepted), gives*float64(len(seconds)-half))
	r.Refused = 1000 * share(float64(refused), float64(accepted+refused))
	if d.api.Up > 0 {
		r.hadAnOutage = true
		down, up := min(int(d.api.Down/time.Second), len(seconds)), int(d.api.Up/time.Second)
		before, _ := sum(seconds[down/2 : down])
		r.beforeOutage = share(float64(before), float64(down-down/2))
		for s := up; s < len(seconds); s++ {
			if float64(seconds[s].Accepted) >= 0.9*r.beforeOutage {
				after := float64(s-up) + 1 // at its end
				r.BackAfter = &after
				break
			}
		}
	}
	return r
}

// downstreamTable returns the runs in Markdown.
func downstreamTable(runs []downstreamRun, span time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s/%s, %d CPUs; %v, %d slots; each figure: rampmeter / the loop\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), span, downstreamSlots)
	b.WriteString("| API | of what it gives, first half | second half | refused of 1,000 requests, second half | requests during a Retry-After |\n|---|---|---|---|---|\n")
	for _, r := range runs {
		ours, loop := r.Clients[rampmeter], r.Clients[handWritten]
		if ours.hadAnOutage {
			continue
		}
		fmt.Fprintf(&b, "| %s | %.0f / %.0f %% | %.0f / %.0f %% | %.0f / %.0f | %d / %d |\n", r.Title,
			100*ours.FirstHalf, 100*loop.FirstHalf, 100*ours.Share, 100*loop.Share, ours.Refused, loop.Refused, ours.InPause, loop.InPause)
	}
	for _, r := range runs {
		ours, loop := r.Clients[rampmeter], r.Clients[handWritten]
		if ours.hadAnOutage {
			fmt.Fprintf(&b, "\n%s: %d / %d calls meet the outage; 90 %% of the rate %s / %s after its end.\n",
				r.Title, ours.FailedCalls, loop.FailedCalls, within(ours.BackAfter), within(loop.BackAfter))
		}
	}
	return b.String()
}

func within(seconds *float64) string {
	if seconds == nil {
		return "never"
	}
	return fmt.Sprintf("%.0f s", *seconds)
}
