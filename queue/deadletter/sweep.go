package deadletter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/retry"
)

const (
	perCall   = 10               // messages of a receive and of a send
	callLimit = 30 * time.Second // for any one call but Receive
	noAnswer  = 5 * time.Second  // a call that took so long and did nothing at all has met a queue that does not answer
	grace     = 15 * time.Second // a receive that is told how long to wait may take so much longer

	emptyPolls = 2  // in a row: the queue is empty
	stalePolls = 20 // receives in a row that bring nothing but what is newer than the sweep, or known to it

	// maxInHand is how many letters are hidden at once at most. A queue of SQS
	// gives out no more when 120,000 are, and would look empty.
	maxInHand = 100_000
)

// ErrTooMany says that so many letters are to be left in the queue that they
// can't all be hidden meanwhile, so that those behind them can't be reached.
// Redrive or delete some of them first.
var ErrTooMany = fmt.Errorf("%d letters that stay are in hand, and no more can be", maxInHand)

var errNoAnswer = errors.New("deadletter: the queue does not answer")

// A sweep goes once through a queue. What it receives stays hidden until the
// end, so that nothing is seen twice, and is given back then.
type sweep struct {
	op    string
	from  queue.Source
	cfg   Config
	start time.Time

	empty, stale int          // receives in a row
	again        retry.Policy // for calls that fail in passing
	stop         func()       // ends the goroutine that extends leases
	serial       int          // of what was received
	mute         bool         // the source did not answer the last ack

	mu    sync.Mutex          // guards hands, and what is in them
	hands map[string]*holding // what is hidden by us, by the message's id
}

// A holding is a message that is hidden by us.
type holding struct {
	msg     *queue.Message // for the source, without its content
	serial  int
	lease   time.Duration // that it got last
	until   time.Time     // when it ends; zero: the source has no leases
	settled bool          // it is being acked: not to be extended
}

func newSweep(op string, from queue.Source, cfg Config) *sweep {
	s := &sweep{
		op: op, from: from, cfg: cfg, start: time.Now(),
		again: retry.Policy{MaxAttempts: 8, BaseDelay: 200 * time.Millisecond, MaxDelay: 5 * time.Second},
		hands: make(map[string]*holding),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var keeper sync.WaitGroup
	keeper.Go(func() { s.keep(ctx) })
	s.stop = func() {
		cancel()
		keeper.Wait()
	}
	return s
}

// receive returns the next messages, of which it keeps the leases from now on.
// io.EOF: there are no more. A receive that is under way when ctx ends lands, or
// is stopped if that is without risk.
func (s *sweep) receive(ctx context.Context) ([]*queue.Message, error) {
	for failures := 0; ; {
		switch {
		case ctx.Err() != nil:
			return nil, s.ended(ctx)
		case s.empty >= emptyPolls || s.stale >= stalePolls:
			return nil, io.EOF
		case s.inHand() >= maxInHand:
			return nil, fmt.Errorf("deadletter: %s: %w", s.op, ErrTooMany)
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Wait+grace)
		msgs, err := s.from.Receive(limited, queue.ReceiveOptions{Max: perCall, Lease: s.cfg.Lease, Wait: s.cfg.Wait, Stop: ctx.Done()})
		over := limited.Err() != nil
		cancel()
		switch {
		case err == io.EOF:
			return nil, io.EOF
		case err != nil && over:
			s.empty++ // a source that knows no Wait, and ends its own without risk
		case err != nil:
			failures++
			delay, ok := s.again.Next(failures, err)
			if !ok || errors.Is(err, limiter.ErrMisconfigured) {
				return nil, fmt.Errorf("deadletter: %s: receive: %w", s.op, err)
			}
			if !sleep.For(ctx, delay) {
				return nil, s.ended(ctx)
			}
		case len(msgs) == 0:
			failures = 0
			s.empty++
		default:
			s.empty = 0
			s.hold(msgs)
			return msgs, nil
		}
	}
}

func (s *sweep) ended(ctx context.Context) error {
	return fmt.Errorf("deadletter: %s: %w", s.op, context.Cause(ctx))
}

// newer reports whether the letter came after the sweep began.
func (s *sweep) newer(l Letter) bool { return l.Message.SentAt.After(s.start) }

// came tells whether a receive brought anything that the sweep is for.
func (s *sweep) came(anything bool) {
	if anything {
		s.stale = 0
	} else {
		s.stale++
	}
}

// hold takes messages in hand. Of those that stay to the end only that is kept
// which the source needs.
func (s *sweep) hold(msgs []*queue.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		s.serial++
		s.hands[m.ID] = &holding{
			msg:    &queue.Message{ID: m.ID, Receipt: m.Receipt, ReceivedAt: m.ReceivedAt, LeaseUntil: m.LeaseUntil},
			serial: s.serial, lease: s.cfg.Lease, until: m.LeaseUntil,
		}
	}
}

func (s *sweep) inHand() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hands)
}

// held reports whether the message of that id is hidden by us, and will be for
// long enough to settle it.
func (s *sweep) held(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hands[id]
	return h != nil && (h.until.IsZero() || time.Until(h.until) >= s.cfg.Lease/8)
}

// ack deletes the messages of these ids, and returns the errors of those that
// could not be, by id. It does not end with ctx: what has been sent is to be
// deleted. But a source that does not answer is not asked again then.
func (s *sweep) ack(ctx context.Context, ids []string) map[string]error {
	failed := make(map[string]error)
	var msgs []*queue.Message
	s.mu.Lock()
	for _, id := range ids {
		if h := s.hands[id]; h != nil {
			h.settled = true
			msgs = append(msgs, h.msg)
		} else {
			failed[id] = queue.ErrLeaseLost
		}
	}
	s.mu.Unlock()
	for attempt := 1; len(msgs) > 0; attempt++ {
		begin := time.Now()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
		err := s.from.Ack(limited, msgs...)
		cancel()
		s.mute = answered(err, len(msgs)) == 0 && time.Since(begin) >= noAnswer
		var rest []*queue.Message
		var last error
		s.mu.Lock()
		for i, m := range msgs {
			e := errorOf(err, i)
			switch {
			case e == nil:
				delete(failed, m.ID)
				delete(s.hands, m.ID)
				continue
			case errors.Is(e, queue.ErrLeaseLost):
				delete(s.hands, m.ID)
			default:
				rest, last = append(rest, m), e
			}
			failed[m.ID] = e
		}
		s.mu.Unlock()
		delay, ok := s.again.Next(attempt, last)
		if len(rest) == 0 || !ok || errors.Is(last, limiter.ErrMisconfigured) || attempt >= 4 || s.givenUp(ctx) {
			break
		}
		msgs = rest
		time.Sleep(min(delay, s.again.MaxDelay)) // their leases do not wait any longer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range failed {
		if h := s.hands[id]; h != nil {
			h.settled = false // hidden until the end of the sweep
		}
	}
	return failed
}

// givenUp reports whether ctx has ended and the source does not answer any more.
func (s *sweep) givenUp(ctx context.Context) bool { return s.mute && ctx.Err() != nil }

// close gives back what is in hand, as long as that gets on: the queue would do it,
// too, but later.
func (s *sweep) close(ctx context.Context) {
	s.stop()
	left := slices.SortedFunc(maps.Values(s.hands), func(a, b *holding) int { return cmp.Compare(a.serial, b.serial) })
	back, last := 0, errNoAnswer
	deadline := time.Now().Add(callLimit)
	for some := range slices.Chunk(left, 10*perCall) {
		if s.givenUp(ctx) || !time.Now().Before(deadline) {
			break
		}
		msgs := make([]*queue.Message, len(some))
		for i, h := range some {
			msgs[i] = h.msg
		}
		limited, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
		err := s.from.Nack(limited, 0, msgs...)
		cancel()
		n := answered(err, len(msgs))
		if back += n; n > 0 {
			deadline = time.Now().Add(callLimit)
		}
		if n < len(msgs) {
			last = err
		}
	}
	if back < len(left) {
		s.cfg.Logger.Warn("deadletter: letters could not be given back, and come back when their leases end",
			"letters", len(left)-back, "error", last)
	}
}

// keep extends leases until ctx ends.
func (s *sweep) keep(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.extend(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// extend gives twice the lease that it had to every message of whose lease less
// than half is left.
func (s *sweep) extend(ctx context.Context) {
	due := make(map[time.Duration][]*queue.Message)
	now := time.Now()
	s.mu.Lock()
	for _, h := range s.hands {
		if !h.settled && !h.until.IsZero() && h.until.Sub(now) < h.lease/2 {
			lease := min(2*h.lease, maxLease)
			due[lease] = append(due[lease], h.msg)
		}
	}
	s.mu.Unlock()
	for lease, msgs := range due {
		for some := range slices.Chunk(msgs, 10*perCall) {
			if ctx.Err() != nil {
				return
			}
			// One that is under way when the sweep ends is waited for: it must not
			// hide again what has been given back.
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
			err := s.from.Extend(limited, lease, some...)
			cancel()
			s.extended(some, lease, err)
		}
	}
}

func (s *sweep) extended(msgs []*queue.Message, lease time.Duration, err error) {
	var failures int
	var last error
	s.mu.Lock()
	for i, m := range msgs {
		h := s.hands[m.ID]
		if h == nil || h.msg != m {
			continue
		}
		switch e := errorOf(err, i); {
		case e == nil:
			h.lease, h.until = lease, m.LeaseUntil
		case errors.Is(e, queue.ErrLeaseLost):
			delete(s.hands, m.ID) // it may come again
		default:
			failures, last = failures+1, e
		}
	}
	s.mu.Unlock()
	if failures > 0 {
		s.cfg.Logger.Warn("deadletter: leases could not be extended", "letters", failures, "error", last)
	}
}

// errorOf returns what a call's error says about the message at index i.
func errorOf(err error, i int) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if batch, ok := e.(*queue.BatchError); ok {
			if batch == nil {
				return nil
			}
			return batch.Failed[i]
		}
	}
	return err
}

// answered returns for how many of n messages a call that returned err was not in
// vain: it is done, or their leases had been lost before.
func answered(err error, n int) (done int) {
	for i := range n {
		if e := errorOf(err, i); e == nil || errors.Is(e, queue.ErrLeaseLost) {
			done++
		}
	}
	return done
}
