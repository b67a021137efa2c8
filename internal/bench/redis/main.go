// Redis compares two ways for a fleet to share a limit of starts a second
// through Redis: rampmeter's redislimiter, and go-redis/redis_rate in its simplest
// use, with a call for each message and another one when it was
// refused.
//
//	go run ./internal/bench/redis
//	go run ./internal/bench/redis -quick
//	go run ./internal/bench/redis -json
//	go run ./internal/bench/redis -help
//
// It writes a table in Markdown, or JSON, to stdout and its progress to stderr.
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
	"syscall"
	"time"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 2 for invalid flags.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second ctrl-C ends the program at once

	fs := flag.NewFlagSet("redis", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints the error
	addr := fs.String("redis", "", "`host:port` of a Redis server (default: one that is started, redis-server must be installed)")
	rounds := fs.Int("rounds", 5, "how often each limiter runs in each scenario, next to the other")
	quick := fs.Bool("quick", false, "one round, and short ones: shows that everything works, and no more")
	asJSON := fs.Bool("json", false, "write JSON, with the figures of every run")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return 0
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("argument %q is not expected", fs.Arg(0))
	case err == nil && *rounds < 1:
		err = fmt.Errorf("-rounds is %d: must be at least 1", *rounds)
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "redis:", terminal.Error(err))
		return 2
	}
	long := 10 * time.Second
	if *quick {
		*rounds, long = 1, 3*time.Second
	}
	if err := compare(ctx, *addr, *rounds, long, *asJSON, stdout, stderr); err != nil {
		_, _ = fmt.Fprintln(stderr, "redis:", terminal.Error(err))
		return 1
	}
	return 0
}

func compare(ctx context.Context, addr string, rounds int, long time.Duration, asJSON bool, stdout, stderr io.Writer) (err error) {
	server, err := openServer(ctx, addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	b := bench{addr: server.addr, rounds: rounds, long: long, progress: stderr}
	r, err := b.run(ctx, scenarios())
	if err != nil {
		return err
	}
	if asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	_, err = io.WriteString(stdout, r.markdown())
	return err
}
