package deadletter

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
)

// Config configures [List] and [Redrive]. The zero Config means all letters, without
// a rate limit.
type Config struct {
	// Filter selects the letters that are listed or redriven. Default all.
	Filter Filter
	// Max is the maximum number of letters listed or redriven. Default 0: no limit.
	Max int

	// Limiter is acquired for every letter that is sent, and consulted before letters
	// are received. It may be the limiter of the consumer that will get them, a token
	// bucket, or any other. Default none. Redrive only.
	Limiter limiter.Limiter
	// DryRun makes Redrive send nothing, and report as Summary.Matched what it would
	// have sent. Redrive only.
	DryRun bool
	// OnResult is called for every letter that was examined, as soon as its outcome is
	// known, one at a time, from the goroutine of Redrive. Redrive only.
	OnResult func(Result)

	// Lease is how long a letter is hidden from others when it is received, 10 s
	// to 12 h. It is extended as long as needed, each time for twice as long. So after
	// a crash a letter stays hidden for Lease, or for about as long as it has already
	// been hidden. A FIFO queue suppresses duplicates for five minutes; with a Lease
	// well under that, a redrive that is repeated after a crash makes no duplicates.
	// Default 2 min.
	Lease time.Duration
	// Wait is how long a receive waits for a message, 1 s to 20 s. After two empty
	// receives in a row the queue counts as empty. Default 2 s.
	Wait time.Duration

	// Logger logs leases that could not be extended, letters that could not be
	// returned, and how many letters List left out as newer than itself. Default
	// slog.Default().
	Logger *slog.Logger
}

const (
	defaultLease = 2 * time.Minute
	maxLease     = 12 * time.Hour
	defaultWait  = 2 * time.Second
)

// check returns the Config with its defaults, or an error that names the invalid
// field.
func (c Config) check(op string, from queue.Source) (Config, error) {
	if nils.Is(from) {
		return c, fmt.Errorf("deadletter: %s: from is %s", op, nils.Describe(from))
	}
	if c.Lease == 0 {
		c.Lease = defaultLease
	}
	if c.Wait == 0 {
		c.Wait = defaultWait
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	var err error
	switch {
	case c.Limiter != nil && nils.Is(c.Limiter):
		err = fmt.Errorf("Config.Limiter is %s: leave the field out, or check the error of what makes it", nils.Describe(c.Limiter))
	case !c.Filter.From.IsZero() && !c.Filter.Until.IsZero() && !c.Filter.From.Before(c.Filter.Until):
		err = fmt.Errorf("Config.Filter.From is %v: must be before Config.Filter.Until, which is %v", c.Filter.From, c.Filter.Until)
	case c.Max < 0:
		err = fmt.Errorf("Config.Max is %d: must not be negative", c.Max)
	case c.Lease < 10*time.Second || c.Lease > maxLease:
		err = fmt.Errorf("Config.Lease is %v: must be from 10s to 12h, or 0 for the default", c.Lease)
	case c.Wait < time.Second || c.Wait > 20*time.Second:
		err = fmt.Errorf("Config.Wait is %v: must be from 1s to 20s, or 0 for the default", c.Wait)
	}
	if err != nil {
		return c, fmt.Errorf("deadletter: %s: %w", op, err)
	}
	return c, nil
}

var errSameQueue = errors.New("deadletter: redrive: to is from: must be another queue, or its letters would lose their records")
