package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A report is the result of all measurements.
type report struct {
	Date      time.Time `json:"date"`
	Go        string    `json:"go"`
	System    string    `json:"system"`
	CPUs      int       `json:"cpus"`
	Rounds    int       `json:"rounds"`
	Seconds   float64   `json:"seconds_of_a_run"`
	Scenarios []result  `json:"scenarios"`
}

// A result is a scenario and its figures.
type result struct {
	scenario
	Limiters []limiterRuns `json:"limiters"`
}

type limiterRuns struct {
	Name string    `json:"name"`
	Runs []figures `json:"runs"`
}

// median is the median of one figure over all runs.
func (l limiterRuns) median(figure func(figures) float64) float64 {
	var v []float64
	for _, f := range l.Runs {
		v = append(v, figure(f))
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// markdown returns the report as tables.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s %s, %d CPUs, runs of %v s, medians of %d.\n", r.Date.Format(time.DateOnly), r.Go, r.System, r.CPUs, r.Seconds, r.Rounds)
	for _, s := range r.Scenarios {
		fmt.Fprintf(&b, "\n### %s\n\n%d processes with %d workers each, burst %d, %v to Redis and back.\n\n", s.Title, s.Processes, s.Workers, s.Burst, s.Latency)
		b.WriteString("| limiter | starts a second | calls per start | wait p50, ms | wait p99, ms | most over the limit, as the processes see it |\n|---|--:|--:|--:|--:|--:|\n")
		for _, l := range s.Limiters {
			fmt.Fprintf(&b, "| %s | %.0f | %.3f | %.3f | %.3f | %.0f |\n", l.Name,
				l.median(func(f figures) float64 { return f.Rate }),
				l.median(func(f figures) float64 { return f.Calls }),
				l.median(func(f figures) float64 { return float64(f.P50) / 1e6 }),
				l.median(func(f figures) float64 { return float64(f.P99) / 1e6 }),
				l.median(func(f figures) float64 { return float64(f.OverRate) }))
		}
	}
	return b.String()
}
