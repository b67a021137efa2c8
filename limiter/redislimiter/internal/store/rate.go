package store

import (
	"bytes"
	"context"
	"math"
	"sync"
)

// A MemoryRate is the model of rate.lua.
type MemoryRate struct {
	mu    sync.Mutex // guards all below
	m     memory
	base  int64
	cells []byte // '1' where a cell from base on is leased
	calls int
}

var _ Rate = (*MemoryRate)(nil)

// NewMemoryRate returns an empty store.
func NewMemoryRate() *MemoryRate { return &MemoryRate{} }

// Calls returns how often it was called.
func (r *MemoryRate) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// Flush forgets everything.
func (r *MemoryRate) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m, r.base, r.cells = memory{}, 0, nil
}

// Snapshot remembers everything as it is now, and returns what brings that back.
func (r *MemoryRate) Snapshot() (restore func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, base, cells := r.m.clone(), r.base, bytes.Clone(r.cells)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.m, r.base, r.cells = m.clone(), base, bytes.Clone(cells)
	}
}

// Lease implements [Rate].
func (r *MemoryRate) Lease(_ context.Context, c RateCall) (RateState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	m := &r.m
	lost, before, changed := m.begin(c.Call)
	rate := m.Limit.Value
	grain, cell, width := Grain(rate), Cell(rate), Width(m.Limit)
	if lost {
		r.base, r.cells = 0, nil
		m.Origin += int64(math.Ceil(cell))
	}
	if changed {
		last := min(r.base+int64(len(r.cells)), int64(math.Ceil(float64(m.Now+Lease-m.Origin)/Cell(before.Value))))
		m.Origin = max(m.Now, m.Origin, Start(m.Origin, last, before.Value))
		m.Gen++
		r.base, r.cells = 0, nil
	}
	m.expire(func(_ string, p *process) { m.forget(p) })
	p, again := m.mine(c.Call)
	known := p != nil
	number, demand := c.Number, c.Demand
	if known {
		m.forget(p)
		if again {
			number, demand = p.number, p.want
		}
	} else {
		p = &process{}
		m.procs[c.ID] = p
	}

	index := func(t float64, f func(float64) float64) int64 { return int64(f((t - float64(m.Origin)) / cell)) }
	if base := index(float64(m.Now-width), math.Floor); base > r.base {
		r.cells = r.cells[min(base-r.base, int64(len(r.cells))):]
		r.base = base
	}
	if c.Gen == m.Gen && known && !again {
		for _, j := range c.Return {
			if at := j - r.base; at >= 0 && at < int64(len(r.cells)) {
				r.cells[at] = '0'
			}
		}
	}
	if (c.Leave || c.Rest) && !again {
		m.save(c.Call, nil)
		return RateState{State: m.answer(0), Cells: nil}, nil
	}

	active := len(m.procs)
	class, due := m.share(demand, rate*1000, active)
	horizon := min(max(float64(Chunk*int64(active))*1e6/rate, MinHorizon), MaxHorizon)
	horizon = math.Floor(max(horizon, float64(active+1)*cell))
	room := max(1, int64(math.Ceil(due/1000*horizon/1e6/float64(grain)))) - c.Held
	burst := int64(math.Ceil(due / 1000 * float64(width) / 1e6 / float64(grain)))
	if again {
		room, burst = 0, 0
	}

	from := max(m.Now, m.Pause)
	first := max(0, index(float64(from+c.Lead-width), math.Ceil)-r.base)
	end := index(float64(from)+horizon, math.Floor) - r.base + 1
	if float64(from) > float64(m.Now)+horizon {
		end = 0
	}
	if more := end - int64(len(r.cells)); more > 0 {
		r.cells = append(r.cells, bytes.Repeat([]byte{'0'}, int(more))...)
	}
	var got []int64
	search := func(n, start, end int64, stride float64, least int64) (found int64) {
		behind := start
		for i := range n {
			at := max(behind, start+int64(math.Floor(float64(i)*stride)))
			if at >= end {
				break
			}
			next := bytes.IndexByte(r.cells[at:], '0')
			if next < 0 || at+int64(next) >= end {
				break
			}
			at += int64(next)
			r.cells[at] = '1'
			got = append(got, r.base+at)
			behind = at + max(1, least)
			found++
		}
		room -= found
		return found
	}
	begun := min(end, index(float64(from), math.Floor)-r.base+1)
	bound := end
	if c.Before > 0 {
		bound = min(end, index(float64(c.Before), math.Ceil)-r.base)
	}
	old := search(min(c.Soon, max(room, 0)+burst), first, min(begun, bound), 0, 0)
	room += min(old, burst)
	missing := c.Soon + c.Fresh - old
	if room > 0 {
		missing -= search(min(c.Soon-old, room), max(first, begun), bound, 0, 0)
	}
	if room > 0 {
		missing -= search(min(c.Fresh, room), max(first, begun-c.Fresh), end, 0, 0)
	}
	if n := min(c.Spread, room); n > 0 && end > first {
		start := min(max(first, index(float64(c.After), math.Ceil)-r.base), end-1)
		search(n, start, end, float64(end-start)/float64(n), int64(0.9*rate*1000/due))
	}
	r.cells = r.cells[:bytes.LastIndexByte(r.cells, '1')+1]

	retry := int64(0)
	if missing > 0 {
		retry = max(from, m.Origin) - m.Now
		if retry > 0 {
			retry -= int64(horizon / 2)
		}
		retry = m.Now + max(retry, int64(horizon/4))
	}
	p.number, p.want, p.class = number, demand, class
	m.save(c.Call, p)
	return RateState{
		State: m.answer(retry), Share: round(due), Horizon: int64(horizon), Tight: m.big > 0, Cells: got,
	}, nil
}
