//go:build unix

package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"
)

// Settings are the values of the flags.
type Settings struct {
	Orders    int           // valid orders
	Functions int           // function processes at once, at most
	Rate      float64       // requests a second that the API allows
	Latency   time.Duration // of the API
	Kills     int           // of a function process in mid-batch
	Seed      uint64        // of the orders
	SQS       string        // endpoint of a server; "" starts one
	DynamoDB  string
	JSON      bool
	Logs      bool // of the function
}

// Values of the stack's template that apply here as well.
const (
	batchSize       = 5
	functionTimeout = 90 * time.Second
	visibility      = 540 * time.Second
	maxReceiveCount = 50
	maxAttempts     = 20
)

// killedTimeouts are the function's timeout and the visibility timeout in runs that
// kill processes; a killed process's batch is delivered again when the latter ends.
const killedTimeouts = 3 * time.Second

// APIBurst is the burst that the API allows after a pause. Each function may start
// one request at once, and the network may bunch it with the one before; it can't
// bunch it with two, because a function waits for its answers.
func (s Settings) APIBurst() int { return 2 * s.Functions }

// Timeouts are the function's timeout and the queue's visibility timeout.
func (s Settings) Timeouts() (function, visible time.Duration) {
	if s.Kills > 0 {
		return killedTimeouts, killedTimeouts
	}
	return functionTimeout, visibility
}

// ParseFlags reads the command line. The error names the invalid flag.
func ParseFlags(args []string, usage io.Writer) (Settings, error) {
	var s Settings
	f := flag.NewFlagSet("local", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	f.IntVar(&s.Orders, "orders", 500, "valid `orders`, 20 to 100,000; every twentieth is sent twice, and five poison ones come on top")
	f.IntVar(&s.Functions, "functions", 10, "function `processes` at once, at most, 1 to 100")
	f.Float64Var(&s.Rate, "rate", 150, "`requests` a second that the inventory API allows, 1 to 100,000")
	f.DurationVar(&s.Latency, "latency", 10*time.Millisecond, "how long the API takes for a request, 0 to 1s")
	f.IntVar(&s.Kills, "kills", 0, "how often a function process is killed in mid-batch, 0 to a twentieth of the orders")
	f.Uint64Var(&s.Seed, "seed", 1, "`seed` of the orders")
	f.StringVar(&s.SQS, "sqs", os.Getenv("RAMPMETER_SQS_ENDPOINT"), "`URL` of a local SQS server; by default RAMPMETER_SQS_ENDPOINT, or one is started")
	f.StringVar(&s.DynamoDB, "dynamodb", os.Getenv("RAMPMETER_DYNAMODB_ENDPOINT"), "`URL` of a local DynamoDB server; by default RAMPMETER_DYNAMODB_ENDPOINT, or one is started")
	f.BoolVar(&s.JSON, "json", false, "print one JSON object instead of a table")
	f.BoolVar(&s.Logs, "logs", false, "show what the function logs")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintln(usage, "Runs the order flow on this machine: queue, Lambda function, inventory API and table.\n\nUsage: local [flags]")
			f.SetOutput(usage)
			f.PrintDefaults()
		}
		return Settings{}, err
	}
	if f.NArg() > 0 {
		return Settings{}, fmt.Errorf("argument %q: there are only flags", f.Arg(0))
	}
	return s, s.validate()
}

func (s Settings) validate() error {
	switch {
	case s.Orders < 20 || s.Orders > 100_000:
		return fmt.Errorf("-orders is %d: must be from 20 to 100000", s.Orders)
	case s.Functions < 1 || s.Functions > 100:
		return fmt.Errorf("-functions is %d: must be from 1 to 100", s.Functions)
	case !(s.Rate >= 1 && s.Rate <= 100_000): // NaN is not
		return fmt.Errorf("-rate is %v: must be from 1 to 100000", s.Rate)
	case s.Latency < 0 || s.Latency > time.Second:
		return fmt.Errorf("-latency is %v: must be from 0s to 1s", s.Latency)
	case s.Kills < 0 || s.Kills > s.Orders/20:
		return fmt.Errorf("-kills is %d: must be from 0 to %d, a twentieth of the orders", s.Kills, s.Orders/20)
	}
	return cmp.Or(endpoint("-sqs", s.SQS), endpoint("-dynamodb", s.DynamoDB))
}

func endpoint(name, value string) error {
	if u, err := url.Parse(value); value != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%s is %q: must be a server's URL, http://127.0.0.1:4566 for example", name, value)
	}
	return nil
}
