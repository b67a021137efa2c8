//go:build unix

package lambdalocal

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// termGrace is how long an idle process has between SIGTERM and SIGKILL.
const termGrace = 500 * time.Millisecond

// An environment is an execution environment: a process with its own runtime API.
type environment struct {
	p     *Process
	api   *runtimeAPI
	http  *http.Server
	cmd   *exec.Cmd
	begun time.Time
	cold  time.Duration // from the start until the process asked for an invocation; set by init

	exited chan struct{} // closed when the process has been reaped
	all    sync.WaitGroup
	once   sync.Once // of end
}

// newEnvironment starts a process.
func newEnvironment(p *Process) (*environment, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("runtime API: %w", err)
	}
	e := &environment{p: p, exited: make(chan struct{})}
	e.api = newRuntimeAPI(functionARN(p.cfg.Region, p.cfg.Name), e.exited)
	e.http = &http.Server{Handler: e.api.handler(), ReadHeaderTimeout: time.Minute}
	e.cmd = exec.Command(p.cfg.Path, p.cfg.Args...)
	e.cmd.Env = append(variables(p.cfg, l.Addr().String()), p.cfg.Env...)
	if p.output != nil {
		e.cmd.Stdout, e.cmd.Stderr = p.output, p.output
	}
	// Children of the process must not keep its output open forever.
	e.cmd.WaitDelay = time.Second
	// In its own process group, the process does not get the terminal's interrupts. If
	// this process dies first, that group is orphaned, and the kernel wakes and ends
	// the process even if it is frozen.
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	e.begun = time.Now()
	if err := e.cmd.Start(); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("function: %w", err)
	}
	e.all.Go(func() { _ = e.http.Serve(l) }) // until it is shut down
	e.all.Go(func() {
		_ = e.cmd.Wait() // how it ended is in ProcessState
		p.ended(e)
		close(e.exited)
	})
	return e, nil
}

// variables returns the environment variables that Lambda sets.
func variables(cfg ProcessConfig, api string) []string {
	return []string{
		"AWS_LAMBDA_RUNTIME_API=" + api,
		"AWS_LAMBDA_FUNCTION_NAME=" + cfg.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(cfg.Memory),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + cfg.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + hexText(16),
		"AWS_REGION=" + cfg.Region,
		"AWS_DEFAULT_REGION=" + cfg.Region,
		"AWS_ACCESS_KEY_ID=local",
		"AWS_SECRET_ACCESS_KEY=local",
		"AWS_SESSION_TOKEN=local",
		"_HANDLER=" + filepath.Base(cfg.Path),
		"LAMBDA_TASK_ROOT=" + filepath.Dir(cfg.Path),
		"LAMBDA_RUNTIME_DIR=/var/runtime",
		"LANG=en_US.UTF-8",
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"TZ=:UTC",
	}
}

// init waits until the process asks for its first invocation.
func (e *environment) init() error {
	timer := time.NewTimer(e.p.cfg.InitTimeout)
	defer timer.Stop()
	select {
	case <-e.api.asked:
		e.cold = time.Since(e.begun)
		return nil
	case <-e.exited:
		if err := e.api.initError(); err != nil {
			return err
		}
		return &FunctionError{Type: Exited, Message: "in the init phase: " + e.cmd.ProcessState.String()}
	case <-timer.C:
		e.kill()
		return &FunctionError{Type: TimedOut, Message: fmt.Sprintf("init phase timed out after %v", e.p.cfg.InitTimeout)}
	}
}

// An outcome is the result of an invocation.
type outcome struct {
	response []byte
	err      error
	end      end
}

// An end is how an invocation ended.
type end int

const (
	succeeded end = iota
	failed
	timedOut
	crashed
)

// invoke passes an invocation to the process, which has asked for it, and waits until
// the process has responded and asked for the next one. Then it freezes the process. It
// reports false if the process has ended.
func (e *environment) invoke(payload []byte) (out outcome, alive bool) {
	if !e.p.cfg.NoFreeze {
		e.signal(syscall.SIGCONT)
	}
	timeout := e.p.cfg.Timeout
	call := newCall(payload, time.Now().Add(timeout))
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	e.api.give(call)
	select {
	case out = <-call.answered:
	case <-e.exited:
		return e.lost(call), false
	case <-timer.C:
		e.kill()
		<-e.exited
		if out = e.lost(call); out.end == crashed {
			out.end = timedOut
			out.err = &FunctionError{Type: TimedOut, Message: fmt.Sprintf("Task timed out after %.2f seconds", timeout.Seconds())}
		}
		return out, false
	}
	// Within its timeout the process may run until it asks for the next invocation.
	select {
	case <-e.api.asked:
	case <-e.exited:
		return out, false
	case <-timer.C:
		e.kill()
		<-e.exited
		return out, false
	}
	if !e.p.cfg.NoFreeze {
		e.signal(syscall.SIGSTOP)
	}
	return out, true
}

// lost returns the outcome of an invocation whose process has ended. The process may
// have responded just before.
func (e *environment) lost(c *call) outcome {
	select {
	case out := <-c.answered:
		return out
	default:
	}
	return outcome{
		err: &FunctionError{Type: Exited, Message: "RequestId: " + c.id + " Error: Runtime exited: " + e.cmd.ProcessState.String()},
		end: crashed,
	}
}

// signal sends a signal to the process, if it is running.
func (e *environment) signal(s syscall.Signal) { _ = e.cmd.Process.Signal(s) }

func (e *environment) kill() { e.signal(syscall.SIGKILL) }

// end ends the process, if it is running, and returns when nothing of the environment
// is left.
func (e *environment) end() {
	e.once.Do(func() {
		e.signal(syscall.SIGTERM)
		e.signal(syscall.SIGCONT)
		timer := time.NewTimer(termGrace)
		defer timer.Stop()
		select {
		case <-e.exited:
		case <-timer.C:
			e.kill()
			<-e.exited
		}
		// The process's connections have ended with it, so their handlers end too.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if e.http.Shutdown(ctx) != nil {
			_ = e.http.Close()
		}
		e.all.Wait()
	})
}
