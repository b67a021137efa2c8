package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/rampmeter/rampmeter/internal/terminal"
	"github.com/rampmeter/rampmeter/retry"
)

// A Report is what became of the orders and of the limits. What it shares with
// that of examples/orders has the same names there.
type Report struct {
	Accepted     int          `json:"accepted"`       // orders that the queue took
	Stored       int          `json:"stored"`         // of these, as the API counts
	DeadLettered int          `json:"dead_lettered"`  // in the dead-letter queue
	Left         int          `json:"left_in_queue"`  // of the accepted, after an interrupt
	Lost         int          `json:"lost"`           // accepted, and in none of the three places
	StoredTwice  int          `json:"stored_twice"`   // as the API counts
	HandledTwice int          `json:"handled_twice"`  // requests for what was stored before, as the API counts: harmless
	Failed       int          `json:"failed"`         // not accepted
	Requests     int          `json:"requests"`       // this and the following as the API counts
	Rejected429  int          `json:"rejected_429"`   // over a limit
	InFlight     int          `json:"peak_in_flight"` // worked on at once
	Open         int          `json:"peak_open"`      // and with those that were turned away
	OverRate     int          `json:"max_over_rate"`  // above burst + rate*t and 100 ms of the rate, over all windows
	Seconds      float64      `json:"seconds"`
	DeadLetters  []DeadLetter `json:"dead_letters"`
	Unconfirmed  int          `json:"stored_unconfirmed,omitempty"` // the queue took them, but its answer did not arrive

	Limits limitsReport `json:"limits"`
	// While there was work for all, from the first request on.
	FirstAfter      float64 `json:"first_request_after_seconds"`
	RateUsed        float64 `json:"rate_used"`        // of 1, the burst not counted
	ConcurrencyUsed float64 `json:"concurrency_used"` // of 1
	Jain            float64 `json:"jain"`             // fairness of the processes' rates: 1 when all are the same

	RedisCalls           uint64  `json:"redis_calls"`
	RedisCallsFailed     uint64  `json:"redis_calls_failed"`
	RedisCallsPerMessage float64 `json:"redis_calls_per_message"`

	Killed    int             `json:"killed"`
	Processes []processReport `json:"processes"`

	Outage      *outageReport `json:"outage,omitempty"`
	Solo        *soloReport   `json:"solo,omitempty"`
	Interrupted bool          `json:"interrupted,omitempty"`
}

type limitsReport struct {
	Rate        float64 `json:"rate"`
	Burst       int     `json:"burst"`
	Concurrency int     `json:"concurrency"`
}

type processReport struct {
	Name     string  `json:"name"`
	Ended    string  `json:"ended"`
	Seconds  float64 `json:"seconds"`
	Requests int     `json:"requests"` // as the API counts
	Calls    uint64  `json:"redis_calls"`
	Missed   uint64  `json:"missed"` // permissions that ran out unused
}

type outageReport struct {
	Mode     string  `json:"mode"`
	Seconds  float64 `json:"seconds"`
	Requests int     `json:"requests"`           // during it
	Used     float64 `json:"rate_used"`          // during it, of 1
	Back     float64 `json:"back_after_seconds"` // until 90 % of the limits were used for 2 s; -1: never

	from, to time.Time
}

type soloReport struct {
	Seconds         float64 `json:"seconds"`
	RateUsed        float64 `json:"rate_used"` // by the one, from 2 s on, of 1
	ConcurrencyUsed float64 `json:"concurrency_used"`
	ReachedAfter    float64 `json:"reached_after_seconds"` // 90 % of the limits; -1: never
}

// A DeadLetter is an order that was given up.
type DeadLetter struct {
	ID       string `json:"id"`
	Reason   string `json:"reason"`
	Error    string `json:"error"`
	Attempts int    `json:"attempts"`
}

// count says where everything is when the processes have ended.
func (p *play) count(ctx context.Context, r *Report) error {
	record, stats := p.api.Record(), p.api.Stats()
	r.Accepted, r.Failed = len(p.accepted), p.failed
	r.Requests, r.Rejected429 = stats.Requests, stats.RejectedByRate+stats.RejectedByConcurrency
	r.InFlight, r.Open, r.OverRate = stats.PeakInFlight, stats.PeakOpen, stats.MaxOverRate
	r.StoredTwice, r.HandledTwice = stats.AppliedTwice, stats.Replayed

	missing := make(map[string]bool)
	for id := range p.accepted {
		if p.api.Done(id) {
			r.Stored++
		} else {
			missing[id] = true
		}
	}
	r.Unconfirmed = stats.AppliedOnce + stats.AppliedTwice - r.Stored
	letters, left, err := p.queues.Rest(ctx, missing)
	r.DeadLettered, r.Left = len(letters), len(left)
	r.Lost = len(missing) - r.DeadLettered - r.Left
	for _, m := range letters {
		record, err := retry.ParseDeadLetter(m.Attributes[retry.DeadLetterAttribute])
		if err != nil {
			record = retry.DeadLetter{Reason: "unknown", Error: err.Error()}
		}
		r.DeadLetters = append(r.DeadLetters, DeadLetter{m.Attributes[idAttribute], record.Reason, record.Error, record.Attempts})
	}
	slices.SortFunc(r.DeadLetters, func(a, b DeadLetter) int { return cmp.Compare(a.ID, b.ID) })

	for _, row := range p.fleet.Rows() {
		r.RedisCalls += row.Calls
		r.RedisCallsFailed += row.Failed
		r.Processes = append(r.Processes, processReport{
			Name: row.Name, Ended: string(row.State), Seconds: seconds(row.Ended.Sub(row.Started)),
			Requests: record.Of(row.Name), Calls: row.Calls, Missed: row.Missed,
		})
	}
	r.RedisCallsPerMessage = ratio(float64(r.RedisCalls), float64(r.Stored))
	if o := r.Outage; o != nil {
		o.Seconds, o.Requests = seconds(o.to.Sub(o.from)), len(record.Between(o.from, o.to))
		o.Used = ratio(float64(o.Requests), p.Rate*o.to.Sub(o.from).Seconds())
		o.Back = seconds(record.Reaches(o.to, p.start.Add(p.For), 2*time.Second, 0.9*p.Capacity()))
	}
	return err
}

// Verdict is an error when the run shows what must never be.
func (r Report) Verdict() error {
	var errs []error
	if r.Lost > 0 {
		errs = append(errs, fmt.Errorf("%d orders were lost", r.Lost))
	}
	if r.StoredTwice > 0 {
		errs = append(errs, fmt.Errorf("%d orders were stored twice", r.StoredTwice))
	}
	if r.OverRate > 0 {
		errs = append(errs, fmt.Errorf("the API saw %d requests more than the rate allows", r.OverRate))
	}
	if r.Open > r.Limits.Concurrency {
		errs = append(errs, fmt.Errorf("the API saw %d requests at once: it allows %d", r.Open, r.Limits.Concurrency))
	}
	return errors.Join(errs...)
}

// WriteJSON writes the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(terminal.JSON(text), '\n'))
	return err
}

// WriteTable writes the report for people.
func (r Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(what string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", what, value) }
	percent := func(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }
	row("orders accepted", r.Accepted)
	row("  stored", r.Stored)
	row("  dead-lettered", r.DeadLettered)
	if r.Left > 0 {
		row("  left in the queue", r.Left)
	}
	row("  lost", r.Lost)
	row("  stored twice", r.StoredTwice)
	row("  handled again after a kill", r.HandledTwice)
	row("seen by the API: requests", r.Requests)
	row("  rejected with 429", r.Rejected429)
	row(fmt.Sprintf("  most at once (allowed: %d)", r.Limits.Concurrency), r.Open)
	row(fmt.Sprintf("  most over %v/s, a burst of %d and 100 ms", r.Limits.Rate, r.Limits.Burst), r.OverRate)
	row("used of the rate, while there was work", percent(r.RateUsed))
	row("used of the concurrency", percent(r.ConcurrencyUsed))
	row("fairness of the processes (Jain's index)", r.Jain)
	row("calls to Redis per message", r.RedisCallsPerMessage)
	row("processes killed and replaced", r.Killed)
	if o := r.Outage; o != nil {
		row(fmt.Sprintf("Redis away for %v s (%s): used of the rate", o.Seconds, o.Mode), percent(o.Used))
		row("  seconds until 90 % of the limits were used again", o.Back)
	}
	if s := r.Solo; s != nil {
		row(fmt.Sprintf("one process alone for %v s: used of the rate, of the concurrency", s.Seconds), percent(s.RateUsed)+", "+percent(s.ConcurrencyUsed))
		row("  seconds until it had 90 % of the limits", s.ReachedAfter)
	}
	row("seconds", r.Seconds)
	if err := t.Flush(); err != nil { // with the rows' errors, if there were any
		return err
	}
	_, _ = fmt.Fprintln(t, "\nprocess\tended\tseconds\trequests\tcalls to Redis\tpermissions missed")
	for _, p := range r.Processes {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%v\t%d\t%d\t%d\n", p.Name, p.Ended, p.Seconds, p.Requests, p.Calls, p.Missed)
	}
	if len(r.DeadLetters) > 0 {
		_, _ = fmt.Fprintln(t, "\ndead letter\treason\tattempts\terror")
		for _, l := range r.DeadLetters {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", terminal.Line(l.ID), terminal.Line(l.Reason), l.Attempts, terminal.Line(l.Error))
		}
	}
	if r.Interrupted {
		_, _ = fmt.Fprintln(t, "\ninterrupted: the rest was not played")
	}
	return t.Flush()
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*100) / 100 }

// ratio is a/b with four digits, 0 for nothing of nothing.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return math.Round(a/b*10_000) / 10_000
}
