package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

// A Report is the result of the spike in both passes.
type Report struct {
	Direct      DirectReport `json:"direct"`
	Queued      QueuedReport `json:"queued"`
	Interrupted bool         `json:"interrupted,omitempty"`
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
func (r Report) WriteTable(w io.Writer, s Settings) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(what string, direct, queued any) { _, _ = fmt.Fprintf(t, "%s\t%v\t%v\n", what, direct, queued) }
	d, q := r.Direct, r.Queued
	row("", "direct", "queued")
	row("orders accepted", d.Accepted, q.Accepted)
	row("  stored", d.Stored, q.Stored)
	row("  failed while the customer waited", d.Failed, q.Failed)
	row("  dead-lettered", "-", q.DeadLettered)
	if q.Left > 0 {
		row("  left in the queue", "-", q.Left)
	}
	row("  lost", "-", q.Lost)
	row("  stored twice", "-", q.StoredTwice)
	if q.Unconfirmed > 0 {
		row("orders not accepted, and stored", "-", q.Unconfirmed)
	}
	if q.Earlier > 0 {
		row("orders of earlier runs, stored", "-", q.Earlier)
	}
	row("seen by the API: requests", d.Requests, q.Requests)
	row("  rejected with 429", d.Rejected429, q.Rejected429)
	row("  failed in the outage", d.Outage, q.Outage)
	row(fmt.Sprintf("  most at once (allowed: %d)", s.Concurrency), d.Open, q.Open)
	row(fmt.Sprintf("  most over %v/s and a burst of %d", s.Rate, s.APIBurst()), d.OverRate, q.OverRate)
	row("seconds", d.Seconds, q.Seconds)
	if err := t.Flush(); err != nil { // with the rows' errors, if there were any
		return err
	}
	if len(q.DeadLetters) > 0 {
		_, _ = fmt.Fprintln(t, "\ndead letter\treason\tattempts\terror")
		for _, l := range q.DeadLetters {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", terminal.Line(l.ID), terminal.Line(l.Reason), l.Attempts, terminal.Line(l.Error))
		}
	}
	if r.Interrupted {
		_, _ = fmt.Fprintln(t, "\ninterrupted: the rest of the spike was not played")
	}
	return t.Flush()
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*100) / 100 }

// quantities makes "3 stored, 2 failed" of names and numbers.
func quantities(name string, n int, and string, m int) string {
	return strconv.Itoa(n) + " " + name + ", " + strconv.Itoa(m) + " " + and
}
