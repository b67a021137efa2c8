// Package store is where a fleet's limit lives: what a process asks of it, and
// what it answers. There are two of each kind, the scripts that Redis runs, and
// the same logic in Go. The second is what the scripts are tested against, and
// what simulations of large fleets run on.
//
// All times are in microseconds: those of the store's own clock since 1970.
package store

import "context"

// What store and processes have to agree on, in microseconds.
const (
	// Lease is for how long what the store has leased is good without another
	// call. Who has not called for so long is forgotten, but for Memory.
	Lease = 1_000_000
	// Memory is how long a process that has stopped calling counts as live.
	Memory = 10_000_000

	// MinHorizon and MaxHorizon bound how far ahead starts are leased: as far
	// as it takes to lease Chunk of them to each process.
	MinHorizon = 250_000
	MaxHorizon = 1_000_000
	Chunk      = 20

	// MinWidth is how long a slot can be used at least. Timers, schedulers and
	// the clocks' uncertainty need about so much.
	MinWidth = 20_000
	// MaxCells is how many cells of the grid there may be a second, without the
	// bundles that are made of higher rates.
	MaxCells = 10_000

	backwards = 50_000 // how far the store's clock may run back before it counts as set
)

// A Call is what is common to all that processes ask.
type Call struct {
	Now      int64   // the time, in tests; 0: by the store's clock
	ID       string  // of the process
	Number   int64   // of this call, counted by the process from 1
	Gen, Seq int64   // as last reported; 0: never
	Away     bool    // the process's lease had run out before this call
	Join     bool    // nothing was ever reported to the process
	Declared Limit   // what the process was made with
	Version  int64   // of the limit that was last reported to the process; 0: never
	Limit    Limit   // that limit
	Set      float64 // the fleet's limit is to be this from now on; 0: no change
	Pause    int64   // 0: nothing; above: let nothing start for so long; below: end the pause
	Rest     bool    // the process holds nothing and asks for nothing any more
	Leave    bool    // and it will not come back
}

// A Limit is a fleet's limit: Value is the starts a second, and Burst theirs,
// or Value is the number of places.
type Limit struct {
	Value float64
	Burst int64
}

// A State is what is common to all answers.
type State struct {
	Now      int64 // the store's time; it never runs backwards within a generation
	Gen, Seq int64
	Version  int64
	Limit    Limit
	Origin   int64 // nothing is leased for a time before, in this generation
	Pause    int64 // nothing starts before; may be in the past
	Live     int64 // processes, those that have just stopped calling included
	Again    int64 // when to ask again for what could not be had; 0: nothing is missing
}

// A RateCall asks for starts.
type RateCall struct {
	Call
	Demand int64   // starts a second, times 1000
	Soon   int64   // cells to lease as early as can be,
	Before int64   // but only those that begin before; 0: any
	Fresh  int64   // cells to lease as early as can be, but so that they can be used for long
	Spread int64   // cells to lease evenly over the rest of the horizon
	After  int64   // where that begins
	Held   int64   // cells in hand that are not used yet, after Return
	Lead   int64   // how long it takes until a cell that is leased now can be used
	Return []int64 // cells of this generation that will not be used
}

// A RateState is the answer. Cell j may be used by whoever it is leased to, for
// as many starts as Grain says, from Start(j) for Width on.
type RateState struct {
	State
	Share   int64 // starts a second that the process may make, times 1000
	Horizon int64
	Tight   bool // some process wants more than its share
	Cells   []int64
}

// A Rate is a store of starts.
type Rate interface {
	Lease(ctx context.Context, c RateCall) (RateState, error)
}

// Grain returns how many starts there are to a cell.
func Grain(rate float64) int64 { return max(1, int64(rate/MaxCells)) }

// Cell returns how long a cell is.
func Cell(rate float64) float64 { return float64(Grain(rate)) * 1e6 / rate }

// Start returns when cell j of a grid begins.
func Start(origin, j int64, rate float64) int64 { return origin + int64(float64(j)*Cell(rate)) }

// Width returns for how long a cell can be used.
func Width(l Limit) int64 {
	return max(int64(float64(l.Burst-Grain(l.Value))*1e6/l.Value), MinWidth)
}

// A PlacesCall asks for places.
type PlacesCall struct {
	Call
	Held int64 // places that the process holds now, and no more
	Want int64 // places that it has a use for, those in use included
}

// A PlacesState is the answer.
type PlacesState struct {
	State
	Held  int64 // places that it holds from now on
	Yield int64 // of them, those that it is to give back when they come free
	Share int64 // places that are its due
}

// Places is a store of places.
type Places interface {
	Lease(ctx context.Context, c PlacesCall) (PlacesState, error)
}
