package idempotent

import (
	"context"
	"errors"
	"time"
)

// A Store remembers keys for a [Middleware]. The methods are called concurrently, by
// many processes if the store is shared; each is one atomic operation on its key.
// Times are compared, when the method is called, with the store's own clock, or with
// the caller's if the store has none: expired records do not count, even before
// somebody deletes them.
//
// An owner may repeat an operation, after a lost reply for example: the repetition
// succeeds, changes nothing and returns the same result.
//
// Errors of a store that can't be reached answer errors.Is for
// limiter.ErrUnavailable, ErrOverload or ErrMisconfigured: the work needs the store
// as much as the downstream, and its failures are reported in the same way. An error
// that is retry.ErrPermanent means that the store can't accept the key at all.
type Store interface {
	// Claim claims c.Key for c.Owner until c.Until, unless the key is done or
	// another owner's claim on it has not ended. The record says which.
	Claim(ctx context.Context, c Claim) (Record, error)

	// Done records until c.Keep that the operation of c.Key has succeeded, and its
	// result. It fails with [ErrNotOwner] if c.Owner holds no claim on the key. If the
	// result is too large, the store leaves it out, still records the success, and
	// returns [ErrResultTooLarge].
	Done(ctx context.Context, c Claim, result []byte) error

	// Failed releases the claim, counts a failure, remembers the count until
	// c.Keep, and returns it. It fails with [ErrNotOwner] as Done does.
	Failed(ctx context.Context, c Claim) (failures int, err error)

	// Release releases the claim without counting a failure; with forget, it also
	// resets the count. Releasing a claim that is not held is not an error.
	Release(ctx context.Context, c Claim, forget bool) error
}

// A Claim is the right of one run to do the operation of one key.
type Claim struct {
	Key   string
	Owner string    // unique to the run, so that a late one can't overwrite what came after it
	Until time.Time // when the claim ends by itself
	Keep  time.Time // how long the record is kept, whether or not the run ends; not before Until
	// Fresh says that the message was never delivered before, so that recorded
	// failures are those of another message: the store resets their count.
	Fresh bool
	// InDoubt says that the claim of an earlier run of this operation expired: the
	// run crashed, or was too slow, and may or may not have had its effect. InDoubt
	// stays set, however later runs fail, until one succeeds. Middleware sets it from
	// the [Record]; stores ignore it.
	InDoubt bool
}

// A Record is what a store knows about a key.
type Record struct {
	State State
	// Until is when the other claim ends, for Busy.
	Until time.Time
	// InDoubt is [Claim].InDoubt, for Claimed.
	InDoubt bool
	// Failures is how many failed runs are remembered, for Claimed.
	Failures int
	// Result is the operation's result, for Done; it may be nil.
	Result []byte
}

// A State is the state of a key for its claimant.
type State uint8

// The states.
const (
	Claimed State = iota + 1 // the claim succeeded: run
	Busy                     // another run holds a claim
	Done                     // the operation has succeeded before
)

// String returns the state's name.
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

// ErrNotOwner means that a claim has ended, and that the key is free or claimed by
// another owner by now.
var ErrNotOwner = errors.New("idempotent: the claim on the key has ended")

// ErrResultTooLarge means that a store recorded a success without its result, which
// is too large for the store.
var ErrResultTooLarge = errors.New("idempotent: the result is too large for the store; the success is remembered without it")
