//go:build unix

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A report is everything that was measured.
type report struct {
	Date        time.Time     `json:"date"`
	Go          string        `json:"go"`
	System      string        `json:"system"`
	CPUs        int           `json:"cpus"`
	Pairs       int           `json:"pairs"`
	Quick       bool          `json:"quick"`
	MessageSize int           `json:"message_bytes"`
	Took        time.Duration `json:"took_ns"`
	Results     []result      `json:"scenarios"`
}

// A result is a scenario, and what it came to.
type result struct {
	Name        string        `json:"name"`
	Latency     time.Duration `json:"latency_ns"`
	Handler     time.Duration `json:"handler_ns"`
	Concurrency int           `json:"concurrency"`
	Messages    int           `json:"messages"`
	Libraries   []libraryRuns `json:"libraries"`

	scenario scenario
}

// A libraryRuns is the runs of one consumer, and how they compare with
// rampmeter's runs beside them.
type libraryRuns struct {
	Name string    `json:"name"`
	Runs []figures `json:"runs"`
	// RateRatio is rampmeter's rate by this one's, CPURatio the same of the CPU
	// time for a message.
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

// add takes the next run of a consumer in.
func (r *result) add(library string, f figures) {
	l := r.of(library)
	l.Runs = append(l.Runs, f)
	if r.scenario.OverPull {
		return
	}
	ours := r.of(rampmeter).Runs
	for i := range r.Libraries {
		l := &r.Libraries[i]
		if l.Name == rampmeter {
			continue
		}
		var rates, cpus []float64
		for i := range min(len(ours), len(l.Runs)) {
			rates = append(rates, ours[i].Rate/l.Runs[i].Rate)
			cpus = append(cpus, float64(ours[i].CPU)/float64(max(l.Runs[i].CPU, 1)))
		}
		l.RateRatio, l.CPURatio = spreadOf(rates), spreadOf(cpus)
	}
}

func (r *result) of(library string) *libraryRuns {
	i := slices.IndexFunc(r.Libraries, func(l libraryRuns) bool { return l.Name == library })
	if i < 0 {
		return &libraryRuns{}
	}
	return &r.Libraries[i]
}

// A spread is a median, and what it lies between.
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

// cell is the spread in a table.
func (s *spread) cell(format string) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf(format+" ("+format+"..."+format+")", s.Median, s.Min, s.Max)
}

// over returns the spread of one figure of all runs.
func (l *libraryRuns) over(figure func(figures) float64) *spread {
	var values []float64
	for _, f := range l.Runs {
		values = append(values, figure(f))
	}
	return spreadOf(values)
}

func rateOf(f figures) float64  { return f.Rate }
func cpuOf(f figures) float64   { return float64(f.CPU) / float64(time.Microsecond) }
func busyOf(f figures) float64  { return f.Busy }
func callsOf(f figures) float64 { return f.Calls }

// markdown is the report as tables.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s %s, %d CPUs, %s, %v. Messages of %d bytes. Medians (min...max).\n",
		r.Date.Format(time.DateOnly), r.Go, r.System, r.CPUs, count(r.Pairs, "pair"), r.Took, r.MessageSize)
	if r.Quick {
		b.WriteString("A quick run: it shows that everything works, and its figures mean little.\n")
	}
	for _, res := range r.Results {
		s := res.scenario
		fmt.Fprintf(&b, "\n### %s\n\n%d messages.", s.Title, s.Messages)
		switch {
		case s.OverPull:
			b.WriteString(" All consumers at the same time, each with a queue of its own.\n\n")
			b.WriteString("| consumer | handled more than once | received again | most in flight | calls per message | seconds until empty |\n|---|--:|--:|--:|--:|--:|\n")
		case s.ideal() > 0:
			fmt.Fprintf(&b, " Ideal: %.0f a second.\n\n", s.ideal())
			b.WriteString("| consumer | messages a second | of the ideal | handlers busy | CPU per message, µs | calls per message | rate: rampmeter's by it | CPU: rampmeter's by it |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
		default:
			b.WriteString("\n\n| consumer | messages a second | CPU per message, µs | calls per message | rate: rampmeter's by it | CPU: rampmeter's by it |\n|---|--:|--:|--:|--:|--:|\n")
		}
		for _, l := range res.Libraries {
			var cells []string
			rate, calls := l.over(rateOf), l.over(callsOf)
			if s.OverPull {
				f := l.Runs[0]
				cells = []string{
					fmt.Sprint(f.Twice), fmt.Sprint(f.Again), fmt.Sprint(f.MaxInFlight),
					fmt.Sprintf("%.2f", f.Calls), fmt.Sprintf("%.0f", f.Took.Seconds()),
				}
			} else {
				cells = append(cells, rate.cell("%.0f"))
				if s.ideal() > 0 {
					cells = append(cells,
						fmt.Sprintf("%.0f %%", 100*rate.Median/s.ideal()),
						fmt.Sprintf("%.0f %%", 100*l.over(busyOf).Median/float64(s.Concurrency)))
				}
				cells = append(cells, l.over(cpuOf).cell("%.0f"), fmt.Sprintf("%.2f", calls.Median), l.RateRatio.cell("%.2f"), l.CPURatio.cell("%.2f"))
			}
			fmt.Fprintf(&b, "| %s | %s |\n", l.Name, strings.Join(cells, " | "))
		}
		if bars := res.bars(); len(bars) > 0 && !r.Quick {
			b.WriteString("\n" + strings.Join(bars, "\n") + "\n")
		}
	}
	return b.String()
}

// bars say what rampmeter was to reach, and whether it has.
func (r *result) bars() (bars []string) {
	s := r.scenario
	bar := func(what string, value float64, least bool, limit float64) {
		verdict, sign := "missed", "at most"
		if least {
			sign = "at least"
		}
		if least && value >= limit || !least && value <= limit {
			verdict = "met"
		}
		bars = append(bars, fmt.Sprintf("- %s %s %.2f: %.2f, %s", what, sign, limit, value, verdict))
	}
	ours, theirs := r.of(rampmeter), r.of(handWritten)
	if s.LeastRate > 0 {
		bar("rate beside the hand-written loop", theirs.RateRatio.Median, true, s.LeastRate)
	}
	if s.MostCPU > 0 {
		bar("CPU beside the hand-written loop", theirs.CPURatio.Median, false, s.MostCPU)
	}
	if s.LeastBusy > 0 {
		bar("handlers busy", ours.over(busyOf).Median/float64(s.Concurrency), true, s.LeastBusy)
	}
	if s.OverPull {
		bar("messages handled more than once", float64(ours.Runs[0].Twice), false, 0)
	}
	return bars
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
