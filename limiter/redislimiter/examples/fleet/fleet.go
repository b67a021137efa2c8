package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/internal/terminal"
)

// A Fleet is the worker processes. It is used by one goroutine; Rows may be
// called by another.
type Fleet struct {
	task   Task
	errors io.Writer // of the processes

	mu  sync.Mutex // guards all, and the state of each
	all []*process
}

// A process is one worker.
type process struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	started time.Time
	gone    chan struct{} // closed when it has ended and all that it wrote was read
	err     error         // how it ended, after gone

	status Status
	state  state
	ended  time.Time // when it was killed or asked to end; zero while it works
}

type state string

const (
	works  state = "works"
	rests  state = "rests"
	killed state = "killed"
	ended  state = "ended"
)

// NewFleet returns a fleet without processes. Each will have the task, under a
// name of its own.
func NewFleet(errors io.Writer, task Task) *Fleet { return &Fleet{task: task, errors: errors} }

// Start starts one more process.
func (f *Fleet) Start() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	f.mu.Lock()
	name := "w" + strconv.Itoa(len(f.all)+1)
	f.mu.Unlock()
	p := &process{name: name, cmd: exec.Command(self, workerArg), started: time.Now(), gone: make(chan struct{}), state: works}
	p.cmd.Stderr = prefixed{name, f.errors}
	stdout, errOut := p.cmd.StdoutPipe()
	stdin, errIn := p.cmd.StdinPipe()
	if err := errors.Join(errOut, errIn); err != nil {
		return fmt.Errorf("start worker %s: %w", name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start worker %s: %w", name, err)
	}
	p.stdin = stdin
	task := f.task
	task.Worker = name
	go func() {
		defer close(p.gone)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			var s Status
			if json.Unmarshal(lines.Bytes(), &s) == nil { // the last line of a killed one may be cut off
				f.mu.Lock()
				p.status = s
				f.mu.Unlock()
			}
		}
		p.err = p.cmd.Wait()
	}()
	f.mu.Lock()
	f.all = append(f.all, p)
	f.mu.Unlock()
	return json.NewEncoder(stdin).Encode(task)
}

// working returns those that were neither killed nor asked to end, from the
// oldest on.
func (f *Fleet) working() []*process {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ps []*process
	for _, p := range f.all {
		if p.ended.IsZero() {
			ps = append(ps, p)
		}
	}
	return ps
}

// set notes what was done to a process.
func (f *Fleet) set(p *process, s state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.state = s
	if s == killed || s == ended {
		p.ended = time.Now()
	}
}

// KillOldest kills the process that has been there for longest, as a crash
// would: it has no time for anything.
func (f *Fleet) KillOldest() {
	if ps := f.working(); len(ps) > 0 {
		f.set(ps[0], killed)
		_ = ps[0].cmd.Process.Kill() // it has ended by itself, which Failed says
		<-ps[0].gone
	}
}

// Rest has all but the oldest rest, or work again.
func (f *Fleet) Rest(rest bool) error {
	what, s := commandWork, works
	if rest {
		what, s = commandRest, rests
	}
	for i, p := range f.working() {
		if i == 0 {
			continue
		}
		if _, err := fmt.Fprintln(p.stdin, what); err != nil {
			return fmt.Errorf("tell worker %s to %s: %w", p.name, what, err)
		}
		f.set(p, s)
	}
	return nil
}

// Failed returns why a process has ended that nobody has killed or asked to
// end, or nil.
func (f *Fleet) Failed() error {
	for _, p := range f.working() {
		select {
		case <-p.gone:
			return fmt.Errorf("worker %s has ended: %w", p.name, cmpErr(p.err))
		default:
		}
	}
	return nil
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("without being asked to")
	}
	return err
}

// Stop has all processes finish what they have begun, and ends those that take
// longer than ctx allows.
func (f *Fleet) Stop(ctx context.Context) error {
	ps := f.working()
	for _, p := range ps {
		f.set(p, ended)
		_ = p.stdin.Close() // it has ended already
	}
	var errs []error
	for _, p := range ps {
		select {
		case <-p.gone:
			if p.err != nil {
				errs = append(errs, fmt.Errorf("worker %s: %w", p.name, p.err))
			}
		case <-ctx.Done():
			_ = p.cmd.Process.Kill()
			<-p.gone
			errs = append(errs, fmt.Errorf("worker %s did not end: %w", p.name, context.Cause(ctx)))
		}
	}
	return errors.Join(errs...)
}

// A Row is a process as the table shows it.
type Row struct {
	Name           string
	State          state
	Started, Ended time.Time
	Status
}

// Rows returns all processes there ever were, from the oldest on.
func (f *Fleet) Rows() []Row {
	f.mu.Lock()
	defer f.mu.Unlock()
	rows := make([]Row, len(f.all))
	for i, p := range f.all {
		rows[i] = Row{Name: p.name, State: p.state, Started: p.started, Ended: p.ended, Status: p.status}
	}
	return rows
}

// prefixed begins what a process writes with its name.
type prefixed struct {
	name string
	w    io.Writer
}

func (p prefixed) Write(b []byte) (int, error) {
	if _, err := fmt.Fprintf(p.w, "%s: %s", p.name, terminal.Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
