package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/rampmeter/rampmeter/queue/deadletter"
)

// Settings are the values of the command line.
type Settings struct {
	Command string // list, show, redrive, or "" for the demo
	IDs     []string

	DeadLetterURL, QueueURL string
	JSON                    bool

	Reasons, Sources []string
	Error            *regexp.Regexp
	MinAge, MaxAge   time.Duration
	Max              int
	Lease            time.Duration

	Rate           float64
	DryRun, Native bool
}

var errNoCommand = errors.New("no command")

// none is -reason's name for letters without a record.
const none = "none"

func flags(s *Settings, demo *bool) *flag.FlagSet {
	f := flag.NewFlagSet("redrive", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	f.BoolVar(demo, "demo", false, "play a story with queues in memory; no command, no other flags")
	f.StringVar(&s.DeadLetterURL, "dead-letter-url", os.Getenv("DEAD_LETTER_URL"), "`URL` of the dead-letter queue, or $DEAD_LETTER_URL; credentials, region and\nendpoint are as the AWS SDK finds them: AWS_REGION, AWS_PROFILE, ...")
	f.StringVar(&s.QueueURL, "queue-url", os.Getenv("QUEUE_URL"), "`URL` of the queue that gets the messages, or $QUEUE_URL (default: the queue\nwhose redrive policy names the dead-letter queue, if there is just one)")
	f.BoolVar(&s.JSON, "json", false, "print JSON: an object per letter, or one for the summary")
	f.Func("reason", "only letters with these `reasons`, separated by commas: exhausted, permanent,\nundecodable, one of your own, or none for those without a record", words(&s.Reasons))
	f.Func("source", "only letters from these `sources`, separated by commas", words(&s.Sources))
	f.Func("error", "only letters whose error matches this regular `expression`", func(v string) (err error) {
		s.Error, err = regexp.Compile(v)
		return err
	})
	f.DurationVar(&s.MinAge, "min-age", 0, "only letters that were given up at least this `duration` ago")
	f.DurationVar(&s.MaxAge, "max-age", 0, "only letters that were given up at most this `duration` ago")
	f.IntVar(&s.Max, "max", 0, "at most so many `letters` (default all)")
	f.DurationVar(&s.Lease, "lease", 0, "for which `duration` letters stay hidden if the program is killed, 10s to 12h (default 2m)")
	f.Float64Var(&s.Rate, "rate", 0, "redrive at most so many `messages` a second; with -native up to 500 (default: no limit)")
	f.BoolVar(&s.DryRun, "dry-run", false, "redrive nothing, and tell how many it would be")
	f.BoolVar(&s.Native, "native", false, "have SQS itself move all messages, and wait until it has; to their sources\nif -queue-url is not given, which works for what SQS has moved there itself")
	return f
}

// words returns the function of a flag that takes a list.
func words(to *[]string) func(string) error {
	return func(v string) error {
		for word := range strings.SplitSeq(v, ",") {
			switch word {
			case none:
				word = ""
			case "":
				return errors.New("must be words, separated by commas")
			}
			*to = append(*to, word)
		}
		return nil
	}
}

// Usage prints how to use the program.
func Usage(w io.Writer) {
	_, _ = fmt.Fprint(w, `Shows what is in a dead-letter queue of Amazon SQS, and why, and sends it back.

Usage: redrive list    [flags] [ID...]
       redrive show    [flags] ID
       redrive redrive [flags] [ID...]
       redrive -demo

For example, what an outage has left there, twenty a second:

  redrive redrive -dead-letter-url "$dead" -queue-url "$orders" -reason exhausted -rate 20

Without a queue at hand, see it at work in memory:

  go run ./examples/redrive -demo

Flags:
`)
	var s Settings
	var demo bool
	f := flags(&s, &demo)
	f.SetOutput(w)
	f.PrintDefaults()
}

// ParseFlags reads the command line. The error names the invalid part.
func ParseFlags(args []string) (Settings, error) {
	var s Settings
	var demo bool
	f := flags(&s, &demo)
	var words []string
	for rest := args; ; { // flags may follow words
		if err := f.Parse(rest); err != nil {
			return s, err
		}
		if f.NArg() == 0 {
			break
		}
		words, rest = append(words, f.Arg(0)), f.Args()[1:]
	}
	set := make(map[string]bool)
	f.Visit(func(f *flag.Flag) { set[f.Name] = true })
	switch {
	case demo && (len(words) > 0 || len(set) > 1):
		return s, errors.New("-demo stands alone")
	case demo:
		return s, nil
	case len(words) == 0:
		return s, errNoCommand
	}
	s.Command, s.IDs = words[0], words[1:]
	if !set["queue-url"] && s.Native {
		s.QueueURL = "" // what the environment says is for the other way
	}
	switch {
	case s.Command != "list" && s.Command != "show" && s.Command != "redrive":
		return s, fmt.Errorf("%q is no command: must be list, show or redrive", s.Command)
	case s.DeadLetterURL == "":
		return s, errors.New("-dead-letter-url is missing: the URL of the dead-letter queue (or try -demo)")
	case s.QueueURL == s.DeadLetterURL:
		return s, errors.New("-queue-url is the same as -dead-letter-url")
	case s.Command == "show" && len(s.IDs) != 1:
		return s, errors.New("show needs one ID, as list prints it")
	case s.MinAge < 0 || s.MaxAge < 0:
		return s, errors.New("-min-age and -max-age must not be negative")
	case s.Max < 0:
		return s, fmt.Errorf("-max is %d: must not be negative", s.Max)
	case s.Lease != 0 && (s.Lease < 10*time.Second || s.Lease > 12*time.Hour):
		return s, fmt.Errorf("-lease is %v: must be from 10s to 12h", s.Lease)
	case set["rate"] && !(s.Rate > 0 && s.Rate <= 1e6): // NaN is not
		return s, fmt.Errorf("-rate is %v: must be above 0, and at most 1000000", s.Rate)
	}
	for _, name := range []string{"rate", "dry-run", "native"} {
		if set[name] && s.Command != "redrive" {
			return s, fmt.Errorf("-%s is for redrive", name)
		}
	}
	if s.Native {
		for _, name := range []string{"reason", "source", "error", "min-age", "max-age", "max", "lease", "dry-run"} {
			if set[name] {
				return s, fmt.Errorf("-native and -%s exclude each other: SQS itself moves all messages or none", name)
			}
		}
		switch {
		case len(s.IDs) > 0:
			return s, errors.New("-native takes no IDs: SQS itself moves all messages or none")
		case set["rate"] && (s.Rate < 1 || s.Rate > 500 || s.Rate != float64(int(s.Rate))):
			return s, fmt.Errorf("-rate is %v: SQS itself takes whole numbers from 1 to 500", s.Rate)
		}
	}
	return s, nil
}

// config converts the settings for package deadletter.
func (s Settings) config() deadletter.Config {
	cfg := deadletter.Config{
		Filter: deadletter.Filter{IDs: s.IDs, Reasons: s.Reasons, Sources: s.Sources, Error: s.Error},
		Max:    s.Max,
		Lease:  s.Lease,
	}
	if len(s.IDs) > 0 && s.Max == 0 {
		cfg.Max = len(s.IDs) // when they are found, the search ends
	}
	now := time.Now()
	if s.MinAge > 0 {
		cfg.Filter.Until = now.Add(-s.MinAge)
	}
	if s.MaxAge > 0 {
		cfg.Filter.From = now.Add(-s.MaxAge)
	}
	return cfg
}
