package queue

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
)

// A lane is what is in hand that needs the same limiter of its own
// ([Config.LimiterFor]). Messages without one share a lane. Lanes take turns,
// and one whose limiter refuses stands aside, so that it never keeps the others
// waiting. What stands aside is parked: it is leased, and no longer counts as
// something that will take a slot soon. A lane's fields are guarded by
// Consumer.mu.
type lane struct {
	own     limiter.Limiter // nil: none but the consumer's
	members int             // deliveries that have not ended
	waiting fifo            // those of its deliveries that wait, but for those behind their group's head
	n       int             // how many these are

	aside    bool               // own has refused, and a goroutine waits until it admits again
	stop     context.CancelFunc // aside: ends that goroutine
	until    time.Time          // aside: until when own refuses, as far as it knows
	refusals int                // in a row, each after own had said that it would admit

	next *lane // in turns; nil: not there

	starts   float64 // since counting, which is moved so that it tells of the last minute or so
	counting time.Time
	returns  time.Time // when the last message that was given back for want of room is to come back
}

// turns is a circle of lanes with something that may try to start.
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

// first is the lane whose turn it is, or nil. Lanes with nothing to start lose
// theirs.
func (t *turns) first() *lane {
	for t.last != nil {
		l := t.last.next
		if l.n > 0 && !l.aside {
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

// limiterOf returns the message's own limiter, if it has one. The caller does
// not hold mu, since the function is the configuration's.
func (e *engine) limiterOf(m *Message) (own limiter.Limiter, err error) {
	if e.cfg.LimiterFor == nil {
		return nil, nil
	}
	defer func() {
		if v := recover(); v != nil {
			own, err = nil, fmt.Errorf("queue: Config.LimiterFor: %w", &PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	own = e.cfg.LimiterFor(m)
	switch v := reflect.ValueOf(own); {
	case own == nil:
	case nils.Is(own): // a map's answer for an unknown key, for example
		err = fmt.Errorf("queue: Config.LimiterFor: returned a nil %T: for none it must return nil itself", own)
	case !v.Comparable():
		err = fmt.Errorf("queue: Config.LimiterFor: a %T can't be told from another: must be comparable, a pointer for example", own)
	case limiter.Share(own, e.limits):
		err = errors.New("queue: Config.LimiterFor: its limiter is in Config.Limiter or Config.Gate, too: an operation would wait for itself")
	}
	if err != nil {
		own = nil
	}
	return own, err
}

// enter puts a new delivery into its lane. The caller holds mu.
func (e *engine) enter(d *delivery, own limiter.Limiter) {
	d.lane = &e.plain
	if own != nil {
		if d.lane = e.lanes[own]; d.lane == nil {
			d.lane = &lane{own: own}
			e.lanes[own] = d.lane
		}
	}
	d.lane.members++
}

// leave takes a delivery that has ended out of its lane, and forgets a lane
// that is empty. The caller holds mu.
func (e *engine) leave(d *delivery) {
	l := d.lane
	l.members--
	if l.members > 0 || l.own == nil {
		return
	}
	delete(e.lanes, l.own)
	if l.aside {
		l.aside = false
		l.stop()
	}
}

// queueUp lets a waiting delivery wait for its lane's turn. The caller holds mu.
func (e *engine) queueUp(d *delivery) {
	l := d.lane
	l.waiting.push(d)
	d.queued = true
	l.n++
	if l.aside {
		e.parked++
	} else {
		e.turns.add(l)
	}
}

// quit takes a delivery out of its lane's line, if it is there. The caller
// holds mu.
func (e *engine) quit(d *delivery) {
	if !d.queued {
		return
	}
	d.queued = false
	d.lane.n--
	if d.lane.aside {
		e.parked--
	}
}

// candidate is the delivery that is to start next: a held one that is due, or
// else the first of the lane whose turn it is. The caller holds mu.
func (e *engine) candidate(now time.Time) (d *delivery) {
	for _, h := range e.holds {
		if e.startsNow(h, now) && (d == nil || h.due.Before(d.due)) {
			d = h
		}
	}
	for d == nil {
		l := e.turns.first()
		if l == nil {
			return nil
		}
		d = e.head(l, now)
	}
	return d
}

// candidateOf is the same of one lane, which may stand aside.
func (e *engine) candidateOf(l *lane, now time.Time) (d *delivery) {
	for _, h := range e.holds {
		if h.lane == l && !h.due.After(now) && h.ours(now) && (d == nil || h.due.Before(d.due)) {
			d = h
		}
	}
	if d == nil {
		d = e.head(l, now)
	}
	return d
}

// startsNow reports whether a held delivery may try to start.
func (e *engine) startsNow(h *delivery, now time.Time) bool {
	return !h.due.After(now) && !h.lane.aside && h.ours(now)
}

// head is the lane's first delivery that waits, or nil. What has lost its lease
// is left to the lease loop, and out of the line. The caller holds mu.
func (e *engine) head(l *lane, now time.Time) *delivery {
	for {
		d := l.waiting.peek()
		if d == nil || d.ours(now) {
			return d
		}
		l.waiting.drop()
		e.quit(d)
	}
}

// ours reports whether the lease holds, as far as the clock tells.
func (d *delivery) ours(now time.Time) bool { return d.leaseUntil.IsZero() || now.Before(d.leaseUntil) }

// standAside keeps a lane whose limiter refuses, until then as far as it knows,
// from having turns until it admits again. The caller holds mu.
func (e *engine) standAside(l *lane, until, now time.Time) {
	if l.aside || l.members == 0 || e.draining {
		return
	}
	l.aside, l.until = true, until
	e.parked += l.n
	ctx, stop := context.WithCancel(e.starts)
	l.stop = stop
	pause := time.Duration(0)
	if l.refusals++; l.refusals > 1 {
		pause = min(time.Millisecond<<min(l.refusals-2, 10), longestRefusal) // others are quicker
	}
	e.wg.Go(func() {
		defer stop()
		e.awaitLane(ctx, l, pause)
	})
	e.shed(now)
	e.changed(now)
}

// longestRefusal is how long a lane waits at most although its limiter says
// that it admits: it has waiters elsewhere that come first.
const longestRefusal = 100 * time.Millisecond

// awaitLane waits until the lane's limiter admits again, and then lets the lane
// have turns.
func (e *engine) awaitLane(ctx context.Context, l *lane, pause time.Duration) {
	if pause > 0 && !sleep(ctx, pause) {
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
		// Only a foreign limiter fails for another reason, and that of a key for
		// which a Keyed can't make one.
		e.failed("ready", err, time.Second)
		if failures++; failures > maxUnasked {
			e.refuseLane(l, err)
		}
		if !sleep(ctx, time.Second) {
			return
		}
	}
	now := time.Now()
	e.mu.Lock()
	if l.aside {
		l.aside = false
		e.parked -= l.n
		e.turns.add(l)
		e.wakeDispatch.set()
		e.changed(now)
	}
	e.unlock()
}

// maxUnasked is how often a lane's limiter may fail to say when it admits
// before its messages are given back: they must not fill the hand for ever.
const maxUnasked = 5

// refuseLane gives back what waits for a limiter that fails.
func (e *engine) refuseLane(l *lane, err error) {
	now := time.Now()
	e.mu.Lock()
	for _, d := range slices.Clone(e.all) {
		if d.lane == l && d.state == waiting {
			e.refuse(d, err, now)
		}
	}
	e.changed(now)
	e.unlock()
}

// maxParked bounds what is in hand although its own limiter refuses it.
func (e *engine) maxParked() int { return max(100, 10*e.cfg.Concurrency) }

// crowded is how much is in hand because of limits or trouble of its own.
func (e *engine) crowded() int { return e.parked + e.apart }

// shed gives back what is too much: of the lane that has most parked, what came
// last, or else what is held longest because of trouble of its own lane. It comes
// back when its turn may have come. Each time costs a receive, so what has used
// up half of its attempts stays, and when all has, nothing is received until
// there is room. The caller holds mu.
func (e *engine) shed(now time.Time) {
	for e.crowded() > e.maxParked() {
		d := e.lastParked()
		if d == nil {
			d = e.lastApart()
		}
		if d == nil {
			return
		}
		delay := max(minReturn, d.due.Sub(now))
		if d.lane.aside {
			delay = max(delay, d.lane.turn(max(d.msg.Attempt, 1), now))
		}
		e.returnGroup(d, now)
		e.settle(d, settlement{op: opNack, delay: delay, outcome: Released}, now)
	}
}

// lastParked is what came last to the lane that has most parked, of what may
// return; nil if nothing may.
func (e *engine) lastParked() (last *delivery) {
	most := 0
	for _, l := range e.lanes {
		if l.aside && l.n > most {
			if d := l.waiting.last(e.mayReturn); d != nil {
				last, most = d, l.n
			}
		}
	}
	return last
}

// lastApart is what is to be held longest because of trouble of its own lane, of
// what may return; nil if nothing may.
func (e *engine) lastApart() (last *delivery) {
	for _, h := range e.holds {
		if h.apart && e.mayReturn(h) && (last == nil || !h.due.Before(last.due)) {
			last = h
		}
	}
	return last
}

// minAttempts is how many attempts a message must have where LimiterFor is set:
// half of them are for coming back. With fewer, a hundred messages of one key
// soon have none left, and then they keep all other keys waiting.
const minAttempts = 8

// mayReturn reports whether a message can afford to be received once more
// without having been tried.
func (e *engine) mayReturn(d *delivery) bool {
	most := e.cfg.Retry.WithDefaults().MaxAttempts
	return most < 0 || d.msg.Attempt <= most/2
}

const (
	rateWindow  = 30 * time.Second // what a lane's rate is an average of, at least
	firstReturn = 2 * time.Second  // when nothing is known of a lane's rate: more is known then
	minReturn   = time.Second
	maxReturn   = 15 * time.Minute // at first; an estimate that has failed is trusted for longer
)

// turn is after how long one more message that is given back could start, by
// the lane's rate of starts and what comes before it. The bounds of the answer
// double with each receive, so that a wrong rate costs few of them.
func (l *lane) turn(attempt int, now time.Time) time.Duration {
	doubled := min(attempt-1, 5)
	least, most := minReturn<<doubled, maxReturn<<doubled
	if l.starts < 3 || now.Sub(l.counting) < time.Second {
		return min(firstReturn<<doubled, most)
	}
	each := time.Duration(float64(now.Sub(l.counting)) / l.starts)
	after := now.Add(time.Duration(l.n) * each)
	if l.returns.After(after) {
		after = l.returns
	}
	l.returns = after.Add(each)
	delay := min(max(l.returns.Sub(now), least), most)
	if limit := now.Add(most); l.returns.After(limit) {
		l.returns = limit
	}
	return delay
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
