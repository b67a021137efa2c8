package queue

import (
	"slices"
	"time"
)

// A group is what is in hand of one ordered group: its first message, which
// alone may run, and those behind it.
type group struct{ members []*delivery }

// joinGroup reports whether d may be started. The caller holds mu.
func (e *engine) joinGroup(d *delivery, now time.Time) bool {
	if d.group == "" {
		return true
	}
	g := e.groups[d.group]
	if g == nil {
		g = &group{}
		e.groups[d.group] = g
	}
	g.members = append(g.members, d)
	if len(g.members) == 1 {
		return true
	}
	d.behind = true
	e.behind++
	if slices.ContainsFunc(g.members, func(m *delivery) bool { return m.again && m.state == settling && m.settle.op == opNack }) {
		// The queue has already handed out again what we are still giving back,
		// and d with it: d goes back too, or it would run before the others.
		e.settle(d, settlement{op: opNack, outcome: Released}, now)
	}
	return false
}

// leaveGroup takes d, which has come to its outcome, out of its group. What is
// then first and still waits may start; after a failure there is nothing such,
// unless it was received since. The caller holds mu.
func (e *engine) leaveGroup(d *delivery, now time.Time) {
	g := e.groups[d.group]
	if g == nil {
		return
	}
	first := len(g.members) > 0 && g.members[0] == d
	g.members = remove(g.members, d)
	if len(g.members) == 0 {
		delete(e.groups, d.group)
		return
	}
	if next := g.members[0]; first && next.state == waiting {
		next.behind, next.since = false, now
		e.behind--
		e.queueUp(next)
		e.wakeDispatch.set()
	}
}

// returnGroup gives back, in order, what waits behind d, which is to be
// delivered again first. The caller holds mu.
func (e *engine) returnGroup(d *delivery, now time.Time) {
	g := e.groups[d.group]
	if g == nil {
		return
	}
	for _, behind := range g.members[slices.Index(g.members, d)+1:] {
		if behind.state == waiting {
			e.settle(behind, settlement{op: opNack, outcome: Released}, now)
		}
	}
}
