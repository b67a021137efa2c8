//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A process is this program, started again for one of its parts.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer // its end ends the process
	out    *json.Decoder
	stdout io.Reader
	stderr bytes.Buffer
}

// start starts a part. The process is killed when ctx ends.
func start(ctx context.Context, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, self, args...)}
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = time.Second
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(p.stdout)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// stop ends the process, if it has not ended, and waits for it. The error includes
// the last output of the process.
func (p *process) stop(rest any) error {
	_ = p.stdin.Close()
	var err error
	if rest != nil {
		err = p.out.Decode(rest)
	}
	return p.failure(errors.Join(p.cmd.Wait(), err))
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) failure(err error) error {
	if err == nil {
		return nil
	}
	const most = 2000
	said := strings.TrimSpace(p.stderr.String())
	if len(said) > most {
		said = "…" + said[len(said)-most:]
	}
	if said == "" {
		return err
	}
	return fmt.Errorf("%w; it said: %s", err, said)
}

// startServer starts the server's process.
func startServer(ctx context.Context, secure bool) (*process, remote, error) {
	p, err := start(ctx, partServe, fmt.Sprintf("-tls=%t", secure))
	if err != nil {
		return nil, remote{}, err
	}
	var r remote
	if err := p.out.Decode(&r); err != nil {
		p.kill()
		return nil, remote{}, p.failure(fmt.Errorf("no address from the server: %w", err))
	}
	return p, r, nil
}

// A figures has the figures of one run of one consumer.
type figures struct {
	Rate        float64       `json:"messages_per_second"`
	CPU         time.Duration `json:"cpu_per_message_ns"`
	Busy        float64       `json:"handlers_busy"` // on average
	Calls       float64       `json:"calls_per_message"`
	Twice       int           `json:"handled_more_than_once"`
	Again       int           `json:"received_again"`                    // deliveries beyond one for each message
	MaxInFlight int           `json:"most_in_flight"`                    // messages received and not deleted
	MaxReceives int           `json:"receives_in_flight"`                // at the peak
	Connections *float64      `json:"new_connections_per_1000_messages"` // after the first second; nil: the run had ended by then
	Allocs      float64       `json:"allocations_per_message"`
	Memory      int64         `json:"peak_memory_bytes"`
	Took        time.Duration `json:"took_ns"` // until the queue was empty, the start included
}

// runConsumer fills a queue and lets a consumer in a separate process empty it. It
// fails when a message is not handled, or not deleted, in time.
func runConsumer(ctx context.Context, r remote, s scenario, library string, idle int, profile string) (f figures, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.limit(), fmt.Errorf("it took longer than %v", s.limit()))
	defer cancel()
	q, err := r.create(ctx, queueSpec{Messages: s.Messages, Size: messageSize, Latency: s.Latency, Visibility: s.Visibility})
	if err != nil {
		return f, fmt.Errorf("fill the queue: %w", err)
	}
	defer func() { err = errors.Join(err, q.remove(context.WithoutCancel(ctx))) }()

	began := time.Now()
	args := []string{
		partConsume,
		"-library", library,
		"-endpoint", q.endpoint(),
		"-certificate", r.Certificate,
		"-idle", strconv.Itoa(idle),
		"-queue", q.endpoint() + queueName,
		"-messages", strconv.Itoa(s.Messages),
		"-concurrency", strconv.Itoa(s.Concurrency),
		"-handler", s.Handler.String(),
		"-visibility", s.Visibility.String(),
	}
	if profile != "" {
		args = append(args, "-profile", profile)
	}
	// Not ctx: when the time is over, the process must still answer.
	p, err := start(context.WithoutCancel(ctx), args...)
	if err != nil {
		return f, err
	}
	defer func() {
		if err != nil {
			p.kill()
		}
	}()
	stopped := context.AfterFunc(ctx, func() { _ = p.stdin.Close() })
	var all handledAll
	err = p.out.Decode(&all)
	stopped()
	if err != nil {
		_ = p.cmd.Wait()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return f, p.failure(fmt.Errorf("messages were lost: not all %d were handled: %w", s.Messages, err))
	}

	// The last deletes may be waiting for others to share their call, and messages that
	// were handled too late to be deleted are delivered again.
	var state queueState
	for {
		if state, err = q.state(ctx); err != nil {
			return f, err
		}
		if state.Left == 0 {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return f, fmt.Errorf("%d handled messages were not deleted: %w", state.Left, context.Cause(ctx))
		}
	}
	f.Took = time.Since(began)
	var c consumed
	if err := p.stop(&c); err != nil {
		return f, err
	}
	if state.Deleted != s.Messages {
		return f, fmt.Errorf("%d messages were lost: of %d, %d were deleted", s.Messages-state.Deleted, s.Messages, state.Deleted)
	}
	f.Rate, f.CPU, f.Busy = all.Rate, all.CPU, all.Busy
	f.Calls = float64(state.Calls) / float64(s.Messages)
	f.Twice, f.Again, f.MaxInFlight = c.Twice, state.Received-s.Messages, state.MaxInFlight
	f.MaxReceives, f.Allocs, f.Memory = state.MaxReceives, all.Allocs, all.Memory
	if state.LateDeleted >= 1000 {
		perThousand := 1000 * float64(state.LateOpened) / float64(state.LateDeleted)
		f.Connections = &perThousand
	}
	return f, nil
}

// profileFile names the profile of a run.
func profileFile(dir string, s scenario, library string, pair int) string {
	if dir == "" {
		return ""
	}
	name := strings.NewReplacer(" ", "-", ",", "").Replace(library)
	return filepath.Join(dir, fmt.Sprintf("%s-%s-%d.pprof", s.Name, name, pair))
}
