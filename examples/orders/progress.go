package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Progress tells people how far the program is: with a bar on a terminal, with
// a line each second elsewhere.
type Progress struct {
	w        io.Writer
	terminal bool
}

// NewProgress returns progress that is written to w. Nothing else may be
// written there while it is watched.
func NewProgress(w io.Writer) *Progress {
	f, ok := w.(*os.File)
	return &Progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// Watch shows the progress of a pass, as state tells of it, until the returned
// function is called.
func (p *Progress) Watch(name string, total int, state func() (done int, text string)) (stop func()) {
	every, show := time.Second, func() {
		n, text := state()
		_, _ = fmt.Fprintf(p.w, "%s: %d of %d orders (%s)\n", name, n, total, text)
	}
	end := func() {}
	if p.terminal {
		every = 100 * time.Millisecond
		bar := progressbar.NewOptions(total,
			progressbar.OptionSetWriter(p.w),
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
		end = func() { _, _ = fmt.Fprintln(p.w) }
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
