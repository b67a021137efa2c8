package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/judge"
	"github.com/rampmeter/rampmeter/queue/internal/limits"
)

// A topic is a subject of log lines that could come too often: each has one line
// a minute, with the number of those that were left out.
type topic uint8

const (
	aRefusal topic = iota
	aFailure
	anAccessFailure
	aSuspect
	aMessage
	aReceive
	anAck
	aNack
	anExtension
	aHandOver
	aLimiter
	aRate
	topics
)

const quietFor = time.Minute

// A journal records what was logged recently. Used under Consumer.mu.
type journal struct {
	last    [topics]time.Time
	omitted [topics]int

	refusing, refused time.Time // start of the present series of refusals, and the last one
}

// due reports whether a line about t may be logged, and how many were left out
// since the last one.
func (j *journal) due(t topic, now time.Time) (omitted int, ok bool) {
	if !j.last[t].IsZero() && now.Sub(j.last[t]) < quietFor {
		j.omitted[t]++
		return 0, false
	}
	omitted, j.omitted[t], j.last[t] = j.omitted[t], 0, now
	return omitted, true
}

// refusal records a refusal, and reports whether refusals have continued for
// quietFor.
func (j *journal) refusal(now time.Time) bool {
	if now.Sub(j.refused) > 2*quietFor {
		j.refusing = now
	}
	j.refused = now
	return now.Sub(j.refusing) >= quietFor
}

// log writes a line about t unless there was one within the last minute.
func (e *engine) log(t topic, level slog.Level, text string, args ...any) {
	e.mu.Lock()
	omitted, ok := e.journal.due(t, time.Now())
	e.mu.Unlock()
	if !ok {
		return
	}
	if omitted > 0 {
		args = append(args, "omitted", omitted)
	}
	e.cfg.Logger.Log(context.Background(), level, "queue: "+text, append([]any{"consumer", e.cfg.Name}, args...)...)
}

// logResult logs a run that failed.
func (e *engine) logResult(j *job, f *judge.Facts, v judge.Verdict) {
	switch {
	case f.Err == nil || f.Postponed || f.Interrupted || v.Action == judge.Drop || v.Action == judge.DeadLetter || f.Panicked:
		return // no failure, or logged elsewhere
	case f.Guilt != judge.Innocent:
		e.log(aSuspect, slog.LevelWarn, "a message fails while others succeed", "message", j.m.ID, "error", f.Err, "failures", f.Failures, "retry_in", v.Delay)
	case f.Class == limiter.ErrOverload:
		e.logRefusal(j, f)
	case f.Class == limiter.ErrUnavailable:
		e.log(aFailure, slog.LevelWarn, "the downstream fails", "error", f.Err)
	case f.Class == limiter.ErrMisconfigured:
		e.log(anAccessFailure, slog.LevelError, "the downstream denies access or is misconfigured: somebody has to act", "error", f.Err)
	default:
		e.log(aMessage, slog.LevelWarn, "a message failed", "message", j.m.ID, "error", f.Err, "retry_in", v.Delay)
	}
}

// logRefusal logs a refusal and the pace that it led to, and that the configured
// rate is too high if refusals continue.
func (e *engine) logRefusal(j *job, f *judge.Facts) {
	limit := e.limits
	if own := j.d.lane.own; own != nil {
		limit = own
	}
	text := "refused"
	if after, ok := limiter.RetryAfter(f.Err); ok && after > 0 {
		text += ", Retry-After " + after.Round(time.Millisecond).String()
	}
	args := []any{"message", j.m.ID, "error", f.Err}
	e.mu.Lock()
	keeps := e.journal.refusal(time.Now())
	e.mu.Unlock()
	paces := limits.Of[*limiter.AdaptiveRate](limit)
	if len(paces) == 0 {
		e.log(aRefusal, slog.LevelWarn, text, args...)
		return
	}
	s := paces[0].Stats()
	e.log(aRefusal, slog.LevelWarn, text+": "+pacedTo(s), args...)
	if !keeps || s.Pace == 0 || s.Mode != limiter.PaceRetryAfter && s.Mode != limiter.PaceBare {
		return
	}
	for _, bucket := range limits.Of[*limiter.TokenBucket](limit) {
		if rate := bucket.Stats().Rate; s.Pace < tooHigh*rate {
			e.log(aRate, slog.LevelWarn, fmt.Sprintf("the rate is set too high: %s, the downstream takes about %s", perSecond(rate), perSecond(s.Pace)), args...)
			return
		}
	}
}

// tooHigh is the share of the configured rate below which the learned pace shows
// that the rate is too high. A pace that is learned from refusals with a
// Retry-After is a little low.
const tooHigh = 0.82

// pacedTo describes the pace that a refusal led to.
func pacedTo(s limiter.AdaptiveRateStats) string {
	switch {
	case s.Mode == limiter.PaceOutage:
		return "nothing is accepted, so there are only probes"
	case s.Mode == limiter.PaceNoise:
		return "refusals do not depend on the pace, so a Retry-After binds its own message only"
	case s.MaxInFlight > 0:
		return fmt.Sprintf("at most %d in flight", s.MaxInFlight)
	case s.Pace == 0:
		return "the pace is not limited"
	}
	return "paced to " + perSecond(s.Pace)
}

// perSecond formats a rate with at least two digits.
func perSecond(r float64) string {
	if r >= 10 {
		return fmt.Sprintf("%.0f/s", r)
	}
	return fmt.Sprintf("%.2g/s", r)
}

// failed reports a call that failed and will be made again.
func (e *engine) failed(op string, err error, retryIn time.Duration) {
	e.mu.Lock()
	e.stats.Errors++
	e.mu.Unlock()
	call(e.cfg.Trace.Error, ErrorInfo{Op: op, Err: err, RetryIn: retryIn})
	about, ok := map[string]topic{"receive": aReceive, "ack": anAck, "nack": aNack, "extend": anExtension, "dead-letter": aHandOver}[op]
	if !ok {
		about = aLimiter
	}
	level := slog.LevelWarn
	if errors.Is(err, limiter.ErrMisconfigured) {
		level = slog.LevelError // a person is needed
	}
	e.log(about, level, op+" failed", "error", err, "retry_in", retryIn)
}

const (
	longUnsettled = time.Second      // results that wait for this long are worth a line in the log
	longParked    = 10 * time.Second // and so are messages that wait for their own limiters, and block others
	longPause     = 5 * time.Minute  // and a pause of this length

	firstReminder = time.Minute // after which the line "receiving nothing" is repeated
	lastReminder  = time.Hour   // doubled each time, up to this
)

// A standstill is the block of receiving that was last reported. Used under
// Consumer.mu.
type standstill struct {
	block  limiter.Block // as reported to Trace
	since  time.Time
	logged bool      // the last line was "receiving nothing",
	began  time.Time // and this is when it began
	remind time.Time // when the line is repeated
	wait   time.Duration
}

// tell reports a change of the block to Trace and the log.
func (e *engine) tell(block limiter.Block) {
	if e.host != nil && block.Reason != "" {
		e.host.Blocked(block)
	}
	now := time.Now()
	e.mu.Lock()
	s := &e.still
	if block.Reason != "" && block.Reason != ByDrain && len(e.receiving) > 0 {
		e.mu.Unlock()
		return
	}
	was, since := s.block, s.since
	news := block.Reason != was.Reason || block.Name != was.Name
	if news {
		s.block, s.since = block, now
	}
	warn := worthALine(block, now.Sub(s.since), now) && !s.remind.After(now)
	again := false
	var lasted time.Duration
	switch {
	case warn && !s.logged:
		s.logged, s.began, s.wait = true, now, firstReminder
		s.remind = now.Add(s.wait)
	case warn:
		s.wait = min(2*s.wait, lastReminder)
		s.remind = now.Add(s.wait)
		lasted = now.Sub(s.began)
	case s.logged && block.Reason == "":
		// Probing an open breaker unblocks for a moment; that is not worth a line.
		e.mu.Unlock()
		closed := !limiter.Tripped(e.limits)
		e.mu.Lock()
		if again = closed && s.logged; again {
			lasted = now.Sub(s.began)
			*s = standstill{block: s.block, since: s.since}
		}
	}
	e.mu.Unlock()
	if news && was.Reason != "" {
		call(e.cfg.Trace.Unblocked, UnblockedInfo{Block: was, After: now.Sub(since)})
	}
	if news && block.Reason != "" {
		call(e.cfg.Trace.Blocked, BlockedInfo{Block: block})
	}
	switch {
	case warn:
		args := []any{"consumer", e.cfg.Name, "blocked_by", limiter.Block{Reason: block.Reason, Name: block.Name}.String()}
		if !block.Until.IsZero() {
			args = append(args, "until", block.Until)
		}
		if block.Cause != nil {
			args = append(args, "cause", block.Cause)
		}
		if lasted > 0 {
			args = append(args, "for", lasted)
		}
		level := slog.LevelWarn
		if block.Reason == limiter.ByPause || errors.Is(block.Cause, limiter.ErrMisconfigured) {
			level = slog.LevelError
		}
		e.cfg.Logger.Log(context.Background(), level, "queue: receiving nothing", args...)
	case again:
		e.cfg.Logger.Info("queue: receiving again", "consumer", e.cfg.Name, "after", lasted)
	}
}

// worthALine reports whether a block is neither the ordinary effect of limits nor
// a short one.
func worthALine(b limiter.Block, lasts time.Duration, now time.Time) bool {
	switch b.Reason {
	case limiter.ByBreaker, limiter.ByValve, ByHeld:
		return true
	case limiter.ByPause:
		return b.Until.Sub(now) > longPause
	case ByParked:
		return lasts >= longParked
	case ByUnsettled:
		return lasts >= longUnsettled
	}
	return false
}
