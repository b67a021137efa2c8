package queuetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

func newQueue(t *testing.T, cfg memqueue.Config) *memqueue.Queue {
	t.Helper()
	q, err := memqueue.New(cfg)
	require.NoError(t, err)
	return q
}

// A sound queue passes: as it is, with a network's latency, one that counts in
// seconds, and in real time.
func TestSoundQueuesPass(t *testing.T) {
	standard := func(t *testing.T) queuetest.Queue { return newQueue(t, memqueue.Config{}) }
	t.Run("bubble", func(t *testing.T) {
		queuetest.TestSource(t, standard, queuetest.Config{Synctest: true, Stops: true})
	})
	t.Run("latency", func(t *testing.T) {
		queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
			q := newQueue(t, memqueue.Config{FIFO: true})
			return &queuetest.Faulty{Source: q, Sink: q, Latency: 20 * time.Millisecond}
		}, queuetest.Config{Synctest: true, FIFO: true, Stops: true})
	})
	t.Run("seconds", func(t *testing.T) {
		queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
			return inSeconds(newQueue(t, memqueue.Config{}))
		}, queuetest.Config{Synctest: true, Stops: true, LeaseUnit: time.Second, Lease: 5 * time.Second, MaxLease: 12 * time.Hour})
	})
}

// TestRealTime is run by TestSoundQueuePassesInRealTime, in a process of its
// own, so that all of its cases run at the same time.
func TestRealTime(t *testing.T) {
	if _, ok := os.LookupEnv(childVariable); !ok {
		t.Skip("TestSoundQueuePassesInRealTime runs it")
	}
	queuetest.TestSource(t, func(t *testing.T) queuetest.Queue { return newQueue(t, memqueue.Config{}) }, queuetest.Config{Lease: time.Second, Stops: true})
}

func TestSoundQueuePassesInRealTime(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	out, err := child(t, "real time", "^TestRealTime$", "-test.parallel=100")
	require.NoError(t, err, "%s", out)
}

// childVariable is an environment variable. A test sets it for a process that it
// starts, to the purpose of the process.
const childVariable = "QUEUETEST_CHILD"

// child runs tests in a process of their own, and returns what it printed.
func child(t *testing.T, purpose, tests string, flags ...string) (string, error) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, append(flags, "-test.run="+tests, "-test.timeout=60s")...)
	cmd.Env = append(os.Environ(), childVariable+"="+purpose)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The suite skips the cases that do not apply.
func TestSuiteSkips(t *testing.T) {
	queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
		return &mutant{
			Queue:  newQueue(t, memqueue.Config{}),
			extend: func(*mutant, context.Context, time.Duration, []*queue.Message) error { return nil },
			receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
				o.Lease, o.Stop = 12*time.Hour, nil
				msgs, err := m.Queue.Receive(ctx, o)
				for _, m := range msgs {
					m.LeaseUntil, m.Attempt = time.Time{}, 0
				}
				return msgs, err
			},
			send: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
				for _, m := range msgs {
					if len(m.Body) == 0 || bytes.ContainsRune(m.Body, 0) || m.Delay != 0 {
						return errors.New("not here")
					}
				}
				return m.Queue.Send(ctx, msgs...)
			},
		}
	}, queuetest.Config{Synctest: true, NoLeases: true, NoDelay: true, NoEmptyBody: true, NoBinary: true})
}

// A mutant is a queue with a fault.
type mutant struct {
	queuetest.Queue
	receive func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error)
	ack     func(m *mutant, ctx context.Context, msgs []*queue.Message) error
	nack    func(m *mutant, ctx context.Context, delay time.Duration, msgs []*queue.Message) error
	extend  func(m *mutant, ctx context.Context, lease time.Duration, msgs []*queue.Message) error
	send    func(m *mutant, ctx context.Context, msgs []*queue.Message) error

	mu   sync.Mutex // guards kept
	kept map[string]*queue.Message
}

func (m *mutant) Receive(ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
	if m.receive == nil {
		return m.Queue.Receive(ctx, o)
	}
	return m.receive(m, ctx, o)
}

func (m *mutant) Ack(ctx context.Context, msgs ...*queue.Message) error {
	if m.ack == nil {
		return m.Queue.Ack(ctx, msgs...)
	}
	return m.ack(m, ctx, msgs)
}

func (m *mutant) Nack(ctx context.Context, delay time.Duration, msgs ...*queue.Message) error {
	if m.nack == nil {
		return m.Queue.Nack(ctx, delay, msgs...)
	}
	return m.nack(m, ctx, delay, msgs)
}

func (m *mutant) Extend(ctx context.Context, lease time.Duration, msgs ...*queue.Message) error {
	if m.extend == nil {
		return m.Queue.Extend(ctx, lease, msgs...)
	}
	return m.extend(m, ctx, lease, msgs)
}

func (m *mutant) Send(ctx context.Context, msgs ...*queue.Message) error {
	if m.send == nil {
		return m.Queue.Send(ctx, msgs...)
	}
	return m.send(m, ctx, msgs)
}

// keep returns the message first kept under its ID.
func (m *mutant) keep(msg *queue.Message) (first *queue.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == nil {
		m.kept = make(map[string]*queue.Message)
	}
	if m.kept[msg.ID] == nil {
		m.kept[msg.ID] = msg
	}
	return m.kept[msg.ID]
}

// inSeconds rounds leases and delays up to seconds.
func inSeconds(q queuetest.Queue) queuetest.Queue {
	up := func(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }
	return &mutant{
		Queue: q,
		receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			o.Lease = up(o.Lease)
			return m.Queue.Receive(ctx, o)
		},
		nack: func(m *mutant, ctx context.Context, delay time.Duration, msgs []*queue.Message) error {
			return m.Queue.Nack(ctx, up(delay), msgs...)
		},
		extend: func(m *mutant, ctx context.Context, lease time.Duration, msgs []*queue.Message) error {
			return m.Queue.Extend(ctx, up(lease), msgs...)
		},
	}
}

// onReceive is a mutant that changes the received messages.
func onReceive(change func(*queue.Message)) *mutant {
	return &mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
		msgs, err := m.Queue.Receive(ctx, o)
		for _, msg := range msgs {
			change(msg)
		}
		return msgs, err
	}}
}

// onSend is a mutant that changes the sent messages.
func onSend(change func(*queue.Message)) *mutant {
	return &mutant{send: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
		var changed []*queue.Message
		for _, msg := range msgs {
			msg = msg.Clone()
			change(msg)
			changed = append(changed, msg)
		}
		return m.Queue.Send(ctx, changed...)
	}}
}

// onError is a mutant whose settling calls fail in another way than they should.
func onError(change func(error) error) *mutant {
	return &mutant{
		nack: func(m *mutant, ctx context.Context, d time.Duration, msgs []*queue.Message) error {
			return change(m.Queue.Nack(ctx, d, msgs...))
		},
		extend: func(m *mutant, ctx context.Context, d time.Duration, msgs []*queue.Message) error {
			return change(m.Queue.Extend(ctx, d, msgs...))
		},
	}
}

// onStop is a mutant whose receives keep waiting when they are stopped, and then
// do something with the messages they get.
func onStop(do func(m *mutant, ctx context.Context, msgs []*queue.Message) ([]*queue.Message, error)) *mutant {
	return &mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
		stop := o.Stop
		o.Stop = nil
		msgs, err := m.Queue.Receive(ctx, o)
		select {
		case <-stop:
			if err == nil {
				return do(m, ctx, msgs)
			}
		default:
		}
		return msgs, err
	}}
}

// mutants are queues that each break one promise, keyed by their fault.
func mutants() map[string]struct {
	mutant *mutant
	fifo   bool
	fails  []string // the cases that must find it
} {
	type broken = struct {
		mutant *mutant
		fifo   bool
		fails  []string
	}
	random := 0
	return map[string]broken{
		"drops bodies":       {onReceive(func(m *queue.Message) { m.Body = nil }), false, []string{"Message_Body", "Message_BinaryBody", "Message_LongBody"}},
		"mends bodies":       {onSend(func(m *queue.Message) { m.Body = bytes.ToValidUTF8(m.Body, []byte("?")) }), false, []string{"Message_BinaryBody"}},
		"cuts bodies":        {onSend(func(m *queue.Message) { m.Body = m.Body[:min(len(m.Body), 64<<10)] }), false, []string{"Message_LongBody"}},
		"drops attributes":   {onSend(func(m *queue.Message) { m.Attributes = nil }), false, []string{"Message_Attributes"}},
		"ignores delay":      {onSend(func(m *queue.Message) { m.Delay = 0 }), false, []string{"Send_Delay"}},
		"delays too long":    {onSend(func(m *queue.Message) { m.Delay *= 2 }), false, []string{"Send_Delay"}},
		"ignores dedup":      {onSend(func(m *queue.Message) { random++; m.Dedup = fmt.Sprint(random) }), true, []string{"Order_Dedup"}},
		"mixes groups":       {onSend(func(m *queue.Message) { m.Group += "-" + m.Dedup }), true, []string{"Order_GroupWaits", "Order_AfterNack"}},
		"no sequence":        {onReceive(func(m *queue.Message) { m.Sequence = "" }), true, []string{"Order_WithinGroup"}},
		"attempt always 1":   {onReceive(func(m *queue.Message) { m.Attempt = 1 }), false, []string{"Message_Attempt"}},
		"attempt from 0":     {onReceive(func(m *queue.Message) { m.Attempt-- }), false, []string{"Message_Attempt"}},
		"clock in UTC-1":     {onReceive(func(m *queue.Message) { m.SentAt = m.SentAt.Add(-time.Hour) }), false, []string{"Message_Times"}},
		"forgets the first":  {onReceive(func(m *queue.Message) { m.FirstReceivedAt = m.ReceivedAt }), false, []string{"Message_Times"}},
		"no lease end":       {onReceive(func(m *queue.Message) { m.LeaseUntil = time.Time{} }), false, []string{"Lease_Until"}},
		"promises too much":  {onReceive(func(m *queue.Message) { m.LeaseUntil = m.LeaseUntil.Add(time.Minute) }), false, []string{"Lease_Until"}},
		"no receipt":         {onReceive(func(m *queue.Message) { m.Receipt = "" }), false, []string{"Message_Body"}},
		"a new id each time": {onReceive(func(m *queue.Message) { m.ID = m.Receipt }), false, []string{"Lease_EndsInRedelivery", "Nack_AtOnce"}},
		"ignores max": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			o.Max = 10
			return m.Queue.Receive(ctx, o)
		}}, false, []string{"Receive_Max"}},
		"more than the batch": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(ctx, o)
			if len(msgs) == 10 && o.Max > 10 {
				o.Max -= 10
				more, _ := m.Queue.Receive(ctx, o)
				msgs = append(msgs, more...)
			}
			return msgs, err
		}}, false, []string{"Receive_Max"}},
		spins: {&mutant{}, false, []string{"Receive_Empty", "Receive_CancelReturnsSoon", "Ack_IsFinal"}},
		"an empty poll fails": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(ctx, o)
			if err == nil && len(msgs) == 0 {
				err = errors.New("nothing there")
			}
			return msgs, err
		}}, false, []string{"Receive_Empty"}},
		"an empty poll is the end": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(ctx, o)
			if err == nil && len(msgs) == 0 {
				err = io.EOF
			}
			return msgs, err
		}}, false, []string{"Receive_Empty"}},
		"ignores its context": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			return m.Queue.Receive(context.WithoutCancel(ctx), o)
		}}, false, []string{"Receive_CancelReturnsSoon"}},
		"hides the cause": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(ctx, o)
			if err != nil {
				err = errors.New("cancelled")
			}
			return msgs, err
		}}, false, []string{"Receive_CancelReturnsSoon"}},
		"drops what comes after a cancel": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(context.WithoutCancel(ctx), o)
			if ctx.Err() != nil {
				_ = m.Queue.Ack(context.WithoutCancel(ctx), msgs...)
				return nil, context.Cause(ctx)
			}
			return msgs, err
		}}, false, []string{"Receive_CancelLosesNothing"}},
		"drops what comes after a stop": {onStop(func(m *mutant, ctx context.Context, msgs []*queue.Message) ([]*queue.Message, error) {
			_ = m.Queue.Ack(ctx, msgs...)
			return nil, nil
		}), false, []string{"Stop_LosesNothing"}},
		"leaves what comes after a stop": {onStop(func(*mutant, context.Context, []*queue.Message) ([]*queue.Message, error) {
			return nil, nil
		}), false, []string{"Stop_LosesNothing"}},
		"takes a stop for an error": {onStop(func(_ *mutant, _ context.Context, msgs []*queue.Message) ([]*queue.Message, error) {
			if len(msgs) > 0 {
				return msgs, nil
			}
			return nil, errors.New("stopped")
		}), false, []string{"Stop_IsNoError"}},
		"takes a stop for the end": {onStop(func(_ *mutant, _ context.Context, msgs []*queue.Message) ([]*queue.Message, error) {
			if len(msgs) > 0 {
				return msgs, nil
			}
			return nil, io.EOF
		}), false, []string{"Stop_IsNoError"}},
		"ignores a stop": {onStop(func(_ *mutant, _ context.Context, msgs []*queue.Message) ([]*queue.Message, error) {
			return msgs, nil
		}), false, []string{"Stop_EndsTheWait"}},
		"ends the wait for any stop": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			if o.Stop != nil {
				return nil, nil
			}
			return m.Queue.Receive(ctx, o)
		}}, false, []string{"Stop_EndsTheWait"}},
		"polls now and then": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			for ctx.Err() == nil {
				quick, cancel := context.WithTimeout(ctx, time.Nanosecond)
				msgs, err := m.Queue.Receive(quick, o)
				cancel()
				if err == nil {
					return msgs, nil
				}
				select {
				case <-time.After(7 * time.Second):
				case <-ctx.Done():
				}
			}
			return nil, context.Cause(ctx)
		}}, false, []string{"Receive_WakesOnSend"}},
		"delivers twice": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(ctx, o)
			if len(msgs) > 0 && m.keep(msgs[0]) == msgs[0] {
				_ = m.Queue.Nack(context.WithoutCancel(ctx), 0, msgs[0])
			}
			return msgs, err
		}}, false, []string{"Receive_Concurrent", "Lease_Exclusive", "Receive_Max"}},
		"returns the same message": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(ctx, o)
			for _, msg := range msgs {
				first := m.keep(msg)
				msg.Body, msg.Attributes = first.Body, first.Attributes
			}
			return msgs, err
		}}, false, []string{"Settle_KeepsNothing"}},
		"forgets leases": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			o.Lease = 12 * time.Hour
			return m.Queue.Receive(ctx, o)
		}}, false, []string{"Lease_EndsInRedelivery"}},
		"halves leases": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			o.Lease /= 2
			return m.Queue.Receive(ctx, o)
		}}, false, []string{"Lease_EndsInRedelivery"}},
		"turns batches round": {&mutant{receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
			msgs, err := m.Queue.Receive(ctx, o)
			for i := range len(msgs) / 2 {
				msgs[i], msgs[len(msgs)-1-i] = msgs[len(msgs)-1-i], msgs[i]
			}
			return msgs, err
		}}, true, []string{"Order_WithinBatch"}},
		"does not ack": {&mutant{ack: func(*mutant, context.Context, []*queue.Message) error { return nil }}, false, []string{"Ack_IsFinal"}},
		"acks ten at most": {&mutant{ack: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
			return m.Queue.Ack(ctx, msgs[:min(10, len(msgs))]...)
		}}, false, []string{"Settle_Many"}},
		"acks once": {&mutant{ack: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
			for _, msg := range msgs {
				if m.Queue.Extend(ctx, time.Hour, msg) != nil {
					return errors.New("no such message")
				}
			}
			return m.Queue.Ack(ctx, msgs...)
		}}, false, []string{"Ack_Twice"}},
		"acks by id": {&mutant{
			receive: func(m *mutant, ctx context.Context, o queue.ReceiveOptions) ([]*queue.Message, error) {
				msgs, err := m.Queue.Receive(ctx, o)
				for _, msg := range msgs {
					m.keep(&queue.Message{ID: msg.ID}).Receipt = msg.Receipt
				}
				return msgs, err
			},
			ack: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
				for _, msg := range msgs {
					_ = m.Queue.Ack(ctx, m.keep(&queue.Message{ID: msg.ID}))
				}
				return nil
			},
		}, false, []string{"Ack_AfterRedelivery"}},
		"needs the whole message": {&mutant{ack: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
			for _, msg := range msgs {
				if msg.Attempt == 0 {
					return errors.New("not received")
				}
			}
			return m.Queue.Ack(ctx, msgs...)
		}}, false, []string{"Settle_ByReceiptAlone"}},
		"refuses empty calls": {&mutant{ack: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
			if len(msgs) == 0 {
				return errors.New("empty batch")
			}
			return m.Queue.Ack(ctx, msgs...)
		}}, false, []string{"Settle_None"}},
		"does not nack": {&mutant{nack: func(*mutant, context.Context, time.Duration, []*queue.Message) error { return nil }}, false, []string{"Nack_AtOnce", "Settle_Many"}},
		"nacks at once": {&mutant{nack: func(m *mutant, ctx context.Context, _ time.Duration, msgs []*queue.Message) error {
			return m.Queue.Nack(ctx, 0, msgs...)
		}}, false, []string{"Nack_Delay", "Extend_PartialFailure"}},
		"refuses long delays": {&mutant{nack: func(m *mutant, ctx context.Context, d time.Duration, msgs []*queue.Message) error {
			if d > 12*time.Hour {
				return errors.New("too long")
			}
			return m.Queue.Nack(ctx, d, msgs...)
		}}, false, []string{"Nack_UpToMaxLease"}},
		"nacks to the end": {&mutant{nack: func(m *mutant, ctx context.Context, d time.Duration, msgs []*queue.Message) error {
			for _, msg := range msgs {
				_ = m.Queue.Ack(ctx, msg)
				anew := msg.Clone()
				anew.Dedup += "+"
				_ = m.Queue.Send(ctx, anew)
			}
			return nil
		}}, true, []string{"Order_AfterNack", "Order_AfterNackOfBatch"}},
		"does not extend": {&mutant{extend: func(*mutant, context.Context, time.Duration, []*queue.Message) error { return nil }}, false, []string{"Extend_MovesTheEnd", "Extend_CountsFromNow"}},
		"does not say what it extends": {&mutant{extend: func(m *mutant, ctx context.Context, d time.Duration, msgs []*queue.Message) error {
			var copies []*queue.Message
			for _, msg := range msgs {
				copies = append(copies, msg.Clone())
			}
			return m.Queue.Extend(ctx, d, copies...)
		}}, false, []string{"Extend_MovesTheEnd", "Settle_ByReceiptAlone"}},
		"only lengthens": {&mutant{extend: func(m *mutant, ctx context.Context, d time.Duration, msgs []*queue.Message) error {
			for _, msg := range msgs {
				d = max(d, time.Until(msg.LeaseUntil))
			}
			return m.Queue.Extend(ctx, d, msgs...)
		}}, false, []string{"Extend_CountsFromNow"}},
		"refuses long extensions": {&mutant{extend: func(m *mutant, ctx context.Context, d time.Duration, msgs []*queue.Message) error {
			if d > 12*time.Hour {
				return errors.New("too long")
			}
			return m.Queue.Extend(ctx, d, msgs...)
		}}, false, []string{"Extend_UpToMaxLease"}},
		"tells no loss":        {onError(func(error) error { return nil }), false, []string{"Extend_LostLease", "Nack_LostLease", "Extend_PartialFailure"}},
		"tells no batch":       {onError(func(err error) error { return wrapped(err, queue.ErrLeaseLost) }), false, []string{"Extend_LostLease", "Nack_LostLease"}},
		"tells another reason": {onError(func(err error) error { return batched(err, func(i int) int { return i }, errors.New("gone")) }), false, []string{"Extend_LostLease", "Nack_LostLease"}},
		"tells other indexes":  {onError(func(err error) error { return batched(err, func(i int) int { return 4 - i/3*4 }, queue.ErrLeaseLost) }), false, []string{"Extend_PartialFailure"}},
		"keeps what is sent": {&mutant{send: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
			time.AfterFunc(time.Millisecond, func() { _ = m.Queue.Send(context.WithoutCancel(ctx), msgs...) })
			return nil
		}}, false, []string{"Send_KeepsNothing"}},
		"sends ten at most": {&mutant{send: func(m *mutant, ctx context.Context, msgs []*queue.Message) error {
			return m.Queue.Send(ctx, msgs[:min(10, len(msgs))]...)
		}}, false, []string{"Send_Many"}},
	}
}

func wrapped(err, with error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w", with)
}

func batched(err error, index func(int) int, reason error) error {
	var batch *queue.BatchError
	if !errors.As(err, &batch) {
		return err
	}
	failed := make(map[int]error)
	for i := range batch.Failed {
		failed[index(i)] = reason
	}
	return &queue.BatchError{Op: batch.Op, Failed: failed}
}

// spins is the mutant whose receives don't wait.
const spins = "spins"

// TestMutant is run by TestSuiteFindsFaults, in a process of its own.
func TestMutant(t *testing.T) {
	name, ok := os.LookupEnv(childVariable)
	if !ok {
		t.Skip("TestSuiteFindsFaults runs it")
	}
	broken := mutants()[name]
	cfg := memqueue.Config{FIFO: broken.fifo}
	if name == spins {
		cfg.Wait = -1
	}
	queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
		m := broken.mutant
		return &mutant{
			Queue:   newQueue(t, cfg),
			receive: m.receive, ack: m.ack, nack: m.nack, extend: m.extend, send: m.send,
		}
	}, queuetest.Config{Synctest: true, FIFO: broken.fifo, Stops: true, MaxLease: 12 * time.Hour})
}

// Every broken promise is found, by the case that tests it.
func TestSuiteFindsFaults(t *testing.T) {
	for name, broken := range mutants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := child(t, name, "^TestMutant$/^("+strings.Join(broken.fails, "|")+")$")
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "the suite passed it: %s", out)
			require.NotContains(t, out, "panic:", "a fault is to be reported")
			for _, c := range broken.fails {
				require.Contains(t, out, "--- FAIL: TestMutant/"+c+" ")
			}
		})
	}
}
