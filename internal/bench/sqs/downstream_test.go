//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAPI(t *testing.T) {
	begin := time.Now()
	statuses := func(a *api, client string, at time.Duration, n int) (all []int) {
		for range n {
			_, status := a.take(client, begin.Add(at))
			all = append(all, status)
		}
		return all
	}
	newAPI := func(spec apiSpec) *api {
		a, err := startAPI(t.Context(), spec, 1)
		require.NoError(t, err)
		t.Cleanup(a.close)
		return a
	}
	t.Run("a bucket, and a pause for the client that was refused", func(t *testing.T) {
		a := newAPI(apiSpec{Rate: 10, Burst: 2, RetryAfter: time.Second})
		require.Equal(t, []int{200, 200, 429}, statuses(a, "a", 0, 3))
		require.Equal(t, []int{200}, statuses(a, "a", 500*time.Millisecond, 1))
		require.Equal(t, []int{200}, statuses(a, "b", 500*time.Millisecond, 1))
		require.Equal(t, []int{200}, statuses(a, "a", 1500*time.Millisecond, 1))
		require.Equal(t, []int{200}, statuses(a, "a", 2*time.Second, 1))
		seconds, inPause := a.counted()
		require.Equal(t, []second{{Accepted: 4, Refused: 1}, {Accepted: 1}}, seconds, "whole seconds")
		require.Equal(t, 1, inPause)
	})
	t.Run("an outage", func(t *testing.T) {
		a := newAPI(apiSpec{Down: time.Second, Up: 2 * time.Second})
		require.Equal(t, []int{200}, statuses(a, "a", 0, 1))
		require.Equal(t, []int{503, 503}, statuses(a, "a", time.Second, 2))
		require.Equal(t, []int{200}, statuses(a, "a", 2*time.Second, 1))
	})
	t.Run("noise", func(t *testing.T) {
		refused := 0
		for _, status := range statuses(newAPI(apiSpec{Noise: 0.05}), "a", 0, 10_000) {
			if status == http.StatusTooManyRequests {
				refused++
			}
		}
		require.InDelta(t, 500, refused, 100)
	})
}

// Both clients run against each downstream, and the picture is drawn.
func TestDownstreams(t *testing.T) {
	picture := filepath.Join(t.TempDir(), "a.svg")
	var stdout, stderr bytes.Buffer
	require.Zero(t, run([]string{"-downstream", "-for", "4s", "-json", "-svg", picture}, nil, &stdout, &stderr), stderr.String())
	var runs []downstreamRun
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &runs))
	require.Len(t, runs, len(downstreams(time.Minute)))
	for _, r := range runs {
		require.Len(t, r.Clients, 2, r.Name)
		for client, c := range r.Clients {
			require.NotZero(t, c.FirstHalf, "%s, %s", r.Name, client)
		}
	}
	drawn, err := os.ReadFile(picture)
	require.NoError(t, err)
	require.Contains(t, string(drawn), "</svg>")
	require.Contains(t, downstreamTable(runs, 4*time.Second), "| "+runs[0].Title+" |")

	require.Equal(t, 2, run([]string{"-downstream", "-for", "1s"}, nil, &stdout, &stderr))
	require.Contains(t, stderr.String(), "-for is 1s: must be at least 4s")
}
