package redislimiter

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
)

// The reasons in Blocked that only this package has, in addition to
// limiter.ByRate, limiter.ByConcurrency and limiter.ByPause. In all of them the
// Block's Name is the name of the limiter.
const (
	ByOutage limiter.Reason = "outage" // Redis can't be reached, and this process has no share to use
	ByClosed limiter.Reason = "closed" // Close was called
)

// maxName is the maximum length of a name, in bytes.
const maxName = 200

// An Outage selects what a process does while it can't reach Redis.
type Outage int

// The choices for [Config].OnOutage.
const (
	// Share lets each process continue with its last known share: the limit
	// divided by the number of live processes, as last reported. A process
	// that was not in touch within the 5 s before, or that joins while Redis
	// can't be reached, has a share of 0.
	Share Outage = iota
	// Closed lets nothing start.
	Closed
)

// String returns "share" or "closed".
func (o Outage) String() string {
	switch o {
	case Share:
		return "share"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("Outage(%d)", int(o))
}

// A State is the state of a limiter's connection to Redis.
type State int

// The states of a limiter.
const (
	Joining   State = iota // Redis has not answered yet
	Connected              // Redis answers, or the limiter is idle
	Away                   // Redis can't be reached, and Config.OnOutage applies
)

// String returns "joining", "connected" or "away".
func (s State) String() string {
	switch s {
	case Joining:
		return "joining"
	case Connected:
		return "connected"
	case Away:
		return "away"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Config configures a limiter. The zero value works.
type Config struct {
	// OnOutage is what this process does while it can't reach Redis. Default
	// Share.
	OnOutage Outage
}

// check rejects invalid values, on behalf of the named constructor.
func (c Config) check(constructor string, client redis.UniversalClient, name string) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("redislimiter: "+constructor+": "+format, args...)
	}
	switch {
	case nils.Is(client):
		return refuse("client is nil: must be a Redis client")
	case name == "":
		return refuse("name is empty: must name the limit, the same in all processes")
	case len(name) > maxName:
		return refuse("name is %d bytes long: must be at most %d", len(name), maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '{' || r == '}' || r == 0x7f }):
		return refuse("name is %q: must be without braces, spaces and control characters", name)
	case c.OnOutage != Share && c.OnOutage != Closed:
		return refuse("OnOutage is %v: must be Share or Closed", c.OnOutage)
	}
	return nil
}

// timed returns the client with callTimeout as its own timeout, if its type
// allows that: by default a client waits for seconds whatever its context says. A
// client that obeys its context is used unchanged, since a copy has lost its
// hooks.
func timed(client redis.UniversalClient) redis.UniversalClient {
	if c, ok := client.(*redis.Client); ok && c != nil && !c.Options().ContextTimeoutEnabled {
		return c.WithTimeout(callTimeout)
	}
	return client
}

// newID returns an id that no other process has.
func newID() string { return rand.Text() }
