//go:build unix

package lambdalocal_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
)

// soon is how long what must happen may take at most.
const soon = 20 * time.Second

// A log collects output.
type log struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *log) waitFor(t *testing.T, text string, times int) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Count(l.String(), text) >= times }, soon, time.Millisecond, "%d times %q in:\n%s", times, text, l)
}

// A compiled is this test binary as a function.
type compiled struct {
	*testing.T
	*lambdalocal.Process
	log  *log
	pids []int
}

func compile(t *testing.T, function string, change func(*lambdalocal.ProcessConfig)) *compiled {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c := &compiled{T: t, log: new(log)}
	cfg := lambdalocal.ProcessConfig{Path: self, Env: []string{"FUNCTION=" + function}, Timeout: soon, InitTimeout: soon, Output: c.log}
	if change != nil {
		change(&cfg)
	}
	c.Process, err = lambdalocal.NewProcess(cfg)
	require.NoError(t, err)
	t.Cleanup(c.close)
	return c
}

// close ends the function, and nothing of it is left then.
func (c *compiled) close() {
	c.Close()
	require.Zero(c, c.Stats().Live)
	for _, pid := range c.pids {
		require.ErrorIs(c, syscall.Kill(pid, 0), syscall.ESRCH, "process %d", pid)
	}
	// A handler that has written its answer needs a moment to be gone.
	require.Eventually(c, func() bool { return !strings.Contains(stacks(), "lambdalocal.(*") }, soon, time.Millisecond, "goroutines of the package are left")
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

func (c *compiled) tell(do string) (sight, error) { return c.tellFor(do, 0) }

func (c *compiled) tellFor(do string, d time.Duration) (s sight, err error) {
	payload, err := json.Marshal(order{Do: do, For: d})
	require.NoError(c, err)
	response, err := c.Invoke(c.Context(), payload)
	if err != nil {
		return s, err
	}
	require.NoError(c, json.Unmarshal(response, &s))
	return s, nil
}

func (c *compiled) ask() sight {
	c.Helper()
	s, err := c.tell("")
	require.NoError(c, err)
	c.pids = append(c.pids, s.PID)
	return s
}

func (c *compiled) fails(err error, kind, message string) {
	c.Helper()
	var e *lambdalocal.FunctionError
	require.ErrorAs(c, err, &e)
	require.Equal(c, kind, e.Type)
	require.Contains(c, e.Message, message)
}

func TestProcessConfig(t *testing.T) {
	for field, change := range map[string]func(*lambdalocal.ProcessConfig){
		"Path":                func(c *lambdalocal.ProcessConfig) { c.Path = "/does/not/exist" },
		"Memory is 127":       func(c *lambdalocal.ProcessConfig) { c.Memory = 127 },
		"Timeout is 16m0s":    func(c *lambdalocal.ProcessConfig) { c.Timeout = 16 * time.Minute },
		"InitTimeout is -1s":  func(c *lambdalocal.ProcessConfig) { c.InitTimeout = -time.Second },
		"Concurrency is 1001": func(c *lambdalocal.ProcessConfig) { c.Concurrency = 1001 },
	} {
		cfg := lambdalocal.ProcessConfig{Path: "/bin/sh"}
		change(&cfg)
		_, err := lambdalocal.NewProcess(cfg)
		require.ErrorContains(t, err, "lambdalocal: NewProcess: ProcessConfig."+field)
	}
}

func TestWhatAFunctionSees(t *testing.T) {
	c := compile(t, "start", func(cfg *lambdalocal.ProcessConfig) {
		cfg.Name, cfg.Region, cfg.Memory = "orders", "eu-west-1", 256
		cfg.Env = append(cfg.Env, "TABLE=orders", "AWS_SECRET_ACCESS_KEY=other")
	})
	t.Setenv("NOT_INHERITED", "1")
	before := time.Now()
	s := c.ask()
	env := make(map[string]string)
	for _, v := range s.Env {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	for name, value := range map[string]string{
		"AWS_LAMBDA_FUNCTION_NAME": "orders", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
		"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1", "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/orders",
		"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "TZ": ":UTC", "TABLE": "orders", "AWS_SECRET_ACCESS_KEY": "other",
	} {
		require.Equal(t, value, env[name], name)
	}
	for _, name := range []string{"_HANDLER", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_ACCESS_KEY_ID", "PATH"} {
		require.NotEmpty(t, env[name], name)
	}
	require.True(t, strings.HasPrefix(env["AWS_LAMBDA_RUNTIME_API"], "127.0.0.1:"))
	require.NotContains(t, env, "NOT_INHERITED")
	require.Equal(t, "arn:aws:lambda:eu-west-1:000000000000:function:orders", s.ARN)
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, s.ID)
	require.Regexp(t, `^Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0$`, s.TraceID)
	require.False(t, s.Deadline.Before(before.Add(soon).Truncate(time.Millisecond)), "an absolute time")
	require.False(t, s.Deadline.After(s.Now.Add(soon)))
	again := c.ask()
	require.NotEqual(t, s.ID, again.ID)
	require.NotEqual(t, s.TraceID, again.TraceID)
	require.Equal(t, s.PID, again.PID)
	st := c.Stats()
	require.Len(t, st.ColdStarts, 1)
	require.Positive(t, st.ColdStarts[0])
}

func TestFailedInvocations(t *testing.T) {
	for do, e := range map[string]struct {
		kind, message string
		same          bool // the process lives on
	}{
		"fail":  {"errorString", "not today", true},
		"panic": {"string", "ouch", false},
		"exit":  {lambdalocal.Exited, "exit status 7", false},
		"hang":  {lambdalocal.TimedOut, "Task timed out after 1.50 seconds", false},
	} {
		t.Run(do, func(t *testing.T) {
			c := compile(t, "start", func(cfg *lambdalocal.ProcessConfig) {
				cfg.Concurrency = 1
				if do == "hang" {
					cfg.Timeout = 1500 * time.Millisecond
				}
			})
			first := c.ask()
			_, err := c.tell(do)
			c.fails(err, e.kind, e.message)
			second := c.ask()
			require.Equal(t, e.same, first.PID == second.PID)
			st := c.Stats()
			require.Equal(t, 3, st.Invocations)
			require.Equal(t, do == "fail" || do == "panic", st.Errors == 1)
			require.Equal(t, do == "exit", st.Crashes == 1)
			require.Equal(t, do == "hang", st.Timeouts == 1)
			require.Equal(t, 1, st.PeakLive)
		})
	}
}

func TestInitErrors(t *testing.T) {
	for function, e := range map[string]struct {
		kind, message string
		timeout       time.Duration
	}{
		"exits":      {lambdalocal.Exited, "exit status 3", soon},
		"init error": {"Config.Missing", "no table", soon},
		"stubborn":   {lambdalocal.TimedOut, "init phase timed out after 500ms", 500 * time.Millisecond},
	} {
		t.Run(function, func(t *testing.T) {
			c := compile(t, function, func(cfg *lambdalocal.ProcessConfig) { cfg.Concurrency, cfg.InitTimeout = 1, e.timeout })
			for range 2 { // its slot is free again
				_, err := c.tell("")
				c.fails(err, e.kind, e.message)
			}
			st := c.Stats()
			require.Equal(t, 2, st.InitErrors)
			require.Zero(t, st.Invocations)
			require.Empty(t, st.ColdStarts)
		})
	}
}

func TestConcurrentInvocations(t *testing.T) {
	c := compile(t, "start", func(cfg *lambdalocal.ProcessConfig) { cfg.Concurrency = 3 })
	var all sync.WaitGroup
	errs := make(chan error, 3)
	for range 3 {
		all.Go(func() {
			_, err := c.tellFor("wait", time.Hour)
			errs <- err
		})
	}
	c.log.waitFor(t, "waiting", 3)
	_, err := c.tell("")
	require.ErrorIs(t, err, lambdalocal.ErrThrottled)
	require.Equal(t, 3, c.Stats().Live)

	// All of them are killed, one by one, and others replace them.
	for i := range 3 {
		require.True(t, c.Kill())
		c.fails(<-errs, lambdalocal.Exited, "signal: killed")
		require.Equal(t, i+1, c.Stats().Crashes)
	}
	all.Wait()
	require.False(t, c.Kill(), "none is in mid-invocation")
	require.Zero(t, c.Stats().Live)
	c.ask()
	require.False(t, c.Kill(), "an idle one is not")
	require.Len(t, c.Stats().ColdStarts, 4)
}

func TestTheLastUsedProcessIsUsedNext(t *testing.T) {
	c := compile(t, "start", nil)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			_, err := c.tellFor("wait", 500*time.Millisecond)
			require.NoError(t, err)
		})
	}
	c.log.waitFor(t, "waiting", 3)
	all.Wait()
	pid := c.ask().PID
	for range 5 {
		require.Equal(t, pid, c.ask().PID)
	}
	require.Equal(t, 2, c.Recycle(2))
	require.Equal(t, 1, c.Stats().Live)
	require.Equal(t, pid, c.ask().PID)
	require.Equal(t, 1, c.Recycle(5))
	require.NotEqual(t, pid, c.ask().PID)
}

func TestFreezing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	stopped := func(pid int) bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		require.NoError(t, err)
		_, rest, _ := strings.Cut(string(text), ") ")
		return rest[0] == 'T'
	}
	t.Run("on", func(t *testing.T) {
		c := compile(t, "ticking", nil)
		for range 10 {
			pid := c.ask().PID
			require.Eventually(t, func() bool { return stopped(pid) }, soon, time.Millisecond)
		}
		// While it runs, it ticks.
		c.log.waitFor(t, "tick", 1)
		before := strings.Count(c.log.String(), "tick")
		var all sync.WaitGroup
		all.Go(func() { _, _ = c.tellFor("wait", time.Second) })
		c.log.waitFor(t, "tick", before+5) // of a thousand, on a machine with nothing else to do
		all.Wait()
	})
	t.Run("off", func(t *testing.T) {
		c := compile(t, "ticking", func(cfg *lambdalocal.ProcessConfig) { cfg.NoFreeze = true })
		pid := c.ask().PID
		c.log.waitFor(t, "tick", strings.Count(c.log.String(), "tick")+100)
		require.False(t, stopped(pid))
	})
}

// A process that ends while it is idle is replaced, and fails no invocation.
func TestAProcessThatEndsWhenIdle(t *testing.T) {
	c := compile(t, "start", func(cfg *lambdalocal.ProcessConfig) { cfg.NoFreeze, cfg.Concurrency = true, 1 })
	first := c.ask().PID
	_, err := c.tellFor("exit later", time.Millisecond)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return c.Stats().Live == 0 }, soon, time.Millisecond)
	require.NotEqual(t, first, c.ask().PID)
}

func TestOutput(t *testing.T) {
	c := compile(t, "start", nil)
	_, err := c.tell("say")
	require.NoError(t, err)
	c.log.waitFor(t, "here I am", 1)
	c.log.waitFor(t, "and here", 1)
}

func TestClose(t *testing.T) {
	c := compile(t, "start", nil)
	c.ask()
	errs := make(chan error, 2)
	for range 2 {
		go func() { _, err := c.tellFor("wait", time.Hour); errs <- err }()
	}
	c.log.waitFor(t, "waiting", 2)
	c.close()
	for range 2 {
		c.fails(<-errs, lambdalocal.Exited, "signal: killed")
	}
	_, err := c.tell("")
	require.ErrorIs(t, err, lambdalocal.ErrClosed)
	c.close()
}

func TestRuntimeAPI(t *testing.T) {
	const response, failure = "invocation/{id}/response", "invocation/{id}/error"
	c := compile(t, "raw", nil)
	run := func(posts ...[3]string) (string, error) {
		payload, err := json.Marshal(posts)
		require.NoError(t, err)
		out, err := c.Invoke(t.Context(), payload)
		return string(out), err
	}

	out, err := run([3]string{"invocation/another-id/response", "no"}, [3]string{response, `"yes"`}, [3]string{response, "again"}, [3]string{failure, "late"})
	require.NoError(t, err)
	require.Equal(t, `"yes"`, out)
	c.log.waitFor(t, "400 ", 3)
	c.log.waitFor(t, "InvalidRequestID", 3)
	c.log.waitFor(t, `202 {"status":"OK"}`, 1)
	for _, header := range []string{"Aws-Request-Id", "Deadline-Ms", "Invoked-Function-Arn", "Trace-Id"} {
		c.log.waitFor(t, `"Lambda-Runtime-`+header+`":["`, 1)
	}

	_, err = run([3]string{response, "huge"}, [3]string{failure, `{"errorType":"Response.Size","errorMessage":"too large"}`})
	c.fails(err, "Response.Size", "too large")
	c.log.waitFor(t, "413 ", 1)

	_, err = run([3]string{failure, "not JSON"})
	c.fails(err, "", "not JSON")

	_, err = run([3]string{response, `"half of i`, "Stream.Broken"})
	c.fails(err, "Stream.Broken", "")

	_, err = run([3]string{"nowhere", ""}, [3]string{response, ""})
	require.NoError(t, err)
	c.log.waitFor(t, "404 ", 1)
}
