package queue

import (
	"time"

	"github.com/rampmeter/rampmeter/queue/internal/judge"
)

// maxParked bounds the messages that crowded counts.
func (e *engine) maxParked() int { return max(100, 10*e.capacity) }

// crowded counts the messages that are parked, or held for a reason of their own
// or of their key.
func (e *engine) crowded() int { return e.parked + e.apart }

// shed returns messages until crowded is within its bound: the last of the lane
// with the most spares, or else the one that was held last because of an outage
// of its lane. It comes back when its turn may have come. Each return costs a
// receive, so messages that have used up half of their attempts stay, and when
// all have, nothing is received until there is room. The caller holds mu.
func (e *engine) shed(now time.Time) {
	for e.crowded() > e.maxParked() {
		var d *delivery
		if l, ok := e.crowds.top(); ok && l.spares.n > 0 {
			d = l.spares.last
		} else if d = e.spares.last; d == nil {
			return
		}
		delay := max(minReturn, d.due.Sub(now))
		if d.doubt || d.group != nil { // each return costs a receive, also of those behind it
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
// half of them are for being returned. With fewer, a hundred messages of one key
// soon have none left, and then block all other keys.
const minAttempts = 8

// mayReturn reports whether a message may be returned without having been tried,
// which costs it a receive.
func (e *engine) mayReturn(m *Message) bool {
	most := e.cfg.Retry.WithDefaults().MaxAttempts
	return most < 0 || m.Attempt <= most/2
}

const (
	rateWindow  = 30 * time.Second // a lane's rate is an average over at least this
	firstReturn = 2 * time.Second  // while a lane's rate is unknown
	minReturn   = time.Second
	maxReturn   = 15 * time.Minute // at first; doubled for each receive

	// A key that is paused for a minute, again and again, may be paused for
	// hours. With four times the delay for each receive, five receives last for
	// two hours.
	maxPaused = time.Hour
)

// turn is how long it takes until one more returned message could start, by the
// lane's rate of starts and the messages before it, and not before its pause
// ends. The bounds of the answer grow with each receive, so that a wrong one
// costs few.
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
