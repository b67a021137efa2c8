package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Settings are the values of the flags.
type Settings struct {
	Orders      int           // valid orders in the spike
	Rate        float64       // requests a second that the API allows
	Burst       int           // the consumer's; the API allows more, see [Settings.APIBurst]
	Concurrency int           // requests at once that the API allows
	Outage      time.Duration // how long the API is down, from the middle of the spike
	Seed        uint64        // of the spike
	Run         string        // prefix of its orders' ids

	QueueURL, DeadLetterURL string // queues of Amazon SQS, or "" for queues in memory

	JSON bool
	SVG  string // file to write, or ""
}

// APIBurst is the burst that the API allows after a pause: the consumer's own
// burst plus 100 ms of the rate, because a network bunches requests that were
// sent evenly.
func (s Settings) APIBurst() int { return s.Burst + int(math.Ceil(s.Rate/10)) }

// ParseFlags reads the command line. The error names the invalid flag.
func ParseFlags(args []string, usage io.Writer) (Settings, error) {
	var s Settings
	f := flag.NewFlagSet("orders", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	f.IntVar(&s.Orders, "orders", 1500, "valid `orders` in the spike, 1 to 1,000,000; five poison ones come on top")
	f.Float64Var(&s.Rate, "rate", 150, "`requests` a second that the inventory API allows, 1 to 100,000;\nthe spike comes at three times as many on the mean")
	f.IntVar(&s.Burst, "burst", 15, "`requests` that the consumer may start at once after a pause, 1 to 100,000;\nthe API allows what comes in 100 ms at the rate on top")
	f.IntVar(&s.Concurrency, "concurrency", 10, "`requests` at once that the API allows, 1 to 10,000")
	f.DurationVar(&s.Outage, "outage", time.Second, "how long the API is down in both passes, from the middle of the spike, 0 to 1h")
	f.Uint64Var(&s.Seed, "seed", 1, "`seed` of the spike")
	f.StringVar(&s.QueueURL, "queue-url", "", "`URL` of a queue of Amazon SQS for the orders, standard and not used otherwise;\ncredentials, region and endpoint are as the AWS SDK finds them: AWS_REGION,\nAWS_PROFILE, AWS_ENDPOINT_URL_SQS, ... (default a queue in memory)")
	f.StringVar(&s.DeadLetterURL, "dead-letter-url", "", "`URL` of the queue for those that are given up, required with -queue-url")
	f.BoolVar(&s.JSON, "json", false, "print one JSON object instead of tables")
	f.StringVar(&s.SVG, "svg", "", "draw the requests that the API saw into this `file`")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintln(usage, "Plays one spike of orders twice, direct and queued, against an API with limits.\n\nUsage: orders [flags]")
			f.SetOutput(usage)
			f.PrintDefaults()
		}
		return Settings{}, err
	}
	switch {
	case f.NArg() > 0:
		return Settings{}, fmt.Errorf("argument %q: there are only flags", f.Arg(0))
	case s.Orders < 1 || s.Orders > 1_000_000:
		return Settings{}, fmt.Errorf("-orders is %d: must be from 1 to 1000000", s.Orders)
	case !(s.Rate >= 1 && s.Rate <= 100_000): // NaN is not
		return Settings{}, fmt.Errorf("-rate is %v: must be from 1 to 100000", s.Rate)
	case s.Burst < 1 || s.Burst > 100_000:
		return Settings{}, fmt.Errorf("-burst is %d: must be from 1 to 100000", s.Burst)
	case s.Concurrency < 1 || s.Concurrency > 10_000:
		return Settings{}, fmt.Errorf("-concurrency is %d: must be from 1 to 10000", s.Concurrency)
	case s.Outage < 0 || s.Outage > time.Hour:
		return Settings{}, fmt.Errorf("-outage is %v: must be from 0s to 1h", s.Outage)
	case s.QueueURL != "" && s.DeadLetterURL == "":
		return Settings{}, errors.New("-queue-url and -dead-letter-url go together: -dead-letter-url is missing")
	case s.QueueURL == "" && s.DeadLetterURL != "":
		return Settings{}, errors.New("-queue-url and -dead-letter-url go together: -queue-url is missing")
	case s.QueueURL != "" && s.QueueURL == s.DeadLetterURL:
		return Settings{}, errors.New("-dead-letter-url is the same as -queue-url: what is given up must not come back")
	case strings.HasSuffix(s.QueueURL, ".fifo") || strings.HasSuffix(s.DeadLetterURL, ".fifo"):
		return Settings{}, errors.New("-queue-url and -dead-letter-url must be standard queues: orders need no order")
	}
	if s.QueueURL != "" {
		// These queues outlive the run, and its orders must not be mistaken for those
		// of another run.
		s.Run = strings.ToLower(rand.Text()[:8]) + "-"
	}
	return s, nil
}
