package main

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
)

// Both limiters start messages, within the limit, and their calls are counted.
func TestCompare(t *testing.T) {
	b := bench{addr: miniredis.RunT(t).Addr(), rounds: 1, long: time.Second, progress: io.Discard}
	r, err := b.run(t.Context(), []scenario{{Name: "small", Title: "Small", Rate: 100, Burst: 10, Processes: 2, Workers: 2}})
	require.NoError(t, err)
	require.Len(t, r.Scenarios, 1)
	for _, l := range r.Scenarios[0].Limiters {
		require.Len(t, l.Runs, 1, l.Name)
		f := l.Runs[0]
		require.Positive(t, f.Rate, l.Name)
		require.Positive(t, f.Calls, l.Name)
		require.LessOrEqual(t, f.P50, f.P99, l.Name)
	}
	ours, theirs := r.Scenarios[0].Limiters[0], r.Scenarios[0].Limiters[1]
	require.Equal(t, rampmeter, ours.Name)
	require.GreaterOrEqual(t, theirs.Runs[0].Calls, 0.9)
	require.Less(t, ours.Runs[0].Calls, theirs.Runs[0].Calls)

	require.Contains(t, r.markdown(), "### Small\n")
	require.Contains(t, r.markdown(), "| "+naive+" | ")
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(text), `"calls_per_start"`)
}

func TestOverRate(t *testing.T) {
	at := func(ms ...int) (starts []start) {
		for _, m := range ms {
			starts = append(starts, start{at: time.UnixMilli(int64(m))})
		}
		return starts
	}
	require.Equal(t, 0, overRate(nil, 10, 1))
	require.Equal(t, 0, overRate(at(0, 0, 100, 200), 10, 2))
	require.Equal(t, 1, overRate(at(0, 0, 0, 100, 200), 10, 2))
	require.Equal(t, 1, overRate(at(0, 1000, 1000, 1000), 10, 2), "a pause allows no more than the burst")
	require.Equal(t, 1, overRate(at(0, 0, 50), 10, 2), "half of one is one")
}

func TestFlags(t *testing.T) {
	var out, errs bytes.Buffer
	require.Equal(t, 0, run([]string{"-help"}, &out, &errs))
	require.Contains(t, out.String(), "-rounds")
	for _, args := range [][]string{{"-rounds", "0"}, {"x"}, {"-nonsense"}} {
		errs.Reset()
		require.Equal(t, 2, run(args, &out, &errs))
		require.Contains(t, errs.String(), "redis: ")
	}
}
