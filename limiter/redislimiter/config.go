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
// limiter.ByRate, limiter.ByConcurrency and limiter.ByPause. The Block's Name is
// that of the limiter in all of them.
const (
	ByOutage limiter.Reason = "outage" // Redis can't be reached, and this process has no share to go on with
	ByClosed limiter.Reason = "closed" // Close was called
)

// maxName is how long a name may be, in bytes.
const maxName = 200

// An Outage is what a process does while it can't reach Redis.
type Outage int

// The choices for [Config].OnOutage.
const (
	// Share lets each process go on with its last known share: the limit over
	// the number of live processes, as last told. A process that had not been
	// in touch within 5 s before has a share of 0, one that joins while Redis
	// is away too.
	Share Outage = iota
	// Closed lets nobody start.
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

// A State says how a limiter stands with Redis.
type State int

// The states of a limiter.
const (
	Joining   State = iota // it has not heard from Redis yet
	Connected              // all is well; it may be at rest
	Away                   // Redis can't be reached, and Config.OnOutage holds
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

// check refuses what can't work, for the constructor that is named.
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

// timed returns the client with callTimeout as its own, if it is of a kind that
// can be had so: by default a client waits for seconds whatever its context says.
// One that heeds its context is taken as it is, since a copy has lost its hooks.
func timed(client redis.UniversalClient) redis.UniversalClient {
	if c, ok := client.(*redis.Client); ok && c != nil && !c.Options().ContextTimeoutEnabled {
		return c.WithTimeout(callTimeout)
	}
	return client
}

// newID returns an id that no other process has.
func newID() string { return rand.Text() }
