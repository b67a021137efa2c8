package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

// TestMain lets the tests' own program be the one that is started again for the
// workers, and to keep Redis.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == workerArg || os.Args[1] == keepArg) {
		main()
	}
	os.Exit(m.Run())
}

// small is a run of a few seconds. A tenth of its rate is its concurrency, so
// however a busy machine bunches the requests on their way, the API never sees
// more than it allows.
func small() Settings {
	return Settings{
		Limits:    Limits{Rate: 100, Burst: 10, Concurrency: 10},
		Processes: 3, For: 3 * time.Second, Latency: 20 * time.Millisecond, Lease: 2 * time.Second,
		Name: "fleet-test", JSON: true,
	}
}

// playSettings runs the program and returns its report, and what it showed.
func playSettings(ctx context.Context, t *testing.T, s Settings) (r Report, shown string) {
	t.Helper()
	var out, progress bytes.Buffer
	require.NoError(t, Run(ctx, s, &out, &progress), "%s", &progress)
	d := json.NewDecoder(bytes.NewReader(out.Bytes()))
	require.NoError(t, d.Decode(&r))
	require.ErrorIs(t, d.Decode(new(any)), io.EOF, "one object and nothing else")
	return r, progress.String()
}

// requireKept checks what is so in every run.
func requireKept(t *testing.T, s Settings, r Report) {
	t.Helper()
	require.NoError(t, r.Verdict())
	require.Zero(t, r.Lost)
	require.Zero(t, r.StoredTwice)
	require.Zero(t, r.OverRate)
	require.Zero(t, r.Failed)
	require.LessOrEqual(t, r.Open, s.Concurrency)
	require.Equal(t, r.Accepted, r.Stored+r.DeadLettered+r.Left)
	require.Len(t, r.Processes, s.Processes+r.Killed)
	sum := 0
	for _, p := range r.Processes {
		sum += p.Requests
	}
	require.Equal(t, r.Requests, sum, "every request is some process's")
}

func TestRun(t *testing.T) {
	t.Parallel()
	s := small()
	s.Kill, s.Solo = time.Second, 3*time.Second
	r, shown := playSettings(t.Context(), t, s)
	requireKept(t, s, r)
	require.False(t, r.Interrupted)
	require.Positive(t, r.Killed)
	require.Zero(t, r.Left)
	require.Equal(t, 5, r.DeadLettered)
	require.Len(t, r.DeadLetters, 5)
	require.Positive(t, r.RedisCalls)
	require.NotNil(t, r.Solo)
	require.Nil(t, r.Outage)
	reasons := map[string]int{}
	for _, l := range r.DeadLetters {
		reasons[l.Reason]++
		require.True(t, strings.HasPrefix(l.ID, s.Name+"-"))
	}
	require.Equal(t, map[string]int{"undecodable": 3, "not_found": 2}, reasons)
	require.Contains(t, shown, " orders done; the API sees ")
	require.Contains(t, shown, "; w1 killed")

	// What the report of examples/orders has, too, for those who read both.
	text, err := json.Marshal(r)
	require.NoError(t, err)
	var keys map[string]any
	require.NoError(t, json.Unmarshal(text, &keys))
	for _, key := range []string{
		"accepted", "dead_lettered", "dead_letters", "failed", "left_in_queue", "lost", "max_over_rate",
		"peak_in_flight", "peak_open", "rejected_429", "requests", "seconds", "stored", "stored_twice",
	} {
		require.Contains(t, slices.Collect(maps.Keys(keys)), key)
	}
	var table bytes.Buffer
	require.NoError(t, r.WriteTable(&table))
	require.Contains(t, table.String(), "processes killed and replaced")
	require.Contains(t, table.String(), "w1        killed")
}

// An interrupted run says where the orders are.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	s := small()
	s.For = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	r, shown := playSettings(ctx, t, s)
	requireKept(t, s, r)
	require.True(t, r.Interrupted)
	require.Contains(t, shown, "interrupted: waiting up to 45s for 3 processes to finish what they have begun; press Ctrl-C again to stop now\n")
	require.Positive(t, r.Left)
}

// Without Redis nobody starts anything, if that is asked for, and when it is
// back all that was left is done.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := small()
	s.For, s.Outage, s.OnOutage = 6*time.Second, 2*time.Second, redislimiter.Closed
	r, shown := playSettings(t.Context(), t, s)
	requireKept(t, s, r)
	require.False(t, r.Interrupted)
	require.Zero(t, r.Left)
	require.Contains(t, shown, "Redis is stopped\n")
	require.Contains(t, shown, "Redis is back, empty\n")
	require.Equal(t, "closed", r.Outage.Mode)
	// What was leased before it is used up: a lease is 1.25 s.
	require.LessOrEqual(t, r.Outage.Requests, 1+int(1.25*s.Rate)+s.APIBurst())
	require.Positive(t, r.RedisCallsFailed)
}

// A server of our own can be stopped and comes back empty, whatever it is.
func TestRedis(t *testing.T) {
	for _, path := range []string{os.Getenv("PATH"), ""} {
		t.Setenv("PATH", path)
		var said bytes.Buffer
		r, err := OpenRedis(Settings{}, &said)
		require.NoError(t, err)
		if path == "" {
			require.Contains(t, said.String(), "a stand-in inside this program")
		}
		client := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1, DialerRetries: 1})
		require.NoError(t, client.Set(t.Context(), "key", "value", 0).Err())
		require.NoError(t, r.Stop())
		require.Error(t, client.Get(t.Context(), "key").Err())
		require.NoError(t, r.Start())
		require.ErrorIs(t, client.Get(t.Context(), "key").Err(), redis.Nil)
		require.NoError(t, client.Close())
		require.NoError(t, r.Close())
		require.Error(t, ping(r.Addr(), 50*time.Millisecond))
	}
	foreign, err := OpenRedis(Settings{Redis: "127.0.0.1:1"}, io.Discard)
	require.ErrorContains(t, err, "127.0.0.1:1")
	require.Error(t, foreign.Stop())
}

// Fleets on a real server, with losses: each is bound by one of the limits, and
// uses it. The bounds leave room for a busy machine.
func TestLive(t *testing.T) {
	addr := os.Getenv("RAMPMETER_REDIS_ADDR")
	if addr == "" {
		t.Skip("needs a Redis server: set RAMPMETER_REDIS_ADDR")
	}
	for name, s := range map[string]Settings{
		"rate":        {Limits: Limits{Rate: 200, Burst: 20, Concurrency: 20}, Latency: 50 * time.Millisecond},
		"concurrency": {Limits: Limits{Rate: 1000, Burst: 100, Concurrency: 20}, Latency: 150 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.Processes, s.For, s.Kill, s.Lease = 8, 16*time.Second, 5*time.Second, 5*time.Second
			s.Redis, s.JSON = addr, true
			s.Name = "fleet-" + name + "-" + time.Now().Format("150405.000000")
			r, _ := playSettings(t.Context(), t, s)
			requireKept(t, s, r)
			used := r.RateUsed
			if name == "concurrency" {
				used = r.ConcurrencyUsed
			}
			t.Logf("%s: used %.1f %%, fairness %.3f, %.3f calls to Redis per message, %d handled again", name, 100*used, r.Jain, r.RedisCallsPerMessage, r.HandledTwice)
			require.Greater(t, used, 0.85)
			require.Greater(t, r.Jain, 0.85)
		})
	}
}

func TestVerdict(t *testing.T) {
	fine := Report{Accepted: 10, Stored: 10, Open: 20, Limits: limitsReport{200, 20, 20}}
	require.NoError(t, fine.Verdict())
	for _, c := range []struct {
		text   string
		change func(r *Report)
	}{
		{"1 orders were lost", func(r *Report) { r.Lost = 1 }},
		{"2 orders were stored twice", func(r *Report) { r.StoredTwice = 2 }},
		{"saw 3 requests more than the rate allows", func(r *Report) { r.OverRate = 3 }},
		{"saw 21 requests at once: it allows 20", func(r *Report) { r.Open = 21 }},
	} {
		r := fine
		c.change(&r)
		require.ErrorContains(t, r.Verdict(), c.text)
	}
}

// The judge: what it makes of a record.
func TestRecord(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(0, 0).Add(time.Duration(s * float64(time.Second))) }
	var r Record
	for i := range 100 { // ten a second, three of four by a
		worker := "a"
		if i%4 == 3 {
			worker = "b"
		}
		r = append(r, arrival{at(float64(i) / 10), worker})
	}
	require.Len(t, r.Between(at(1), at(2)), 10)
	require.Empty(t, r.Between(at(2), at(1)))
	require.Equal(t, 75, r.Of("a"))
	require.Equal(t, time.Duration(0), r.Reaches(at(0), at(10), time.Second, 10))
	require.Equal(t, -time.Second, r.Reaches(at(0), at(10), time.Second, 12))
	require.Equal(t, 950*time.Millisecond, r.Reaches(at(-1), at(10), time.Second, 10))

	rows := []Row{{Name: "a", Started: at(-10)}, {Name: "b", Started: at(-2)}, {Name: "late", Started: at(7)}, {Name: "gone", Started: at(-10), Ended: at(1)}}
	rates := r.Rates(rows, at(0), at(10))
	require.InDeltaSlice(t, []float64{7.5, 2.5}, rates, 1e-9)
	require.InDelta(t, 0.8, Jain(rates), 1e-9)
	require.InDelta(t, 0.25, Jain([]float64{1, 0, 0, 0}), 1e-9)
	require.InDelta(t, 1, Jain([]float64{3, 3}), 1e-9)
	require.InDelta(t, 1, Jain(nil), 1e-9)
}

// A table is drawn over itself on a terminal, and lines stand above it.
func TestTable(t *testing.T) {
	var b bytes.Buffer
	table := NewTable(&b)
	table.terminal = true
	row := Row{Name: "w1", State: works, Status: Status{State: "connected", Share: 25, Places: 3}}
	table.Show("headline", []Row{row})
	require.Equal(t, 1+2, strings.Count(b.String(), "\n"))
	require.Contains(t, b.String(), "connected")
	b.Reset()
	_, err := table.Write([]byte("a line\n"))
	require.NoError(t, err)
	require.Equal(t, "\x1b[3A\x1b[Ja line\n", b.String())
	b.Reset()
	row.State, row.Ended = killed, time.Now().Add(-time.Second)
	old := Row{Name: "w0", State: ended, Ended: time.Now().Add(-time.Minute)}
	table.Show("headline", []Row{old, row})
	require.NotContains(t, b.String(), "\x1b")
	require.NotContains(t, b.String(), "w0")
	require.Contains(t, b.String(), "killed")

	// It may be written to and shown at once.
	var wg sync.WaitGroup
	wg.Go(func() { table.Show("headline", []Row{row}) })
	wg.Go(func() { _, _ = table.Write([]byte("x\n")) })
	wg.Wait()
}

func TestParseFlags(t *testing.T) {
	s, err := ParseFlags(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 4, s.Processes)
	require.Zero(t, s.Kill)
	require.Equal(t, redislimiter.Share, s.OnOutage)
	require.Equal(t, 40, s.APIBurst())
	require.InDelta(t, 200, s.Capacity(), 1e-9)
	again, err := ParseFlags(nil, io.Discard)
	require.NoError(t, err)
	require.NotEqual(t, s.Name, again.Name, "runs are apart")

	s, err = ParseFlags([]string{"-kill", "-on-outage=closed", "-outage=2s", "-latency=1s"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, killEvery, s.Kill)
	require.Equal(t, redislimiter.Closed, s.OnOutage)
	require.InDelta(t, 20, s.Capacity(), 1e-9)
	s, err = ParseFlags([]string{"-kill=2s"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, 2*time.Second, s.Kill)

	var usage bytes.Buffer
	_, err = ParseFlags([]string{"-help"}, &usage)
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, usage.String(), "-processes")

	for _, c := range []struct{ args, text string }{
		{"-processes=0", "-processes is 0"},
		{"-processes=101", "-processes is 101"},
		{"-for=1ms", "-for is 1ms"},
		{"-rate=NaN", "-rate is NaN"},
		{"-burst=0", "-burst is 0"},
		{"-concurrency=0", "-concurrency is 0"},
		{"-latency=-1s", "-latency is -1s"},
		{"-kill=0s", "-kill"},
		{"-kill=often", "-kill"},
		{"-outage=30s", "-outage is 30s"},
		{"-outage=1s -redis=127.0.0.1:6379", "-outage with -redis"},
		{"-on-outage=open", `-on-outage is "open"`},
		{"-solo=-1s", "-solo is -1s"},
		{"-queue-url=http://x/1/q", "-dead-letter-url"},
		{"-queue-url=http://x/1/q -dead-letter-url=http://x/1/q", "same"},
		{"-queue-url=http://x/1/q.fifo -dead-letter-url=http://x/1/d", "standard"},
		{"what", `"what"`},
	} {
		_, err := ParseFlags(strings.Fields(c.args), io.Discard)
		require.ErrorContains(t, err, c.text, c.args)
	}
}

// What others have written can neither command a terminal nor pass for a line of the
// report's own.
func TestNothingForTheTerminal(t *testing.T) {
	const text = "boom \x1b[31mred\x1b]0;title\x07 \u009b2J \x7f\r \u202etxt.exe \x9b\xff\nlost  0"
	var b strings.Builder
	r := Report{DeadLetters: []DeadLetter{{ID: text, Reason: text, Error: text}}}
	require.NoError(t, r.WriteTable(&b))
	require.NoError(t, r.WriteJSON(&b))
	_, err := prefixed{"worker", &b}.Write([]byte(text))
	require.NoError(t, err)
	require.Contains(t, b.String(), `\x1b[31mred`)
	requireTame(t, b.String())
}

// requireTame fails if a terminal would obey, hide or turn around any of the text.
func requireTame(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "%q", text)
	for _, r := range text {
		require.False(t, unicode.IsControl(r) && r != '\n' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp), "%q in %q", r, text)
	}
}
