//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

// A Report is the result of the orders.
type Report struct {
	Orders       int          `json:"orders"`        // valid ones; how many there are in the table in the end:
	Stored       int          `json:"stored"`        // as they were sent
	StoredWrong  int          `json:"stored_wrong"`  // otherwise
	Lost         int          `json:"lost"`          // neither stored, nor dead-lettered, nor in the queue
	Poison       int          `json:"poison"`        // orders that can never succeed
	DeadLetters  []DeadLetter `json:"dead_letters"`  // what is in the dead-letter queue
	GivenUpWrong int          `json:"wrongly_dead"`  // of them: valid orders, and those without their right reason
	Left         int          `json:"left_in_queue"` // messages

	Requests     int  `json:"requests"`       // this and the following as the API counts
	Rejected429  int  `json:"rejected_429"`   // over a limit
	OverRate     int  `json:"max_over_rate"`  // above burst + rate*t, over all windows
	InFlight     int  `json:"peak_in_flight"` // handled concurrently
	AppliedOnce  int  `json:"applied_once"`   // orders for which stock was taken
	AppliedTwice int  `json:"applied_twice"`
	StockRight   bool `json:"stock_right"` // the remaining stock is the initial stock less the orders

	Functions   int     `json:"peak_functions"` // processes at once
	ColdStarts  int     `json:"cold_starts"`
	ColdMedian  float64 `json:"cold_start_ms"` // from exec to the first ask for work, median
	Kills       int     `json:"kills"`
	Invocations int     `json:"invocations"`
	Failed      int     `json:"failed_invocations"`
	Throttles   int     `json:"throttled_invocations"`
	Receives    int     `json:"receives"` // of messages
	Messages    int     `json:"messages"` // sent
	Seconds     float64 `json:"seconds"`
	Interrupted bool    `json:"interrupted,omitempty"`

	limits Settings
}

// A DeadLetter is an order in the dead-letter queue, with its own record.
type DeadLetter struct {
	ID       string `json:"id"`
	Reason   string `json:"reason"`
	Error    string `json:"error"`
	Attempts int    `json:"attempts"`
}

// Broken returns the promises that were broken.
func (r Report) Broken() []string {
	var broken []string
	check := func(kept bool, format string, args ...any) {
		if !kept {
			broken = append(broken, fmt.Sprintf(format, args...))
		}
	}
	check(r.Lost == 0, "%d orders are lost", r.Lost)
	check(r.StoredWrong == 0, "%d items of the table are not what was ordered", r.StoredWrong)
	check(r.AppliedTwice == 0, "stock was taken twice for %d orders", r.AppliedTwice)
	check(r.GivenUpWrong == 0, "%d dead letters are valid orders, or have not their right reason", r.GivenUpWrong)
	check(r.Rejected429 == 0, "the API rejected %d requests", r.Rejected429)
	check(r.OverRate == 0, "%d requests over the API's rate", r.OverRate)
	check(r.InFlight <= r.limits.Functions, "%d requests at once, %d are allowed", r.InFlight, r.limits.Functions)
	if r.Interrupted {
		return broken // the rest needs a complete run
	}
	check(r.Stored == r.Orders, "%d of %d orders are stored", r.Stored, r.Orders)
	check(len(r.DeadLetters) == r.Poison, "%d dead letters for %d poison orders", len(r.DeadLetters), r.Poison)
	check(r.Left == 0, "%d messages are left in the queue", r.Left)
	check(r.AppliedOnce == r.Orders && r.StockRight, "stock was taken for %d of %d orders", r.AppliedOnce, r.Orders)
	return broken
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
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { _, _ = fmt.Fprintf(t, name+"\t"+format+"\n", args...) } // Flush reports it
	row("orders stored", "%d of %d, %d lost", r.Stored, r.Orders, r.Lost)
	row("stock taken", "for %d orders once, for %d twice", r.AppliedOnce, r.AppliedTwice)
	row("dead letters", "%d for %d poison orders", len(r.DeadLetters), r.Poison)
	for _, d := range r.DeadLetters {
		row("", "%s: %s, after %d receives", terminal.Line(d.ID), terminal.Line(d.Reason), d.Attempts)
	}
	row("requests that the API saw", "%d, %d answered 429", r.Requests, r.Rejected429)
	row("  above %g/s, burst %d", "%d", r.limits.Rate, r.limits.APIBurst(), r.OverRate)
	row("  at once", "%d, %d are allowed", r.InFlight, r.limits.Functions)
	row("function processes", "%d at once, %d cold starts of %.0f ms, %d killed", r.Functions, r.ColdStarts, r.ColdMedian, r.Kills)
	row("invocations", "%d, %d failed, %d throttled", r.Invocations, r.Failed, r.Throttles)
	row("receives", "%d of %d messages", r.Receives, r.Messages)
	row("time", "%.1f s", r.Seconds)
	return t.Flush()
}
