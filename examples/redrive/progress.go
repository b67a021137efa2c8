package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/rampmeter/rampmeter/internal/terminal"
	"github.com/rampmeter/rampmeter/queue/deadletter"
)

// Progress shows how far a redrive is: with a bar on a terminal, with a
// line each second elsewhere.
type Progress struct {
	mu   sync.Mutex // guards all below, and the writes
	w    io.Writer
	bar  *progressbar.ProgressBar // nil: no terminal
	last time.Time                // when the last line was written
}

// NewProgress returns a Progress that writes to w, for total letters; 0: the total is
// unknown.
func NewProgress(w io.Writer, total int) *Progress {
	p := &Progress{w: w, last: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if total == 0 {
			total = -1 // a spinner
		}
		p.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetWidth(30),
			progressbar.OptionShowCount(),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

// Show shows how far it is.
func (p *Progress) Show(s deadletter.Summary) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf("%d redriven, %d refused, %d in doubt", s.Redriven, s.Failed, s.InDoubt)
	switch {
	case p.bar != nil:
		p.bar.Describe(text)
		if most := p.bar.GetMax(); most < 0 || s.Examined < most { // a full bar would be at its end
			_ = p.bar.Set(s.Examined) // a bar that can't be drawn stops nothing
		}
	case time.Since(p.last) >= time.Second:
		p.last = time.Now()
		_, _ = fmt.Fprintf(p.w, "%d letters examined: %s\n", s.Examined, text)
	}
}

// Line writes a line, above the bar if there is one.
func (p *Progress) Line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	_, _ = fmt.Fprintln(p.w, terminal.Line(text))
}

// Write implements [io.Writer], for the logger.
func (p *Progress) Write(b []byte) (int, error) {
	p.Line(string(b[:max(len(b)-1, 0)])) // less the line's end
	return len(b), nil
}

// Logger returns a logger for events that can't wait for the summary.
func (p *Progress) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(p, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// Stop removes the bar.
func (p *Progress) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
