//go:build unix

// Local runs the whole order flow on this machine: a queue and its dead-letter
// queue, the compiled function with a Lambda that invokes it, the table, and
// an inventory API that answers 429 beyond its limits. Orders go in, and what
// came of them is counted: in the table, in the dead-letter queue, and by the
// API itself.
//
//	go run ./examples/lambda/local
//	go run ./examples/lambda/local -functions 2 -kills 20
//	go run ./examples/lambda/local -json
//	go run ./examples/lambda/local -help
//
// It exits with 1 when an order is lost, stored twice or given up without
// cause, or when a limit was not kept.
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

// run returns the exit code: 2 for flags that are wrong.
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

// Run starts everything, plays the orders, writes the report to out and ends
// what it started. Progress, and what the function logs if that is asked for,
// goes to progress. The error also tells which promise was not kept.
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
