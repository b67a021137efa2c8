//go:build unix

package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

// Progress reports the program's steps, a line each. Its methods may be
// called concurrently.
type Progress struct {
	mu sync.Mutex // guards w: one line at a time
	w  io.Writer
}

// Say writes a line.
func (p *Progress) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, format+"\n", args...) // there is no other place to report it
}

// Write writes the output of other processes.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return terminal.Writer(p.w).Write(b)
}

// Every writes a line each second, until the returned function is called.
func (p *Progress) Every(line func() string) (stop func()) {
	var wg sync.WaitGroup
	stopped := make(chan struct{})
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.Say("%s", line())
			case <-stopped:
				return
			}
		}
	})
	return func() {
		close(stopped)
		wg.Wait()
	}
}
