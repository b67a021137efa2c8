package sqsfake

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A Call is a request that has arrived.
type Call struct {
	Op Op
	// N is the number of the request among those of the same Op, Total among
	// all, both from 1.
	N, Total int
	// Queue is the name of the queue, if the request has one.
	Queue string
	// Entries is how many messages are sent, deleted or changed, or how many a
	// receive requests.
	Entries int
}

// A Mode is what goes wrong with a request.
type Mode int

// The modes.
const (
	// Succeed: no fault.
	Succeed Mode = iota
	// Refuse: the request is not acted on, and the reply is Fault.Err.
	Refuse
	// Reset: the request is not acted on, and the connection is reset.
	Reset
	// LoseReply: the request is acted on, and the connection is reset.
	LoseReply
	// Truncate: the request is acted on, and the connection ends in the middle of
	// the reply.
	Truncate
	// Hang: the request waits until the caller gives up, and is not acted on.
	Hang
	// FailEntries: the picked entries of a batch are not acted on and listed as
	// failed, with Fault.Err. A request that is not a batch is refused.
	FailEntries
	// OmitEntries: the picked entries of a batch are not acted on and not listed. A
	// request that is not a batch is treated as by LoseReply.
	OmitEntries
	// OmitDone: the picked entries of a batch are acted on and not listed. A request
	// that is not a batch is treated as by LoseReply.
	OmitDone
	// Empty: a receive returns no messages, at once. Any other request succeeds.
	Empty
	// Undelete: a delete, or the picked entries of a batch of deletes, are reported
	// as done, and their messages are visible again at once, with their receive
	// counts: a standard queue may deliver deleted messages again. Any other request
	// succeeds, and so does a delete on a FIFO queue.
	Undelete
)

// A Fault is what happens to a request.
type Fault struct {
	Mode Mode
	// Err is the error that Refuse and FailEntries return. Default [InternalError].
	Err Error
	// Entries are the indexes, from 0, of the entries that FailEntries, OmitEntries,
	// OmitDone and Undelete pick. Default: every second one, including the first.
	Entries []int
	// Before is how long the request waits before it is processed, and After how long
	// the reply waits before it is sent. If the caller gives up meanwhile, the request
	// has still been acted on.
	Before, After time.Duration
	// Max is how many messages a receive returns at most. Default: as many as it
	// requests.
	Max int
	// NoSystemAttributes leaves the system attributes out of received messages.
	NoSystemAttributes bool
	// FirstChecksums makes the reply to a duplicate, which a FIFO queue suppresses,
	// contain the checksums of the first message instead of its own. A client that
	// compares them takes an accepted message with another body for a failed one.
	FirstChecksums bool
}

func (f Fault) err() Error {
	if f.Err == (Error{}) {
		return InternalError()
	}
	return f.Err
}

// picks reports whether the fault picks entry i of a batch.
func (f Fault) picks(i int) bool {
	if f.Entries == nil {
		return i%2 == 0
	}
	return slices.Contains(f.Entries, i)
}

func (f Fault) none() bool {
	return f.Mode == Succeed && f.Before == 0 && f.After == 0 && f.Max == 0 && !f.NoSystemAttributes && !f.FirstChecksums
}

// A Plan decides what happens to a request. It is called for one request at a time, in
// the order of Call.Total, so it may keep state without a lock. It must not call the
// server.
type Plan func(Call) Fault

// OnCall returns a plan with a fault for the k-th of all requests, counted from 1: a
// test that runs with every k has a fault at every point.
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

// Fewer returns a plan that limits each receive that requests several messages, with
// probability p, to a random smaller number of them, 1 or more.
func Fewer(seed uint64, p float64) Plan {
	random := rand.New(rand.NewPCG(seed, seed))
	return func(c Call) Fault {
		if c.Op != ReceiveMessage || c.Entries < 2 || random.Float64() >= p {
			return Fault{}
		}
		return Fault{Max: 1 + random.IntN(c.Entries-1)}
	}
}

// Between returns a plan that is p from one instant on until before another, and has no
// fault at other times.
func Between(from, until time.Time, p Plan) Plan {
	return func(c Call) Fault {
		if now := time.Now(); now.Before(from) || !now.Before(until) {
			return Fault{}
		}
		return p(c)
	}
}

// First returns a plan that calls the given plans in turn and takes the first fault. It
// calls all of them for every request.
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
