package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rampmeter/rampmeter/internal/terminal"
	"github.com/rampmeter/rampmeter/queue/deadletter"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// A printer writes a command's results, for people or as JSON.
type printer struct {
	w       io.Writer
	json    bool
	reasons map[string]int
}

func newPrinter(w io.Writer, json bool) *printer {
	return &printer{w: w, json: json, reasons: make(map[string]int)}
}

// letterJSON is a letter as printed.
type letterJSON struct {
	ID         string    `json:"id"`
	OriginalID string    `json:"original_id,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Error      string    `json:"error,omitempty"`
	Attempts   int       `json:"attempts,omitempty"`
	Redrives   int       `json:"redrives,omitempty"`
	Source     string    `json:"source,omitempty"`
	First      time.Time `json:"first,omitzero"`
	Died       time.Time `json:"died,omitzero"`
	Group      string    `json:"group,omitempty"`

	// Of show only.
	Attributes map[string]string `json:"attributes,omitempty"`
	Body       *string           `json:"body,omitempty"`
	Binary     []byte            `json:"binary_body,omitempty"` // instead of a body that is not text
}

func asJSON(l deadletter.Letter) letterJSON {
	return letterJSON{
		ID: l.Message.ID, OriginalID: l.Record.MessageID, Reason: l.Record.Reason, Error: l.Record.Error, Attempts: l.Attempts(), Redrives: l.History.Redrives,
		Source: l.Record.Source, First: l.First(), Died: l.Died(), Group: l.Message.Group,
	}
}

func (p *printer) object(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := p.w.Write(terminal.JSON(b.Bytes()))
	return err
}

// line prints a letter in one line.
func (p *printer) line(l deadletter.Letter) error {
	if p.json {
		return p.object(asJSON(l))
	}
	const format = "%-36s  %-12s  %8s  %-19s  %-12s  %s\n"
	if len(p.reasons) == 0 {
		if _, err := fmt.Fprintf(p.w, format, "ID", "REASON", "ATTEMPTS", "GIVEN UP", "SOURCE", "ERROR"); err != nil {
			return err
		}
	}
	reason := reasonOf(l)
	p.reasons[reason]++
	_, err := fmt.Fprintf(p.w, format, oneLine(l.Message.ID), oneLine(reason), number(l.Attempts()), instant(l.Died()), oneLine(l.Record.Source), oneLine(l.Record.Error))
	return err
}

// end prints the number of letters.
func (p *printer) end() error {
	if p.json {
		return nil
	}
	total := 0
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(p.reasons)) {
		total += p.reasons[reason]
		parts = append(parts, fmt.Sprintf("%d %s", p.reasons[reason], oneLine(reason)))
	}
	if total == 0 {
		_, err := fmt.Fprintln(p.w, "no letters")
		return err
	}
	_, err := fmt.Fprintf(p.w, "%d letters: %s\n", total, strings.Join(parts, ", "))
	return err
}

// whole prints a letter in full.
func (p *printer) whole(l deadletter.Letter) error {
	attributes := maps.Clone(l.Message.Attributes)
	delete(attributes, retry.DeadLetterAttribute)
	delete(attributes, deadletter.HistoryAttribute)
	if p.json {
		o := asJSON(l)
		o.Attributes = attributes
		if body := string(l.Message.Body); utf8.ValidString(body) {
			o.Body = &body
		} else {
			o.Binary = l.Message.Body
		}
		return p.object(o)
	}
	var b strings.Builder
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s %s\n", name, terminal.Line(value))
		}
	}
	field("id", l.Message.ID)
	field("original id", l.Record.MessageID)
	field("reason", reasonOf(l))
	field("error", l.Record.Error)
	field("attempts", number(l.Attempts()))
	field("first", instant(l.First()))
	field("given up", instant(l.Died()))
	field("source", l.Record.Source)
	field("group", l.Message.Group)
	if h := l.History; h.Redrives > 0 {
		field("redriven", fmt.Sprintf("%d times; before the last time: %s: %s", h.Redrives, h.Last.Reason, h.Last.Error))
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		field("attribute", name+" = "+attributes[name])
	}
	fmt.Fprintf(&b, "\n%s\n", terminal.Text(string(l.Message.Body)))
	_, err := io.WriteString(p.w, b.String())
	return err
}

// summary prints what a redrive did.
func (p *printer) summary(s deadletter.Summary, dry bool, err error) error {
	if p.json {
		o := struct {
			Examined int    `json:"examined"`
			Matched  int    `json:"matched"`
			Newer    int    `json:"newer"`
			Redriven int    `json:"redriven"`
			Failed   int    `json:"failed"`
			InDoubt  int    `json:"in_doubt"`
			Kept     int    `json:"kept"`
			DryRun   bool   `json:"dry_run"`
			Run      string `json:"run"`
			Error    string `json:"error,omitempty"`
		}{s.Examined, s.Matched, s.Newer, s.Redriven, s.Failed, s.InDoubt, s.Kept, dry, s.Run, ""}
		if err != nil {
			o.Error = err.Error()
		}
		return p.object(o)
	}
	text := fmt.Sprintf("%d letters examined: %d redriven, %d refused, %d in doubt, %d kept", s.Examined, s.Redriven, s.Failed, s.InDoubt, s.Kept)
	if dry {
		text = fmt.Sprintf("%d letters examined: %d would be redriven, %d kept", s.Examined, s.Matched, s.Examined-s.Matched)
	}
	if s.Newer > 0 {
		text += fmt.Sprintf(" (%d came after the start)", s.Newer)
	}
	_, err = fmt.Fprintln(p.w, text)
	return err
}

// moved prints what the service did.
func (p *printer) moved(m sqsqueue.MoveProgress) error {
	if p.json {
		return p.object(struct {
			Moved int64 `json:"moved"`
			Total int64 `json:"total"`
		}{m.Moved, m.Total})
	}
	_, err := fmt.Fprintf(p.w, "%d messages moved by the service\n", m.Moved)
	return err
}

func reasonOf(l deadletter.Letter) string {
	if l.Record.Reason == "" {
		return none
	}
	return l.Record.Reason
}

func instant(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func number(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// oneLine returns the beginning of a text, safe to print.
func oneLine(s string) string {
	r := []rune(terminal.Line(strings.Join(strings.Fields(s), " ")))
	if len(r) > 100 {
		r = append(r[:99], '…')
	}
	return dash(string(r))
}
