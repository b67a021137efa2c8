package queue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue/internal/audit"
)

// Every consumer of this package's tests recounts its ledger after every step.
func init() { audit.On = true }

// Whatever is done to a ledger, in any order, a recount confirms it.
func TestLedger_RandomVerbs(t *testing.T) {
	own := make([]limiter.Limiter, 4) // the first is none
	for i := range own[1:] {
		s, err := limiter.NewSemaphore(1)
		require.NoError(t, err)
		own[i+1] = s
	}
	seeds := uint64(200)
	if testing.Short() {
		seeds = 40
	}
	for seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 1))
		g := newLedger(func(own limiter.Limiter) limiter.Limiter { return own }, freshPerAgain)
		now := time.Unix(1_000_000, 0)
		var all []*delivery
		var polls []*poll
		pick := func(ok func(*delivery) bool) *delivery {
			for _, i := range random.Perm(len(all)) {
				if ok(all[i]) {
					return all[i]
				}
			}
			return nil
		}
		in := func(states ...state) func(*delivery) bool {
			return func(d *delivery) bool {
				for _, s := range states {
					if d.state == s {
						return true
					}
				}
				return false
			}
		}
		for step := range 400 {
			now = now.Add(time.Duration(random.IntN(1000)) * time.Millisecond)
			at := now.Add(time.Duration(random.IntN(5000)) * time.Millisecond)
			verb := random.IntN(12)
			var d *delivery
			switch verb {
			case 0, 1, 2:
				m := &Message{ID: fmt.Sprint(step)}
				if random.IntN(2) == 0 {
					m.Group, m.Sequence = fmt.Sprint(random.IntN(3)), fmt.Sprint(step)
				}
				d = &delivery{msg: m, spare: random.IntN(2) == 0}
				all = append(all, d)
				first := g.accept(d, own[random.IntN(len(own))])
				require.Equal(t, d.state == queued, first)
			case 3:
				if l := g.turns.first(); l != nil {
					g.start(l.first())
				}
			case 4:
				if d = pick(in(running, handing)); d != nil {
					d.due = at
					apart := random.IntN(2) == 0
					g.hold(d, apart, apart && random.IntN(2) == 0)
				}
			case 5:
				g.ripen(now)
			case 6:
				if d = pick(in(running)); d != nil {
					g.handOver(d)
				}
			case 7:
				if d = pick(in(queued, behind, running, held, due, handing)); d != nil {
					d.settle.op = settleOp(random.IntN(2))
					g.settle(d)
				}
			case 8:
				if d = pick(in(settling)); d != nil {
					g.sending(d)
				}
			case 9:
				if d = pick(func(d *delivery) bool { return d.state != ended }); d != nil {
					g.end(d)
				}
			case 10:
				if d = pick(func(d *delivery) bool { return d.state != ended && d.lane.own != nil }); d != nil {
					if d.lane.aside {
						g.unpark(d.lane)
					} else {
						g.park(d.lane)
					}
				}
				if d = pick(func(d *delivery) bool { return d.state != ended && d.state != settling }); d != nil {
					g.look(d, []time.Time{at, {}}[random.IntN(2)])
				}
			case 11:
				if len(polls) > 0 && random.IntN(2) == 0 {
					i := random.IntN(len(polls))
					g.answered(polls[i])
					polls = append(polls[:i], polls[i+1:]...)
				} else {
					polls = append(polls, g.ask(1+random.IntN(10)))
				}
			}
			require.NoError(t, g.audit(), "seed %d, step %d, verb %d", seed, step, verb)
			require.Equal(t, g.fresh.n+g.kept.n+g.busy.n, g.count[queued]+g.count[behind]+g.count[running]+g.count[held]+g.count[due])
			require.Equal(t, g.out.n, g.count[handing]+g.count[settling])
		}
		for _, d := range all {
			if d.state != ended {
				g.end(d)
			}
		}
		for _, p := range polls {
			g.answered(p)
		}
		require.NoError(t, g.audit())
		require.Zero(t, g.fresh.n+g.kept.n+g.busy.n+g.out.n+len(g.groups)+len(g.lanes)+len(g.byID)+g.parked+g.stalled+g.suspects+g.apart+g.spares.n+g.asked, "seed %d", seed)
	}
}
