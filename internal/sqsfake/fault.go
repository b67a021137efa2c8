package sqsfake

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A Call is a request that has come in.
type Call struct {
	Op Op
	// N is the number of the request among those of the same Op, Total among
	// all, both from 1.
	N, Total int
	// Queue is the name of the queue, as far as the request has one.
	Queue string
	// Entries is how many messages are sent, deleted or changed, or how many are
	// asked for by a receive.
	Entries int
}

// A Mode is what goes wrong with a request.
type Mode int

// The modes.
const (
	// Succeed: nothing does.
	Succeed Mode = iota
	// Refuse: nothing is done, and the answer is Fault.Err.
	Refuse
	// Reset: nothing is done, and the connection is reset.
	Reset
	// LoseReply: the request is acted on, and the connection is reset.
	LoseReply
	// Truncate: the request is acted on, and the connection ends in the middle of
	// the answer.
	Truncate
	// Hang: nothing is done until the caller gives up.
	Hang
	// FailEntries: the picked entries of a batch are not acted on and listed as
	// failed, with Fault.Err. A request that is no batch is refused.
	FailEntries
	// OmitEntries: the picked entries of a batch are not acted on and listed
	// nowhere. A request that is no batch is as with LoseReply.
	OmitEntries
	// OmitDone: the picked entries of a batch are acted on and listed nowhere. A
	// request that is no batch is as with LoseReply.
	OmitDone
	// Empty: a receive returns no messages, at once. Any other request succeeds.
	Empty
	// Undelete: a delete, or the picked entries of a batch of deletes, are answered
	// as done, and their messages are visible again at once, with the receives that
	// they have had: a standard queue may hand out again what was deleted. Any
	// other request succeeds, and so does a delete on a FIFO queue.
	Undelete
)

// A Fault is what happens to a request.
type Fault struct {
	Mode Mode
	// Err is what Refuse and FailEntries answer. Default [InternalError].
	Err Error
	// Entries are the places, from 0, of the entries that FailEntries, OmitEntries,
	// OmitDone and Undelete pick. Default: every second one, the first included.
	Entries []int
	// Before and After are how long the request waits before it is looked at, and
	// its answer before it is sent. What was done stays done when the caller gives
	// up meanwhile.
	Before, After time.Duration
	// Max is how many messages a receive gives out at most. Default: as many as it
	// asks for.
	Max int
	// NoSystemAttributes leaves the system attributes out of received messages.
	NoSystemAttributes bool
	// FirstChecksums answers a duplicate, which a FIFO queue suppresses, with the
	// checksums of the first message and not with its own. A client that compares
	// them takes an accepted message with another body for a failed one.
	FirstChecksums bool
}

func (f Fault) err() Error {
	if f.Err == (Error{}) {
		return InternalError()
	}
	return f.Err
}

// picks tells whether entry i of a batch is one of those that fail.
func (f Fault) picks(i int) bool {
	if f.Entries == nil {
		return i%2 == 0
	}
	return slices.Contains(f.Entries, i)
}

func (f Fault) none() bool {
	return f.Mode == Succeed && f.Before == 0 && f.After == 0 && f.Max == 0 && !f.NoSystemAttributes && !f.FirstChecksums
}

// A Plan says what happens to a request. It is asked about one at a time, in the
// order of Call.Total, so it may keep state without a lock. It must not call the
// server.
type Plan func(Call) Fault

// OnCall returns a plan with a fault for the k-th request of all, counted from
// 1: a test that takes every k in turn has a fault at every point.
func OnCall(k int, f Fault) Plan {
	return func(c Call) Fault { return when(c.Total == k, f) }
}

// On returns a plan with a fault for the requests of op whose number among those
// of op is one of ns, counted from 1; for all of them if no number is given.
func On(op Op, f Fault, ns ...int) Plan {
	return func(c Call) Fault {
		return when(c.Op == op && (len(ns) == 0 || slices.Contains(ns, c.N)), f)
	}
}

// Random returns a plan that gives each request, with probability p, one of the
// faults. The same seed gives the same faults to the same order of requests.
func Random(seed uint64, p float64, faults ...Fault) Plan {
	random := rand.New(rand.NewPCG(seed, seed))
	return func(Call) Fault {
		hit, i := random.Float64() < p, random.Uint64()
		if len(faults) == 0 {
			return Fault{}
		}
		return when(hit, faults[i%uint64(len(faults))])
	}
}

// Fewer returns a plan that gives each receive that asks for several messages,
// with probability p, at most a random smaller number of them, 1 or more.
func Fewer(seed uint64, p float64) Plan {
	random := rand.New(rand.NewPCG(seed, seed))
	return func(c Call) Fault {
		if c.Op != ReceiveMessage || c.Entries < 2 || random.Float64() >= p {
			return Fault{}
		}
		return Fault{Max: 1 + random.IntN(c.Entries-1)}
	}
}

// Between returns a plan that is p from one instant on and until before another
// one, and no fault at other times.
func Between(from, until time.Time, p Plan) Plan {
	return func(c Call) Fault {
		if now := time.Now(); now.Before(from) || !now.Before(until) {
			return Fault{}
		}
		return p(c)
	}
}

// First returns a plan that asks the given ones in turn and takes the first
// fault. All of them are asked about every request.
func First(plans ...Plan) Plan {
	return func(c Call) Fault {
		var first Fault
		for _, p := range plans {
			if f := p(c); first.none() {
				first = f
			}
		}
		return first
	}
}

func when(hit bool, f Fault) Fault {
	if !hit {
		return Fault{}
	}
	return f
}
