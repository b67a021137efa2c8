package limiter

import (
	"math"
	"time"
)

// What an [Adaptive] does with its limit.
type trialKind int

const (
	holding trialKind = iota // keeps the limit, and measures latency at it
	up                       // tries a larger one
	down                     // tries a smaller one
)

// A trial measures latency over a number of operations under one limit. It
// takes them one after the other as they start: to take them as they end would
// favor the quick ones.
type trial struct {
	kind           trialKind
	want           int     // operations to measure
	started, ended int     // how many of them have
	sum, squares   float64 // of the logarithms of their latencies
	longest        float64 // of these logarithms
}

func (t *trial) add(x float64) {
	t.ended++
	t.sum += x
	t.squares += x * x
	t.longest = max(t.longest, x)
}

// over reports whether enough of its operations have ended.
func (t *trial) over() bool {
	return t.started >= t.want && float64(t.ended) >= trialShare*float64(t.want)
}

// latency returns the mean logarithm of latency. Operations still in flight
// count as long as the longest.
func (t *trial) latency() float64 {
	return (t.sum + float64(t.started-t.ended)*t.longest) / float64(t.started)
}

// variance returns the variance of the logarithm of latency.
func (t *trial) variance() float64 {
	mean := t.sum / float64(t.ended)
	return t.squares/float64(t.ended) - mean*mean
}

// try begins a trial of a limit.
func (a *Adaptive) try(kind trialKind, limit int) {
	a.tried = limit
	a.ramp = min(a.ramp, limit)
	a.round = rounds(a.round+1, 0)
	if rounds(a.round, a.cut) > roundsAhead/2 {
		a.cut = rounds(a.cut+1, 0) // nothing from so long ago is in flight
	}
	a.trial = trial{kind: kind}
	stride, least := a.stride()
	want := perStep * a.scatter / (stride * stride)
	switch {
	case kind == holding && a.weight > 0:
		want *= holdTrials
	case kind == down:
		// A larger step takes more: a chance result that lowers the limit is
		// likely to be followed by more of them.
		want *= stride / least
	}
	a.trial.want = int(min(max(want, minTrial), maxTrial))
	a.line.Stir()
}

// hold returns to the limit that is kept.
func (a *Adaptive) hold() { a.try(holding, a.limit) }

// next begins the trial that follows one of the limit that is kept.
func (a *Adaptive) next() {
	a.turn++
	if a.turn%downEvery == 0 && a.limit > 1 {
		a.lower()
	} else {
		a.raise()
	}
}

// raise tries a larger limit, if one is allowed.
func (a *Adaptive) raise() {
	places := a.places()
	if a.turn%2 == 0 && places == a.leastPlaces() {
		places = (places + 1) / 2 // every other time, to come closer to the knee
	}
	limit := min(a.limit+places, a.max)
	if a.ceiling > 0 && limit >= a.ceiling {
		// Only up to just below where the downstream refused, and up to that
		// level only when the refusal is long enough ago.
		limit = a.ceiling - 1
		if limit <= a.limit && a.cleared >= clearAfter && time.Since(a.base) >= a.clearFrom {
			limit = min(a.limit+1, a.max)
		}
	}
	if limit <= a.limit {
		a.hold()
		return
	}
	a.try(up, limit)
}

// lower tries a smaller limit.
func (a *Adaptive) lower() {
	share := float64(a.places()) / float64(a.limit)
	a.try(down, max(1, min(a.limit-1, int(math.Round(float64(a.limit)/(1+share))))))
}

// places returns how many slots the next step adds or removes.
func (a *Adaptive) places() int {
	return max(int(math.Round(a.step*float64(a.limit))), a.leastPlaces())
}

func (a *Adaptive) leastPlaces() int {
	n := float64(a.limit)
	return int(math.Round(max(1, stepShare*n, stepRoot*math.Sqrt(n))))
}

// stride returns the logarithm of the step on trial, which is the change of
// latency to expect where throughput stays the same, and that of the least
// step, which it is never below.
func (a *Adaptive) stride() (stride, least float64) {
	least = math.Log1p(float64(a.leastPlaces()) / float64(a.limit))
	return max(least, math.Abs(math.Log(float64(a.tried)/float64(a.limit)))), least
}

// knee returns the change of the logarithm of latency above which the step on
// trial matters.
func (a *Adaptive) knee() float64 {
	stride, _ := a.stride()
	return kneeShare * stride
}

// learn checks the trial after one more of its operations has ended.
func (a *Adaptive) learn() {
	t := &a.trial
	switch {
	case t.over():
		a.conclude()
	case a.weight > 0 && t.ended >= minTrial && t.ended%minTrial == 0 && a.plain():
		// Those that have ended are the quick ones, so this much is certain.
		t.started, t.want = t.ended, t.ended
		a.conclude()
	}
}

// plain reports whether latency is clearly too high already.
func (a *Adaptive) plain() bool {
	t := &a.trial
	rise := t.sum/float64(t.ended) - a.latency
	sure := sureAt * math.Sqrt(a.scatter*(1/float64(t.ended)+1/a.weight))
	switch t.kind {
	case up:
		return rise > a.knee()+sure
	case down:
		return rise > -a.knee()+sure
	}
	return rise > alarm+sure
}

// conclude ends the trial and begins the next.
func (a *Adaptive) conclude() {
	t := &a.trial
	latency := t.latency()
	if t.ended >= minTrial {
		a.scatter += (max(t.variance(), 1e-3) - a.scatter) / 8
	}
	switch rise, from := latency-a.latency, a.limit; {
	case a.weight == 0:
		a.latency, a.weight = latency, float64(t.started)
		a.next()
	case t.kind == holding && rise > alarm && a.limit > 1:
		a.latency, a.weight = latency, float64(t.started)
		a.step = math.Expm1(min(rise, math.Ln2)) // to where throughput would be the same, or half way
		a.lower()
	case t.kind == holding:
		a.average(latency)
		a.next()
	case t.kind == up:
		if a.tried >= a.ceiling {
			a.ceiling = 0
		}
		if rise > a.knee() {
			a.kept()
			return
		}
		a.average(latency)
		a.limit = a.tried
		a.step = min(1, 2*float64(a.limit-from)/float64(from))
		a.raise()
	case -rise > a.knee():
		a.latency, a.weight = latency, float64(t.started)
		a.limit = a.tried
		a.step = min(1, 2*float64(from-a.limit)/float64(from))
		if a.limit == 1 {
			a.hold()
			return
		}
		a.lower()
	default:
		a.kept()
	}
}

// kept returns to the limit after a trial of another one did not pay off.
func (a *Adaptive) kept() {
	if apart := a.tried - a.limit; max(apart, -apart) > a.leastPlaces() {
		a.turn = downEvery - 2 // the limit may be too high by less than a step: down soon
	}
	a.step = 0
	a.hold()
}

// average adds the trial's latency to the mean latency at the limit.
func (a *Adaptive) average(latency float64) {
	n := float64(a.trial.started)
	a.weight = min(a.weight, memory*n) + n
	a.latency += (latency - a.latency) * n / a.weight
}
