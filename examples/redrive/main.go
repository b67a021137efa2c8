// Redrive lists the messages in an Amazon SQS dead-letter queue with their reasons,
// and sends them back, at a rate that the consumer can handle.
//
//	go run ./examples/redrive -demo
//	go run ./examples/redrive list -dead-letter-url ...
//	go run ./examples/redrive show -dead-letter-url ... ID
//	go run ./examples/redrive redrive -dead-letter-url ... -queue-url ... -rate 20 -reason exhausted
//	go run ./examples/redrive -help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/examples/internal/interrupt"
	"github.com/rampmeter/rampmeter/internal/terminal"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/deadletter"
)

func main() {
	ctx, _ := interrupt.Context()
	p := program{connect: connect, out: os.Stdout, progress: os.Stderr}
	os.Exit(p.run(ctx, os.Args[1:]))
}

// A program is one run of the command.
type program struct {
	connect  func(context.Context) (*sqs.Client, error)
	out      io.Writer // requested output
	progress io.Writer // everything else
}

// run runs a command and returns the exit code: 1 if the command did not do all of
// its work, 2 for an invalid command line.
func (p program) run(ctx context.Context, args []string) int {
	s, err := ParseFlags(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		Usage(p.out)
		return 0
	case errors.Is(err, errNoCommand):
		Usage(p.progress)
		return 2
	case err != nil:
		_, _ = fmt.Fprintln(p.progress, "redrive:", terminal.Error(err))
		return 2
	}
	switch s.Command {
	case "list":
		err = p.list(ctx, s)
	case "show":
		err = p.show(ctx, s)
	case "redrive":
		err = p.redrive(ctx, s)
	default:
		err = p.demo(ctx)
	}
	if err != nil {
		_, _ = fmt.Fprintln(p.progress, "redrive:", terminal.Error(err))
		return 1
	}
	return 0
}

// landing describes how a list or a redrive ends after an interrupt.
func landing() string {
	return "interrupted: waiting up to 30s for each call under way, and returning the letters in flight"
}

// list prints a line for each letter.
func (p program) list(ctx context.Context, s Settings) error {
	q, err := p.open(ctx, s)
	if err != nil {
		return err
	}
	return p.listOf(ctx, q, s)
}

func (p program) listOf(ctx context.Context, q queues, s Settings) error {
	defer interrupt.Say(ctx, p.progress, landing)()
	printer := newPrinter(p.out, s.JSON)
	cfg := s.config()
	cfg.Logger = NewProgress(p.progress, 0).Logger()
	for l, err := range deadletter.List(ctx, q.dead, cfg) {
		if err != nil {
			return err
		}
		if err := printer.line(l); err != nil {
			return err
		}
	}
	return printer.end()
}

var errNotFound = errors.New("no letter has that id: it may be hidden for a while, in the hands of somebody else")

// show prints one letter in full.
func (p program) show(ctx context.Context, s Settings) error {
	q, err := p.open(ctx, s)
	if err != nil {
		return err
	}
	defer interrupt.Say(ctx, p.progress, landing)()
	cfg := s.config()
	cfg.Max, cfg.Logger = 1, NewProgress(p.progress, 0).Logger()
	for l, err := range deadletter.List(ctx, q.dead, cfg) {
		if err != nil {
			return err
		}
		return newPrinter(p.out, s.JSON).whole(l)
	}
	return fmt.Errorf("show %s: %w", s.IDs[0], errNotFound)
}

// redrive sends letters back, and prints the result.
func (p program) redrive(ctx context.Context, s Settings) error {
	q, err := p.open(ctx, s)
	if err != nil {
		return err
	}
	if s.Native {
		return p.native(ctx, q, s)
	}
	return p.redriveOf(ctx, q, s)
}

func (p program) redriveOf(ctx context.Context, q queues, s Settings) error {
	progress := NewProgress(p.progress, q.size(ctx))
	defer interrupt.Say(ctx, progress, landing)()
	cfg := s.config()
	cfg.DryRun, cfg.Logger = s.DryRun, progress.Logger()
	if s.Rate > 0 {
		bucket, err := limiter.NewTokenBucket(s.Rate, 1)
		if err != nil {
			return fmt.Errorf("-rate: %w", err)
		}
		cfg.Limiter = bucket
	}
	cfg.OnResult = func(r deadletter.Result) {
		progress.Show(r.Summary)
		if r.Err != nil {
			progress.Line(fmt.Sprintf("%s: %s: %v", r.Letter.Message.ID, r.Outcome, r.Err))
		}
	}
	summary, err := deadletter.Redrive(ctx, q.dead, q.to, cfg)
	progress.Stop()
	if printed := newPrinter(p.out, s.JSON).summary(summary, s.DryRun, err); printed != nil {
		return errors.Join(err, printed)
	}
	if err == nil && summary.Failed+summary.InDoubt > 0 {
		return fmt.Errorf("%d letters could not be redriven, %d may be in both queues", summary.Failed, summary.InDoubt)
	}
	return err
}
