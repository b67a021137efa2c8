package deadletter

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

// An Outcome is what became of a letter.
type Outcome string

// The outcomes.
const (
	// Redriven: the destination has accepted the message, and it is deleted from
	// the dead-letter queue.
	Redriven Outcome = "redriven"
	// Failed: the destination refused the message, which is unchanged in the
	// dead-letter queue.
	Failed Outcome = "failed"
	// InDoubt: the message is still in the dead-letter queue, and may be in the
	// destination too: the reply to its send was lost, or it was accepted and
	// could not be deleted.
	InDoubt Outcome = "in doubt"
	// Kept: the message was not sent, and is unchanged in the dead-letter queue. The
	// filter does not match, the message came after the redrive began, an earlier
	// message of its group could not be sent, it was a dry run, or the redrive ended
	// first.
	Kept Outcome = "kept"
)

// A Result says what became of a letter.
type Result struct {
	Letter  Letter
	Outcome Outcome
	Err     error   // why it failed or is in doubt
	Summary Summary // so far
}

// A Summary counts what a [Redrive] did. Every letter that was examined has one
// outcome: Examined is the sum of Redriven, Failed, InDoubt and Kept.
type Summary struct {
	// Run names the redrive in the [History] of the messages that it sent.
	Run string

	Examined int // letters received, each counted once
	Matched  int // of those, letters that match the filter and did not come after the redrive began; in a dry run Config.Max at most
	Newer    int // of those, letters that came after the redrive began: left alone

	Redriven, Failed, InDoubt, Kept int
}

// Redrive sends the letters of a dead-letter queue to another queue, usually the one
// that they came from. It returns when it has seen every letter that was there when it
// began. It deletes a message only after to has accepted it, so it is safe to kill at
// any point. The package documentation has the details.
//
// When ctx ends, calls in progress are completed, the remaining letters are returned
// to the dead-letter queue, and the error is the cause of ctx. Other errors: from or to
// is missing, or both are the same value, because a letter sent to its own queue would
// lose its record; a field of cfg is out of range, which the error names; the
// destination fails; letters can't be deleted; Config.Limiter fails; a receive fails
// repeatedly; [ErrTooMany]. The Summary is valid even with an error.
//
// Redrives may run concurrently on one queue.
func Redrive(ctx context.Context, from queue.Source, to queue.Sink, cfg Config) (summary Summary, err error) {
	cfg, err = cfg.check("redrive", from)
	switch {
	case err != nil:
	case nils.Is(to) && (to != nil || !cfg.DryRun):
		err = fmt.Errorf("deadletter: redrive: to is %s", nils.Describe(to))
	case same(from, to):
		err = errSameQueue
	}
	if err != nil {
		return Summary{}, err
	}
	r := &redrive{
		sweep:   newSweep("redrive", from, cfg),
		to:      to,
		open:    make(map[string]*letter),
		over:    make(map[digest]bool),
		stuck:   make(map[string]bool),
		summary: Summary{Run: rand.Text()},
	}
	defer r.close(ctx)
	defer func() {
		r.end(ctx)
		summary = r.summary
	}()
	return r.summary, r.run(ctx)
}

// same reports whether both are one value. Values that can't be compared are not.
func same(from queue.Source, to queue.Sink) bool {
	return reflect.ValueOf(from).Comparable() && any(from) == any(to)
}

// A redrive is a sweep that sends.
type redrive struct {
	*sweep
	to       queue.Sink
	open     map[string]*letter // examined and without an outcome, by the message's id
	over     map[digest]bool    // letters with an outcome: whether they were sent, and are deleted if received again
	stuck    map[string]bool    // groups of which a message could not be sent
	summary  Summary
	taken    int // letters that count against Config.Max
	troubles int // in a row

	undeleted int   // letters in open that were sent
	ackErr    error // why the last of them could not be deleted, or the first that we may not delete
}

// maxUndeleted is the number of sent letters that can't be deleted at which the redrive
// stops sending.
const maxUndeleted = perCall

// A digest stands for a message's id, in less memory and a fixed size. Digests must not
// collide, or a message would be taken for another and deleted unsent.
type digest [16]byte

func digestOf(id string) digest {
	sum := sha256.Sum256([]byte(id))
	return digest(sum[:16])
}

// A letter is the state of a letter that has no outcome yet.
type letter struct {
	Letter
	serial int
	ended  bool  // it has an outcome
	sent   bool  // the destination has accepted it
	doubt  bool  // the destination may have accepted it
	bare   bool  // is sent without its history
	err    error // the last error
}

func (r *redrive) run(ctx context.Context) error {
	for !r.full() {
		if r.cfg.Limiter != nil && !r.cfg.DryRun {
			if _, err := r.cfg.Limiter.Ready(ctx, 1, 0); err != nil {
				return r.notAdmitted(ctx, err)
			}
		}
		msgs, err := r.receive(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		due := r.examine(ctx, msgs)
		if err := r.doubling(ctx); err != nil {
			return err
		}
		if err := r.send(ctx, due); err != nil {
			return err
		}
	}
	return nil
}

// full reports whether Config.Max allows no more letters.
func (r *redrive) full() bool { return r.cfg.Max > 0 && r.taken >= r.cfg.Max }

// examine returns those of the messages that are to be sent.
func (r *redrive) examine(ctx context.Context, msgs []*queue.Message) []*letter {
	var due []*letter
	var again []string
	fresh := false
	for _, m := range msgs {
		l := r.open[m.ID]
		sent, over := r.over[digestOf(m.ID)]
		switch {
		case over && sent, l != nil && l.sent:
			again = append(again, m.ID) // it came back although it was sent
		case over: // it stays
		case slices.Contains(due, l): // twice in one receive
		case l != nil:
			due, fresh = append(due, l), true // its lease had ended before its turn
		default:
			l = &letter{Letter: Read(m), serial: r.summary.Examined}
			r.open[m.ID] = l
			r.summary.Examined++
			newer := r.newer(l.Letter) || l.History.Run == r.summary.Run
			fresh = fresh || !newer
			switch {
			case newer:
				r.summary.Newer++
				r.finish(l, Kept)
			case !r.cfg.Filter.Match(l.Letter), r.cfg.DryRun && r.full():
				r.finish(l, Kept)
			default:
				r.summary.Matched++
				if r.cfg.DryRun {
					r.taken++
					r.finish(l, Kept)
				} else {
					due = append(due, l)
				}
			}
		}
	}
	r.acked(ctx, again)
	r.came(fresh)
	return due
}

// send sends letters until each is accepted or refused, or its lease is lost.
func (r *redrive) send(ctx context.Context, due []*letter) error {
	for len(due) > 0 {
		due = slices.DeleteFunc(due, func(l *letter) bool {
			may := r.may(l)
			if !may && ordered(l.Message) {
				r.leave(l) // its group is stuck for good
			}
			return !may
		})
		next := due // the others may be sent instead of those that are refused
		if r.cfg.Max > 0 {
			next = due[:max(min(len(due), r.cfg.Max-r.taken), 0)]
		}
		if len(next) == 0 {
			return nil
		}
		some, permits, err := r.admit(ctx, next)
		if err != nil {
			return err
		}
		before := r.taken
		trouble := r.deliver(ctx, some, permits)
		if err := r.doubling(ctx); err != nil {
			return err
		}
		due = slices.DeleteFunc(due, func(l *letter) bool { return l.sent || l.ended })
		if trouble == nil || r.taken > before {
			r.troubles = 0
		}
		if trouble == nil || r.waits() && !errors.Is(trouble, limiter.ErrMisconfigured) {
			continue
		}
		r.troubles++
		delay, ok := r.again.Next(r.troubles, trouble)
		if !ok || errors.Is(trouble, limiter.ErrMisconfigured) {
			return fmt.Errorf("deadletter: redrive: send: %w", trouble)
		}
		if !sleep.For(ctx, delay) {
			return r.ended(ctx)
		}
	}
	return nil
}

// waits reports whether the limiter has registered the outage, and admits nothing
// until it is over.
func (r *redrive) waits() bool {
	return r.cfg.Limiter != nil && r.cfg.Limiter.Blocked().Reason.Outage()
}

// may reports whether a letter can be sent: its lease is ours, and no earlier message
// of its group is unsent that was to be sent.
func (r *redrive) may(l *letter) bool {
	inOrder := ordered(l.Message)
	if inOrder && r.stuck[l.Message.Group] {
		return false
	}
	ours := r.held(l.Message.ID)
	if inOrder && !ours {
		r.stuck[l.Message.Group] = true
	}
	return ours
}

// admit waits until one letter may be sent, and returns it with those that may be sent
// in the same call: as many as the limiter admits now, and one of each ordered group,
// because a batch may fail for its first message alone.
func (r *redrive) admit(ctx context.Context, due []*letter) (some []*letter, permits []limiter.Permit, err error) {
	if ctx.Err() != nil {
		return nil, nil, r.ended(ctx)
	}
	var first limiter.Permit
	if r.cfg.Limiter != nil {
		if first, err = r.cfg.Limiter.Acquire(ctx); err != nil {
			return nil, nil, r.notAdmitted(ctx, err)
		}
	}
	groups := make(map[string]bool)
	for _, l := range due {
		if !r.may(l) { // no longer, after the wait
			continue
		}
		if m := l.Message; ordered(m) {
			if groups[m.Group] {
				continue
			}
			groups[m.Group] = true
		}
		permit := first
		if len(some) > 0 && r.cfg.Limiter != nil {
			var ok bool
			if permit, ok = r.cfg.Limiter.TryAcquire(); !ok {
				break
			}
		}
		if some, permits = append(some, l), append(permits, permit); len(some) == perCall {
			break
		}
	}
	if len(some) == 0 {
		first.Cancel()
	}
	return some, permits, nil
}

// deliver sends the letters and deletes those that were accepted. It returns the
// error of the destination as a whole, after which the others are sent again.
func (r *redrive) deliver(ctx context.Context, some []*letter, permits []limiter.Permit) (trouble error) {
	if len(some) == 0 {
		return nil
	}
	msgs := make([]*queue.Message, len(some))
	for i, l := range some {
		msgs[i] = r.outgoing(l)
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	err := r.to.Send(limited, msgs...)
	cancel()
	var sent []string
	for i, l := range some {
		e := errorOf(err, i)
		permits[i].Release(e)
		class := limiter.Classify(e)
		unknown := class == limiter.ErrUnavailable || class == nil && e != nil && !isBatch(err)
		l.err, l.doubt = e, l.doubt || unknown
		if e == nil {
			r.taken++
			l.sent = true
			r.undeleted++
			sent = append(sent, l.Message.ID)
			continue
		}
		switch {
		case class != nil:
			trouble = e
		case !unknown && !l.bare:
			l.bare = true // perhaps it is too large with its history
		default:
			r.fail(l)
		}
	}
	r.acked(ctx, sent)
	return trouble
}

// acked deletes letters that the destination has accepted.
func (r *redrive) acked(ctx context.Context, ids []string) {
	if len(ids) == 0 {
		return
	}
	failed := r.ack(ctx, ids)
	for _, id := range ids {
		err := failed[id]
		if err != nil && !r.refused() {
			r.ackErr = err
		}
		if l := r.open[id]; l != nil {
			if l.err = err; err == nil {
				r.finish(l, Redriven)
			}
		}
	}
}

// refused reports whether we may not delete letters at all.
func (r *redrive) refused() bool { return errors.Is(r.ackErr, limiter.ErrMisconfigured) }

// ackAgain tries once more to delete letters that were sent and whose lease is ours.
func (r *redrive) ackAgain(ctx context.Context) {
	if r.undeleted == 0 || r.refused() || r.givenUp(ctx) {
		return
	}
	var sent []string
	for _, l := range r.inOrder() {
		if l.sent && r.held(l.Message.ID) {
			sent = append(sent, l.Message.ID)
		}
	}
	r.acked(ctx, sent)
}

// doubling returns an error when letters that were sent can't be deleted, so that
// sending more would only put more of them into both queues.
func (r *redrive) doubling(ctx context.Context) error {
	if r.undeleted >= maxUndeleted {
		r.ackAgain(ctx)
	}
	if r.undeleted < maxUndeleted && !r.refused() {
		return nil
	}
	err := fmt.Errorf("deadletter: redrive: delete what was sent, so that it is not in both queues: %w", r.ackErr)
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", r.ended(ctx), err)
	}
	return err
}

// notAdmitted is the error of a redrive that its limiter does not admit.
func (r *redrive) notAdmitted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return r.ended(ctx)
	}
	return fmt.Errorf("deadletter: redrive: Config.Limiter: %w", err)
}

// fail ends a letter that the destination does not accept.
func (r *redrive) fail(l *letter) {
	if ordered(l.Message) {
		r.stuck[l.Message.Group] = true
	}
	if l.doubt {
		r.taken++
		r.finish(l, InDoubt)
	} else {
		r.finish(l, Failed)
	}
}

// outgoing returns the message as it is sent.
func (r *redrive) outgoing(l *letter) *queue.Message {
	m := l.Message.Clone()
	m.Delay = 0
	m.Dedup = dedup(m.ID)
	delete(m.Attributes, retry.DeadLetterAttribute)
	delete(m.Attributes, HistoryAttribute)
	if l.bare {
		return m
	}
	if m.Attributes == nil {
		m.Attributes = make(map[string]string, 1)
	}
	m.Attributes[HistoryAttribute] = History{
		Redrives: l.History.Redrives + 1,
		Run:      r.summary.Run,
		Attempts: l.Attempts(),
		First:    l.First(),
		Last:     l.Record,
	}.Encode()
	return m
}

// dedup returns the deduplication id of a message, derived from its id in the
// dead-letter queue. It differs from the one the message was first sent with and from
// that of its next life, but is the same whenever the redrive is repeated.
func dedup(id string) string {
	sum := sha256.Sum256([]byte("redrive " + id))
	return hex.EncodeToString(sum[:])
}

// end gives every letter without an outcome its outcome.
func (r *redrive) end(ctx context.Context) {
	r.ackAgain(ctx)
	for _, l := range r.inOrder() {
		r.leave(l)
	}
}

// inOrder returns the letters without an outcome in the order they came.
func (r *redrive) inOrder() []*letter {
	return slices.SortedFunc(maps.Values(r.open), func(a, b *letter) int { return a.serial - b.serial })
}

// leave ends a letter that is left where it is.
func (r *redrive) leave(l *letter) {
	if l.sent || l.doubt {
		r.finish(l, InDoubt)
	} else {
		r.finish(l, Kept)
	}
}

// finish records a letter's outcome.
func (r *redrive) finish(l *letter, o Outcome) {
	l.ended = true
	delete(r.open, l.Message.ID)
	r.over[digestOf(l.Message.ID)] = l.sent
	if l.sent {
		r.undeleted--
	}
	switch o {
	case Redriven:
		r.summary.Redriven++
	case Failed:
		r.summary.Failed++
	case InDoubt:
		r.summary.InDoubt++
	default:
		r.summary.Kept++
	}
	result := Result{Letter: l.Letter, Outcome: o, Err: l.err, Summary: r.summary}
	if o == Redriven || o == Kept {
		result.Err = nil
	}
	if r.cfg.OnResult != nil {
		r.cfg.OnResult(result)
	}
}

// ordered reports whether the message must stay in order within its group.
func ordered(m *queue.Message) bool { return m.Group != "" && m.Sequence != "" }

func isBatch(err error) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if _, ok := e.(*queue.BatchError); ok {
			return true
		}
	}
	return false
}
