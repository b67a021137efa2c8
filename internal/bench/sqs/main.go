//go:build unix

// Sqs compares the speed, the CPU time, the calls and the connections of four
// consumers of Amazon SQS: rampmeter, a loop written by hand on the SDK,
// gocloud.dev's awssnssqs and watermill-aws. All use the SDK's own HTTP client. The
// server is rampmeter's fake, in a separate process, reached over loopback HTTP; each
// consumer is a separate process, too.
//
//	go run ./internal/bench/sqs
//	go run ./internal/bench/sqs -tls -loop
//	go run ./internal/bench/sqs -downstream
//	go run ./internal/bench/sqs -quick
//	go run ./internal/bench/sqs -json
//	go run ./internal/bench/sqs -help
//
// It writes a table in Markdown, or JSON, to stdout and its progress to stderr.
// It exits with 1 when a library has lost a message or a process has failed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run returns the exit code. The program starts itself again for the server and
// for each consumer, with the name of that part as the first argument.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once

	part, name := compare, "sqs"
	if len(args) > 0 {
		switch args[0] {
		case partServe:
			part, name, args = serve, "sqs serve", args[1:]
		case partConsume:
			part, name, args = consume, "sqs consume", args[1:]
		}
	}
	err := part(ctx, args, stdin, stdout, stderr)
	switch usage := (*usageError)(nil); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &usage):
		_, _ = fmt.Fprintln(stderr, name+":", terminal.Error(err))
		return 2
	default:
		_, _ = fmt.Fprintln(stderr, name+":", terminal.Error(err))
		return 1
	}
}

// A usageError is an invalid flag.
type usageError struct{ error }

// parse reads flags; the error names the invalid one.
func parse(fs *flag.FlagSet, args []string, help io.Writer) error {
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(help)
		fs.PrintDefaults()
		return err
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("argument %q is not expected", fs.Arg(0))
	}
	if err != nil {
		return &usageError{err}
	}
	return nil
}

// compare is the part that users start.
func compare(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("sqs", flag.ContinueOnError)
	pairs := fs.Int("pairs", 7, "how often each consumer runs in each scenario, next to the others")
	quick := fs.Bool("quick", false, "few messages, and one pair unless -pairs says otherwise: shows that everything works, and no more")
	asJSON := fs.Bool("json", false, "write JSON, with the figures of every run")
	only := fs.String("scenario", "", "only the scenarios whose name matches this regular `expression`")
	secure := fs.Bool("tls", false, "speak TLS with the server")
	loop := fs.Bool("loop", false, "only rampmeter and the hand-written loop, and the scenarios about speed")
	idle := fs.Int("idle", 0, "give each HTTP client so many idle `connections` for a host (default: as many as the SDK does, 10)")
	limited := fs.Bool("downstream", false, "compare instead what rampmeter and the loop make of an API with limits and outages")
	span := fs.Duration("for", 2*time.Minute, "with -downstream: how `long`")
	picture := fs.String("svg", "", "with -downstream: draw the first API to this `file`")
	profiles := fs.String("profiles", "", "write a CPU profile of each consumer's steady state into this `directory`")
	if err := parse(fs, args, stdout); err != nil {
		return err
	}
	given := false
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == "pairs" })
	if *quick && !given {
		*pairs = 1
	}
	if *pairs < 1 {
		return &usageError{fmt.Errorf("-pairs is %d: must be at least 1", *pairs)}
	}
	if *idle < 0 {
		return &usageError{fmt.Errorf("-idle is %d: must not be negative", *idle)}
	}
	if *limited {
		if *span < 4*time.Second {
			return &usageError{fmt.Errorf("-for is %v: must be at least 4s", *span)}
		}
		return compareDownstreams(ctx, *span, *asJSON, *picture, newProgress(stderr), stdout)
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return &usageError{fmt.Errorf("-scenario: %w", err)}
	}
	var chosen []scenario
	var names []string
	for _, s := range scenarios(*quick) {
		if *loop {
			if s.OverPull {
				continue
			}
			s.Libraries = []string{rampmeter, handWritten, loopAgain}
		}
		names = append(names, s.Name)
		if wanted.MatchString(s.Name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return &usageError{fmt.Errorf("-scenario %s matches none of %s", *only, strings.Join(names, ", "))}
	}

	b := bench{pairs: *pairs, secure: *secure, idle: *idle, profiles: *profiles, progress: newProgress(stderr)}
	report, err := b.run(ctx, chosen)
	if err != nil {
		return err
	}
	report.Quick = *quick
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(report)
	}
	_, err = io.WriteString(stdout, report.markdown())
	return err
}
