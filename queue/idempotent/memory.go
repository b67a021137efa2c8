package idempotent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// ErrFull is the error of [Memory.Claim] when every key that the store has room for is
// claimed by a run in progress. It is a [limiter.ErrOverload].
var ErrFull = fmt.Errorf("idempotent: memory store: every key it has room for is in progress: %w", limiter.ErrOverload)

// Memory is a [Store] in memory, for one process: its records do not survive a
// restart, and are not shared with other processes. When it is full it forgets the
// keys that were done or failed longest ago. It serves one [Middleware]: if two shared
// it, one operation would count as done because the other one was. Create one with
// [NewMemory].
type Memory struct {
	max   int
	taken atomic.Bool // by a Middleware

	mu   sync.Mutex // guards all below
	keys map[string]*entry
	idle entry // ring of the unclaimed entries; next is the one that ended first
}

// An entry is what is known of a key.
type entry struct {
	key        string
	owner      string // who holds the claim or ended it
	done       bool
	inDoubt    bool
	failures   int
	result     []byte
	until      time.Time // of the claim
	keep       time.Time // when the entry is forgotten
	prev, next *entry    // in Memory.idle; nil while it is claimed
}

func (e *entry) claimed() bool { return e.next == nil }

// NewMemory returns a store with room for max keys, at least 1. A key takes about 300
// bytes, plus its result.
func NewMemory(max int) (*Memory, error) {
	if max < 1 {
		return nil, fmt.Errorf("idempotent: NewMemory: max is %d: must be at least 1", max)
	}
	s := &Memory{max: max, keys: make(map[string]*entry)}
	s.idle.prev, s.idle.next = &s.idle, &s.idle
	return s, nil
}

// Len returns how many keys are remembered or claimed. Some may have expired.
func (s *Memory) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

// Claim implements [Store].
func (s *Memory) Claim(_ context.Context, c Claim) (Record, error) {
	switch {
	case c.Key == "" || c.Owner == "":
		return Record{}, errors.New("idempotent: memory store: claim: Key or Owner is empty")
	case c.Keep.Before(c.Until):
		return Record{}, errors.New("idempotent: memory store: claim: Keep is before Until")
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	e := s.keys[c.Key]
	if e != nil && !now.Before(e.keep) {
		s.forget(e)
		e = nil
	}
	switch {
	case e == nil:
		if len(s.keys) >= s.max && !s.evict(now) {
			return Record{}, ErrFull
		}
		e = &entry{key: c.Key}
		s.keys[c.Key] = e
	case e.done:
		return Record{State: Done, Result: e.result}, nil
	case e.owner == c.Owner: // again
		s.unlink(e)
	case e.claimed() && now.Before(e.until):
		return Record{State: Busy, Until: e.until}, nil
	default:
		e.inDoubt = e.inDoubt || e.claimed()
		if c.Fresh {
			e.failures = 0
		}
		s.unlink(e)
	}
	e.owner, e.until, e.keep = c.Owner, c.Until, c.Keep
	return Record{State: Claimed, InDoubt: e.inDoubt, Failures: e.failures}, nil
}

// Done implements [Store].
func (s *Memory) Done(_ context.Context, c Claim, result []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[c.Key]
	switch {
	case e == nil || e.owner != c.Owner || !e.done && !e.claimed():
		return ErrNotOwner
	case !e.done:
		e.done, e.result = true, result
		s.rest(e, c.Keep)
	}
	return nil
}

// Failed implements [Store].
func (s *Memory) Failed(_ context.Context, c Claim) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[c.Key]
	switch {
	case e == nil || e.owner != c.Owner || e.done:
		return 0, ErrNotOwner
	case e.claimed():
		e.failures++
		s.rest(e, c.Keep)
	}
	return e.failures, nil
}

// Release implements [Store].
func (s *Memory) Release(_ context.Context, c Claim, forget bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[c.Key]
	if e == nil || e.owner != c.Owner || !e.claimed() {
		return nil
	}
	if forget {
		e.failures = 0
	}
	if e.failures == 0 && !e.inDoubt {
		s.forget(e)
	} else {
		s.rest(e, c.Keep)
	}
	return nil
}

// rest ends an entry's claim. The caller holds mu.
func (s *Memory) rest(e *entry, keep time.Time) {
	e.keep = keep
	e.prev, e.next = s.idle.prev, &s.idle
	e.prev.next, e.next.prev = e, e
}

// unlink removes an entry from the ring, if it is there. The caller holds mu.
func (s *Memory) unlink(e *entry) {
	if e.next != nil {
		e.prev.next, e.next.prev = e.next, e.prev
		e.prev, e.next = nil, nil
	}
}

// forget drops an entry. The caller holds mu.
func (s *Memory) forget(e *entry) {
	s.unlink(e)
	delete(s.keys, e.key)
}

// expire drops a few of the expired entries. The caller holds mu.
func (s *Memory) expire(now time.Time) {
	for range 2 { // faster than entries are added
		first := s.idle.next
		if first == &s.idle || now.Before(first.keep) {
			return
		}
		s.forget(first)
	}
}

// evict makes room for one key, and reports whether it could. The caller holds
// mu.
func (s *Memory) evict(now time.Time) bool {
	if first := s.idle.next; first != &s.idle {
		s.forget(first)
		return true
	}
	for _, e := range s.keys { // an expired claim: its run has crashed
		if !now.Before(e.until) {
			s.forget(e)
			return true
		}
	}
	return false
}
