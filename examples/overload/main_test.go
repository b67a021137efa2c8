package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

// TestMain is the program itself when a test starts it as such.
func TestMain(m *testing.M) {
	if os.Getenv("OVERLOAD_IS_THE_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// settings are the values of the flags, in a story that is half as long as usual
// with -short.
func settings(t *testing.T, flags ...string) Settings {
	t.Helper()
	if testing.Short() {
		flags = append([]string{"-capacity=10"}, flags...)
	}
	s, err := ParseFlags(flags, io.Discard)
	require.NoError(t, err)
	return s
}

// The results in the picture, in virtual time.
func TestRun(t *testing.T) {
	s := settings(t, "-json", "-svg="+filepath.Join(t.TempDir(), "overload.svg"))
	var out, progress bytes.Buffer
	synctest.Test(t, func(t *testing.T) { require.NoError(t, Run(t.Context(), s, &out, &progress)) })

	var r Report
	d := json.NewDecoder(bytes.NewReader(out.Bytes()))
	require.NoError(t, d.Decode(&r))
	require.ErrorIs(t, d.Decode(&r), io.EOF, "one object and nothing else")
	require.Len(t, r.Limiters, 3)
	none, fixed, adaptive := r.Limiters[0], r.Limiters[1], r.Limiters[2]
	t.Logf("%+v", r)
	require.Equal(t, 1200*s.Capacity, r.Capacity, "the phases come to what the best would")

	for _, sum := range r.Limiters {
		require.Equal(t, none.Offered, sum.Offered, "the same for all")
		require.Equal(t, sum.Calls, sum.Done+sum.Refused+sum.Failed)
		require.LessOrEqual(t, sum.Done, r.Capacity)
		require.LessOrEqual(t, sum.P50, sum.P99)
	}
	require.Less(t, none.Goodput, fixed.Goodput)
	require.Less(t, fixed.Goodput, adaptive.Goodput)
	require.Greater(t, none.Refused, 5*fixed.Refused)
	require.Greater(t, fixed.Refused, 20*adaptive.Refused)
	require.LessOrEqual(t, float64(adaptive.Refused), 0.01*float64(adaptive.Calls))
	require.Greater(t, fixed.Failed, 20*adaptive.Failed, "the breaker does not hammer what is down")
	require.Greater(t, none.OverloadSeconds, fixed.OverloadSeconds)
	require.Greater(t, fixed.OverloadSeconds, 5*adaptive.OverloadSeconds)
	require.Greater(t, none.P99, adaptive.P99)

	var keys map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(out.Bytes(), &keys))
	require.Equal(t, []string{"capacity", "limiters"}, slices.Sorted(maps.Keys(keys)))
	var limiters []map[string]any
	require.NoError(t, json.Unmarshal(keys["limiters"], &limiters))
	require.Equal(t, []string{"calls", "done", "failed", "goodput", "limiter", "offered", "overload_seconds", "p50_ms", "p99_ms", "refused"},
		slices.Sorted(maps.Keys(limiters[0])))

	for _, text := range []string{"10 of 120 s, downstream full; done: no limiter ", "70 of 120 s, downstream down;", "120 of 120 s, downstream double;"} {
		require.Contains(t, progress.String(), text)
	}

	svg, err := os.ReadFile(s.SVG)
	require.NoError(t, err)
	requireXML(t, svg)
	for _, text := range []string{"no limiter", "fixed limit", "Adaptive and Breaker", "calls in flight", "what the downstream can do", ">slow<", ">50<"} {
		require.Contains(t, string(svg), text)
	}
	require.Less(t, len(svg), 200_000)
}

func requireXML(t *testing.T, b []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(b))
	var root string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok && root == "" {
			root = e.Name.Local
		}
	}
	require.Equal(t, "svg", root)
}

// The README shows the picture that the program draws.
func TestThePictureIsThere(t *testing.T) {
	svg, err := os.ReadFile("overload.svg")
	require.NoError(t, err)
	requireXML(t, svg)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "](overload.svg)")
}

// A trigger calls a function when a text is written to it.
type trigger struct {
	text string
	call func()
}

func (w trigger) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.call()
	}
	return len(b), nil
}

func TestTheEndOfTheContextIsThatOfTheStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := settings(t, "-svg="+filepath.Join(t.TempDir(), "overload.svg"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		require.NoError(t, Run(ctx, s, io.Discard, trigger{"30 of 120 s", cancel}))
		require.Less(t, time.Since(began), 31*time.Second)
	})
}

// The program as it is started.
func TestProgram(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	program := func(flags ...string) (out, errs string, code int) {
		cmd := exec.CommandContext(t.Context(), exe, flags...)
		cmd.Env = append(os.Environ(), "OVERLOAD_IS_THE_PROGRAM=1")
		var o, e strings.Builder
		cmd.Stdout, cmd.Stderr = &o, &e
		if err := cmd.Run(); err != nil {
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
		}
		return o.String(), e.String(), cmd.ProcessState.ExitCode()
	}
	out, _, code := program("-length=1m", "-capacity=2", "-load=0.5", "-json")
	require.Zero(t, code)
	var r Report
	require.NoError(t, json.Unmarshal([]byte(out), &r), "nothing else is on stdout")
	require.Len(t, r.Limiters, 3)

	_, errs, code := program("-capacity=1")
	require.Equal(t, 2, code)
	require.Equal(t, "overload: -capacity is 1: must be from 2 to 1000\n", errs)
	_, errs, code = program("-svg", filepath.Join(t.TempDir(), "no such folder", "overload.svg"))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "overload: -svg: ")
	out, _, code = program("-help")
	require.Zero(t, code)
	require.Contains(t, out, "Usage: overload [flags]")
	require.NotContains(t, out, "test.")
}

// At a light load every client does nearly all operations, and the picture is drawn.
func TestALightLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := settings(t, "-load=0.1", "-json", "-svg="+filepath.Join(t.TempDir(), "overload.svg"))
		var out bytes.Buffer
		require.NoError(t, Run(t.Context(), s, &out, io.Discard))
		var r Report
		require.NoError(t, json.Unmarshal(out.Bytes(), &r))
		for _, sum := range r.Limiters {
			require.Greater(t, sum.Done, sum.Offered*98/100, "%+v", sum)
		}
	})
}

func TestTable(t *testing.T) {
	r := Report{Capacity: 77, Limiters: []Summary{{Limiter: "none", Refused: 4321, Goodput: 0.5, P99: 12.4}, {Limiter: "some"}}}
	var out bytes.Buffer
	require.NoError(t, r.WriteTable(&out))
	for _, text := range []string{"none", "some", "4321", "50 %", "of the 77 that could be", "12 ms"} {
		require.Contains(t, out.String(), text)
	}
	require.Error(t, r.WriteTable(brokenWriter{}))
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestParseFlags(t *testing.T) {
	s, err := ParseFlags(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, Settings{Length: 2 * time.Minute, Capacity: 20, Load: 1.1, Fixed: 20, Seed: 1}, s)
	require.Equal(t, s.Arrivals(), s.Arrivals())
	s, err = ParseFlags([]string{"-capacity=10"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 10, s.Fixed)

	for _, bad := range []string{
		"-length=59s", "-length=2h", "-length=5", "-capacity=1", "-capacity=1001", "-capacity=x", "-load=0", "-load=NaN", "-load=11",
		"-fixed=0", "-fixed=-1", "-fixed=10001", "-seed=-1", "-json=perhaps", "-colour=red",
	} {
		_, err := ParseFlags([]string{bad}, io.Discard)
		name, _, _ := strings.Cut(bad, "=")
		require.ErrorContains(t, err, name, bad)
	}
	_, err = ParseFlags([]string{"-json", "more"}, io.Discard)
	require.ErrorContains(t, err, `"more"`)
	_, err = ParseFlags([]string{"-length=10m", "-capacity=1000"}, io.Discard)
	require.ErrorContains(t, err, "must be at most 1000000")

	var usage bytes.Buffer
	_, err = ParseFlags([]string{"-help"}, &usage)
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, usage.String(), "-capacity")

	s.SVG = filepath.Join(t.TempDir(), "no such folder", "overload.svg")
	require.ErrorContains(t, Run(t.Context(), s, io.Discard, io.Discard), "-svg")
}

// The downstream works as described, phase by phase: it runs its capacity at once,
// lets half as many wait, and refuses the rest; then it is down.
func TestDownstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Settings{Length: 2 * time.Minute, Capacity: 40, Load: 1, Fixed: 40, Seed: 1}
		for name, c := range map[string]struct {
			at                   time.Duration
			done, refused, fails int // of 100 calls at once
		}{
			"full":   {at: 0, done: 60, refused: 40},
			"half":   {at: 30 * time.Second, done: 30, refused: 70},
			"slow":   {at: 55 * time.Second, done: 60, refused: 40},
			"down":   {at: 75 * time.Second, fails: 100},
			"double": {at: 100 * time.Second, done: 100},
		} {
			f := NewDownstream(s)
			time.Sleep(c.at)
			require.Equal(t, name, s.PhaseAt(c.at).Name)
			var mu sync.Mutex
			var done, refused, fails int
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					err := f.Call(t.Context())
					mu.Lock()
					defer mu.Unlock()
					switch limiter.Classify(err) {
					case nil:
						done++
					case limiter.ErrOverload:
						refused++
					case limiter.ErrUnavailable:
						fails++
					}
				})
			}
			all.Wait()
			require.Equal(t, []int{c.done, c.refused, c.fails}, []int{done, refused, fails}, name)
		}
	})
}

// Calls that run or wait when it goes down fail.
func TestGoingDownFailsWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewDownstream(Settings{Length: 2 * time.Minute, Capacity: 40, Load: 1, Fixed: 40, Seed: 1})
		time.Sleep(67500*time.Millisecond - time.Millisecond)
		var all sync.WaitGroup
		for range 60 {
			all.Go(func() { require.ErrorIs(t, f.Call(t.Context()), limiter.ErrUnavailable) })
		}
		all.Wait()
	})
}
