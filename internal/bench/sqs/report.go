//go:build unix

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A report is the result of all measurements.
type report struct {
	Date        time.Time     `json:"date"`
	Go          string        `json:"go"`
	System      string        `json:"system"`
	CPUs        int           `json:"cpus"`
	Pairs       int           `json:"pairs"`
	Quick       bool          `json:"quick"`
	MessageSize int           `json:"message_bytes"`
	Client      string        `json:"http_client"`
	Took        time.Duration `json:"took_ns"`
	Results     []result      `json:"scenarios"`
}

// A result is a scenario and its figures.
type result struct {
	Name        string        `json:"name"`
	Latency     time.Duration `json:"latency_ns"`
	Handler     time.Duration `json:"handler_ns"`
	Concurrency int           `json:"concurrency"`
	Messages    int           `json:"messages"`
	Libraries   []libraryRuns `json:"libraries"`
	// Noise has the ratios of the hand-written loop to itself.
	Noise *noise `json:"noise,omitempty"`

	scenario scenario
}

// A noise is the spread of a ratio between identical consumers.
type noise struct {
	Rate *spread `json:"rate_ratio"`
	CPU  *spread `json:"cpu_ratio"`
}

// A libraryRuns has the runs of one consumer, and their ratios to rampmeter's runs in
// the same pairs.
type libraryRuns struct {
	Name string    `json:"name"`
	Runs []figures `json:"runs"`
	// RateRatio is rampmeter's rate divided by this one's, CPURatio the same for the
	// CPU time per message.
	RateRatio *spread `json:"rampmeter_rate_ratio,omitempty"`
	CPURatio  *spread `json:"rampmeter_cpu_ratio,omitempty"`
}

func newResult(s scenario) result {
	r := result{
		Name: s.Name, Latency: s.Latency, Handler: s.Handler,
		Concurrency: s.Concurrency, Messages: s.Messages, scenario: s,
	}
	for _, name := range s.Libraries {
		r.Libraries = append(r.Libraries, libraryRuns{Name: name})
	}
	return r
}

// add adds the next run of a consumer.
func (r *result) add(library string, f figures) {
	l := r.of(library)
	l.Runs = append(l.Runs, f)
	if r.scenario.OverPull {
		return
	}
	for i := range r.Libraries {
		l := &r.Libraries[i]
		if l.Name != rampmeter {
			l.RateRatio, l.CPURatio = ratios(r.of(rampmeter).Runs, l.Runs)
		}
	}
	if again := r.of(loopAgain).Runs; len(again) > 0 {
		r.Noise = new(noise)
		r.Noise.Rate, r.Noise.CPU = ratios(again, r.of(handWritten).Runs)
	}
}

// ratios returns the ratios between runs of the same pair.
func ratios(ours, theirs []figures) (rate, cpu *spread) {
	var rates, cpus []float64
	for i := range min(len(ours), len(theirs)) {
		rates = append(rates, ours[i].Rate/theirs[i].Rate)
		cpus = append(cpus, float64(ours[i].CPU)/float64(max(theirs[i].CPU, 1)))
	}
	return spreadOf(rates), spreadOf(cpus)
}

func (r *result) of(library string) *libraryRuns {
	i := slices.IndexFunc(r.Libraries, func(l libraryRuns) bool { return l.Name == library })
	if i < 0 {
		return &libraryRuns{}
	}
	return &r.Libraries[i]
}

// A spread is a median with the lowest and the highest value.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf returns nil for no values.
func spreadOf(values []float64) *spread {
	if len(values) == 0 {
		return nil
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return &spread{Median: (v[(n-1)/2] + v[n/2]) / 2, Min: v[0], Max: v[n-1]}
}

// cell formats the spread for a table.
func (s *spread) cell(format string) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf(format+" ("+format+"..."+format+")", s.Median, s.Min, s.Max)
}

// median formats the median for a table.
func (s *spread) median(format string) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf(format, s.Median)
}

// over returns the spread of one figure over all runs that have it.
func (l *libraryRuns) over(figure func(figures) float64) *spread {
	var values []float64
	for _, f := range l.Runs {
		if v := figure(f); !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return spreadOf(values)
}

func rateOf(f figures) float64     { return f.Rate }
func cpuOf(f figures) float64      { return float64(f.CPU) / float64(time.Microsecond) }
func busyOf(f figures) float64     { return f.Busy }
func callsOf(f figures) float64    { return f.Calls }
func receivesOf(f figures) float64 { return float64(f.MaxReceives) }
func memoryOf(f figures) float64   { return float64(f.Memory) / (1 << 20) }
func allocsOf(f figures) float64   { return f.Allocs }

func openedOf(f figures) float64 {
	if f.Connections == nil {
		return math.NaN()
	}
	return *f.Connections
}

// markdown returns the report as tables.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s %s, %d CPUs, %s, %v. Messages of %d bytes. Medians (min...max).\n",
		r.Date.Format(time.DateOnly), r.Go, r.System, r.CPUs, count(r.Pairs, "pair"), r.Took, r.MessageSize)
	if r.Quick {
		b.WriteString("A quick run: it shows that everything works, and its figures mean little.\n")
	}
	for _, res := range r.Results {
		s := res.scenario
		fmt.Fprintf(&b, "\n### %s\n\n%d messages. HTTP client of all: %s.", s.Title, s.Messages, r.Client)
		if s.OverPull {
			b.WriteString(" All consumers at the same time, each with a queue of its own.\n\n")
		} else {
			if s.ideal() > 0 {
				fmt.Fprintf(&b, " Ideal: %.0f a second.", s.ideal())
			}
			if res.Noise != nil {
				fmt.Fprintf(&b, "\nThe hand-written loop by itself, run again: rate %s, CPU %s.", res.Noise.Rate.cell("%.2f"), res.Noise.CPU.cell("%.2f"))
			}
			b.WriteString("\n\n")
		}
		res.table(&b)
		if bars := res.bars(); len(bars) > 0 && !r.Quick {
			b.WriteString("\n" + strings.Join(bars, "\n") + "\n")
		}
	}
	return b.String()
}

// A column is a column of a table.
type column struct {
	title string
	cell  func(libraryRuns) string
}

// table writes the figures of the runs.
func (r *result) table(b *strings.Builder) {
	s := r.scenario
	spread := func(title, format string, figure func(figures) float64) column {
		return column{title, func(l libraryRuns) string { return l.over(figure).cell(format) }}
	}
	median := func(title, format string, figure func(figures) float64) column {
		return column{title, func(l libraryRuns) string { return l.over(figure).median(format) }}
	}
	percent := func(title string, of float64, figure func(figures) float64) column {
		return median(title, "%.0f %%", func(f figures) float64 { return 100 * figure(f) / of })
	}
	var columns []column
	if s.OverPull {
		columns = []column{
			median("handled more than once", "%.0f", func(f figures) float64 { return float64(f.Twice) }),
			median("received again", "%.0f", func(f figures) float64 { return float64(f.Again) }),
			median("most in flight", "%.0f", func(f figures) float64 { return float64(f.MaxInFlight) }),
			median("calls per message", "%.2f", callsOf),
			median("seconds until empty", "%.0f", func(f figures) float64 { return f.Took.Seconds() }),
		}
	} else {
		columns = []column{spread("messages a second", "%.0f", rateOf)}
		if s.ideal() > 0 {
			columns = append(columns, percent("of the ideal", s.ideal(), rateOf), percent("handlers busy", float64(s.Concurrency), busyOf))
		}
		columns = append(columns,
			spread("CPU per message, µs", "%.0f", cpuOf),
			median("new connections per 1,000 messages", "%.1f", openedOf),
			median("receives in flight at the peak", "%.0f", receivesOf),
			median("calls per message", "%.2f", callsOf),
			median("peak memory, MiB", "%.0f", memoryOf),
			median("allocations per message", "%.0f", allocsOf),
			column{"rate: rampmeter's by it", func(l libraryRuns) string { return l.RateRatio.cell("%.2f") }},
			column{"CPU: rampmeter's by it", func(l libraryRuns) string { return l.CPURatio.cell("%.2f") }},
		)
	}
	b.WriteString("| consumer |")
	for _, c := range columns {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("--:|", len(columns)) + "\n")
	for _, l := range r.Libraries {
		if l.Name == loopAgain {
			continue // it is in Noise
		}
		b.WriteString("| " + l.Name + " |")
		for _, c := range columns {
			b.WriteString(" " + c.cell(l) + " |")
		}
		b.WriteString("\n")
	}
}

// bars list rampmeter's targets, and whether it met them.
func (r *result) bars() (bars []string) {
	s := r.scenario
	bar := func(what string, value *spread, least bool, limit float64) {
		if value == nil {
			return
		}
		verdict, sign := "missed", "at most"
		if least {
			sign = "at least"
		}
		is, limit := round(value.Median), round(limit)
		if least && is >= limit || !least && is <= limit {
			verdict = "met"
		}
		bars = append(bars, fmt.Sprintf("- %s %s %.2f: %.2f, %s", what, sign, limit, is, verdict))
	}
	ours, theirs := r.of(rampmeter), r.of(handWritten)
	if s.LeastRate > 0 {
		least, what := s.LeastRate, "rate beside the hand-written loop"
		if s.Noise && r.Noise != nil {
			differs := math.Abs(1 - r.Noise.Rate.Median)
			least -= differs
			what += fmt.Sprintf(" (%.2f less the %.2f by which the loop differs from itself)", s.LeastRate, differs)
		}
		bar(what, theirs.RateRatio, true, least)
	}
	if s.MostCPU > 0 {
		bar("CPU beside the hand-written loop", theirs.CPURatio, false, s.MostCPU)
	}
	if s.LeastBusy > 0 {
		bar("handlers busy", ours.over(func(f figures) float64 { return f.Busy / float64(s.Concurrency) }), true, s.LeastBusy)
	}
	if s.MostOpened > 0 {
		bar("new connections per 1,000 messages", ours.over(openedOf), false, s.MostOpened)
	}
	if s.MostReceives > 0 {
		bar("receives in flight at the peak", ours.over(receivesOf), false, s.MostReceives*theirs.over(receivesOf).Median)
	}
	if s.OverPull {
		bar("messages handled more than once", ours.over(func(f figures) float64 { return float64(f.Twice) }), false, 0)
	}
	return bars
}

// round returns x rounded as it is printed.
func round(x float64) float64 { return math.Round(x*100) / 100 }

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
