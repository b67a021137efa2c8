package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"text/tabwriter"
	"time"
)

// A Table tells people how the fleet is doing: with a table of all processes
// that is drawn again and again on a terminal, with a line a second elsewhere.
type Table struct {
	terminal bool

	mu    sync.Mutex // guards what follows, and serializes what is written to w
	w     io.Writer
	drawn int // lines of the table that stand on the terminal
	// of the last second, and what was there at its end
	measured time.Time
	speeds   map[string]speed
	before   map[string]Status
}

// A speed is in orders and in calls to Redis a second.
type speed struct{ done, calls float64 }

// NewTable returns a table that is written to w.
func NewTable(w io.Writer) *Table {
	t := &Table{w: w, measured: time.Now(), speeds: make(map[string]speed), before: make(map[string]Status)}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		t.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return t
}

// Every is how often to show it.
func (t *Table) Every() time.Duration {
	if t.terminal {
		return 250 * time.Millisecond
	}
	return time.Second
}

// Write implements [io.Writer]: lines stand above the table. It may be called
// concurrently.
func (t *Table) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.erase()
	return t.w.Write(b)
}

// erase takes the table away. t.mu is held.
func (t *Table) erase() {
	if t.drawn > 0 {
		_, _ = fmt.Fprintf(t.w, "\x1b[%dA\x1b[J", t.drawn)
		t.drawn = 0
	}
}

// Show shows a headline and the processes. Those that have ended are shown for
// some seconds more.
func (t *Table) Show(headline string, rows []Row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.measure(rows)
	var shown []Row
	for _, r := range rows {
		if r.Ended.IsZero() || time.Since(r.Ended) < killEvery {
			shown = append(shown, r)
		}
	}
	var b bytes.Buffer
	if !t.terminal {
		b.WriteString(headline)
		for _, r := range shown {
			_, _ = fmt.Fprintf(&b, "; %s %s", r.Name, r.condition())
			if r.Ended.IsZero() {
				s := t.speeds[r.Name]
				_, _ = fmt.Fprintf(&b, " share %.0f/s and %d, %d in flight, %.0f done/s, %.0f calls/s", r.Share, r.Places, r.Running, s.done, s.calls)
			}
		}
		_, _ = fmt.Fprintln(t.w, b.String())
		return
	}
	tab := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(tab, "process\tstate\tshare/s\tplaces\tin flight\tdone\tdone/s\tcalls/s\twaits for\t")
	for _, r := range shown {
		if !r.Ended.IsZero() {
			_, _ = fmt.Fprintf(tab, "%s\t%s\t\t\t\t%d\t\t\t\t\n", r.Name, r.condition(), r.Done)
			continue
		}
		s := t.speeds[r.Name]
		_, _ = fmt.Fprintf(tab, "%s\t%s\t%.1f\t%d\t%d\t%d\t%.0f\t%.0f\t%s\t\n",
			r.Name, r.condition(), r.Share, r.Places, r.Running, r.Done, s.done, s.calls, r.Waits)
	}
	_ = tab.Flush() // into memory
	t.erase()
	_, _ = fmt.Fprintf(t.w, "%s\n%s", headline, b.Bytes())
	t.drawn = 1 + bytes.Count(b.Bytes(), []byte("\n"))
}

// measure takes the speeds of the last second. t.mu is held.
func (t *Table) measure(rows []Row) {
	took := time.Since(t.measured).Seconds()
	if took < 0.95 {
		return
	}
	for _, r := range rows {
		before := t.before[r.Name]
		t.before[r.Name] = r.Status
		t.speeds[r.Name] = speed{float64(r.Done-before.Done) / took, float64(r.Calls-before.Calls) / took}
	}
	t.measured = time.Now()
}

// condition is the process's own state, and while it works that of its limits.
func (r Row) condition() string {
	if r.State == works && r.Status.State != "" {
		return r.Status.State
	}
	return string(r.State)
}
