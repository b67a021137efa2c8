package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Watch shows how far the story is, until the returned function is called: in one
// line that is rewritten on a terminal, in a line for each ten seconds
// elsewhere.
func Watch(w io.Writer, s Settings, passes []Pass) (stop func()) {
	f, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	began := time.Now()
	every := 10 * time.Second
	if terminal {
		every = time.Second
	}
	show := func() {
		at := min(time.Since(began), s.Length)
		var done []string
		for _, p := range passes {
			n := 0
			for _, b := range p.Bins() {
				n += b.Done
			}
			done = append(done, fmt.Sprintf("%s %d", p.Limiter, n))
		}
		line := fmt.Sprintf("%.0f of %.0f s, downstream %s; done: %s", at.Seconds(), s.Length.Seconds(), s.PhaseAt(at).Name, strings.Join(done, ", "))
		if terminal {
			line = "\r\x1b[2K" + line
		} else {
			line += "\n"
		}
		_, _ = io.WriteString(w, line) // failing to show progress stops nothing
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
				if terminal {
					_, _ = io.WriteString(w, "\n")
				}
				return
			}
		}
	})
	return func() {
		close(stopped)
		wg.Wait()
	}
}
