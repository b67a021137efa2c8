package queuetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// patience is how long a message that must arrive may take in cases that are not
// about time: a source may have to wait for the end of the lease of a message
// that it received and whose reply was cut off.
func (c Config) patience() time.Duration { return c.Lease + 30*time.Second }

// A run is one case on one queue. Its methods end the case when the queue
// misbehaves.
type run struct {
	*testing.T
	q    Queue
	cfg  Config
	made int // messages
}

// message returns a new message, alone in its group.
func (r *run) message(body string) *queue.Message {
	r.made++
	m := &queue.Message{Body: []byte(body)}
	if r.cfg.FIFO {
		m.Group, m.Dedup = fmt.Sprint("group-", r.made), fmt.Sprint("dedup-", r.made)
	}
	return m
}

// grouped returns a new message of the group.
func (r *run) grouped(group, body string) *queue.Message {
	m := r.message(body)
	m.Group = group
	return m
}

// messages returns n messages with the bodies 0, 1, 2...
func (r *run) messages(n int) []*queue.Message {
	msgs := make([]*queue.Message, n)
	for i := range msgs {
		msgs[i] = r.message(fmt.Sprint(i))
	}
	return msgs
}

func (r *run) send(msgs ...*queue.Message) {
	r.Helper()
	if err := r.q.Send(context.Background(), msgs...); err != nil {
		r.Fatalf("Send of %d messages: %v", len(msgs), err)
	}
}

// long is a lease that does not end during a case.
func (r *run) long() time.Duration {
	long := 10 * r.cfg.Lease
	if r.cfg.MaxLease > 0 {
		long = min(long, r.cfg.MaxLease)
	}
	return long
}

// roundUp returns d rounded up to the queue's LeaseUnit.
func (r *run) roundUp(d time.Duration) time.Duration {
	if rest := d % max(r.cfg.LeaseUnit, 1); rest > 0 {
		d += r.cfg.LeaseUnit - rest
	}
	return d
}

// poll receives once, and ends the case when the result is none that a Source may
// give. With an ended ctx it returns no messages and no error.
func (r *run) poll(ctx context.Context, max int, lease time.Duration) []*queue.Message {
	r.Helper()
	begin := time.Now()
	msgs := r.once(ctx, queue.ReceiveOptions{Max: max, Lease: lease})
	if len(msgs) == 0 && r.cfg.Synctest && time.Since(begin) == 0 && ctx.Err() == nil {
		r.Fatal("Receive returned empty at once: it must wait for the first message, or callers spin")
	}
	return msgs
}

// once is poll without the check of how long the receive waited.
func (r *run) once(ctx context.Context, o queue.ReceiveOptions) []*queue.Message {
	r.Helper()
	msgs, err := r.q.Receive(ctx, o)
	if err != nil && len(msgs) > 0 {
		r.Fatalf("Receive returned %d messages and the error %v: the caller drops the messages; return one or the other", len(msgs), err)
	}
	if errors.Is(err, io.EOF) {
		r.Fatal("Receive returned io.EOF, which says that no message will ever come: a poll that ends empty is no error")
	}
	if err != nil && ctx.Err() == nil {
		r.Fatalf("Receive: %v: a poll that ends empty is no error", err)
	}
	if len(msgs) > o.Max {
		r.Fatalf("Receive returned %d messages where Max was %d", len(msgs), o.Max)
	}
	for i, m := range msgs {
		if m == nil {
			r.Fatalf("Receive returned a nil message at index %d of %d", i, len(msgs))
		}
		if m.ID == "" || m.Receipt == "" && !r.cfg.NoLeases {
			r.Fatalf("Receive returned a message with ID %q and Receipt %q: both are needed", m.ID, m.Receipt)
		}
	}
	return msgs
}

// receive returns the next messages, at most max.
func (r *run) receive(max int, lease time.Duration) []*queue.Message {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.patience())
	defer cancel()
	for ctx.Err() == nil {
		if msgs := r.poll(ctx, max, lease); len(msgs) > 0 {
			return msgs
		}
	}
	r.Fatalf("no message came within %v although there must be one", r.cfg.patience())
	return nil
}

// collect returns the next n messages.
func (r *run) collect(n int, lease time.Duration) []*queue.Message {
	r.Helper()
	var msgs []*queue.Message
	for len(msgs) < n {
		msgs = append(msgs, r.receive(min(n-len(msgs), r.cfg.MaxBatch), lease)...)
	}
	return msgs
}

// sent sends n new messages and receives them.
func (r *run) sent(n int, lease time.Duration) []*queue.Message {
	r.Helper()
	r.send(r.messages(n)...)
	return r.collect(n, lease)
}

// nothing checks that no message arrives within d; why is the reason.
func (r *run) nothing(d time.Duration, why string) {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for ctx.Err() == nil {
		if msgs := r.poll(ctx, r.cfg.MaxBatch, r.cfg.Lease); len(msgs) > 0 {
			r.Fatalf("received the message %q although %s", msgs[0].Body, why)
		}
	}
}

// next returns the next message, which must arrive by the given time, within the
// slack; otherwise is the failure's text if it does not.
func (r *run) next(latest time.Time, otherwise string) *queue.Message {
	r.Helper()
	ctx, cancel := context.WithDeadline(context.Background(), latest.Add(r.cfg.Slack))
	defer cancel()
	for ctx.Err() == nil {
		if msgs := r.poll(ctx, 1, r.long()); len(msgs) > 0 {
			return msgs[0]
		}
	}
	r.Fatalf("%s %v after its time", otherwise, r.cfg.Slack)
	return nil
}

// comesBack checks that the next message is m, and that it arrives between the
// two times, within the slack at the end; when describes the latest time.
func (r *run) comesBack(m *queue.Message, earliest, latest time.Time, when string) *queue.Message {
	r.Helper()
	again := r.next(latest, "the message had not come back when "+when+", nor")
	if early := time.Until(earliest); early > 0 {
		r.Fatalf("the message came back %v before %s", early, when)
	}
	if again.ID != m.ID {
		r.Fatalf("received message %s where %s was to come back: every delivery of a message has the same ID", again.ID, m.ID)
	}
	return again
}

func (r *run) ack(msgs ...*queue.Message) {
	r.Helper()
	if err := r.q.Ack(context.Background(), msgs...); err != nil {
		r.Fatalf("Ack of %d messages: %v", len(msgs), err)
	}
}

func (r *run) nack(delay time.Duration, msgs ...*queue.Message) {
	r.Helper()
	if err := r.q.Nack(context.Background(), delay, msgs...); err != nil {
		r.Fatalf("Nack of %d messages with delay %v: %v", len(msgs), delay, err)
	}
}

func (r *run) extend(lease time.Duration, msgs ...*queue.Message) {
	r.Helper()
	if err := r.q.Extend(context.Background(), lease, msgs...); err != nil {
		r.Fatalf("Extend of %d messages by %v: %v", len(msgs), lease, err)
	}
}

// lost checks that err has ErrLeaseLost for the messages at exactly these
// indexes.
func (r *run) lost(call string, err error, indexes ...int) {
	r.Helper()
	var batch *queue.BatchError
	if !errors.As(err, &batch) {
		r.Fatalf("%s of messages that are no longer ours returned %v: want a *queue.BatchError", call, err)
	}
	if failed := slices.Sorted(maps.Keys(batch.Failed)); !slices.Equal(failed, indexes) {
		r.Fatalf("%s returned a BatchError for the messages at %v: want those at %v, by their index in the call's arguments: %v", call, failed, indexes, err)
	}
	for i, err := range batch.Failed {
		if !errors.Is(err, queue.ErrLeaseLost) {
			r.Fatalf("%s returned a BatchError that says of message %d: %v: want queue.ErrLeaseLost", call, i, err)
		}
	}
}

// bodies returns the messages' bodies.
func bodies(msgs []*queue.Message) []string {
	var all []string
	for _, m := range msgs {
		all = append(all, string(m.Body))
	}
	return all
}

// bare returns a message with only the fields that a Source may rely on getting
// back.
func bare(m *queue.Message) *queue.Message {
	return &queue.Message{ID: m.ID, Receipt: m.Receipt}
}
