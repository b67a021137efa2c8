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

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

// Limits are those of the fleet as a whole.
type Limits struct {
	Rate        float64 // requests a second
	Burst       int     // the fleet's; the API allows more, see [Limits.APIBurst]
	Concurrency int     // requests at once
}

// APIBurst is how many requests the API takes at once after a pause: the
// fleet's own burst and 100 ms of the rate, because a network bunches what was
// sent evenly.
func (l Limits) APIBurst() int { return l.Burst + int(math.Ceil(l.Rate/10)) }

// Settings are what the flags say.
type Settings struct {
	Limits
	Processes int
	For       time.Duration // how long orders are sent, Solo not included
	Latency   time.Duration // mean time that the API takes for a request
	Kill      time.Duration // how often a process is killed and another one started; 0: never
	Outage    time.Duration // how long Redis is away, in the middle of For
	OnOutage  redislimiter.Outage
	Solo      time.Duration // how long only one process works, after For
	Name      string        // of the limits, and what the ids of this run's orders begin with
	Lease     time.Duration // how long an order is hidden from others when the process that had it was killed

	Redis                   string // address, or "" for one of our own
	QueueURL, DeadLetterURL string // queues of Amazon SQS, or "" for a fake service

	JSON bool
}

// Capacity is how many requests a second the limits allow on the mean, both
// taken together.
func (s Settings) Capacity() float64 {
	return min(s.Rate, float64(s.Concurrency)/max(s.Latency, time.Microsecond).Seconds())
}

// killEvery is what -kill means without a value.
const killEvery = 5 * time.Second

// ParseFlags reads the command line. The error names the flag that is wrong.
func ParseFlags(args []string, usage io.Writer) (Settings, error) {
	s := Settings{Lease: 10 * time.Second}
	f := flag.NewFlagSet("fleet", flag.ContinueOnError)
	f.SetOutput(io.Discard) // whoever gets the error prints it
	f.IntVar(&s.Processes, "processes", 4, "worker `processes`, 1 to 100")
	f.DurationVar(&s.For, "for", 30*time.Second, "how long orders are sent, a tenth more than the limits allow, 1s to 24h")
	f.Float64Var(&s.Rate, "rate", 200, "`requests` a second that the API allows the fleet, 1 to 100,000")
	f.IntVar(&s.Burst, "burst", 20, "`requests` that the fleet may start at once after a pause, 1 to 100,000;\nthe API allows what comes in 100 ms at the rate on top")
	f.IntVar(&s.Concurrency, "concurrency", 20, "`requests` at once that the API allows the fleet, 1 to 10,000")
	f.DurationVar(&s.Latency, "latency", 50*time.Millisecond, "how long the API takes for a request on the mean, 0 to 1m")
	f.BoolFunc("kill", "kill a process and start another one every 5 s, or as often as -kill=`duration` says", func(v string) error {
		if v == "true" {
			s.Kill = killEvery
			return nil
		}
		d, err := time.ParseDuration(v)
		if err == nil && d <= 0 {
			err = errors.New("must be more than 0")
		}
		s.Kill = d
		return err
	})
	f.DurationVar(&s.Outage, "outage", 0, "how long Redis is stopped, in the middle of -for; it comes back empty (default 0, not at all)")
	onOutage := f.String("on-outage", redislimiter.Share.String(), "what a process does that can't reach Redis: \"share\", go on with its share of\nthe limits, or \"closed\", start nothing")
	f.DurationVar(&s.Solo, "solo", 0, "for how long after -for all processes but one rest, to see the limits move (default 0, not at all)")
	f.StringVar(&s.Redis, "redis", "", "`host:port` of a Redis server (default redis-server, if it is installed, and else\na stand-in inside this program)")
	f.StringVar(&s.QueueURL, "queue-url", "", "`URL` of a queue of Amazon SQS for the orders, standard and not used otherwise;\nAWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and\nAWS_ENDPOINT_URL_SQS are read (default a fake service inside this program)")
	f.StringVar(&s.DeadLetterURL, "dead-letter-url", "", "`URL` of the queue for those that are given up, required with -queue-url")
	f.BoolVar(&s.JSON, "json", false, "print one JSON object instead of a table")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintln(usage, "Runs a fleet of processes on one queue, against an API whose limits are for all of them together.\n\nUsage: fleet [flags]")
			f.SetOutput(usage)
			f.PrintDefaults()
		}
		return Settings{}, err
	}
	switch *onOutage {
	case redislimiter.Share.String():
		s.OnOutage = redislimiter.Share
	case redislimiter.Closed.String():
		s.OnOutage = redislimiter.Closed
	default:
		return Settings{}, fmt.Errorf("-on-outage is %q: must be share or closed", *onOutage)
	}
	switch {
	case f.NArg() > 0:
		return Settings{}, fmt.Errorf("argument %q: there are only flags", f.Arg(0))
	case s.Processes < 1 || s.Processes > 100:
		return Settings{}, fmt.Errorf("-processes is %d: must be from 1 to 100", s.Processes)
	case s.For < time.Second || s.For > 24*time.Hour:
		return Settings{}, fmt.Errorf("-for is %v: must be from 1s to 24h", s.For)
	case !(s.Rate >= 1 && s.Rate <= 100_000): // NaN is not
		return Settings{}, fmt.Errorf("-rate is %v: must be from 1 to 100000", s.Rate)
	case s.Burst < 1 || s.Burst > 100_000:
		return Settings{}, fmt.Errorf("-burst is %d: must be from 1 to 100000", s.Burst)
	case s.Concurrency < 1 || s.Concurrency > 10_000:
		return Settings{}, fmt.Errorf("-concurrency is %d: must be from 1 to 10000", s.Concurrency)
	case s.Latency < 0 || s.Latency > time.Minute:
		return Settings{}, fmt.Errorf("-latency is %v: must be from 0s to 1m", s.Latency)
	case s.Outage < 0 || s.Outage >= s.For:
		return Settings{}, fmt.Errorf("-outage is %v: must be shorter than -for, which is %v", s.Outage, s.For)
	case s.Outage > 0 && s.Redis != "":
		return Settings{}, errors.New("-outage with -redis: only a server that this program has started can be stopped by it")
	case s.Solo < 0 || s.Solo > 24*time.Hour:
		return Settings{}, fmt.Errorf("-solo is %v: must be from 0s to 24h", s.Solo)
	case s.QueueURL != "" && s.DeadLetterURL == "":
		return Settings{}, errors.New("-queue-url and -dead-letter-url go together: -dead-letter-url is missing")
	case s.QueueURL == "" && s.DeadLetterURL != "":
		return Settings{}, errors.New("-queue-url and -dead-letter-url go together: -queue-url is missing")
	case s.QueueURL != "" && s.QueueURL == s.DeadLetterURL:
		return Settings{}, errors.New("-dead-letter-url is the same as -queue-url: what is given up must not come back")
	case strings.HasSuffix(s.QueueURL, ".fifo") || strings.HasSuffix(s.DeadLetterURL, ".fifo"):
		return Settings{}, errors.New("-queue-url and -dead-letter-url must be standard queues: orders need no order")
	}
	// Servers may outlive the run, and its limits and orders must not be taken
	// for those of another one.
	s.Name = "fleet-" + strings.ToLower(rand.Text()[:8])
	return s, nil
}
