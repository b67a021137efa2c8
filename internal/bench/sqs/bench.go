//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A bench runs scenarios.
type bench struct {
	pairs    int
	secure   bool // over TLS
	idle     int  // idle connections that the HTTP clients keep; 0: the SDK's default
	profiles string
	progress *progress
}

func (b *bench) run(ctx context.Context, chosen []scenario) (rep report, err error) {
	began := time.Now()
	defer b.progress.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, remote, err := startServer(ctx, b.secure)
	if err != nil {
		return rep, err
	}
	defer func() {
		if stopErr := server.stop(nil); ctx.Err() == nil {
			err = errors.Join(err, stopErr)
		}
	}()
	rep = report{
		Date: began.UTC().Truncate(time.Second), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.NumCPU(), Pairs: b.pairs, MessageSize: messageSize, Client: clientName(b.idle, b.secure),
	}
	for i, s := range chosen {
		b.progress.scenario = fmt.Sprintf("scenario %d of %d, %s", i+1, len(chosen), s.Name)
		var r result
		if s.OverPull {
			r, err = b.together(ctx, remote, s)
		} else {
			r, err = b.interleaved(ctx, remote, s)
		}
		if err != nil {
			return rep, fmt.Errorf("%s: %w", s.Name, err)
		}
		rep.Results = append(rep.Results, r)
	}
	rep.Took = time.Since(began).Round(time.Second)
	return rep, nil
}

// interleaved runs the consumers one after the other, repeatedly, so that other load
// on the machine affects all of them. Every second time the order is reversed, so
// that no consumer always follows the same one.
func (b *bench) interleaved(ctx context.Context, r remote, s scenario) (result, error) {
	res := newResult(s)
	for pair := range b.pairs {
		order := slices.Clone(s.Libraries)
		if pair%2 == 1 {
			slices.Reverse(order)
		}
		for _, library := range order {
			b.progress.tell(fmt.Sprintf("pair %d of %d: %s", pair+1, b.pairs, library))
			f, err := runConsumer(ctx, r, s, library, b.idle, profileFile(b.profiles, s, library, pair))
			if err != nil {
				return res, fmt.Errorf("%s: %w", library, err)
			}
			res.add(library, f)
		}
	}
	return res, nil
}

// together runs all consumers at the same time, each on its own queue. The machine
// is fast enough for all of them: their handlers sleep.
func (b *bench) together(ctx context.Context, r remote, s scenario) (result, error) {
	res := newResult(s)
	b.progress.tell("all consumers at once")
	runs, errs := make([]figures, len(s.Libraries)), make([]error, len(s.Libraries))
	var all sync.WaitGroup
	for i, library := range s.Libraries {
		all.Go(func() {
			if runs[i], errs[i] = runConsumer(ctx, r, s, library, b.idle, ""); errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", library, errs[i])
			}
		})
	}
	all.Wait()
	for i, library := range s.Libraries {
		res.add(library, runs[i])
	}
	return res, errors.Join(errs...)
}

// A progress shows the progress: on a terminal in one line that is rewritten,
// elsewhere in a line for each scenario.
type progress struct {
	w        io.Writer
	terminal bool
	scenario string
	printed  string // the scenario of the last line
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *progress) tell(what string) {
	switch {
	case p.terminal:
		_, _ = fmt.Fprintf(p.w, "\r\033[K%s: %s", p.scenario, what)
	case p.printed != p.scenario:
		_, _ = fmt.Fprintln(p.w, p.scenario)
	}
	p.printed = p.scenario
}

func (p *progress) end() {
	if p.terminal {
		_, _ = fmt.Fprint(p.w, "\r\033[K")
	}
}
