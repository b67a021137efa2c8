package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"
)

// Settings are the values of the flags.
type Settings struct {
	Length   time.Duration // of the story
	Capacity int           // calls that the downstream runs at once at its best
	Load     float64       // operations that are offered, as a multiple of what it does at its best
	Fixed    int           // the fixed limit
	Seed     uint64        // of arrivals and of how long calls take

	JSON bool
	SVG  string // file to write, or ""
}

// service is how long the downstream takes for one call, on average and at its
// best.
const service = 100 * time.Millisecond

// Best is the rate of calls a second that the downstream reaches at its best.
func (s Settings) Best() float64 { return float64(s.Capacity) / service.Seconds() }

// maxArrivals bounds the memory used.
const maxArrivals = 1_000_000

// Arrivals are the times at which operations are offered: at random, and the
// same for the same settings.
func (s Settings) Arrivals() []time.Duration {
	rnd := rand.New(rand.NewPCG(s.Seed, 0))
	mean := float64(time.Second) / (s.Load * s.Best())
	var all []time.Duration
	for at := rnd.ExpFloat64() * mean; at < float64(s.Length); at += rnd.ExpFloat64() * mean {
		all = append(all, time.Duration(at))
	}
	return all
}

// ParseFlags reads the command line. The error names the invalid flag.
func ParseFlags(args []string, usage io.Writer) (Settings, error) {
	var s Settings
	f := flag.NewFlagSet("overload", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints the error
	f.DurationVar(&s.Length, "length", 2*time.Minute, "how long the story is, in virtual time, 1m to 1h")
	f.IntVar(&s.Capacity, "capacity", 20, "`calls` that the downstream does at once at its best, 2 to 1,000;\neach takes 100 ms")
	f.Float64Var(&s.Load, "load", 1.1, "operations that are offered, as a `multiple` of what it does at its best, 0.1 to 10")
	f.IntVar(&s.Fixed, "fixed", 0, "`calls` at once that the fixed limit allows, 1 to 10,000 (default the capacity)")
	f.Uint64Var(&s.Seed, "seed", 1, "`seed` of the arrivals, and of how long calls take")
	f.BoolVar(&s.JSON, "json", false, "print one JSON object instead of a table")
	f.StringVar(&s.SVG, "svg", "", "draw what happened into this `file`")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintln(usage, "Shows what limiters do before a downstream whose capacity changes.\n\nUsage: overload [flags]")
			f.SetOutput(usage)
			f.PrintDefaults()
		}
		return Settings{}, err
	}
	given := false
	f.Visit(func(g *flag.Flag) { given = given || g.Name == "fixed" })
	if !given {
		s.Fixed = s.Capacity
	}
	switch {
	case f.NArg() > 0:
		return Settings{}, fmt.Errorf("argument %q: there are only flags", f.Arg(0))
	case s.Length < time.Minute || s.Length > time.Hour:
		return Settings{}, fmt.Errorf("-length is %v: must be from 1m to 1h", s.Length)
	case s.Capacity < 2 || s.Capacity > 1000:
		return Settings{}, fmt.Errorf("-capacity is %d: must be from 2 to 1000", s.Capacity)
	case !(s.Load >= 0.1 && s.Load <= 10): // NaN is not
		return Settings{}, fmt.Errorf("-load is %v: must be from 0.1 to 10", s.Load)
	case s.Fixed < 1 || s.Fixed > 10_000:
		return Settings{}, fmt.Errorf("-fixed is %d: must be from 1 to 10000", s.Fixed)
	}
	if n := math.Ceil(s.Load * s.Best() * s.Length.Seconds()); n > maxArrivals {
		return Settings{}, fmt.Errorf("-length %v, -capacity %d and -load %v make %.0f operations: must be at most %d", s.Length, s.Capacity, s.Load, n, maxArrivals)
	}
	return s, nil
}
