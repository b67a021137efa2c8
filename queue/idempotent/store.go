package idempotent

import (
	"context"
	"errors"
	"time"
)

// A Store remembers keys for a [Middleware]. The methods are called
// concurrently, by many processes where the store is shared; each is one atomic
// step on its key. Times are compared with the store's own clock, or with the
// caller's where it has none, when the method is called: what has expired is
// treated as such at once, and not when somebody deletes it.
//
// Errors of a store that can't be reached answer errors.Is for
// limiter.ErrUnavailable, ErrOverload or ErrMisconfigured: the store is as
// needed for the work as the far side, and its troubles are told in the same
// way.
type Store interface {
	// Claim takes c.Key for c.Owner until c.Until, unless the key is done or
	// somebody else's claim on it has not ended. The record says which.
	// Claiming again what the same owner holds succeeds.
	Claim(ctx context.Context, c Claim) (Record, error)

	// Done remembers until keep that the operation of c.Key has succeeded, and
	// what it answered. It fails with [ErrNotOwner] if c.Owner holds no claim on
	// the key, and is nil if the same owner has done it before.
	Done(ctx context.Context, c Claim, result []byte, keep time.Time) error

	// Failed gives up the claim, counts a failure, remembers the count until
	// keep, and returns it. It fails with [ErrNotOwner] as Done does.
	Failed(ctx context.Context, c Claim, keep time.Time) (failures int, err error)

	// Release gives up the claim as if it had never been made; with forget, the
	// count of failures goes, too. What is not held is no error.
	Release(ctx context.Context, c Claim, forget bool) error
}

// A Claim is the right of one run to do the operation of one key.
type Claim struct {
	Key   string
	Owner string    // unique to the run, so that a late one can't overwrite what came after it
	Until time.Time // when the claim ends by itself
	// Fresh says that the message was never delivered before, so that failures
	// which are remembered are those of another message: they are forgotten.
	Fresh bool
	// InDoubt says that an earlier run's claim has ended without a word: that
	// run has crashed, or was too slow, and may have had its effect or not.
	InDoubt bool
}

// A Record is what a store knows about a key.
type Record struct {
	State State
	// Until is when the claim that stands in the way ends, for Busy.
	Until time.Time
	// InDoubt is [Claim].InDoubt, for Claimed.
	InDoubt bool
	// Failures is how many failed runs are remembered, for Claimed.
	Failures int
	// Result is what the operation answered, for Done; it may be nil.
	Result []byte
}

// A State is what may be done about a key.
type State uint8

// The states.
const (
	Claimed State = iota + 1 // the claim succeeded: run
	Busy                     // another run holds a claim
	Done                     // the operation has succeeded before
)

// String is the state's name.
func (s State) String() string {
	switch s {
	case Claimed:
		return "claimed"
	case Busy:
		return "busy"
	case Done:
		return "done"
	}
	return "unknown"
}

// ErrNotOwner says that a claim has ended, and that the key is free or somebody
// else's by now.
var ErrNotOwner = errors.New("idempotent: the claim on the key has ended")
