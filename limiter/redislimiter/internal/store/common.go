package store

import (
	"maps"
	"math"
	"time"
)

// memory is the model of common.lua: what is common to all limits.
type memory struct {
	State
	last, cut  int64
	declared   Limit
	big, small int64
	held       int64 // places only
	yield      int64 // places only
	procs      map[string]*process
	seen       map[string]int64
}

// A process is what is known of one.
type process struct {
	number int64
	want   int64
	class  int64
	// Of places only:
	held, since, yield, short int64
}

func (m memory) clone() memory {
	m.seen = maps.Clone(m.seen)
	procs := m.procs
	m.procs = make(map[string]*process, len(procs))
	for id, p := range procs {
		c := *p
		m.procs[id] = &c
	}
	return m
}

// begin takes in a call, up to the expiry of other processes. It reports
// whether everything was lost, and what the limit was before if it changed.
func (m *memory) begin(c Call) (lost bool, before Limit, changed bool) {
	now := c.Now
	if now == 0 {
		now = time.Now().UnixMicro()
	}
	// What comes after a later call of its process, or twice, is out of date.
	if p := m.procs[c.ID]; p != nil && c.Number <= p.number {
		c.Away, c.Join, c.Version, c.Set, c.Pause = false, false, 0, 0, 0
	}
	lost = m.Gen == 0 || c.Gen > m.Gen || (c.Gen == m.Gen && c.Seq > m.Seq) ||
		now < m.last-backwards ||
		(c.Away && now-m.last > Lease/2) ||
		(m.held > 0 && now-m.last > Lease)
	if lost {
		m.procs, m.seen = map[string]*process{}, map[string]int64{}
		m.Gen = max(now, c.Gen+1, m.Gen+1)
		m.Seq, m.cut, m.Origin = 0, 0, now+Lease
		m.big, m.small, m.held, m.yield = 0, 0, 0, 0
	} else {
		now = max(now, m.last)
	}
	m.Seq++
	m.last, m.Now = now, now

	before, known := m.Limit, m.Version > 0
	if c.Version > m.Version {
		m.Version, m.Limit, m.declared = c.Version, c.Limit, c.Declared
	}
	if m.Version == 0 || (c.Join && m.declared != c.Declared) {
		m.Version++
		m.Limit, m.declared = c.Declared, c.Declared
	}
	if c.Set != 0 {
		m.Version++
		m.Limit.Value = c.Set
	}
	changed = known && !lost && m.Limit != before

	if c.Pause > 0 {
		m.Pause = max(m.Pause, now+c.Pause)
	}
	if c.Pause < 0 {
		m.Pause = 0
	}
	return lost, before, changed
}

// expire forgets who has not called for a lease, but for being there.
func (m *memory) expire(forget func(id string, p *process)) {
	cut := m.Now - Lease
	for id, at := range m.seen {
		if at > m.cut && at <= cut {
			if p := m.procs[id]; p != nil {
				forget(id, p)
				delete(m.procs, id)
			}
		}
		if at <= m.Now-Memory {
			delete(m.seen, id)
		}
	}
	m.cut = cut
}

// mine returns the record of the calling process, nil if there is none, and
// whether it is of this call or a later one.
func (m *memory) mine(c Call) (p *process, again bool) {
	p = m.procs[c.ID]
	return p, p != nil && c.Number <= p.number
}

// share is the share that a process has in a limit of total, and its class.
func (m *memory) share(want int64, total float64, active int) (class int64, due float64) {
	equal := total / float64(active)
	level := max((total-float64(m.small))/float64(m.big+1), equal)
	if float64(want) > level {
		m.big++
		return 1, level
	}
	m.small += want
	if m.big == 0 && m.small > 0 {
		return 0, max(float64(want)*total/float64(m.small), equal)
	}
	return 0, max(float64(want), equal)
}

// forget takes the contribution of a process off the sums.
func (m *memory) forget(p *process) {
	if p.class == 1 {
		m.big--
	} else {
		m.small -= p.want
	}
}

func (m *memory) save(c Call, p *process) {
	if p == nil {
		delete(m.procs, c.ID)
		if c.Leave {
			delete(m.seen, c.ID)
			return
		}
	} else {
		m.procs[c.ID] = p
	}
	m.seen[c.ID] = m.Now
}

// answer completes the state.
func (m *memory) answer(retry int64) State {
	s := m.State
	s.Live, s.Again = int64(len(m.seen)), retry
	return s
}

func round(f float64) int64 { return int64(math.RoundToEven(f)) }
