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
	"slices"
	"strings"

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
	// Failed: the destination refused the message. It is still in the dead-letter
	// queue, as it was.
	Failed Outcome = "failed"
	// InDoubt: the message is still in the dead-letter queue, and may be in the
	// destination too: the answer to its send was lost, or it was accepted and
	// could not be deleted.
	InDoubt Outcome = "in doubt"
	// Kept: it is still in the dead-letter queue, as it was, and nothing was tried:
	// the filter does not take it, it came after the redrive began, a message of
	// its group that comes before it stays, it is a dry run, or the redrive ended
	// before its turn.
	Kept Outcome = "kept"
)

// A Result says what became of a letter.
type Result struct {
	Letter  Letter
	Outcome Outcome
	Err     error   // why it has failed or is in doubt
	Summary Summary // so far
}

// A Summary counts what a [Redrive] did. Every letter that was examined has one
// outcome: Examined is the sum of Redriven, Failed, InDoubt and Kept.
type Summary struct {
	// Run names the redrive in the [History] of the messages that it sent.
	Run string

	Examined int // letters received, each counted once
	Matched  int // of them those that the filter takes, and that did not come after the redrive began
	Newer    int // of them those that came after the redrive began: left alone

	Redriven, Failed, InDoubt, Kept int
}

// Redrive sends the letters of a dead-letter queue to another one, mostly the
// queue that they come from, and returns what it did when it has seen every
// letter that was there when it began.
//
// A message is deleted from the dead-letter queue only after to has accepted it.
// So whenever the redrive is killed, every message is in one of the two queues or
// in both, and what it had in hand is visible again in the dead-letter queue
// when its lease ends. What could not be sent stays there.
//
// The message keeps body, attributes and group. Its dead-letter record becomes its
// [History], or nothing if the destination refuses the message with that. Its
// deduplication id is made of its id in the dead-letter queue, so a FIFO queue
// takes it though it has seen it before, and takes it once when a redrive is
// repeated within five minutes.
//
// Letters that came after the redrive began are left alone, so that a consumer
// that still fails does not make it go in a circle. A message that the destination
// refuses has failed, and the redrive goes on. Trouble of the destination as a
// whole ([limiter.Classify]) is waited out, for a RetryAfter or with backoff; after
// eight attempts in a row, or at once for [limiter.ErrMisconfigured], the redrive
// ends. While a breaker in Config.Limiter holds sends back no attempts are counted.
// On a FIFO queue a message that stays holds up those of its group behind it.
//
// When ctx ends the calls that are under way land, the rest is given back, and the
// error is the cause of ctx. Other errors are: a field of cfg that is out of range,
// named; the destination's trouble; a receive that fails again and again;
// [ErrTooMany]. The Summary holds beside an error, too.
//
// Redrives may run concurrently on one queue, to go faster: they share its letters
// out between them. One alone makes a receive, a send and an ack for ten letters at
// a time.
func Redrive(ctx context.Context, from queue.Source, to queue.Sink, cfg Config) (summary Summary, err error) {
	cfg, err = cfg.check("redrive", from)
	if err == nil && to == nil && !cfg.DryRun {
		err = errNoSink
	}
	if err != nil {
		return Summary{}, err
	}
	r := &redrive{
		sweep:   newSweep("redrive", from, cfg),
		to:      to,
		letters: make(map[string]*letter),
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

// A redrive is a sweep that sends.
type redrive struct {
	*sweep
	to       queue.Sink
	letters  map[string]*letter // all that were examined, by the message's id
	stuck    map[string]bool    // groups of which a message stays
	summary  Summary
	taken    int // letters that count against Config.Max
	troubles int // in a row
}

// A letter is what a redrive knows of one.
type letter struct {
	Letter
	serial  int
	outcome Outcome // "" as long as it has none, and Letter is kept
	sent    bool    // the destination has accepted it
	doubt   bool    // the destination may have accepted it
	bare    bool    // goes without its history
	err     error   // the last one
}

func (r *redrive) run(ctx context.Context) error {
	for r.cfg.Max == 0 || r.taken < r.cfg.Max {
		if r.cfg.Limiter != nil && !r.cfg.DryRun {
			if _, err := r.cfg.Limiter.Ready(ctx, 1, 0); err != nil {
				return r.ended(ctx)
			}
		}
		msgs, err := r.receive(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.send(ctx, r.examine(ctx, msgs)); err != nil {
			return err
		}
	}
	return nil
}

// examine returns those of the messages that are to be sent.
func (r *redrive) examine(ctx context.Context, msgs []*queue.Message) []*letter {
	var due []*letter
	var again []string
	fresh := false
	for _, m := range msgs {
		l := r.letters[m.ID]
		switch {
		case l == nil:
			l = &letter{Letter: Read(m), serial: len(r.letters)}
			r.letters[m.ID] = l
			r.summary.Examined++
			newer := r.newer(l.Letter) || l.History.Run == r.summary.Run
			fresh = fresh || !newer
			switch {
			case newer:
				r.summary.Newer++
				r.finish(l, Kept)
			case !r.cfg.Filter.Match(l.Letter):
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
		case l.sent:
			again = append(again, m.ID) // it came back though it is done
		case l.outcome == "":
			due, fresh = append(due, l), true // its lease had ended before its turn
		}
	}
	if len(again) > 0 {
		r.acked(ctx, again)
	}
	r.came(fresh)
	return due
}

// send sends letters until each is accepted, refused or no longer ours.
func (r *redrive) send(ctx context.Context, due []*letter) error {
	for len(due) > 0 {
		due = slices.DeleteFunc(due, func(l *letter) bool { return !r.may(l) })
		if r.cfg.Max > 0 {
			due = due[:max(min(len(due), r.cfg.Max-r.taken), 0)]
		}
		if len(due) == 0 {
			return nil
		}
		some, permits, err := r.admit(ctx, due)
		if err != nil {
			return err
		}
		before := r.taken
		trouble := r.deliver(ctx, some, permits)
		due = slices.DeleteFunc(due, func(l *letter) bool { return l.sent || l.outcome != "" })
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
		if !sleep(ctx, delay) {
			return r.ended(ctx)
		}
	}
	return nil
}

// waits reports whether the limiter has heard of the trouble, and admits nothing
// until it is over.
func (r *redrive) waits() bool {
	if r.cfg.Limiter == nil {
		return false
	}
	by, _ := r.cfg.Limiter.Blocked()
	by, _, _ = strings.Cut(by, " ")
	return by == limiter.ByBreaker || by == limiter.ByPause
}

// may reports whether a letter's turn can come: it is ours, and no message of
// its group stays before it.
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

// admit waits until one letter may be sent, and returns the first of those that
// may go with it: as many as the limiter admits now, and one of each group that is
// kept in order, since a batch may fail for its first message alone.
func (r *redrive) admit(ctx context.Context, due []*letter) (some []*letter, permits []limiter.Permit, err error) {
	if ctx.Err() != nil {
		return nil, nil, r.ended(ctx)
	}
	var first limiter.Permit
	if r.cfg.Limiter != nil {
		if first, err = r.cfg.Limiter.Acquire(ctx); err != nil {
			return nil, nil, r.ended(ctx)
		}
	}
	groups := make(map[string]bool)
	for _, l := range due {
		if !r.may(l) { // not any more, after the wait
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
// destination's trouble, for which the others are to be sent again.
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
			sent = append(sent, l.Message.ID)
			continue
		}
		switch {
		case class != nil:
			trouble = e
		case !unknown && !l.bare:
			l.bare = true // perhaps it is too much with its history
		default:
			r.fail(l)
		}
	}
	r.acked(ctx, sent)
	return trouble
}

// acked deletes letters that the destination has accepted.
func (r *redrive) acked(ctx context.Context, ids []string) {
	failed := r.ack(ctx, ids)
	for _, id := range ids {
		l := r.letters[id]
		if l.err = failed[id]; l.err == nil && l.outcome == "" {
			r.finish(l, Redriven)
		}
	}
}

// fail ends a letter that the destination does not take.
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

// dedup returns the deduplication id of a message that has that id in the
// dead-letter queue: not the one it was first sent with, nor that of its next
// life, but the same one whenever the redrive is repeated.
func dedup(id string) string {
	sum := sha256.Sum256([]byte("redrive " + id))
	return hex.EncodeToString(sum[:])
}

// end says of every letter that has no outcome yet what it comes to.
func (r *redrive) end(ctx context.Context) {
	open := slices.SortedFunc(maps.Values(r.letters), func(a, b *letter) int { return a.serial - b.serial })
	open = slices.DeleteFunc(open, func(l *letter) bool { return l.outcome != "" })
	var sent []string
	for _, l := range open {
		if l.sent && r.held(l.Message.ID) {
			sent = append(sent, l.Message.ID)
		}
	}
	r.acked(ctx, sent)
	for _, l := range open {
		switch {
		case l.outcome != "":
		case l.sent, l.doubt:
			r.finish(l, InDoubt)
		default:
			r.finish(l, Kept)
		}
	}
}

// finish notes what became of a letter.
func (r *redrive) finish(l *letter, o Outcome) {
	l.outcome = o
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
	l.Letter = Letter{} // its outcome is all that is asked for from now on
	if r.cfg.OnResult != nil {
		r.cfg.OnResult(result)
	}
}

// ordered reports whether the message is to be kept in order within its group.
func ordered(m *queue.Message) bool { return m.Group != "" && m.Sequence != "" }

func isBatch(err error) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if _, ok := e.(*queue.BatchError); ok {
			return true
		}
	}
	return false
}
