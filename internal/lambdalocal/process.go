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

// ProcessConfig says how a [Process] runs a compiled function. Path is required.
type ProcessConfig struct {
	// Path is the binary, which calls lambda.Start; Args are its arguments after
	// the first, of which Lambda has none.
	Path string
	Args []string
	// Env are the function's environment variables, as "name=value". Those that
	// Lambda sets come before them; nothing is inherited.
	Env []string
	// Name is the function's. Default "local".
	Name string
	// Region is what the function is told that it runs in. Default us-east-1.
	Region string
	// Memory is what the function is told that it has, 128 to 10,240 MB. Nothing
	// keeps it to it. Default 128.
	Memory int
	// Timeout is how long an invocation may take, up to 15 min, counted from when
	// the function has it. Default 3 s.
	Timeout time.Duration
	// InitTimeout is how long a process may take from its start until it asks for
	// its first invocation, up to 15 min. Default 10 s, as on AWS.
	InitTimeout time.Duration
	// Concurrency is the most processes, 1 to 1,000. Invocations beyond it are
	// throttled. Default 1,000.
	Concurrency int
	// NoFreeze lets processes run on between invocations.
	NoFreeze bool
	// Output is where the standard output and error of all processes go, one
	// Write at a time. Default: nowhere.
	Output io.Writer
}

// A Process is a compiled function, run by as many processes of this machine as
// it has concurrent invocations. Make one with [NewProcess], and [Process.Close]
// it.
type Process struct {
	cfg    ProcessConfig
	pool   pool[*environment]
	output io.Writer

	mu    sync.Mutex            // guards what is below
	live  map[*environment]bool // whose process has not ended; true in mid-invocation
	dead  bool                  // no process is started any more
	stats ProcessStats
}

var _ Invoker = (*Process)(nil)

// ProcessStats are what a [Process] has done so far.
type ProcessStats struct {
	Invocations int // that a process was given
	Errors      int // that it answered with an error
	Timeouts    int // that were ended by the timeout
	Crashes     int // in which the process ended without an answer
	InitErrors  int // processes that never asked for an invocation
	// ColdStarts are the times from the start of a process until it asked for its
	// first invocation, in the order in which they did.
	ColdStarts []time.Duration
	Live       int // processes now
	PeakLive   int // the most that Live was
}

// NewProcess returns a function that no process runs yet. It fails when a field
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

// Timeout is that of the config.
func (p *Process) Timeout() time.Duration { return p.cfg.Timeout }

// Invoke gives the payload to a process, which it starts if none is idle. It
// returns when the process is done with it: it has answered and asked for the
// next invocation, it has ended, or its time was over and it was killed. The
// context does not cut it short, as a caller that has gone does not a function
// of Lambda; Close does.
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

// environment returns one that has asked for an invocation.
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

// mark notes whether an environment is in mid-invocation.
func (p *Process) mark(e *environment, invoked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.live[e]; ok {
		p.live[e] = invoked
	}
}

// ended is told that the process of an environment is no more.
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

// Kill kills a random one of the processes that are in mid-invocation, as
// kill -9 does, and reports whether there was one. The invocation fails, unless
// the process had just answered.
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
// returns how many: as many invocations start cold later.
func (p *Process) Recycle(n int) int {
	idle := p.pool.shed(n)
	endAll(idle)
	for range idle {
		p.pool.free()
	}
	return len(idle)
}

// Close ends all processes: idle ones with SIGTERM, and half a second later with
// SIGKILL; those in mid-invocation with SIGKILL, and their invocations fail. It
// returns when all are gone, and Invoke fails from now on.
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

// endAll ends environments side by side.
func endAll(es []*environment) {
	var all sync.WaitGroup
	for _, e := range es {
		all.Go(e.end)
	}
	all.Wait()
}

// A lockedWriter has one Write at a time.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
