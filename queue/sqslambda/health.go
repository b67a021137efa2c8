package sqslambda

import (
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

const (
	healthAge     = 30 * time.Second // how long a success shows that the downstream works
	healthMisses  = 2                // unless more messages have failed with the same class since
	guiltReceives = 3                // before that a failure is taken for a passing one
)

// health is what the process knows of the downstream. One that has just started,
// or was frozen, knows nothing.
type health struct {
	mu      sync.Mutex // guards all below
	others  judge.Comparison
	last    time.Time     // success
	misses  map[error]int // messages that failed since then, by class
	longest time.Duration // that handlers took of late
}

// succeeded notes a message that is done.
func (h *health) succeeded(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = now
	clear(h.misses)
	h.others.Add(now, nil)
}

// failed notes a failure that names a class, and says how guilty its message is.
// It was received often, and others succeed: there was a success a short while
// ago, few failures of that class since, and no partial outage.
func (h *health) failed(now time.Time, receives int, f judge.Facts) judge.Guilt {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.Run == 1 {
		h.others.Add(now, f.Class)
		if h.misses == nil {
			h.misses = make(map[error]int)
		}
		h.misses[f.Class]++
	}
	if receives >= guiltReceives && !h.last.IsZero() && now.Sub(h.last) <= healthAge &&
		h.misses[f.Class] <= healthMisses && !h.others.Partial(now, f.Class) {
		return judge.Guilty
	}
	return judge.Innocent
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
