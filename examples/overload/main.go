// Overload runs three clients against the same downstream, which loses capacity for a
// while, gets slow, is down, and comes back: one without a limiter, one with a
// limit that was right in the beginning, and one whose limit is found by
// limiter.Adaptive, combined with a limiter.Breaker. All of them have the same
// operations to do, and retry each until it succeeds. Their two minutes are virtual,
// and pass in a few seconds.
//
//	go run ./examples/overload
//	go run ./examples/overload -json
//	go run ./examples/overload -svg overload.svg
//	go run ./examples/overload -help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
)

func main() {
	s, err := ParseFlags(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "overload:", err)
		os.Exit(2)
	}
	inVirtualTime(func(ctx context.Context) (code int) {
		if err := Run(ctx, s, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "overload:", err)
			return 1
		}
		return 0
	})
}

// Run plays the story for the three clients at once and writes the report to
// out. Progress goes to progress.
func Run(ctx context.Context, s Settings, out, progress io.Writer) (err error) {
	var picture *os.File
	if s.SVG != "" {
		// Opened first, so that a file that can't be written fails before the run.
		if picture, err = os.Create(s.SVG); err != nil {
			return fmt.Errorf("-svg: %w", err)
		}
		defer func() { err = errors.Join(err, picture.Close()) }()
	}

	passes, err := Play(ctx, s, progress)
	if err != nil {
		return err
	}
	r := NewReport(s, passes)
	if s.JSON {
		err = r.WriteJSON(out)
	} else {
		err = r.WriteTable(out)
	}
	if picture != nil {
		err = errors.Join(err, WriteSVG(picture, s, passes))
	}
	return err
}

// A Pass is the run of one client, with one kind of limiter.
type Pass struct {
	Limiter string // its name
	*Meter
}

// Play plays the story for one client of each kind. Each has its own downstream, so
// that no client affects another.
func Play(ctx context.Context, s Settings, progress io.Writer) ([]Pass, error) {
	arrivals := s.Arrivals()
	kinds, err := Limiters(s)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, s.Length)
	defer stop()
	var all sync.WaitGroup
	passes := make([]Pass, len(kinds))
	for i, kind := range kinds {
		far := NewDownstream(s)
		passes[i] = Pass{Limiter: kind.Name, Meter: far.Meter}
		client := Client{Limiter: kind.Limiter, Far: far}
		all.Go(func() { client.Run(ctx, arrivals) })
	}
	watched := Watch(progress, s, passes)
	all.Wait()
	watched()
	for _, p := range passes {
		p.Close()
	}
	return passes, nil
}
