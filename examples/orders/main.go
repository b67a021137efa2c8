// Orders plays one spike of orders twice against an inventory API that limits
// its rate and its concurrency and is down for a moment: direct, calling the API
// while the customer waits, and queued, with rampmeter's consumer and a queue in
// between, in memory or on Amazon SQS. Everything else is real HTTP on loopback.
//
//	go run ./examples/orders
//	go run ./examples/orders -json
//	go run ./examples/orders -svg orders.svg
//	go run ./examples/orders -queue-url ... -dead-letter-url ...
//	go run ./examples/orders -help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/rampmeter/rampmeter/examples/internal/interrupt"
	"github.com/rampmeter/rampmeter/internal/terminal"
)

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code: 2 for invalid flags.
func run(args []string) int {
	ctx, stop := interrupt.Context()
	defer stop()

	s, err := ParseFlags(args, os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "orders:", terminal.Error(err))
		return 2
	}
	if err := Run(ctx, s, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", terminal.Error(err))
		return 1
	}
	return 0
}

// Run plays the spike in both passes and writes the report to out. Progress
// goes to progress. When ctx ends, the traffic stops, running handlers finish,
// and the report is still written.
func Run(ctx context.Context, s Settings, out, progress io.Writer) (err error) {
	var picture *os.File
	if s.SVG != "" {
		// Opened first, so that a file that can't be written fails before the run.
		if picture, err = os.Create(s.SVG); err != nil {
			return fmt.Errorf("-svg: %w", err)
		}
		defer func() { err = errors.Join(err, picture.Close()) }()
	}

	queues, err := OpenQueues(ctx, s, progress)
	if err != nil {
		return err
	}
	sp, p := NewSpike(s), NewProgress(progress)
	direct, before, err := Direct(ctx, s, sp, p)
	if err != nil {
		return fmt.Errorf("direct: %w", err)
	}
	queued, after, err := Queued(ctx, s, sp, queues, p)
	if err != nil {
		err = fmt.Errorf("queued: %w", err)
	}
	r := Report{Direct: direct, Queued: queued, Interrupted: ctx.Err() != nil}

	if s.JSON {
		err = errors.Join(err, r.WriteJSON(out))
	} else {
		err = errors.Join(err, r.WriteTable(out, s))
	}
	if picture != nil {
		err = errors.Join(err, WriteSVG(picture, s, sp, before, after))
	}
	return err
}
