package sqsqueue

import (
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// idMemory is how long the service remembers the id of a receive.
const idMemory = 5 * time.Minute

// An attempt is a receive. On a FIFO queue it has an id: after a lost reply, a
// receive with the same id returns the same messages again, hidden for a new lease but
// with the same receipts and receive counts, as long as nothing has happened to them.
type attempt struct {
	id    *string   // nil on a standard queue
	max   int32     // messages requested, and so the most that it may return
	since time.Time // when it was first made
	until time.Time // if its reply was lost: when its messages are visible again, or its id forgotten
}

// attempts are the receives of a FIFO queue whose replies were lost.
type attempts struct {
	mu   sync.Mutex // guards lost
	lost []attempt  // oldest loss first
}

func newAttempt(max int32, now time.Time) attempt {
	id := rand.Text()
	return attempt{id: &id, max: max, since: now}
}

// next returns a lost attempt for no more than max messages, or else a new one.
func (a *attempts) next(max int32, now time.Time) attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = slices.DeleteFunc(a.lost, func(l attempt) bool { return !now.Before(l.until) })
	i := slices.IndexFunc(a.lost, func(l attempt) bool { return l.max <= max })
	if i < 0 {
		return newAttempt(max, now)
	}
	found := a.lost[i]
	a.lost = slices.Delete(a.lost, i, i+1)
	return found
}

// failed keeps an attempt that the service may have acted on, this time or earlier.
func (a *attempts) failed(l attempt, err error, lease time.Duration) {
	e, answered := err.(*requestError)
	refused := answered && e.class != limiter.ErrUnavailable
	if l.id == nil || refused && l.until.IsZero() {
		return
	}
	l.until = time.Now().Add(min(lease, idMemory))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = append(a.lost, l)
}

// refuses reports whether the service refuses only this request. It refuses a
// repeated attempt when something has happened to its messages.
func refuses(err error) bool {
	e, ok := err.(*requestError)
	return ok && e.class == nil
}
