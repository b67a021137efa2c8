package limiter

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// A simulation of consumers in front of one API: events in virtual time, in
// order. Everything random comes from one seed, so a run can be repeated.
//
// A request takes its latency; it reaches the API after a quarter of that. A
// message that is always refused returns, alternating with new ones, after 1,
// 2, 4 and 8 s, and not before the end of its own Retry-After. From the third
// refusal on that is known, and it is no longer reported to the limiter.
type simulation struct {
	seed    uint64
	length  time.Duration
	slots   int                            // of each process
	procs   int                            // processes
	latency func(*rand.Rand) time.Duration // nil: 20 ms, 5 ms more or less
	api     func(*rand.Rand) simAPI
	limit   func() simLimit
	bad     float64       // share of the messages that are always refused
	badRA   time.Duration // with this Retry-After; 0: bare
	gap     time.Duration // between two messages of a process, on average; 0: there is always work
}

// A simAPI is the downstream of a simulation.
type simAPI interface {
	// admit reports whether a request that arrives is accepted, and if not the
	// Retry-After of the refusal; 0: a bare one.
	admit(now time.Duration) (ok bool, after time.Duration)
	// done says that an accepted request has been answered.
	done()
}

// A simLimit decides when the requests of a process start.
type simLimit interface {
	// next returns when one may start, or line.Never if that depends on a
	// result.
	next(now time.Duration) time.Duration
	// start starts one, and returns its token.
	start(now time.Duration) uint64
	// result reports a request's result.
	result(token uint64, r simResult, after, now time.Duration)
	// binds reports whether a Retry-After that it receives now binds it.
	binds() bool
}

type simResult uint8

const (
	simAccepted simResult = iota
	simRefused
	simAbstained
)

// A simRun is the result of a simulation.
type simRun struct {
	accepted, refused, started []int         // by second, of all processes
	by                         []int         // accepted by process, after the first minute
	thousand                   time.Duration // when a thousand had been accepted
	inPause                    int           // starts while a Retry-After was binding
	late                       time.Duration // the longest that a message that is not always refused waited to start
}

// What happens in a simulation.
type simKind uint8

const (
	simWake    simKind = iota // a process may start something
	simMessage                // a message comes
	simArrive                 // a request reaches the API
	simAnswer                 // and is answered
)

type simEvent struct {
	at      time.Duration
	seq     uint32 // the order of events of one time
	kind    simKind
	process int32
	request int32
}

func (e simEvent) before(f simEvent) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

// simEvents is a heap. (container/heap takes four times as long.)
type simEvents []simEvent

func (h *simEvents) push(e simEvent) {
	s := append(*h, e)
	i := len(s) - 1
	for ; i > 0 && e.before(s[(i-1)/2]); i = (i - 1) / 2 {
		s[i] = s[(i-1)/2]
	}
	s[i] = e
	*h = s
}

func (h *simEvents) pop() simEvent {
	s := *h
	top, e := s[0], s[len(s)-1]
	s = s[:len(s)-1]
	i := 0
	for child := 1; child < len(s); child = 2*i + 1 {
		if child+1 < len(s) && s[child+1].before(s[child]) {
			child++
		}
		if !s[child].before(e) {
			break
		}
		s[i] = s[child]
		i = child
	}
	if len(s) > 0 {
		s[i] = e
	}
	*h = s
	return top
}

type simWork struct {
	bad      bool
	refusals int
	due      time.Duration // when it came, or comes again
}

type simRequest struct {
	token uint64
	work  simWork
	ok    bool
	after time.Duration
}

type simProcess struct {
	limit  simLimit
	free   int           // slots
	wakeAt time.Duration // the first wake-up that is on its way
	until  time.Duration // the end of the Retry-After that binds it
	fresh  []simWork     // messages that have come
	again  []simWork     // bad ones that come again, by due
	turn   bool          // one of these is next
}

const (
	simTries = 5 // of a bad message
	simDelay = time.Second
)

// A simState is a simulation that runs.
type simState struct {
	simulation
	rng       *rand.Rand
	server    simAPI
	now       time.Duration
	seq       uint32
	events    simEvents
	requests  []simRequest
	unused    []int32 // indices of requests
	processes []simProcess
	total     int
	run       simRun
}

func (s simulation) run() *simRun {
	if s.latency == nil {
		s.latency = simUniform
	}
	s.procs = max(s.procs, 1)
	rng := rand.New(rand.NewPCG(s.seed, 0))
	seconds := int(s.length/time.Second) + 1
	st := &simState{
		simulation: s, rng: rng, server: s.api(rng),
		processes: make([]simProcess, s.procs),
		run: simRun{
			accepted: make([]int, seconds), refused: make([]int, seconds), started: make([]int, seconds),
			by: make([]int, s.procs),
		},
	}
	first := simWake
	if s.gap > 0 {
		first = simMessage
	}
	for i := range st.processes {
		st.processes[i] = simProcess{limit: s.limit(), free: s.slots, wakeAt: line.Never}
		st.push(time.Duration(rng.Float64()*float64(100*time.Millisecond)), first, int32(i), 0)
	}
	for len(st.events) > 0 {
		e := st.events.pop()
		if e.at >= s.length {
			break
		}
		st.now = e.at
		st.happen(e)
	}
	return &st.run
}

func (s *simState) push(at time.Duration, kind simKind, process, request int32) {
	s.seq++
	s.events.push(simEvent{at, s.seq, kind, process, request})
}

func (s *simState) happen(e simEvent) {
	p := &s.processes[e.process]
	switch e.kind {
	case simWake:
		if p.wakeAt == e.at {
			p.wakeAt = line.Never
		}
	case simMessage:
		p.fresh = append(p.fresh, simWork{bad: s.rng.Float64() < s.bad, due: s.now})
		s.push(s.now+time.Duration(s.rng.ExpFloat64()*float64(s.gap)), simMessage, e.process, 0)
	case simArrive:
		r := &s.requests[e.request]
		if r.work.bad {
			r.ok, r.after = false, s.badRA
		} else {
			r.ok, r.after = s.server.admit(s.now)
		}
		return
	case simAnswer:
		s.answer(e)
	}
	s.start(e.process)
}

// answer takes the answer of a request.
func (s *simState) answer(e simEvent) {
	p, r := &s.processes[e.process], s.requests[e.request]
	s.unused = append(s.unused, e.request)
	p.free++
	second := s.now / time.Second
	if r.ok {
		s.server.done()
		s.run.accepted[second]++
		if s.now >= time.Minute {
			s.run.by[e.process]++
		}
		if s.total++; s.total == 1000 {
			s.run.thousand = s.now
		}
		p.limit.result(r.token, simAccepted, 0, s.now)
		return
	}
	s.run.refused[second]++
	verdict := simRefused
	if r.work.bad {
		if r.work.refusals++; r.work.refusals > 2 {
			verdict = simAbstained
		}
		s.again(p, e.process, r)
	}
	p.limit.result(r.token, verdict, r.after, s.now)
	if verdict == simRefused && p.limit.binds() {
		p.until = max(p.until, s.now+r.after)
	}
}

// again has a bad message come again.
func (s *simState) again(p *simProcess, process int32, r simRequest) {
	if r.work.refusals == simTries {
		return
	}
	r.work.due = s.now + max(r.after, simDelay<<(r.work.refusals-1))
	i, _ := slices.BinarySearchFunc(p.again, r.work.due, func(w simWork, due time.Duration) int { return int(w.due - due) })
	p.again = slices.Insert(p.again, i, r.work)
	s.push(r.work.due, simWake, process, 0)
}

// take returns the next message of a process.
func (s *simState) take(p *simProcess) (simWork, bool) {
	none := s.gap > 0 && len(p.fresh) == 0
	if len(p.again) > 0 && p.again[0].due <= s.now {
		if p.turn = !p.turn; p.turn || none {
			w := p.again[0]
			p.again = slices.Delete(p.again, 0, 1)
			return w, true
		}
	}
	switch {
	case none:
		return simWork{}, false
	case s.gap == 0:
		return simWork{bad: s.bad > 0 && s.rng.Float64() < s.bad}, true
	}
	w := p.fresh[0]
	p.fresh = p.fresh[1:]
	if !w.bad {
		s.run.late = max(s.run.late, s.now-w.due)
	}
	return w, true
}

// start starts what may start.
func (s *simState) start(process int32) {
	p := &s.processes[process]
	for p.free > 0 {
		if at := p.limit.next(s.now); at > s.now {
			if at < p.wakeAt {
				p.wakeAt = at
				s.push(at, simWake, process, 0)
			}
			return
		}
		w, ok := s.take(p)
		if !ok {
			return
		}
		p.free--
		if s.now < p.until {
			s.run.inPause++
		}
		s.run.started[s.now/time.Second]++
		id := int32(len(s.requests))
		if n := len(s.unused); n > 0 {
			id, s.unused = s.unused[n-1], s.unused[:n-1]
		} else {
			s.requests = append(s.requests, simRequest{})
		}
		s.requests[id] = simRequest{token: p.limit.start(s.now), work: w}
		d := s.latency(s.rng)
		s.push(s.now+d/4, simArrive, process, id)
		s.push(s.now+d, simAnswer, process, id)
	}
}

// Latencies of 20 ms: 5 ms more or less, or with an exponential tail.

func simUniform(r *rand.Rand) time.Duration {
	return 15*time.Millisecond + time.Duration(r.Float64()*float64(10*time.Millisecond))
}

func simTail(r *rand.Rand) time.Duration {
	return 15*time.Millisecond + time.Duration(r.ExpFloat64()*float64(5*time.Millisecond))
}

// A simBucket is an API with a token bucket.
type simBucket struct {
	rate, burst, tokens float64
	filled              time.Duration
	after               time.Duration // its Retry-After
	change              time.Duration // if not 0, its rate is another from then on
	to                  float64
}

func (b *simBucket) fill(now time.Duration) {
	b.tokens = min(b.burst, b.tokens+b.rate*(now-b.filled).Seconds())
	b.filled = now
}

func (b *simBucket) admit(now time.Duration) (bool, time.Duration) {
	if b.change > 0 && now >= b.change {
		b.fill(b.change)
		b.rate, b.change = b.to, 0
	}
	b.fill(now)
	if b.tokens < 1 {
		return false, b.after
	}
	b.tokens--
	return true, 0
}

func (*simBucket) done() {}

// A simFickle is one that sends its Retry-After with every other refusal.
type simFickle struct {
	simBucket
	bare bool
}

func (f *simFickle) admit(now time.Duration) (ok bool, after time.Duration) {
	ok, after = f.simBucket.admit(now)
	if !ok {
		if f.bare = !f.bare; f.bare {
			after = 0
		}
	}
	return ok, after
}

// A simWindow is an API that accepts a number of requests in each window of
// time, with a Retry-After to its end.
type simWindow struct {
	n      int
	length time.Duration
	whole  bool // the Retry-After is rounded up to seconds

	window time.Duration
	used   int
}

func (w *simWindow) admit(now time.Duration) (bool, time.Duration) {
	if i := now / w.length; i != w.window {
		w.window, w.used = i, 0
	}
	if w.used < w.n {
		w.used++
		return true, 0
	}
	after := (w.window+1)*w.length - now
	if w.whole {
		after = (after + time.Second - 1).Truncate(time.Second)
	}
	return false, after
}

func (*simWindow) done() {}

// A simConcurrency is an API that accepts a number of requests at once.
type simConcurrency struct {
	n, busy int
	after   time.Duration
}

func (c *simConcurrency) admit(time.Duration) (bool, time.Duration) {
	if c.busy >= c.n {
		return false, c.after
	}
	c.busy++
	return true, 0
}

func (c *simConcurrency) done() { c.busy-- }

// A simFlaky is an API that refuses a share at random, and everything while it is
// down.
type simFlaky struct {
	share float64
	rng   *rand.Rand
	down  func(now time.Duration) bool
	after time.Duration
	simAPI
}

func (f *simFlaky) admit(now time.Duration) (bool, time.Duration) {
	if f.down != nil && f.down(now) || f.share > 0 && f.rng.Float64() < f.share {
		return false, f.after
	}
	return f.simAPI.admit(now)
}

// simAny is an API that accepts everything.
type simAny struct{}

func (simAny) admit(time.Duration) (bool, time.Duration) { return true, 0 }
func (simAny) done()                                     {}

// simFlood is no limit, and obeys no Retry-After: what it gets is what an API
// gives.
type simFlood struct{}

func (simFlood) next(now time.Duration) time.Duration                   { return now }
func (simFlood) start(time.Duration) uint64                             { return 0 }
func (simFlood) result(uint64, simResult, time.Duration, time.Duration) {}
func (simFlood) binds() bool                                            { return false }

// simSlots limits how many requests are in flight.
type simSlots struct {
	simFlood
	n, flying int
}

func (s *simSlots) next(now time.Duration) time.Duration {
	if s.flying >= s.n {
		return line.Never
	}
	return now
}

func (s *simSlots) start(time.Duration) uint64 {
	s.flying++
	return 0
}

func (s *simSlots) result(uint64, simResult, time.Duration, time.Duration) { s.flying-- }

// A simPace is a pace, in series with a token bucket if that has a rate.
type simPace struct {
	pace
	user simBucket
}

func (s *simPace) next(now time.Duration) time.Duration {
	at := s.pace.next(now)
	if s.user.rate == 0 || at == line.Never {
		return at
	}
	s.user.fill(now)
	if lacks := 1 - s.user.tokens; lacks > 0 {
		at = max(at, now+time.Duration(math.Ceil(lacks/s.user.rate*float64(time.Second))))
	}
	return at
}

func (s *simPace) start(now time.Duration) uint64 {
	if s.user.rate > 0 {
		s.user.fill(now)
		s.user.tokens--
	}
	return s.pace.start(now)
}

func (s *simPace) result(token uint64, r simResult, after, now time.Duration) {
	switch r {
	case simAccepted:
		s.accept(token, now)
	case simRefused:
		s.refuse(token, after, now)
	case simAbstained:
		s.abstain(token, now)
	}
}

func (s *simPace) binds() bool { return !s.bucket.doubt.deaf }
