package store

import (
	"context"
	"math"
	"sync"
)

const (
	tenure = 1_000_000             // after which a place beyond the due goes round
	behind = 4_000_000_000_000_000 // what is added to when those began to wait who are not below their due
)

// A MemoryPlaces is the model of places.lua.
type MemoryPlaces struct {
	mu    sync.Mutex // guards all below
	m     memory
	short int64
	wait  map[string]int64
	calls int
}

var _ Places = (*MemoryPlaces)(nil)

// NewMemoryPlaces returns an empty store.
func NewMemoryPlaces() *MemoryPlaces { return &MemoryPlaces{} }

// Calls returns how often it was called.
func (s *MemoryPlaces) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// Flush forgets everything.
func (s *MemoryPlaces) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m, s.short, s.wait = memory{}, 0, nil
}

// Lease implements [Places].
func (s *MemoryPlaces) Lease(_ context.Context, c PlacesCall) (PlacesState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	m := &s.m
	lost, _, _ := m.begin(c.Call)
	if lost {
		s.short, s.wait = 0, map[string]int64{}
	}
	limit := int64(m.Limit.Value)
	forget := func(id string, p *process) {
		m.forget(p)
		m.held, m.yield, s.short = m.held-p.held, m.yield-p.yield, s.short-p.short
		delete(s.wait, id)
	}
	m.expire(forget)
	p, again := m.mine(c.Call)
	waits := s.wait[c.ID]
	held, want, since := c.Held, c.Want, m.Now
	if p != nil {
		since = p.since
		if again {
			held, want = p.held, p.want
		}
		if held > p.held {
			since = m.Now
		}
		forget(c.ID, p)
	} else {
		p = &process{}
		m.procs[c.ID] = p
	}
	if (c.Leave || c.Rest) && !again {
		m.save(c.Call, nil)
		return PlacesState{State: m.answer(0)}, nil
	}

	class, due := m.share(want, float64(limit), len(m.procs))
	low := min(want, int64(math.Floor(due+0.000001)))
	high := min(want, int64(math.Ceil(due-0.000001)))
	m.held += held

	retry := int64(0)
	position := func() (score, ahead int64) {
		if waits %= behind; waits == 0 {
			waits = m.Now
		}
		if score = waits; held >= low {
			score += behind
		}
		for _, other := range s.wait {
			if other < score {
				ahead++
			}
		}
		return score, ahead
	}
	if held < high {
		score, ahead := position()
		free := limit - m.held - ahead
		if m.Now >= m.Origin && !again && free > 0 {
			more := min(free, high-held)
			held, m.held, since = held+more, m.held+more, m.Now
			score, ahead = position()
		}
		if held < high {
			s.wait[c.ID] = score
			retry = m.Now + min(400_000, 50_000+50_000*ahead)
			if m.Origin > m.Now {
				retry = max(retry, min(m.Now+400_000, m.Origin))
			}
		}
	}

	short := max(0, low-held)
	yield := int64(0)
	if held > low {
		free := limit - m.held
		need := s.short - free - m.yield
		if m.Now-since >= tenure {
			others := int64(0)
			for _, score := range s.wait {
				if score >= behind {
					others++
				}
			}
			need = max(need, s.short+others-max(0, free)-m.yield)
		}
		yield = max(0, min(held-low, need))
	}
	m.yield, s.short = m.yield+yield, s.short+short

	p.number = max(p.number, c.Number)
	p.want, p.class, p.held, p.since, p.yield, p.short = want, class, held, since, yield, short
	m.save(c.Call, p)
	return PlacesState{State: m.answer(retry), Held: held, Yield: yield, Share: high}, nil
}
