package queuetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/queue"
)

// ErrInjected is the error of a call that fails because of a [Fault] without an
// error of its own.
var ErrInjected = errors.New("queuetest: injected fault")

// An Op is a method of a [queue.Source] or [queue.Sink].
type Op string

// The methods.
const (
	OpReceive Op = "receive"
	OpAck     Op = "ack"
	OpNack    Op = "nack"
	OpExtend  Op = "extend"
	OpSend    Op = "send"
)

// A Call is a call that [Faulty] is about to make.
type Call struct {
	Op Op
	// N is the number of the call among those of the same Op, Total its number
	// among all, both counted from 1.
	N, Total int
	// Messages are the call's arguments: read them, don't change or keep them.
	// Receive has none.
	Messages []*queue.Message
}

// A Mode is how a call fails.
type Mode int

// The modes.
const (
	// Succeed: the call does not fail. The zero Fault is no fault.
	Succeed Mode = iota
	// Refuse: the call fails, and does nothing.
	Refuse
	// LoseReply: the call is made, and reported as failed. Messages that a
	// Receive took stay leased until their lease is over.
	LoseReply
	// Half: the call fails for every second message, the first one included, with
	// a [queue.BatchError], and is made for the others. A Receive fails as with
	// Refuse.
	Half
	// Hang: the call does nothing until its context ends, and fails with the
	// context's cause. As with a server that does not respond,
	// ReceiveOptions.Stop has no effect.
	Hang
)

// A Fault is what happens to a call.
type Fault struct {
	Mode Mode
	// Err is the error of the call. Default [ErrInjected].
	Err error
	// Before and After delay the call before it is made and before it returns.
	// The delay before ends early with the call's context, and the call then
	// fails with the context's cause; the one after does not, since the result
	// must be reported.
	Before, After time.Duration
}

func (f Fault) err() error {
	if f.Err == nil {
		return ErrInjected
	}
	return f.Err
}

// A Plan returns the fault of a call. It is called for one call at a time, in the
// order of Call.Total, so it may keep state without a lock.
type Plan func(Call) Fault

// OnCall returns a plan with a fault for the k-th call of all, counted from 1,
// and none for the others: a test that tries every k in turn places a fault at
// every point.
func OnCall(k int, f Fault) Plan {
	return func(c Call) Fault { return when(c.Total == k, f) }
}

// On returns a plan with a fault for the calls of op whose number among those
// of op is one of ns, counted from 1; for all of them if no number is given.
func On(op Op, f Fault, ns ...int) Plan {
	return func(c Call) Fault {
		hit := len(ns) == 0
		for _, n := range ns {
			hit = hit || c.N == n
		}
		return when(c.Op == op && hit, f)
	}
}

// Random returns a plan that gives each call, with probability p, one of the
// faults. The same seed gives the same faults to the same order of calls.
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

func when(hit bool, f Fault) Fault {
	if !hit {
		return Fault{}
	}
	return f
}

// First returns a plan that calls the given plans in turn and returns the first
// fault. All of them are called for every call.
func First(plans ...Plan) Plan {
	return func(c Call) Fault {
		var first Fault
		for _, p := range plans {
			if f := p(c); first == (Fault{}) {
				first = f
			}
		}
		return first
	}
}

// Faulty is a queue whose calls fail as planned: a [queue.Source] and a
// [queue.Sink] that wrap any others. Set its fields before the first call; after
// that, calls may be concurrent. Don't copy it.
//
// To use a Faulty whose Source and Sink are two queues (so that Plan counts the
// calls to both) also as DeadLetter of a [queue.Config], wrap it in another value
// there, such as a struct{ queue.Sink }: a consumer rejects a source that is its
// own DeadLetter.
type Faulty struct {
	// Source and Sink do the work. Either may be nil when it is not called.
	Source queue.Source
	Sink   queue.Sink
	// Plan is called for every call. Default: nothing fails.
	Plan Plan
	// Latency is added to every call as a network adds it, half before and half
	// after the call is made.
	Latency time.Duration

	mu    sync.Mutex // guards the fields below, and calls of Plan
	calls map[Op]int
	total int
}

var (
	_ queue.Source = (*Faulty)(nil)
	_ queue.Sink   = (*Faulty)(nil)
)

// Calls returns the number of calls of op, failed ones included; of all ops if op
// is "".
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if op == "" {
		return f.total
	}
	return f.calls[op]
}

// Receive receives from Source, as planned. Source gets o unchanged; delays of
// the plan and Latency do not end when o.Stop is closed.
func (f *Faulty) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	var msgs []*queue.Message
	err := f.call(ctx, OpReceive, nil, func([]*queue.Message) (err error) {
		msgs, err = f.Source.Receive(ctx, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	return msgs, nil
}

// Ack acks at Source, as planned.
func (f *Faulty) Ack(ctx context.Context, msgs ...*queue.Message) error {
	return f.call(ctx, OpAck, msgs, func(msgs []*queue.Message) error { return f.Source.Ack(ctx, msgs...) })
}

// Nack nacks at Source, as planned.
func (f *Faulty) Nack(ctx context.Context, delay time.Duration, msgs ...*queue.Message) error {
	return f.call(ctx, OpNack, msgs, func(msgs []*queue.Message) error { return f.Source.Nack(ctx, delay, msgs...) })
}

// Extend extends at Source, as planned.
func (f *Faulty) Extend(ctx context.Context, lease time.Duration, msgs ...*queue.Message) error {
	return f.call(ctx, OpExtend, msgs, func(msgs []*queue.Message) error { return f.Source.Extend(ctx, lease, msgs...) })
}

// Send sends to Sink, as planned.
func (f *Faulty) Send(ctx context.Context, msgs ...*queue.Message) error {
	return f.call(ctx, OpSend, msgs, func(msgs []*queue.Message) error { return f.Sink.Send(ctx, msgs...) })
}

// call makes one call, as planned.
func (f *Faulty) call(ctx context.Context, op Op, msgs []*queue.Message, do func([]*queue.Message) error) error {
	fault := f.plan(op, msgs)
	if d := fault.Before + f.Latency/2; d > 0 && !sleep.For(ctx, d) {
		return fmt.Errorf("queuetest: %s: %w", op, context.Cause(ctx))
	}
	var err error
	switch {
	case fault.Mode == Hang:
		<-ctx.Done()
		return fmt.Errorf("queuetest: %s: %w", op, context.Cause(ctx))
	case fault.Mode == Refuse, fault.Mode == Half && op == OpReceive:
		err = fault.err()
	case fault.Mode == LoseReply:
		_ = do(msgs) // its result is lost
		err = fault.err()
	case fault.Mode == Half:
		err = half(op, msgs, fault.err(), do)
	default:
		err = do(msgs)
	}
	sleep.For(context.WithoutCancel(ctx), fault.After+f.Latency/2)
	return err
}

// plan counts the call and returns its fault.
func (f *Faulty) plan(op Op, msgs []*queue.Message) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = make(map[Op]int)
	}
	f.calls[op]++
	f.total++
	if f.Plan == nil {
		return Fault{}
	}
	return f.Plan(Call{Op: op, N: f.calls[op], Total: f.total, Messages: msgs})
}

// half makes the call for every second message, and reports the others as failed.
func half(op Op, msgs []*queue.Message, fault error, do func([]*queue.Message) error) error {
	failed := make(map[int]error)
	var odd []*queue.Message
	for i, m := range msgs {
		if i%2 == 0 {
			failed[i] = fault
		} else {
			odd = append(odd, m)
		}
	}
	err := do(odd)
	var batch *queue.BatchError
	isBatch := errors.As(err, &batch)
	for i := range odd {
		switch {
		case isBatch && batch.Failed[i] != nil:
			failed[2*i+1] = batch.Failed[i]
		case err != nil && !isBatch:
			failed[2*i+1] = err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &queue.BatchError{Op: string(op), Failed: failed}
}
