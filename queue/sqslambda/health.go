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
	healthRow     = 20               // or this many, even if all of them fail again and again
	guiltReceives = 3                // with fewer, a failure is taken to be temporary

	// Refusals are the messages' own if nearly all messages that come back are refused
	// again, and few of those that come for the first time. Sending requests in a pause
	// that the downstream has asked for takes stronger evidence.
	leastAgain    = 0.8  // refused share of the messages that come back
	leastPaused   = 0.98 // the same with a Retry-After: one that is accepted counts for long
	mostFirst     = 0.25 // refused share of the others
	leastKnown    = 3    // messages needed that came back; memoryAgain with a Retry-After
	memoryAgain   = 20   // messages that came back and are remembered
	memoryFirst   = 50   // results remembered of the others
	mostKnown     = 1000 // refused messages remembered
	typicalMisses = 5    // since the last success, of messages that were not received often
)

// health is what the process has observed of the downstream. After a start or a
// freeze that is nothing.
type health struct {
	mu      sync.Mutex // guards all below
	others  judge.Comparison
	last    time.Time        // success
	misses  map[error]misses // messages that failed since then, by class
	longest time.Duration    // that handlers took lately

	first, again refusals        // of messages that run for the first time, and of those that were refused before
	refused      map[string]bool // messages that this process has seen refused, by id, and whether again has them; some are forgotten
}

// refusals is the share of refusals among the latest results.
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

// compare counts the first run of a delivery, and the success of a later one. An
// overload refuses messages that come back no more often than others; a message that
// is refused for its content is refused each time. A message counts once when it comes
// back, or the few that are always refused would outnumber those that an overload
// refuses. An empty id is that of a message that can't be recognized.
func (h *health) compare(id string, receives int, f judge.Facts) {
	if f.Run > 1 && f.Class != nil { // a pause or an outage is not over
		return
	}
	refused := f.Class == limiter.ErrOverload
	counted, before := h.refused[id]
	switch {
	case before && !counted:
		h.again.add(refused, memoryAgain)
	case !before && f.Run == 1 && receives <= 1:
		h.first.add(refused, memoryFirst)
	}
	if !refused || id == "" {
		delete(h.refused, id)
		return
	}
	if h.refused == nil {
		h.refused = make(map[string]bool)
	}
	for known := range h.refused {
		if before || len(h.refused) < mostKnown {
			break
		}
		delete(h.refused, known)
	}
	h.refused[id] = before
}

// own reports whether refusals are the messages' own; with pauses, those with a
// Retry-After.
func (h *health) own(pauses bool) bool {
	known, least := leastKnown, leastAgain
	if pauses {
		known, least = memoryAgain, leastPaused
	}
	return h.again.n >= known && h.again.share >= least && h.first.share <= mostFirst
}

// misses counts messages that failed, and those of them that had not been received
// often.
type misses struct{ all, fresh int }

// succeeded records a message that is done.
func (h *health) succeeded(now time.Time, id string, receives int, f judge.Facts) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compare(id, receives, f)
	h.last = now
	clear(h.misses)
	h.others.Add(now, nil)
}

// failed records a failure that has a class, and returns the guilt of its message and
// whether the message is alone. It is alone if others succeed, that is if there was
// a success a short while ago and few failures of that class since, and unless it
// was asked to pause, which all messages do. A message that was received often is
// then guilty, or a suspect if many that were received as often fail too. A refusal
// is typical if, compared with other messages, it is the message's own: then it
// neither lowers the pace nor pauses anybody.
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
		m.fresh++ // counting this one
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

// took records how long a handler took: it keeps the longest, and moves an eighth of
// the way towards every shorter one.
func (h *health) took(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.longest = max(d, h.longest-(h.longest-d)/8)
}

// takes returns how long a slow handler takes.
func (h *health) takes() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.longest
}
