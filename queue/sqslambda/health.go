package sqslambda

import (
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

const (
	healthAge     = 30 * time.Second // how long a success shows that the downstream works
	healthMisses  = 2                // unless more messages have failed with the same class since
	healthRow     = 20               // or so many, though all of them fail again and again
	guiltReceives = 3                // before that a failure is taken for a passing one
)

// health is what the process knows of the downstream. One that has just started,
// or was frozen, knows nothing.
type health struct {
	mu      sync.Mutex // guards all below
	others  judge.Comparison
	last    time.Time        // success
	misses  map[error]misses // messages that failed since then, by class
	longest time.Duration    // that handlers took of late
}

// misses are messages that failed, and those of them that had not been received
// often.
type misses struct{ all, fresh int }

// succeeded notes a message that is done.
func (h *health) succeeded(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = now
	clear(h.misses)
	h.others.Add(now, nil)
}

// failed notes a failure that names a class, and says how guilty its message is, and
// whether it is alone: others succeed, since there was a success a short while ago
// and few failures of that class after it, and it has not been asked to pause, which
// all do. One that was received often is a suspect then, and guilty if none but the
// like of it fail.
func (h *health) failed(now time.Time, receives int, f judge.Facts) (g judge.Guilt, alone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.misses[f.Class]
	if f.Run == 1 {
		h.others.Add(now, f.Class)
		m.all++
		if receives < guiltReceives {
			m.fresh++
		}
		if h.misses == nil {
			h.misses = make(map[error]misses)
		}
		h.misses[f.Class] = m
	}
	often := receives >= guiltReceives
	if often {
		m.fresh++ // with this one
	}
	works := !h.last.IsZero() && now.Sub(h.last) <= healthAge && m.fresh <= healthMisses && m.all <= healthRow
	switch {
	case !works || !often || h.others.Partial(now, f.Class):
		g = judge.Innocent
	case m.all > healthMisses:
		g = judge.Suspect
	default:
		g = judge.Guilty
	}
	return g, works && f.Pause == 0
}

// took notes how long a handler took: it takes the longest, and forgets it by an
// eighth with every shorter one.
func (h *health) took(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.longest = max(d, h.longest-(h.longest-d)/8)
}

// takes returns how long a handler takes, if it takes long.
func (h *health) takes() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.longest
}
