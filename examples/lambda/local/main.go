//go:build unix

// Local runs the whole order flow on this machine: a queue and its dead-letter
// queue, the compiled function with a Lambda that invokes it, the table, and
// an inventory API that answers 429 beyond its limits. It sends orders and counts
// the results: in the table, in the dead-letter queue, and at the API.
//
//	go run ./examples/lambda/local
//	go run ./examples/lambda/local -functions 2 -kills 20
//	go run ./examples/lambda/local -json
//	go run ./examples/lambda/local -help
//
// It exits with 1 when an order is lost, stored twice or dead-lettered without
// cause, or when a limit was exceeded.
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
		fmt.Fprintln(os.Stderr, "local:", terminal.Error(err))
		return 2
	}
	if err := Run(ctx, s, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "local:", terminal.Error(err))
		return 1
	}
	return 0
}

// Run starts everything, plays the orders, writes the report to out and stops
// everything it started. Progress, and the function's log if requested, goes to
// progress. The error also names a broken promise.
func Run(ctx context.Context, s Settings, out, progress io.Writer) error {
	r, err := Play(ctx, s, progress)
	if err != nil {
		return err
	}
	if s.JSON {
		err = r.WriteJSON(out)
	} else {
		err = r.WriteTable(out)
	}
	for _, broken := range r.Broken() {
		err = errors.Join(err, errors.New(broken))
	}
	return err
}
