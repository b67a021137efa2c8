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
	noAnswer  = 5 * time.Second  // after a call that took this long and did nothing, the queue counts as not answering
	grace     = 15 * time.Second // how much longer than its wait a receive may take

	emptyPolls = 2  // empty receives in a row that mean the queue is empty
	stalePolls = 20 // receives in a row with only letters that are newer than the sweep, or already seen

	// maxInHand is how many letters are hidden at once at most. An SQS queue with
	// 120,000 messages in flight delivers no more, and would look empty.
	maxInHand = 100_000
)

// ErrTooMany means that too many letters stay in the queue to be hidden at once, so
// that the letters behind them can't be reached. Redrive or delete some of them first.
var ErrTooMany = fmt.Errorf("%d messages that stay are in flight, the most there can be: redrive or delete some first", maxInHand)

var errNoAnswer = errors.New("deadletter: the queue does not answer")

// A sweep reads a queue once. The messages that it receives stay hidden until the
// end, so that none is seen twice, and are then returned to the queue.
type sweep struct {
	op    string
	from  queue.Source
	cfg   Config
	start time.Time

	empty, stale int          // receives in a row
	again        retry.Policy // for calls that fail temporarily
	stop         func()       // ends the goroutine that extends leases
	serial       int          // number of the last message received
	mute         bool         // the source did not answer the last ack

	mu    sync.Mutex          // guards hands and its values
	hands map[string]*holding // messages that we hide, by id
}

// A holding is a message that we hide.
type holding struct {
	msg     *queue.Message // for the source, without its content
	serial  int
	lease   time.Duration // the last one
	until   time.Time     // when it ends; zero: the source has no leases
	settled bool          // being acked: not to be extended
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

// receive returns the next messages, and extends their leases from now on. io.EOF
// means that there are no more. When ctx ends, a receive in progress is completed, or
// stopped if the source can do that without risk.
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
			s.empty++ // the source ignores Wait, and stopping its receive loses nothing
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

// came counts a receive, which brought anything that the sweep is for, or nothing.
func (s *sweep) came(anything bool) {
	if anything {
		s.stale = 0
	} else {
		s.stale++
	}
}

// hold adds messages to hands. It keeps only the fields that the source needs.
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

// held reports whether we hide the message with that id, for long enough to settle
// it.
func (s *sweep) held(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hands[id]
	return h != nil && (h.until.IsZero() || time.Until(h.until) >= s.cfg.Lease/8)
}

// ack deletes the messages with these ids, and returns by id the errors of those that
// could not be deleted. It does not end with ctx, because sent messages must be
// deleted, but after ctx has ended it does not retry a source that does not answer.
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
		time.Sleep(min(delay, s.again.MaxDelay)) // not longer: their leases are not extended meanwhile
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

// givenUp reports whether ctx has ended and the source no longer answers.
func (s *sweep) givenUp(ctx context.Context) bool { return s.mute && ctx.Err() != nil }

// close returns the held messages to the queue, as long as the calls make progress.
// Their leases would return them too, but later.
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
		s.cfg.Logger.Warn("deadletter: returning letters failed; they come back when their visibility timeouts end",
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

// extend doubles the lease of every message that has less than half of it left.
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
			// A call in progress when the sweep ends is waited for, because it must
			// not hide messages again that were returned.
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

// errorOf returns the error of the message at index i in a call that returned err.
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

// answered returns how many of n messages a call that returned err has settled: it
// succeeded for them, or their leases had been lost before.
func answered(err error, n int) (done int) {
	for i := range n {
		if e := errorOf(err, i); e == nil || errors.Is(e, queue.ErrLeaseLost) {
			done++
		}
	}
	return done
}
