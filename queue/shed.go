package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// maxParked bounds what is in hand although its own limiter refuses it.
func (e *engine) maxParked() int { return max(100, 10*e.capacity) }

// crowded counts what is in hand because of limits or an outage of its own.
func (e *engine) crowded() int { return e.parked + e.apart }

// shed returns what is too much: of the lane that has most parked, what came
// last, or else what was held last because of an outage of its own lane. It
// comes back when its turn may have come. Each time costs a receive, so what has
// used up half of its attempts stays, and when all has, nothing is received
// until there is room. The caller holds mu.
func (e *engine) shed(now time.Time) {
	for e.crowded() > e.maxParked() {
		var d *delivery
		if l, ok := e.crowds.top(); ok && l.spares.n > 0 {
			d = l.spares.last
		} else if d = e.spares.last; d == nil {
			return
		}
		delay := max(minReturn, d.due.Sub(now))
		if d.doubt || d.group != nil { // each time costs it a receive, and those behind it
			delay = max(delay, judge.Ration(e.cfg.Retry, d.msg.Attempt-1))
		}
		if d.lane.aside {
			delay = max(delay, d.lane.turn(max(d.msg.Attempt, 1), now))
		}
		e.returnGroup(d, now)
		e.settle(d, settlement{op: opNack, delay: delay, outcome: Released}, now)
	}
}

// minAttempts is how many attempts a message must have where LimiterFor is set:
// half of them are for coming back. With fewer, a hundred messages of one key
// soon have none left, and then they keep all other keys waiting.
const minAttempts = 8

// mayReturn reports whether a message can afford to be received once more
// without having been tried.
func (e *engine) mayReturn(m *Message) bool {
	most := e.cfg.Retry.WithDefaults().MaxAttempts
	return most < 0 || m.Attempt <= most/2
}

const (
	rateWindow  = 30 * time.Second // what a lane's rate is an average of, at least
	firstReturn = 2 * time.Second  // when nothing is known of a lane's rate: more is known then
	minReturn   = time.Second
	maxReturn   = 15 * time.Minute // at first; an estimate that has failed is trusted for longer

	// A key that is paused for a minute, again and again, is paused for hours perhaps.
	// With four times the delay for each receive, five receives last for two hours.
	maxPaused = time.Hour
)

// turn is after how long one more message that is returned could start, by the
// lane's rate of starts and what comes before it, and not before its pause ends. The
// bounds of the answer grow with each receive, so that a wrong one costs few.
func (l *lane) turn(attempt int, now time.Time) time.Duration {
	doubled := min(attempt-1, 5)
	least, most := minReturn<<doubled, maxReturn<<doubled
	if paused := min(l.until.Sub(now), maxPaused); paused > 0 { // and perhaps again and again
		least = max(least, min(paused<<(2*doubled), maxPaused))
	}
	if l.starts < 3 || now.Sub(l.counting) < time.Second {
		return max(firstReturn<<doubled, least)
	}
	each := time.Duration(float64(now.Sub(l.counting)) / l.starts)
	after := now.Add(time.Duration(l.fresh.n) * each)
	if l.returns.After(after) {
		after = l.returns
	}
	l.returns = after.Add(each)
	delay := max(min(l.returns.Sub(now), most), least)
	if limit := now.Add(most); l.returns.After(limit) {
		l.returns = limit
	}
	return delay
}
