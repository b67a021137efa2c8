package store

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A call that comes once more, or after a later one of its process, changes
// nothing, while there is a record of the process.
func TestLateCallsChangeNothing(t *testing.T) {
	seeds, late := uint64(300), 0
	if testing.Short() {
		seeds /= 10
	}
	for seed := range seeds {
		s := newSchedule(seed, rateLimit)
		rate, sent := NewMemoryRate(), map[string][]RateCall{}
		lease := func(c RateCall) RateState {
			st, err := rate.Lease(t.Context(), c)
			require.NoError(t, err)
			return st
		}
		for range 100 {
			p, call := s.call(rateLimit)
			c := RateCall{Call: call, Demand: s.r.Int64N(3_000_000), Soon: s.r.Int64N(20), Fresh: s.r.Int64N(5), Spread: s.r.Int64N(60), Return: p.cells}
			st := lease(c)
			p.reported, p.cells = st.State, st.Cells
			sent[p.id] = append(sent[p.id], c)

			q := s.procs[s.r.IntN(len(s.procs))]
			if len(sent[q.id]) == 0 {
				continue
			}
			old := sent[q.id][s.r.IntN(len(sent[q.id]))]
			old.Now = rate.m.last
			before := rate.m.clone()
			if r := before.procs[q.id]; r == nil || old.Number > r.number {
				continue
			}
			late++
			cells := strings.TrimRight(string(rate.cells), "0")
			require.Empty(t, lease(old).Cells, "seed %d", seed)
			require.Equal(t, cells, strings.TrimRight(string(rate.cells), "0"), "seed %d", seed)
			was, is := before.procs[q.id], rate.m.procs[q.id]
			require.NotNil(t, is, "seed %d", seed)
			require.Equal(t, []int64{was.number, was.want}, []int64{is.number, is.want}, "seed %d", seed)
			requireSame(t, seed, before, rate.m)
		}
	}
	for seed := range seeds {
		s := newSchedule(seed, placesLimit)
		places, sent := NewMemoryPlaces(), map[string][]PlacesCall{}
		lease := func(c PlacesCall) PlacesState {
			st, err := places.Lease(t.Context(), c)
			require.NoError(t, err)
			return st
		}
		for range 100 {
			p, call := s.call(placesLimit)
			c := PlacesCall{Call: call, Held: s.r.Int64N(p.held + 1), Want: s.r.Int64N(12)}
			st := lease(c)
			p.reported, p.held = st.State, st.Held
			sent[p.id] = append(sent[p.id], c)

			q := s.procs[s.r.IntN(len(s.procs))]
			if len(sent[q.id]) == 0 {
				continue
			}
			old := sent[q.id][s.r.IntN(len(sent[q.id]))]
			old.Now = places.m.last
			before := places.m.clone()
			if r := before.procs[q.id]; r == nil || old.Number > r.number {
				continue
			}
			late++
			was := before.procs[q.id]
			require.Equal(t, was.held, lease(old).Held, "seed %d", seed)
			is := places.m.procs[q.id]
			require.NotNil(t, is, "seed %d", seed)
			require.Equal(t, []int64{was.number, was.want, was.held}, []int64{is.number, is.want, is.held}, "seed %d", seed)
			require.Equal(t, before.held, places.m.held, "seed %d", seed)
			requireSame(t, seed, before, places.m)
		}
	}
	require.Positive(t, late)
}

func requireSame(t *testing.T, seed uint64, before, after memory) {
	t.Helper()
	before.Seq, after.Seq = 0, 0
	require.Equal(t, before.State, after.State, "seed %d", seed)
	require.Equal(t, before.declared, after.declared, "seed %d", seed)
}
