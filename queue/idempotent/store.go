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
// A step may be taken again by the owner that has taken it, as after a reply
// that was lost on the way: it succeeds, changes nothing and answers the same.
//
// Errors of a store that can't be reached answer errors.Is for
// limiter.ErrUnavailable, ErrOverload or ErrMisconfigured: the store is as
// needed for the work as the downstream, and its failures are reported in the same
// way. An error that is retry.ErrPermanent says that the store can't take the
// key at all.
type Store interface {
	// Claim takes c.Key for c.Owner until c.Until, unless the key is done or
	// somebody else's claim on it has not ended. The record says which.
	Claim(ctx context.Context, c Claim) (Record, error)

	// Done remembers until c.Keep that the operation of c.Key has succeeded, and
	// what it answered. It fails with [ErrNotOwner] if c.Owner holds no claim on
	// the key. A result that the store has no room for is left out, and the error
	// is [ErrResultTooLarge] then; the success is remembered all the same.
	Done(ctx context.Context, c Claim, result []byte) error

	// Failed gives up the claim, counts a failure, remembers the count until
	// c.Keep, and returns it. It fails with [ErrNotOwner] as Done does.
	Failed(ctx context.Context, c Claim) (failures int, err error)

	// Release gives up the claim without counting a failure; with forget, those
	// that were counted go, too. What is not held is no error.
	Release(ctx context.Context, c Claim, forget bool) error
}

// A Claim is the right of one run to do the operation of one key.
type Claim struct {
	Key   string
	Owner string    // unique to the run, so that a late one can't overwrite what came after it
	Until time.Time // when the claim ends by itself
	Keep  time.Time // until when its end is remembered, and its lack of one; not before Until
	// Fresh says that the message was never delivered before, so that failures
	// which are remembered are those of another message: they are forgotten.
	Fresh bool
	// InDoubt says that the claim of an earlier run of this operation has ended
	// without a word: that run has crashed, or was too slow, and may have had its
	// effect or not. It stays so, whatever later runs fail with, until one
	// succeeds. Middleware sets it from the [Record]; stores ignore it.
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

// ErrResultTooLarge says that a store remembers a success without its result,
// which is larger than it has room for.
var ErrResultTooLarge = errors.New("idempotent: the result is too large for the store; the success is remembered without it")
