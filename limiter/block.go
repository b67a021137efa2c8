package limiter

import (
	"fmt"
	"strings"
	"time"
)

// A Reason is what keeps a limiter from starting an operation; "" means nothing
// does. The constants are those of this package. Your own limiters, and
// consumers, define others.
type Reason string

// The reasons of this package's limiters.
const (
	ByConcurrency Reason = "concurrency"   // all slots are taken
	ByRate        Reason = "rate"          // no token is left in the bucket
	ByPause       Reason = "pause"         // paused, by hand or by a Retry-After of the downstream
	ByBreaker     Reason = "breaker"       // an outage downstream: no calls, or a few probes
	ByValve       Reason = "valve"         // closed, by hand or by a schedule
	ByError       Reason = "limiter error" // the limiter itself could not be made; see [Block].Cause
)

// Outage reports whether r stands for an outage, a pause or a closed valve,
// during which the downstream must not be called, rather than for capacity that
// is in use.
func (r Reason) Outage() bool { return r == ByBreaker || r == ByPause || r == ByValve }

// precedence is higher for a reason that makes the others irrelevant.
func (r Reason) precedence() int {
	switch r {
	case "":
		return 0
	case ByValve:
		return 4
	case ByBreaker:
		return 3
	case ByPause:
		return 2
	}
	return 1
}

// A Block is why no operation could start, and until when. The zero Block
// means that one could start now.
type Block struct {
	Reason Reason    // what blocks; "" for nothing, and then the other fields are zero
	Name   string    // of the limiter that blocks, where it has one
	Until  time.Time // when the block ends; zero where that is not known
	Cause  error     // the underlying error, such as the one that opened the breaker; nil if there is none
}

// String returns b for people and logs: the reason, the name, the end and the
// cause, as far as they are known, as in
//
//	breaker inventory until 2026-08-01T12:00:00Z: status 503
//
// It is "" for the zero Block.
func (b Block) String() string {
	if b.Reason == "" {
		return ""
	}
	var s strings.Builder
	s.WriteString(string(b.Reason))
	if b.Name != "" {
		s.WriteString(" " + b.Name)
	}
	if !b.Until.IsZero() {
		s.WriteString(" until " + b.Until.Format(time.RFC3339))
	}
	if b.Cause != nil {
		fmt.Fprintf(&s, ": %v", b.Cause)
	}
	return s.String()
}
