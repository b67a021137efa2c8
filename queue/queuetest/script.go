package queuetest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/queue"
)

// A Step is what a [ScriptedSource] does in a receive.
type Step struct {
	kind  stepKind
	msgs  []*queue.Message
	err   error
	pause time.Duration
}

type stepKind int

const (
	deliver stepKind = iota
	fail
	pause
	block
)

// Deliver delivers copies of the messages, with an ID and a Receipt if they have
// none, Attempt 1 if it is 0, and times. They may take several receives; a nil
// message is an empty one.
func Deliver(msgs ...*queue.Message) Step {
	copies := make([]*queue.Message, len(msgs))
	for i, m := range msgs {
		if m == nil {
			m = &queue.Message{}
		}
		copies[i] = m.Clone()
	}
	return Step{kind: deliver, msgs: copies}
}

// Fail makes a receive fail with err; nil makes it a long poll that ends empty.
func Fail(err error) Step { return Step{kind: fail, err: err} }

// Pause makes a receive wait for d and continue with the next step. Like the long
// poll of a server it does not end when ReceiveOptions.Stop is closed.
func Pause(d time.Duration) Step { return Step{kind: pause, pause: d} }

// Block makes receives wait until their context ends or their
// ReceiveOptions.Stop is closed. The steps after it are never reached.
func Block() Step { return Step{kind: block} }

// A ScriptedSource is a [queue.Source] that plays steps, in order and one at a
// time, returns io.EOF after the last of them, and records how its messages are
// settled. It never delivers a message a second time by itself: the script
// decides what happens after a nack. For a source that fails at settling, wrap it
// in a [Faulty]. Methods may be called concurrently.
type ScriptedSource struct {
	playing chan struct{} // holds a token while nobody plays a step

	mu       sync.Mutex // guards what is below
	steps    []Step
	numbered int // messages that were given an ID
	settled  []Settled
}

var _ queue.Source = (*ScriptedSource)(nil)

// Script returns a source that plays the steps.
func Script(steps ...Step) *ScriptedSource {
	s := &ScriptedSource{playing: make(chan struct{}, 1), steps: slices.Clone(steps)}
	s.playing <- struct{}{}
	return s
}

// Settled records one settlement of one message.
type Settled struct {
	Op Op     // OpAck, OpNack or OpExtend
	ID string // the message's
	// For is the delay of a Nack or the lease of an Extend.
	For time.Duration
	At  time.Time
}

// Settled returns the settlements so far, in order.
func (s *ScriptedSource) Settled() []Settled {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.settled)
}

// IDs returns the ids of the messages that were settled by op, in order.
func (s *ScriptedSource) IDs(op Op) []string {
	var ids []string
	for _, r := range s.Settled() {
		if r.Op == op {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// Receive plays steps up to one that has a result.
func (s *ScriptedSource) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	if o.Max < 1 {
		return nil, fmt.Errorf("queuetest: receive: Max is %d: must be at least 1", o.Max)
	}
	select {
	case <-o.Stop:
		return nil, nil
	default:
	}
	select {
	case <-s.playing:
		defer func() { s.playing <- struct{}{} }()
	case <-o.Stop:
		return nil, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("queuetest: receive: %w", context.Cause(ctx))
	}
	for {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("queuetest: receive: %w", context.Cause(ctx))
		}
		step, ok := s.step(o)
		if !ok {
			return nil, io.EOF
		}
		switch step.kind {
		case deliver:
			if len(step.msgs) > 0 {
				return step.msgs, nil
			}
		case fail:
			return nil, step.err
		case pause:
			sleep.For(ctx, step.pause) // the next iteration checks whether ctx has ended
		case block:
			select {
			case <-o.Stop:
				return nil, nil
			case <-ctx.Done():
			}
		}
	}
}

// step takes the next step off the script, or as many of its messages as may be
// received now.
func (s *ScriptedSource) step(o queue.ReceiveOptions) (Step, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.steps) == 0 {
		return Step{}, false
	}
	step := s.steps[0]
	if n := len(step.msgs); n > o.Max {
		s.steps[0].msgs = step.msgs[o.Max:]
		step.msgs = step.msgs[:o.Max]
	} else if step.kind != block {
		s.steps = s.steps[1:]
	}
	now := time.Now()
	for _, m := range step.msgs {
		s.numbered++
		if m.ID == "" {
			m.ID = fmt.Sprint("message-", s.numbered)
		}
		if m.Receipt == "" {
			m.Receipt = fmt.Sprint("receipt-", s.numbered)
		}
		m.Attempt = max(m.Attempt, 1)
		if m.SentAt.IsZero() {
			m.SentAt = now
		}
		if m.FirstReceivedAt.IsZero() {
			m.FirstReceivedAt = now
		}
		m.ReceivedAt, m.LeaseUntil = now, now.Add(o.Lease)
	}
	return step, true
}

// Ack records the messages as acked.
func (s *ScriptedSource) Ack(ctx context.Context, msgs ...*queue.Message) error {
	return s.settle(ctx, OpAck, 0, msgs)
}

// Nack records the messages as nacked, with delay.
func (s *ScriptedSource) Nack(ctx context.Context, delay time.Duration, msgs ...*queue.Message) error {
	return s.settle(ctx, OpNack, delay, msgs)
}

// Extend records the messages as extended, with lease, and sets LeaseUntil.
func (s *ScriptedSource) Extend(ctx context.Context, lease time.Duration, msgs ...*queue.Message) error {
	return s.settle(ctx, OpExtend, lease, msgs)
}

func (s *ScriptedSource) settle(ctx context.Context, op Op, d time.Duration, msgs []*queue.Message) error {
	if ctx.Err() != nil {
		return fmt.Errorf("queuetest: %s: %w", op, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, m := range msgs {
		s.settled = append(s.settled, Settled{Op: op, ID: m.ID, For: d, At: now})
		if op == OpExtend {
			m.LeaseUntil = now.Add(d)
		}
	}
	return nil
}

// A Recorder is a [queue.Sink] that keeps what it is sent. The zero Recorder is
// ready for use, also concurrently. For one that fails, wrap it in a [Faulty].
type Recorder struct {
	mu   sync.Mutex // guards msgs
	msgs []*queue.Message
}

var _ queue.Sink = (*Recorder)(nil)

// Send keeps copies of the messages.
func (r *Recorder) Send(ctx context.Context, msgs ...*queue.Message) error {
	if ctx.Err() != nil {
		return fmt.Errorf("queuetest: send: %w", context.Cause(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range msgs {
		r.msgs = append(r.msgs, m.Clone())
	}
	return nil
}

// Messages returns what was sent so far, in order.
func (r *Recorder) Messages() []*queue.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.msgs)
}
