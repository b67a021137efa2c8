package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A short comparison: every limiter has its row in every scene, and ours finds the
// capacity.
func TestTable(t *testing.T) {
	some := []scene{
		{"refuses, 10", 0, []int{10}},
		{"slows down, then refuses, 10 stepping", 1, []int{10, 5}},
		{"only slows down, 10", -1, []int{10}},
	}
	var out strings.Builder
	table(t, &out, some, 4*time.Minute, 1)
	t.Log("\n" + out.String())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2+len(some)*len(contenders))
	for i, line := range lines[2:] {
		cells := strings.Split(line, " | ")
		require.Len(t, cells, 7, line)
		require.Equal(t, "| "+some[i/len(contenders)].name, cells[0])
		require.Equal(t, contenders[i%len(contenders)].name, cells[1])
	}

	for _, s := range some {
		ideal := measure(t, s, contenders[0].make, 4*time.Minute, 1)
		got := measure(t, s, contenders[1].make, 4*time.Minute, 1)
		require.InDelta(t, 1, ideal.mean, 0.01, s.name)
		require.Zero(t, ideal.refused, s.name)
		require.InDelta(t, 1, got.mean, 0.15, s.name)
		require.LessOrEqual(t, got.refused, 0.01, s.name)
		require.GreaterOrEqual(t, got.good, 0.85*ideal.good, s.name)
		require.False(t, got.never, s.name)
	}
}

// The scenes of the table are those of the README.
func TestScenes(t *testing.T) {
	require.Len(t, scenes(), 24)
	names := map[string]bool{}
	for _, s := range scenes() {
		names[s.name] = true
	}
	require.Len(t, names, 24)
}
