package limiter

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
)

// A paceRow is one downstream, and the requirements for a pace in front of it:
// they apply to the median of the seeds, while the worst is within 8 points.
type paceRow struct {
	name   string
	sim    simulation
	gives  simulation // what the API gives, with no limit if it has none; the zero one: sim without a limit
	first  float64    // share of that in the first minute, in percent; 0: not asked
	from   time.Duration
	to     time.Duration
	least  float64 // from then to then
	most   float64 // refused then, in percent, at most; 0: not asked
	most2  float64 // with 100 slots
	start  bool    // the first thousand take 1.2 times as long as they must at most, or 4 s more
	jain   float64 // Jain's index of the processes at least; 0: not asked
	unfair float64 // how much less in the worst seed
	late   time.Duration
	calls  int           // from the 70th second to the end of the hour, at most; 0: not asked
	back   time.Duration // after the hour
	heavy  bool          // at full length only, and not with 100 slots for long
	slots  []int         // if not 10 and 100
}

const (
	paceSlack  = 8 // points
	paceSettle = time.Minute
)

func paced() simLimit { return &simPace{pace: newPace(math.Inf(1), 0)} }

func flooded() simLimit { return simFlood{} }

func bucketAPI(b simBucket) func(*rand.Rand) simAPI {
	return func(*rand.Rand) simAPI {
		b := b
		b.tokens = b.burst
		return &b
	}
}

// paceRows are the downstreams.
func paceRows() (rows []paceRow) {
	add := func(r paceRow, name string, args ...any) {
		r.name = fmt.Sprintf(name, args...)
		if r.to == 0 {
			r.to = 10 * time.Minute
		}
		if r.from == 0 {
			r.from = paceSettle
		}
		r.sim.length = r.to
		if r.sim.limit == nil {
			r.sim.limit = paced
		}
		rows = append(rows, r)
	}
	kinds := []struct {
		name  string
		after time.Duration
	}{{"Retry-After", time.Second}, {"bare", 0}}
	buckets := []simBucket{{rate: 20, burst: 5}, {rate: 50, burst: 10}, {rate: 150, burst: 30}, {rate: 400, burst: 40}}

	for _, k := range kinds {
		for _, b := range buckets {
			b.after = k.after
			r := paceRow{sim: simulation{api: bucketAPI(b)}, first: 85, least: 93, most: 0.5, most2: 1.2, start: true}
			if b.rate == 400 {
				r.first = 80
			}
			if k.after == 0 {
				r.first, r.least, r.most, r.most2 = 0, 97, 3, 3.5
			}
			add(r, "bucket of %v/s, %s", b.rate, k.name)
		}
	}
	for _, k := range kinds {
		for _, n := range []int{2, 5, 20} {
			for _, b := range buckets[:3] {
				b.after = k.after
				r := paceRow{sim: simulation{api: bucketAPI(b), procs: n}, least: 90, most: 3, most2: 3, jain: 0.8}
				switch {
				case b.rate/float64(n) < 2.5:
					r.most, r.most2 = 8, 8
				case n == 20:
					r.most, r.most2 = 5, 5
				}
				if k.after == 0 {
					r.jain = 0.7
				}
				// Two, and slow ones, take minutes to become equal.
				if r.unfair = paceSlack / 100.0; n == 2 || r.most == 8 {
					r.unfair = 0.2
				}
				add(r, "%d processes, bucket of %v/s, %s", n, b.rate, k.name)
			}
		}
	}
	for _, k := range kinds {
		for _, factor := range []float64{1, 1.05, 1.25, 2} {
			for _, b := range buckets[1:3] {
				b.after = k.after
				r := paceRow{sim: simulation{api: bucketAPI(b), limit: func() simLimit {
					return &simPace{
						pace: newPace(math.Inf(1), 0),
						user: simBucket{rate: factor * b.rate, burst: b.burst, tokens: b.burst},
					}
				}}, least: 92, to: 5 * time.Minute}
				if factor == 1 {
					r.least, r.most, r.most2 = 96, 0.3, 0.3
					if k.after == 0 {
						r.least = 99
					}
				}
				add(r, "bucket of %v/s, %s, and a TokenBucket %v times as fast", b.rate, k.name, factor)
			}
		}
	}
	for _, k := range kinds {
		for _, tail := range []bool{false, true} {
			r := paceRow{sim: simulation{api: func(*rand.Rand) simAPI { return &simConcurrency{n: 10, after: k.after} }}, least: 95, slots: []int{50}, to: 5 * time.Minute}
			name := "10 in flight"
			if tail {
				r.sim.latency = simTail
				name += ", exponential tail"
			}
			if k.after > 0 {
				r.least = 85
			}
			r.gives = r.sim
			r.gives.limit = func() simLimit { return &simSlots{n: 10} }
			add(r, "%s, %s", name, k.name)
		}
	}
	for _, w := range []simWindow{
		{n: 100, length: time.Second},
		{n: 100, length: time.Second, whole: true},
		{n: 3000, length: time.Minute},
		{n: 3000, length: time.Minute, whole: true},
	} {
		r := paceRow{sim: simulation{api: func(*rand.Rand) simAPI { w := w; return &w }}, least: 95}
		if w.whole && w.length == time.Second {
			r.least = 85
		}
		add(r, "%d in each %v, whole seconds %v", w.n, w.length, w.whole)
	}
	for _, k := range kinds {
		slow := func(r *rand.Rand) time.Duration { return 600*time.Millisecond + time.Duration(r.Float64()*1e8) }
		b := simBucket{rate: 10, burst: 10, after: k.after}
		add(paceRow{sim: simulation{api: bucketAPI(b), latency: slow}, least: 93, most: 3, most2: 3}, "bucket of 10/s, %s, handlers of 650 ms", k.name)
	}
	add(paceRow{sim: simulation{api: func(*rand.Rand) simAPI {
		b := buckets[1]
		b.after = time.Second
		return &simFickle{simBucket: b}
	}}, least: 90}, "bucket of 50/s, Retry-After with every other refusal")
	for _, x := range []struct{ share, least float64 }{{0.01, 95}, {0.05, 88}} {
		add(paceRow{
			sim:   simulation{api: func(r *rand.Rand) simAPI { return &simFlaky{share: x.share, rng: r, simAPI: simAny{}} }},
			least: x.least, heavy: true, to: 3 * time.Minute,
		}, "%v %% refused at random, bare", 100*x.share)
	}
	slowly := func(r *rand.Rand) time.Duration { return 300*time.Millisecond + time.Duration(r.Float64()*150e6) }
	add(paceRow{
		sim:   simulation{api: func(r *rand.Rand) simAPI { return &simFlaky{share: 0.05, rng: r, simAPI: simAny{}} }, latency: slowly},
		least: 88, heavy: true, from: 2 * time.Minute, to: 6 * time.Minute,
	}, "5 %% refused at random, bare, handlers of 375 ms")
	anything := func(*rand.Rand) simAPI { return simAny{} }
	add(paceRow{sim: simulation{api: anything, bad: 0.05}, least: 95, heavy: true, to: 3 * time.Minute}, "5 %% of the messages always refused, bare")
	add(paceRow{sim: simulation{api: anything, bad: 0.05, badRA: time.Second}, least: 80, heavy: true, from: 5 * time.Minute, to: 6 * time.Minute},
		"5 %% of the messages always refused, Retry-After")
	add(paceRow{sim: simulation{api: anything, bad: 0.05, gap: time.Second}, least: 95, late: 5 * time.Second, to: 2 * time.Hour},
		"5 %% of the messages always refused, bare, one message a second")
	add(paceRow{sim: simulation{api: anything, bad: 0.05, badRA: time.Second, gap: time.Second}, least: 80, from: 5 * time.Minute, to: 2 * time.Hour},
		"5 %% of the messages always refused, Retry-After, one message a second")
	for _, k := range kinds {
		b := buckets[1]
		b.after = k.after
		hour := func(now time.Duration) bool { return now < time.Hour }
		add(paceRow{sim: simulation{api: func(r *rand.Rand) simAPI {
			return &simFlaky{down: hour, after: k.after, simAPI: bucketAPI(b)(r)}
		}}, calls: 90, back: 6 * time.Minute, from: 70 * time.Minute, to: 80 * time.Minute}, "everything refused for an hour, %s", k.name)
		add(paceRow{sim: simulation{api: func(r *rand.Rand) simAPI {
			return &simFlaky{down: func(now time.Duration) bool { return now > 20*time.Second && hour(now) }, after: k.after, simAPI: bucketAPI(b)(r)}
		}}, calls: 90, back: 6 * time.Minute, from: 70 * time.Minute, to: 80 * time.Minute}, "everything refused for an hour, but at first, %s", k.name)
		add(paceRow{sim: simulation{api: func(r *rand.Rand) simAPI {
			return &simFlaky{down: func(now time.Duration) bool { return now/(20*time.Second)%2 == 1 }, after: k.after, simAPI: bucketAPI(b)(r)}
		}}, least: 88, to: time.Hour}, "up 20 s, down 20 s, %s", k.name)
		for _, to := range []float64{25, 100} {
			b := b
			b.change, b.to = 5*time.Minute, to
			from := b.change + 10*time.Second
			if to > b.rate {
				from += 20 * time.Second
			}
			add(paceRow{sim: simulation{api: bucketAPI(b)}, least: 90, from: from, to: from + time.Minute}, "bucket of 50/s becomes one of %v/s, %s", to, k.name)
		}
	}
	return rows
}

// ideal returns what the API gives.
func (r paceRow) ideal(slots int, seed uint64) *simRun {
	s := r.gives
	if s.api == nil {
		s = r.sim
		s.limit, s.procs = flooded, 1
		if s.bad == 0 && !r.heavy {
			slots, seed = 10, 1 // no more than the API takes
		}
	}
	s.length, s.slots, s.seed = r.to, slots, seed
	return s.run()
}

// A paceResult is the result of one seed.
type paceResult struct {
	thousand, mayTake float64 // seconds
	first, share      float64 // percent of what the API gives
	refused, jain     float64
	late, back        time.Duration
	calls, inPause    int
}

func (r paceRow) run(slots int, seed uint64, ideal *simRun) paceResult {
	s := r.sim
	s.slots, s.seed = slots, seed
	got := s.run()
	share := func(from, to time.Duration) float64 {
		return 100 * float64(count(got.accepted, from, to)) / float64(max(1, count(ideal.accepted, from, to)))
	}
	out := paceResult{
		thousand: got.thousand.Seconds(),
		mayTake:  max(1.2*ideal.thousand.Seconds(), ideal.thousand.Seconds()+4),
		first:    share(0, time.Minute),
		share:    share(r.from, r.to),
		refused:  100 * float64(count(got.refused, r.from, r.to)) / float64(max(1, count(got.started, r.from, r.to))),
		jain:     jain(got.by),
		late:     got.late,
		inPause:  got.inPause,
	}
	if r.calls > 0 {
		out.calls = count(got.started, 70*time.Second, time.Hour)
		for out.back = 0; time.Hour+out.back < r.to && got.accepted[(time.Hour+out.back)/time.Second] < 45; out.back += time.Second {
		}
	}
	return out
}

// count returns how many there were in these seconds.
func count(bySecond []int, from, to time.Duration) (n int) {
	for _, v := range bySecond[from/time.Second : to/time.Second] {
		n += v
	}
	return n
}

func jain(by []int) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range by {
		sum += float64(v)
		squares += float64(v) * float64(v)
	}
	return sum * sum / squares / float64(len(by))
}

// The pace in front of each downstream, over the seeds 1 to 9, with 10 and 100
// slots. Unless tests run at full length it is three seeds and 10 slots, without the
// rows that take long, or many seeds. Under the race detector, where there is nothing
// to find, it is one seed of a few single processes.
//
//	RAMPMETER_LONG=1 go test ./limiter -run TestPace -v
//
// prints the table. For an exploration set RAMPMETER_PACE_SEEDS to the number of
// seeds, and RAMPMETER_PACE_FROM to the first of them: no figure is required then.
func TestPace(t *testing.T) {
	seeds, from, explore := uint64(9), uint64(1), false
	short := !testrun.Long() || raceDetector
	switch {
	case raceDetector:
		seeds = 1
	case short:
		seeds = 3
	}
	if s := os.Getenv("RAMPMETER_PACE_SEEDS"); s != "" {
		explore = true
		_, err := fmt.Sscan(s, &seeds)
		require.NoError(t, err)
		if s := os.Getenv("RAMPMETER_PACE_FROM"); s != "" {
			_, err := fmt.Sscan(s, &from)
			require.NoError(t, err)
		}
	}
	for _, row := range paceRows() {
		if short && (row.heavy || row.jain > 0) || raceDetector && row.first == 0 {
			continue
		}
		slots := row.slots
		if slots == nil {
			slots = []int{10, 100}
		}
		if short {
			slots = slots[:1]
		}
		for _, n := range slots {
			t.Run(fmt.Sprintf("%s/%d slots", row.name, n), func(t *testing.T) {
				row.test(t, n, from, seeds, explore)
			})
		}
	}
}

func (r paceRow) test(t *testing.T, slots int, from, seeds uint64, explore bool) {
	ideal := r.ideal(slots, 1)
	var all []paceResult
	for seed := from; seed < from+seeds; seed++ {
		all = append(all, r.run(slots, seed, ideal))
	}
	// check asks for a figure of at least that, or with a negative sign at most.
	check := func(what string, asked float64, sign, slack float64, of func(paceResult) float64) {
		var values []float64
		for _, x := range all {
			values = append(values, of(x))
		}
		t.Logf("%s, asked %v: %.2f", what, asked, values)
		slices.SortFunc(values, func(a, b float64) int { // the worst first
			switch {
			case sign*a < sign*b:
				return -1
			case sign*a > sign*b:
				return 1
			}
			return 0
		})
		if explore {
			t.Logf("%s: median %.2f, worst %.2f", what, values[len(values)/2], values[0])
			return
		}
		require.GreaterOrEqual(t, sign*values[len(values)/2], sign*asked, "%s: the median", what)
		require.GreaterOrEqual(t, sign*values[0], sign*asked-slack, "%s: the worst", what)
	}
	for _, x := range all {
		require.Zero(t, x.inPause, "starts while a Retry-After was binding")
	}
	if r.first > 0 {
		check("first minute, % of what the API gives", r.first, 1, paceSlack, func(x paceResult) float64 { return x.first })
	}
	if r.least > 0 {
		check("later, % of what the API gives", r.least, 1, paceSlack, func(x paceResult) float64 { return x.share })
	}
	if r.start {
		check("first thousand, seconds more than they may take", 0, -1, paceSlack*ideal.thousand.Seconds()/100+1, func(x paceResult) float64 { return x.thousand - x.mayTake })
	}
	if r.most > 0 {
		most := r.most
		if slots == 100 {
			most = r.most2
		}
		check("refused later, %", most, -1, paceSlack, func(x paceResult) float64 { return x.refused })
	}
	if r.jain > 0 {
		check("Jain's index", r.jain, 1, r.unfair, func(x paceResult) float64 { return x.jain })
	}
	if r.late > 0 {
		check("the longest wait of a good message, s", r.late.Seconds(), -1, paceSlack, func(x paceResult) float64 { return x.late.Seconds() })
	}
	if r.calls > 0 {
		check("calls in the hour after the first minute", float64(r.calls), -1, 0, func(x paceResult) float64 { return float64(x.calls) })
		check("back after, s", r.back.Seconds(), -1, 0, func(x paceResult) float64 { return x.back.Seconds() })
	}
}
