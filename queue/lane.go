package queue

import (
	"context"
	"time"

	"github.com/rampmeter/rampmeter/internal/sleep"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// A lane holds the deliveries that share a limiter of their own
// ([Config.LimiterFor]). Messages without one share a lane. Lanes take turns, and
// a lane whose limiter refuses stands aside, so that it never keeps the others
// waiting. Its messages are then parked: they are leased, and no longer count as
// messages that will take a slot soon. The first block of fields is the ledger's.
type lane struct {
	own        limiter.Limiter // with the breaker and the pace of its key; nil: only the consumer's
	key        any             // the identity of the limiter that Config.LimiterFor returned
	members    int             // its deliveries that have not ended
	fresh      list            // queued ones
	again      list            // due ones
	doubted    list            // due suspects
	precedence precedence
	spares     list  // queued ones that may be returned unrun
	aside      bool  // own has refused, and a goroutine waits until it admits again
	crowdAt    int   // position in ledger.crowds
	next       *lane // in turns; nil: not there

	stop     context.CancelFunc // aside: ends that goroutine
	until    time.Time          // aside: until when own refuses, as far as it knows
	refusals int                // in a row, each after own had reported that it would admit

	results judge.Comparison // of its messages, if it has a limiter of its own

	starts   float64 // since counting, which moves on so that they cover the last minute or so
	counting time.Time
	returns  time.Time // when the last message returned for lack of room is to come back
}

func newLane(own limiter.Limiter, perAgain int) lane {
	return lane{own: own, precedence: precedence{perAgain: perAgain}, fresh: list{by: inLane}, again: list{by: inLane}, doubted: list{by: inLane}, spares: list{by: inSpares}}
}

// ready counts the deliveries that may start when the lane has its turn.
func (l *lane) ready() int { return l.fresh.n + l.again.n + l.doubted.n }

// first is the delivery to start when the lane has its turn, or nil. Fresh ones
// start first, so that messages that are refused each time they run again can
// neither block them nor hide that they succeed.
func (l *lane) first() *delivery {
	switch {
	case l.doubted.first != nil && (l.precedence.sinceSuspect >= freshPerSuspect || l.fresh.first == nil && l.again.first == nil):
		return l.doubted.first
	case l.again.first != nil && (l.precedence.sinceAgain >= l.precedence.perAgain || l.fresh.first == nil):
		return l.again.first
	}
	return l.fresh.first
}

// A precedence decides which delivery of a lane starts first.
type precedence struct {
	perAgain     int // other messages that start for each due one that is no suspect
	sinceAgain   int // starts since the last due one
	sinceSuspect int // starts since the last suspect
}

// started counts a start.
func (p *precedence) started(again, suspect bool) {
	p.sinceAgain++
	p.sinceSuspect++
	switch {
	case again && suspect:
		p.sinceSuspect = 0
	case again:
		p.sinceAgain = 0
	}
}

// If there are other messages, this many of them start for each delivery that is
// due, and for each suspect, which would mostly fail once more. A host has few
// messages, and waits for all of them.
const (
	freshPerAgain     = 4
	freshPerAgainHost = 1
	freshPerSuspect   = 19
)

// laneOf returns the lane of the messages with that limiter.
func (g *ledger) laneOf(own limiter.Limiter) *lane {
	if own == nil {
		return &g.plain
	}
	key := limiter.Identity(own)
	l := g.lanes[key]
	if l == nil {
		made := newLane(g.complete(own), g.perAgain)
		l = &made
		l.key = key
		g.lanes[key] = l
	}
	return l
}

// turns is a circle of the lanes that have something that may start.
type turns struct{ last *lane }

// add lets l have a turn after all others. It does nothing when l has one.
func (t *turns) add(l *lane) {
	switch {
	case l.next != nil:
		return
	case t.last == nil:
		l.next = l
	default:
		l.next, t.last.next = t.last.next, l
	}
	t.last = l
}

// first is the lane whose turn it is, or nil. It drops lanes with nothing to
// start.
func (t *turns) first() *lane {
	for t.last != nil {
		l := t.last.next
		if l.ready() > 0 && !l.aside {
			return l
		}
		t.drop()
	}
	return nil
}

// drop takes the first lane out.
func (t *turns) drop() {
	l := t.last.next
	if l == t.last {
		t.last = nil
	} else {
		t.last.next = l.next
	}
	l.next = nil
}

// ours reports whether the lease still holds, by our clock.
func (d *delivery) ours(now time.Time) bool { return d.leaseUntil.IsZero() || now.Before(d.leaseUntil) }

// standAside parks a lane whose limiter refuses, until then as far as the limiter
// knows, and lets it have turns when the limiter admits again. The caller holds
// mu.
func (e *engine) standAside(l *lane, until, now time.Time) {
	if l.aside || l.members == 0 || e.draining {
		return
	}
	e.park(l)
	l.until = until
	ctx, stop := context.WithCancel(e.starts)
	l.stop = stop
	pause := time.Duration(0)
	if l.refusals++; l.refusals > 1 {
		pause = min(time.Millisecond<<min(l.refusals-2, 10), longestRefusal) // others took the permits first
	}
	e.wg.Go(func() {
		defer stop()
		e.awaitLane(ctx, l, pause)
	})
	e.shed(now)
	e.changed(now)
}

// longestRefusal is the longest that a lane waits although its limiter reports
// that it admits: waiters elsewhere come first.
const longestRefusal = 100 * time.Millisecond

// awaitLane waits until the lane's limiter admits again, and then lets the lane
// have turns.
func (e *engine) awaitLane(ctx context.Context, l *lane, pause time.Duration) {
	if pause > 0 && !sleep.For(ctx, pause) {
		return
	}
	for failures := 0; ; {
		_, err := l.own.Ready(ctx, 1, 0)
		if ctx.Err() != nil {
			return // the lane is empty, or the drain has begun
		}
		if err == nil {
			break
		}
		// Ready fails for another reason only with a limiter of another package,
		// or with a key for which a Keyed can't make one.
		e.failed("ready", err, time.Second)
		if failures++; failures > maxUnasked {
			e.refuseLane(l, err)
		}
		if !sleep.For(ctx, time.Second) {
			return
		}
	}
	now := time.Now()
	e.mu.Lock()
	if l.aside {
		e.unpark(l)
		e.wakeDispatch.set()
		e.changed(now)
	}
	e.unlock()
}

// maxUnasked is how often Ready of a lane's limiter may fail before the lane's
// messages are returned: they must not stay buffered forever.
const maxUnasked = 5

// refuseLane returns the messages that wait for a limiter that fails.
func (e *engine) refuseLane(l *lane, err error) {
	now := time.Now()
	e.mu.Lock()
	for l.fresh.first != nil {
		e.refuse(l.fresh.first, err, now)
	}
	e.changed(now)
	e.unlock()
}

// started counts a start.
func (l *lane) started(now time.Time) {
	l.refusals = 0
	switch age := now.Sub(l.counting); {
	case l.counting.IsZero():
		l.counting = now
	case age > 2*rateWindow:
		l.starts /= 2
		l.counting = now.Add(-age / 2)
	}
	l.starts++
}
