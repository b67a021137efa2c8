package sqslambda

import (
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

const (
	healthAge     = 30 * time.Second // how long a success shows that the downstream works
	healthMisses  = 2                // unless more messages have failed with the same class since
	healthRow     = 20               // or so many, though all of them fail again and again
	guiltReceives = 3                // before that a failure is taken for a passing one

	// Refusals are the messages' own if of those that come back nearly all are refused
	// once more, and of those that come for the first time few. It takes more to send
	// requests in a pause that the downstream has asked for.
	leastAgain    = 0.8  // share of those that come back
	leastPaused   = 0.95 // the same with a Retry-After
	mostFirst     = 0.25 // share of the others
	leastKnown    = 4    // results of messages that have come back; with a Retry-After memoryAgain
	memoryAgain   = 20   // of these results
	memoryFirst   = 50   // of the others
	mostKnown     = 1000 // messages that were refused
	typicalMisses = 5    // since the last success, of those that were not received often
)

// health is what the process knows of the downstream. One that has just started,
// or was frozen, knows nothing.
type health struct {
	mu      sync.Mutex // guards all below
	others  judge.Comparison
	last    time.Time        // success
	misses  map[error]misses // messages that failed since then, by class
	longest time.Duration    // that handlers took of late

	first, again refusals            // of messages that run for the first time, and of those that were refused before
	refused      map[string]struct{} // messages that this process has seen refused, by id; some are forgotten
}

// refusals is the share of refusals among the results of late.
type refusals struct {
	n     int
	share float64
}

func (r *refusals) add(refused bool, memory int) {
	r.n = min(r.n+1, memory)
	x := 0.0
	if refused {
		x = 1
	}
	r.share += (x - r.share) / float64(r.n)
}

// compare counts the first run of a delivery. An overload refuses messages that come
// back no more than others; those that are refused for what they are, each time.
func (h *health) compare(id string, receives int, f judge.Facts) {
	if f.Run > 1 {
		return
	}
	refused := f.Class == limiter.ErrOverload
	if _, before := h.refused[id]; before {
		h.again.add(refused, memoryAgain)
	} else if receives <= 1 {
		h.first.add(refused, memoryFirst)
	}
	if !refused {
		delete(h.refused, id)
		return
	}
	if h.refused == nil {
		h.refused = make(map[string]struct{})
	}
	for known := range h.refused {
		if len(h.refused) < mostKnown {
			break
		}
		delete(h.refused, known)
	}
	h.refused[id] = struct{}{}
}

// own reports whether refusals, or those that ask for a pause, are the messages' own.
func (h *health) own(pauses bool) bool {
	known, least := leastKnown, leastAgain
	if pauses {
		known, least = memoryAgain, leastPaused
	}
	return h.again.n >= known && h.again.share >= least && h.first.share <= mostFirst
}

// misses are messages that failed, and those of them that had not been received
// often.
type misses struct{ all, fresh int }

// succeeded notes a message that is done.
func (h *health) succeeded(now time.Time, id string, receives int, f judge.Facts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compare(id, receives, f)
	h.last = now
	clear(h.misses)
	h.others.Add(now, nil)
}

// failed notes a failure that names a class, and says how guilty its message is, and
// whether it is alone: others succeed, since there was a success a short while ago
// and few failures of that class after it, and it has not been asked to pause, which
// all do. One that was received often is a suspect then, and guilty if none but the
// like of it fail. A refusal is typical if it is the message's own, as far as can be
// seen of others: then it neither lowers the pace nor pauses anybody.
func (h *health) failed(now time.Time, id string, receives int, f judge.Facts) (g judge.Guilt, alone, typical bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compare(id, receives, f)
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
	works := !h.last.IsZero() && now.Sub(h.last) <= healthAge
	typical = works && m.fresh <= typicalMisses && f.Class == limiter.ErrOverload && h.own(f.Pause > 0)
	if often {
		m.fresh++ // with this one
	}
	works = works && m.fresh <= healthMisses && m.all <= healthRow
	switch {
	case !works || !often || h.others.Partial(now, f.Class):
		g = judge.Innocent
	case m.all > healthMisses:
		g = judge.Suspect
	default:
		g = judge.Guilty
	}
	return g, works && (typical || f.Pause == 0), typical
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
