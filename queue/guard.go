package queue

import "time"

const (
	guardWindow    = 20          // results that the guard looks at
	guardNormal    = 5           // good results in a row that end it
	guardFirstWait = time.Second // pause after the first bad probe, doubled by each further one
	guardLastWait  = time.Minute // but no longer than this
)

// A guard stops the hand-off to the dead-letter sink when most final results
// would end there: then the fault is ours (a bad deploy, a changed schema), not the
// messages'. While it is tripped one message at a time is tried, until
// guardNormal results in a row are normal again. Used under Consumer.mu.
type guard struct {
	off     bool
	dead    [guardWindow]bool // the last results, a ring
	results int               // how many results there were since the guard was last reset

	tripped bool
	since   time.Time     // tripped: since when
	normal  int           // good results in a row since it tripped
	wait    time.Duration // pause after the next bad probe
	probeAt time.Time     // when the next message may be tried
}

// result notes the result of a run that was started at the given time: an
// outcome that is final, done or dead. It reports whether it may go to the
// dead-letter sink, and whether the guard has just tripped or closed.
func (g *guard) result(now, started time.Time, dead bool) (allowed, changed bool) {
	switch {
	case g.off:
		return true, false
	case g.tripped && started.Before(g.since):
		return !dead, false // no probe: it was under way when the guard tripped
	case g.tripped && dead:
		g.normal = 0
		g.probeAt = now.Add(g.wait)
		g.wait = min(2*g.wait, guardLastWait)
		return false, false
	case g.tripped:
		g.normal++
		g.probeAt = now
		if g.normal < guardNormal {
			return true, false
		}
		*g = guard{}
		return true, true
	}
	g.dead[g.results%guardWindow] = dead
	g.results++
	n := 0
	for _, d := range g.dead {
		if d {
			n++
		}
	}
	if n <= guardWindow/2 {
		return true, false
	}
	*g = guard{tripped: true, since: now, wait: 2 * guardFirstWait, probeAt: now.Add(guardFirstWait)}
	return false, true
}

// inconclusive notes a run that has failed but is to be tried again: it says
// neither that all is well nor that it is not. A broken program may fail every
// message so until their attempts are used up, so it is no good result.
func (g *guard) inconclusive(now, started time.Time) {
	if g.tripped && !started.Before(g.since) {
		g.probeAt = now.Add(g.wait)
	}
}
