// Overload compares rampmeter's adaptive limiter with other libraries' in front of
// one simulated downstream, and prints a table of the results:
//
//	go run ./internal/overload
//
// The downstream runs as many operations at once as its capacity allows, in 100 ms
// on average, distributed exponentially, for a caller that always has more to do. It
// lets none wait, as many as it runs at once, or any number; it refuses further ones
// in 20 ms, and the caller retries at once. Its capacity is steady, or is the given
// one, half of it, the given one again and twice as much, for three minutes each.
//
// It runs in the virtual time of testing/synctest, twelve minutes for each cell,
// which takes a few minutes in all: most of them go into refusals.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"testing"          //nolint:depguard // a bubble needs a test to run in
	"testing/synctest" //nolint:depguard // virtual time
	"time"

	"github.com/rampmeter/rampmeter/internal/downstream"
)

var background = context.Background()

// length is how long each simulation of the table runs, in virtual time.
const length = 12 * time.Minute

// A scene is one kind of downstream.
type scene struct {
	name     string
	queue    float64
	capacity []int
}

func scenes() []scene {
	var all []scene
	for _, kind := range []struct {
		name  string
		queue float64
	}{{"refuses", 0}, {"slows down, then refuses", 1}, {"only slows down", -1}} {
		for _, c := range []int{3, 10, 50, 200} {
			all = append(all,
				scene{fmt.Sprintf("%s, %d", kind.name, c), kind.queue, []int{c}},
				scene{fmt.Sprintf("%s, %d stepping", kind.name, c), kind.queue, []int{c, (c + 1) / 2, c, 2 * c}})
		}
	}
	return all
}

func main() {
	seeds := flag.Uint64("seeds", 1, "simulations to take the mean of for each cell")
	// synctest needs a test to run in.
	testing.Init()
	flag.Parse()
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: "overload",
		F: func(t *testing.T) {
			table(t, os.Stdout, scenes(), length, *seeds)
			os.Exit(0) // before the framework has its say
		},
	}}, nil, nil)
}

// A row is the mean of several results.
type row struct {
	good, mean, refused float64
	p99, settled        time.Duration
	never               bool
}

func table(t *testing.T, out io.Writer, scenes []scene, length time.Duration, seeds uint64) {
	line := func(format string, args ...any) {
		if _, err := fmt.Fprintf(out, format+"\n", args...); err != nil {
			t.Fatal(err)
		}
	}
	line("| downstream, capacity | limiter | goodput | limit / capacity | refused | p99 | settled |")
	line("|---|---|---|---|---|---|---|")
	for _, s := range scenes {
		var ideal row
		for _, c := range contenders {
			r := measure(t, s, c.make, length, seeds)
			if ideal.good == 0 {
				ideal = r
			}
			settled := r.settled.Round(time.Second).String()
			if r.never {
				settled = "never"
			}
			line("| %s | %s | %.0f %% | %.2f | %.2f %% | %d ms | %s |", s.name, c.name,
				100*r.good/ideal.good, r.mean, 100*r.refused, r.p99.Milliseconds(), settled)
		}
	}
}

func measure(t *testing.T, s scene, client func(downstream.Config) downstream.Client, length time.Duration, seeds uint64) row {
	var r row
	for seed := range seeds {
		capacity, steps := downstream.Stepped(length/time.Duration(len(s.capacity)), s.capacity...)
		cfg := downstream.Config{
			Capacity: capacity,
			Steps:    steps,
			Queue:    s.queue,
			Service:  100 * time.Millisecond,
			Refusal:  20 * time.Millisecond,
			Length:   length,
			Settling: time.Minute,
			Seed:     seed,
		}
		var got downstream.Result
		synctest.Test(t, func(*testing.T) { got = downstream.Run(client(cfg), cfg) })
		n := float64(seeds)
		r.good += float64(got.Good) / n
		r.refused += got.Refused / n
		r.p99 += got.P99 / time.Duration(seeds)
		for _, m := range got.Means {
			r.mean += m / float64(len(got.Means)) / n
		}
		for _, d := range got.Settled { // the longest
			r.never = r.never || d < 0
			r.settled = max(r.settled, d)
		}
	}
	return r
}
