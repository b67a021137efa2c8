package sqslambda

import "sync"

const (
	guardWindow = 20 // results that the guard looks at
	guardNormal = 5  // good results in a row that end it
)

// A guard stops the hand-off to the dead-letter sink when most of the last
// results would end there: then the fault is likely ours (a bad deploy), not the
// messages'. The engine's own sees the results of one invocation, which may be
// few; this one those of a process. While it is tripped, each failure that was to
// be a dead letter ends its invocation, and the batch is returned with delays.
type guard struct {
	off bool

	mu      sync.Mutex        // guards all below
	last    [guardWindow]bool // results, a ring: was it a dead letter?
	results int
	tripped bool
	good    int // results in a row since it tripped
}

// normal notes a message that is done.
func (g *guard) normal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.tripped {
		g.note(false)
		return
	}
	if g.good++; g.good >= guardNormal {
		g.tripped, g.good, g.results = false, 0, 0
		clear(g.last[:])
	}
}

// dead notes a message that is to be a dead letter, and reports whether it may,
// and whether the guard has just tripped.
func (g *guard) dead() (allowed, tripped bool) {
	if g.off {
		return true, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.good = 0
	if g.tripped {
		return false, false
	}
	g.note(true)
	n := 0
	for _, dead := range g.last {
		if dead {
			n++
		}
	}
	g.tripped = n > guardWindow/2
	return !g.tripped, g.tripped
}

func (g *guard) note(dead bool) {
	g.last[g.results%guardWindow] = dead
	g.results++
}
