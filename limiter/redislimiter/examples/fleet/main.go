// Fleet runs several worker processes on one queue against an inventory API
// that allows so many requests a second, and so many at once, to all of them
// together. The limits are kept in Redis, by package redislimiter; what the API
// saw is the judge.
//
//	go run ./limiter/redislimiter/examples/fleet
//	go run ./limiter/redislimiter/examples/fleet -processes 8 -for 60s -kill
//	go run ./limiter/redislimiter/examples/fleet -for 60s -outage 20s -on-outage closed
//	go run ./limiter/redislimiter/examples/fleet -help
//
// It exits with 1 when an order was lost, when the API saw more than its limits
// allow, or when something failed; with 2 for flags that are wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/redis/go-redis/v9/logging"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case workerArg:
			os.Exit(work(os.Stdin, os.Stdout, os.Stderr))
		case keepArg:
			os.Exit(keep(os.Args[2:], os.Stdin))
		}
	}
	os.Exit(run(os.Args[1:]))
}

// run returns the exit code.
func run(args []string) int {
	signaled, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer restore()
	ctx, end := context.WithCancelCause(context.Background())
	context.AfterFunc(signaled, func() {
		restore() // first: a second Ctrl-C ends the program at once
		end(context.Cause(signaled))
	})
	logging.Disable() // of Redis we say ourselves what there is to say

	s, err := ParseFlags(args, os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", terminal.Error(err))
		return 2
	}
	if err := Run(ctx, s, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", terminal.Error(err))
		return 1
	}
	return 0
}

// Run plays the whole of it and writes the report to out, and what goes on
// meanwhile to progress. When ctx ends, no more orders are sent, the workers
// finish what they have begun, and the report is written nevertheless.
func Run(ctx context.Context, s Settings, out, progress io.Writer) (err error) {
	show := NewTable(progress)
	redis, err := OpenRedis(s, show)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.Close()) }()
	queues, err := OpenQueues(s, show)
	if err != nil {
		return err
	}
	defer queues.Close()
	api, err := NewAPI(s)
	if err != nil {
		return err
	}
	defer api.Close()

	p := play{Settings: s, redis: redis, queues: queues, api: api, show: show, fleet: NewFleet(show, Task{
		Limits: s.Limits, Name: s.Name, OnOutage: s.OnOutage.String(), Lease: s.Lease,
		Redis: redis.Addr(), API: api.URL(),
		SQS: queues.Endpoint(), QueueURL: queues.URL(), DeadLetterURL: queues.DeadLetterURL(),
	})}
	r, err := p.run(ctx)
	if s.JSON {
		err = errors.Join(err, r.WriteJSON(out))
	} else {
		err = errors.Join(err, r.WriteTable(out))
	}
	return errors.Join(err, r.Verdict())
}
