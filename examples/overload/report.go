package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// A Report is the result of the operations with each limiter.
type Report struct {
	Capacity int       `json:"capacity"` // operations that the downstream could have done
	Limiters []Summary `json:"limiters"`
}

// A Summary is the result of one client.
type Summary struct {
	Limiter         string  `json:"limiter"`
	Offered         int     `json:"offered"`          // operations
	Done            int     `json:"done"`             // of these
	Calls           int     `json:"calls"`            // of the downstream that have ended
	Refused         int     `json:"refused"`          // of these, with a 429
	Failed          int     `json:"failed"`           // of these, while it was down
	Goodput         float64 `json:"goodput"`          // operations done, as a share of what the downstream could have done
	P50             float64 `json:"p50_ms"`           // how long successful calls took
	P99             float64 `json:"p99_ms"`           //
	OverloadSeconds float64 `json:"overload_seconds"` // for how long more calls were in flight than it runs and lets wait
}

// NewReport sums up the results of the passes.
func NewReport(s Settings, passes []Pass) Report {
	could := 0.0
	for _, p := range story {
		could += s.Rate(p) * (p.To - p.From) * s.Length.Seconds()
	}
	r := Report{Capacity: int(math.Round(could))}
	for _, p := range passes {
		sum := Summary{Limiter: p.Limiter, OverloadSeconds: rounded(p.Over().Seconds(), 2)}
		var took []time.Duration
		for _, b := range p.Bins() {
			sum.Offered += b.Offered
			sum.Done += b.Done
			sum.Refused += b.Refused
			sum.Failed += b.Failed
			took = append(took, b.Took...)
		}
		slices.Sort(took)
		sum.Calls = sum.Done + sum.Refused + sum.Failed
		sum.Goodput = rounded(float64(sum.Done)/could, 3)
		sum.P50, sum.P99 = millis(quantile(took, 0.5)), millis(quantile(took, 0.99))
		r.Limiters = append(r.Limiters, sum)
	}
	return r
}

func rounded(x float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(x*scale) / scale
}

func millis(d time.Duration) float64 { return rounded(d.Seconds()*1000, 1) }

// WriteJSON writes the report as one JSON object.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteTable writes the report for people.
func (r Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(what string, of func(Summary) string) {
		_, _ = fmt.Fprint(t, what)
		for _, s := range r.Limiters {
			_, _ = fmt.Fprint(t, "\t", of(s))
		}
		_, _ = fmt.Fprintln(t)
	}
	count := func(of func(Summary) int) func(Summary) string {
		return func(s Summary) string { return fmt.Sprint(of(s)) }
	}
	row("", func(s Summary) string { return s.Limiter })
	row("operations offered", count(func(s Summary) int { return s.Offered }))
	row("  done", count(func(s Summary) int { return s.Done }))
	row(fmt.Sprintf("  of the %d that could be", r.Capacity), func(s Summary) string { return fmt.Sprintf("%.0f %%", 100*s.Goodput) })
	row("calls of the downstream", count(func(s Summary) int { return s.Calls }))
	row("  refused with 429", count(func(s Summary) int { return s.Refused }))
	row("  failed while it was down", count(func(s Summary) int { return s.Failed }))
	row("  median of how long one took", func(s Summary) string { return fmt.Sprintf("%.0f ms", s.P50) })
	row("  99th percentile", func(s Summary) string { return fmt.Sprintf("%.0f ms", s.P99) })
	row("seconds in which it had too many", func(s Summary) string { return fmt.Sprintf("%.1f", s.OverloadSeconds) })
	return t.Flush() // with the rows' errors, if there were any
}
