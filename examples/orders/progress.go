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
)

// Progress shows how far the program is: with a bar on a terminal, with
// a line each second elsewhere.
type Progress struct {
	terminal bool

	mu sync.Mutex // serializes what is written to w
	w  io.Writer
}

// NewProgress returns a Progress that writes to w. While it is watched, write to w
// only through Lines and Logger.
func NewProgress(w io.Writer) *Progress {
	f, ok := w.(*os.File)
	return &Progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// Write implements [io.Writer]. It may be called concurrently.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.w.Write(b)
}

// Lines returns a writer for lines while the progress is watched.
func (p *Progress) Lines() io.Writer {
	if p.terminal {
		return aboveBar{p}
	}
	return p
}

// Logger returns a logger for events that can't wait for the report because
// someone has to act.
func (p *Progress) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(p.Lines(), &slog.HandlerOptions{Level: slog.LevelError}))
}

// aboveBar writes lines where the bar was, which is redrawn below them.
type aboveBar struct{ w io.Writer }

func (a aboveBar) Write(b []byte) (int, error) {
	if _, err := a.w.Write(append([]byte("\r\x1b[2K"), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Watch shows the progress of a pass, as reported by state, until the returned
// function is called.
func (p *Progress) Watch(name string, total int, state func() (done int, text string)) (stop func()) {
	every, show := time.Second, func() {
		n, text := state()
		_, _ = fmt.Fprintf(p, "%s: %d of %d orders (%s)\n", name, n, total, text)
	}
	end := func() {}
	if p.terminal {
		every = 100 * time.Millisecond
		bar := progressbar.NewOptions(total,
			progressbar.OptionSetWriter(p),
			progressbar.OptionSetWidth(30),
			progressbar.OptionShowCount(),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionShowDescriptionAtLineEnd(),
		)
		show = func() {
			n, text := state()
			_ = bar.Set(min(n, total)) // a bar that can't be drawn stops nothing
			bar.Describe(name + ": " + text)
		}
		end = func() { _, _ = fmt.Fprintln(p) }
	}
	var wg sync.WaitGroup
	stopped := make(chan struct{})
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show()
			case <-stopped:
				show()
				end()
				return
			}
		}
	})
	return func() {
		close(stopped)
		wg.Wait()
	}
}
