//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"slices"
	"time"
)

const partConsume = "consume"

// A task is the work of a consumer.
type task struct {
	endpoint    string // of the service
	certificate string // of the service, in PEM; "": it speaks no TLS
	queueURL    string
	idle        int           // idle connections that the HTTP client keeps; 0: the SDK's default
	concurrency int           // handlers at once
	visibility  time.Duration // also the queue's own
	wait        time.Duration // of a long poll
	handle      func(ctx context.Context, body []byte) error
}

// A library is a way to consume a queue. run consumes it until ctx ends; it may end
// sooner only with an error.
type library struct {
	name string
	run  func(ctx context.Context, t task) error
}

// The names of the libraries in the tables.
const (
	rampmeter     = "rampmeter"
	handWritten   = "hand-written loop"
	loopAgain     = "hand-written loop, again" // shows the noise of the machine
	slotsFirst    = "hand-written loop, slots first"
	goCloud       = "gocloud.dev"
	watermillAWS  = "watermill-aws"
	watermillOnes = "watermill-aws, one by one"
)

func libraries() []library {
	return []library{
		{rampmeter, runRampmeter},
		{handWritten, func(ctx context.Context, t task) error { return runHandWritten(ctx, t, false) }},
		{loopAgain, func(ctx context.Context, t task) error { return runHandWritten(ctx, t, false) }},
		{slotsFirst, func(ctx context.Context, t task) error { return runHandWritten(ctx, t, true) }},
		{goCloud, runGoCloud},
		{watermillAWS, func(ctx context.Context, t task) error { return runWatermill(ctx, t, 10) }},
		{watermillOnes, func(ctx context.Context, t task) error { return runWatermill(ctx, t, 1) }},
	}
}

// A handledAll is what a consumer's process writes when it has handled every
// message once.
type handledAll struct {
	Rate   float64       // messages a second, in the steady state
	CPU    time.Duration // user and system time of the process for each message, in the steady state
	Busy   float64       // handlers that ran, on average, in the steady state
	Allocs float64       // objects on the heap for each message, in the steady state
	Memory int64         // peak resident bytes until the end of the steady state
}

// A consumed is what it writes at its end.
type consumed struct {
	Runs  int // of the handler
	Twice int // messages for which it ran more than once
}

// consume is a consumer's process. It writes a handledAll when all messages are
// handled, and a consumed when its standard input ends and it exits.
func consume(ctx context.Context, args []string, stdin io.Reader, stdout, _ io.Writer) error {
	fs := flag.NewFlagSet(partConsume, flag.ContinueOnError)
	name := fs.String("library", "", "name of the consumer")
	t := task{wait: 20 * time.Second}
	fs.StringVar(&t.endpoint, "endpoint", "", "URL of the service")
	fs.StringVar(&t.certificate, "certificate", "", "of the service, in PEM")
	fs.StringVar(&t.queueURL, "queue", "", "URL of the queue")
	fs.IntVar(&t.idle, "idle", 0, "connections that the HTTP client keeps")
	fs.IntVar(&t.concurrency, "concurrency", 10, "handlers at once")
	fs.DurationVar(&t.visibility, "visibility", 30*time.Second, "of the queue")
	n := fs.Int("messages", 0, "messages in the queue")
	takes := fs.Duration("handler", 0, "how long a handler takes")
	profile := fs.String("profile", "", "file for the profile of the steady state")
	if err := parse(fs, args, stdout); err != nil {
		return err
	}
	all := libraries()
	i := slices.IndexFunc(all, func(l library) bool { return l.name == *name })
	if i < 0 {
		return &usageError{fmt.Errorf("-library is %q: there is no such consumer", *name)}
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	tally := newTally(*n, *takes)
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		tally.onBegin = func() { _ = pprof.StartCPUProfile(f) }
		tally.onEnd = pprof.StopCPUProfile
	}
	t.handle = tally.handle
	ended := make(chan error, 1)
	go func() { ended <- all[i].run(ctx, t) }()

	out := json.NewEncoder(stdout)
	select {
	case <-tally.all:
		if err := out.Encode(tally.window()); err != nil {
			return err
		}
	case err := <-ended:
		return early(ctx, err)
	case <-ctx.Done():
		return fmt.Errorf("stopped after %d of %d messages", tally.done.Load(), *n)
	}
	select {
	case err := <-ended:
		if err := early(ctx, err); err != nil {
			return err
		}
	case <-ctx.Done():
		// The queue is empty by now. A library's clean shutdown, such as the wait for
		// its long poll, is not measured here.
	}
	if err := tally.err(); err != nil {
		return err
	}
	return out.Encode(tally.consumed())
}

// early is the error of a consumer that ended too soon, or nil.
func early(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
	}
	if err == nil {
		return errors.New("the consumer has ended by itself")
	}
	return fmt.Errorf("the consumer has ended: %w", err)
}
