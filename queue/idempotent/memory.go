package idempotent

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// ErrFull is what [Memory.Claim] fails with when as many runs are under way as
// the store has room for keys. It is a [limiter.ErrOverload].
var ErrFull = fmt.Errorf("idempotent: memory store: every key it has room for is in progress: %w", limiter.ErrOverload)

// Memory is a [Store] in memory, for one process: it knows nothing after a
// restart, and nothing of other processes. When it is full the keys that were
// done or failed longest ago are forgotten. Make one with [NewMemory].
type Memory struct {
	max int

	mu   sync.Mutex // guards all below
	keys map[string]*entry
	idle list.List // entries that nobody claims, the one that ended first in front
}

type entry struct {
	key      string
	owner    string // who holds or has ended the claim
	done     bool
	until    time.Time // of the claim; zero: none
	keep     time.Time // of what is remembered, without a claim
	failures int
	result   []byte
	place    *list.Element // in Memory.idle; nil while it is claimed
}

// NewMemory returns a store with room for max keys, at least 1. One takes some
// 300 bytes and its result.
func NewMemory(max int) (*Memory, error) {
	if max < 1 {
		return nil, fmt.Errorf("idempotent: NewMemory: max is %d: must be at least 1", max)
	}
	return &Memory{max: max, keys: make(map[string]*entry)}, nil
}

// Len is how many keys are remembered or claimed. Some may have expired.
func (s *Memory) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

// Claim implements [Store].
func (s *Memory) Claim(_ context.Context, c Claim) (Record, error) {
	if c.Key == "" || c.Owner == "" {
		return Record{}, errors.New("idempotent: memory store: claim: Key or Owner is empty")
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	e := s.keys[c.Key]
	if e != nil && e.place != nil && !now.Before(e.keep) {
		s.forget(e)
		e = nil
	}
	if e == nil {
		if len(s.keys) >= s.max && !s.evict(now) {
			return Record{}, ErrFull
		}
		e = &entry{key: c.Key}
		s.keys[c.Key] = e
	}
	if e.done {
		return Record{State: Done, Result: e.result}, nil
	}
	claimed := !e.until.IsZero()
	if claimed && e.owner != c.Owner && now.Before(e.until) {
		return Record{State: Busy, Until: e.until}, nil
	}
	inDoubt := claimed && e.owner != c.Owner
	if c.Fresh && e.owner != c.Owner {
		e.failures = 0
	}
	if e.place != nil {
		s.idle.Remove(e.place)
		e.place = nil
	}
	e.owner, e.until = c.Owner, c.Until
	return Record{State: Claimed, InDoubt: inDoubt, Failures: e.failures}, nil
}

// Done implements [Store].
func (s *Memory) Done(_ context.Context, c Claim, result []byte, keep time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[c.Key]
	if e == nil || e.owner != c.Owner {
		return ErrNotOwner
	}
	if e.done {
		return nil
	}
	if e.until.IsZero() {
		return ErrNotOwner
	}
	e.done, e.result, e.failures = true, result, 0
	s.rest(e, keep)
	return nil
}

// Failed implements [Store].
func (s *Memory) Failed(_ context.Context, c Claim, keep time.Time) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.held(c)
	if e == nil {
		return 0, ErrNotOwner
	}
	e.failures++
	s.rest(e, keep)
	return e.failures, nil
}

// Release implements [Store].
func (s *Memory) Release(_ context.Context, c Claim, forget bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.held(c)
	switch {
	case e == nil:
	case forget || e.failures == 0:
		s.forget(e)
	default:
		s.rest(e, e.keep)
	}
	return nil
}

// held is the entry that c's owner holds a claim on, or nil. The caller holds mu.
func (s *Memory) held(c Claim) *entry {
	e := s.keys[c.Key]
	if e == nil || e.owner != c.Owner || e.done || e.until.IsZero() {
		return nil
	}
	return e
}

// rest ends an entry's claim. The caller holds mu.
func (s *Memory) rest(e *entry, keep time.Time) {
	e.until, e.keep = time.Time{}, keep
	e.place = s.idle.PushBack(e)
}

// forget drops an entry. The caller holds mu.
func (s *Memory) forget(e *entry) {
	if e.place != nil {
		s.idle.Remove(e.place)
	}
	delete(s.keys, e.key)
}

// expire drops a few of the entries that are remembered no longer. The caller
// holds mu.
func (s *Memory) expire(now time.Time) {
	for range 2 { // more than can come
		front := s.idle.Front()
		if front == nil || now.Before(front.Value.(*entry).keep) {
			return
		}
		s.forget(front.Value.(*entry))
	}
}

// evict makes room for one key, and reports whether it could. The caller holds
// mu.
func (s *Memory) evict(now time.Time) bool {
	if front := s.idle.Front(); front != nil {
		s.forget(front.Value.(*entry))
		return true
	}
	for _, e := range s.keys { // a claim that ended without a word: its run has crashed
		if !now.Before(e.until) {
			s.forget(e)
			return true
		}
	}
	return false
}
