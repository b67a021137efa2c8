//go:build unix

package lambdalocal

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// ProcessConfig configures how a [Process] runs a compiled function. Path is required.
type ProcessConfig struct {
	// Path is the binary, which calls lambda.Start. Args are its arguments after
	// the first; Lambda passes none.
	Path string
	Args []string
	// Env are the function's environment variables, as "name=value". Those that
	// Lambda sets come before them; nothing is inherited.
	Env []string
	// Name is the function's name. Default "local".
	Name string
	// Region is the region in the function's environment. Default us-east-1.
	Region string
	// Memory is the memory size in the function's environment, 128 to 10,240 MB. It
	// is not enforced. Default 128.
	Memory int
	// Timeout is how long an invocation may take, up to 15 min, counted from when
	// the function gets it. Default 3 s.
	Timeout time.Duration
	// InitTimeout is how long a process may take from its start until it asks for
	// its first invocation, up to 15 min. Default 10 s, as on AWS.
	InitTimeout time.Duration
	// Concurrency is the maximum number of processes, 1 to 1,000. Invocations beyond
	// it are throttled. Default 1,000.
	Concurrency int
	// NoFreeze lets processes continue to run between invocations.
	NoFreeze bool
	// Output gets the standard output and error of all processes, one Write at a
	// time. Default: discarded.
	Output io.Writer
}

// A Process is a compiled function, run by one process of this machine for each
// concurrent invocation. Create one with [NewProcess], and call [Process.Close] at the
// end.
type Process struct {
	cfg    ProcessConfig
	pool   pool[*environment]
	output io.Writer

	mu    sync.Mutex            // guards what is below
	live  map[*environment]bool // whose process has not ended; true during an invocation
	dead  bool                  // no more processes are started
	stats ProcessStats
}

var _ Invoker = (*Process)(nil)

// ProcessStats are what a [Process] has done so far.
type ProcessStats struct {
	Invocations int // that a process got
	Errors      int // that the process answered with an error
	Timeouts    int // that the timeout ended
	Crashes     int // during which the process ended without a response
	InitErrors  int // processes that never asked for an invocation
	// ColdStarts are the times from the start of each process until it asked for its
	// first invocation, in the order of those requests.
	ColdStarts []time.Duration
	Live       int // processes now
	PeakLive   int // the maximum of Live
}

// NewProcess returns a function that has no process yet. It fails when a field
// of cfg is missing or out of range; the error names it.
func NewProcess(cfg ProcessConfig) (*Process, error) {
	bad := func(format string, args ...any) (*Process, error) {
		return nil, fmt.Errorf("lambdalocal: NewProcess: ProcessConfig."+format, args...)
	}
	if cfg.Name == "" {
		cfg.Name = "local"
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Memory == 0 {
		cfg.Memory = 128
	}
	if cfg.InitTimeout == 0 {
		cfg.InitTimeout = 10 * time.Second
	}
	var err error
	if cfg.Timeout, cfg.Concurrency, err = limits("NewProcess: ProcessConfig", cfg.Timeout, cfg.Concurrency); err != nil {
		return nil, err
	}
	if cfg.Memory < 128 || cfg.Memory > 10_240 {
		return bad("Memory is %d: must be 128 to 10,240, or 0 for the default", cfg.Memory)
	}
	if cfg.InitTimeout < time.Millisecond || cfg.InitTimeout > 15*time.Minute {
		return bad("InitTimeout is %v: must be 1 ms to 15 min, or 0 for the default", cfg.InitTimeout)
	}
	if cfg.Path, err = exec.LookPath(cfg.Path); err != nil {
		return bad("Path: %w", err)
	}
	cfg.Args, cfg.Env = slices.Clone(cfg.Args), slices.Clone(cfg.Env)
	p := &Process{cfg: cfg, pool: pool[*environment]{max: cfg.Concurrency}, live: make(map[*environment]bool)}
	if cfg.Output != nil {
		p.output = &lockedWriter{w: cfg.Output}
	}
	return p, nil
}

// Timeout returns the configured timeout.
func (p *Process) Timeout() time.Duration { return p.cfg.Timeout }

// Invoke passes the payload to a process, which it starts if none is idle. It
// returns when the process has responded and asked for the next invocation, has ended,
// or has been killed at its timeout. As on Lambda, an invocation continues although its
// caller has gone: only Close ends it, not the context.
func (p *Process) Invoke(_ context.Context, payload []byte) ([]byte, error) {
	e, err := p.environment()
	if err != nil {
		return nil, err
	}
	p.mark(e, true)
	out, alive := e.invoke(payload)
	p.mark(e, false)
	p.count(func(s *ProcessStats) {
		s.Invocations++
		switch out.end {
		case failed:
			s.Errors++
		case timedOut:
			s.Timeouts++
		case crashed:
			s.Crashes++
		}
	})
	if !alive || !p.pool.put(e) {
		e.end()
		p.pool.free()
	}
	return out.response, out.err
}

// environment returns an environment that has asked for an invocation.
func (p *Process) environment() (*environment, error) {
	for {
		e, warm, err := p.pool.take()
		if err != nil {
			return nil, err
		}
		if !warm {
			if e, err = p.start(); err != nil {
				p.pool.free()
			}
			return e, err
		}
		select {
		case <-e.exited: // while it was idle
			e.end()
			p.pool.free()
		default:
			return e, nil
		}
	}
}

// start starts a process and waits until it asks for an invocation.
func (p *Process) start() (*environment, error) {
	e, err := newEnvironment(p)
	if err != nil {
		return nil, fmt.Errorf("lambdalocal: %w", err)
	}
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		e.end()
		return nil, ErrClosed
	}
	p.live[e] = false
	p.stats.Live++
	p.stats.PeakLive = max(p.stats.PeakLive, p.stats.Live)
	p.mu.Unlock()
	if err := e.init(); err != nil {
		e.end()
		p.count(func(s *ProcessStats) { s.InitErrors++ })
		return nil, err
	}
	p.count(func(s *ProcessStats) { s.ColdStarts = append(s.ColdStarts, e.cold) })
	return e, nil
}

// mark records whether an environment has an invocation.
func (p *Process) mark(e *environment, invoked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.live[e]; ok {
		p.live[e] = invoked
	}
}

// ended is called when the process of an environment has ended.
func (p *Process) ended(e *environment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.live[e]; ok {
		delete(p.live, e)
		p.stats.Live--
	}
}

func (p *Process) count(f func(*ProcessStats)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.stats)
}

// Stats returns the figures. It may be called at any time.
func (p *Process) Stats() ProcessStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.ColdStarts = slices.Clone(s.ColdStarts)
	return s
}

// Kill kills a random process that has an invocation, as kill -9 does, and reports
// whether there was one. The invocation fails, unless the process had just responded.
func (p *Process) Kill() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var busy []*environment
	for e, invoked := range p.live {
		if invoked {
			busy = append(busy, e)
		}
	}
	if len(busy) == 0 {
		return false
	}
	busy[rand.IntN(len(busy))].kill()
	return true
}

// Recycle ends up to n idle processes, the least recently used first, and
// returns how many. As many later invocations are cold starts.
func (p *Process) Recycle(n int) int {
	idle := p.pool.shed(n)
	endAll(idle)
	for range idle {
		p.pool.free()
	}
	return len(idle)
}

// Close ends all processes. Idle ones get SIGTERM, and half a second later SIGKILL.
// Those with an invocation get SIGKILL, and the invocation fails. Close returns when all
// have ended; Invoke fails from now on.
func (p *Process) Close() {
	idle, empty := p.pool.close()
	p.mu.Lock()
	p.dead = true
	running := slices.Collect(maps.Keys(p.live))
	p.mu.Unlock()
	for _, e := range running {
		if !slices.Contains(idle, e) {
			e.kill()
		}
	}
	endAll(idle)
	for range idle {
		p.pool.free()
	}
	<-empty
}

// endAll ends environments concurrently.
func endAll(es []*environment) {
	var all sync.WaitGroup
	for _, e := range es {
		all.Go(e.end)
	}
	all.Wait()
}

// A lockedWriter serializes Writes.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
