package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// A Redis is the server that keeps the limits.
type Redis interface {
	Addr() string
	// Stop ends the server, and Start starts it again, empty. One that is not
	// ours can't be stopped.
	Stop() error
	Start() error
	// Close ends it for good.
	Close() error
}

// OpenRedis connects to the server that the settings name, or starts one, and
// says which.
func OpenRedis(s Settings, say io.Writer) (Redis, error) {
	if s.Redis != "" {
		return foreignRedis(s.Redis), ping(s.Redis, 2*time.Second)
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		_, _ = fmt.Fprintln(say, "no redis-server is installed: a stand-in inside this program keeps the limits")
		m := miniredis.NewMiniRedis()
		if err := m.Start(); err != nil {
			return nil, fmt.Errorf("start a stand-in for Redis: %w", err)
		}
		return standIn{m, m.Addr()}, nil
	}
	r := &redisProcess{path: path}
	if r.dir, err = os.MkdirTemp("", "fleet-redis-"); err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	if r.port, err = freePort(); err == nil {
		err = r.Start()
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// ping waits until a server answers.
func ping(addr string, within time.Duration) error {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1}) // we try again ourselves
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		err := client.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reach Redis at %s: %w", addr, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a port for Redis: %w", err)
	}
	return ln.Addr().(*net.TCPAddr).Port, ln.Close()
}

// A redisProcess is a redis-server of our own.
type redisProcess struct {
	path, dir string
	port      int
	keeper    *exec.Cmd // nil: stopped
	stdin     io.Closer // ends it
}

func (r *redisProcess) Addr() string { return "127.0.0.1:" + strconv.Itoa(r.port) }

func (r *redisProcess) Start() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	cmd := exec.Command(self, keepArg, r.path, "--bind", "127.0.0.1", "--port", strconv.Itoa(r.port), "--dir", r.dir, "--save", "", "--appendonly", "no")
	if r.stdin, err = cmd.StdinPipe(); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	r.keeper = cmd
	return ping(r.Addr(), 10*time.Second)
}

func (r *redisProcess) Stop() error {
	if r.keeper == nil {
		return nil
	}
	_ = r.stdin.Close() // it has ended by itself
	err := r.keeper.Wait()
	r.keeper = nil
	if err != nil {
		return fmt.Errorf("stop Redis: %w", err)
	}
	return nil
}

// keepArg is the argument with which the program starts itself to keep a
// server.
const keepArg = "keep"

// keep runs a program until stdin ends, which it does when the parent has
// ended, however that was. Then it kills it. It returns the exit code.
func keep(args []string, stdin io.Reader) int {
	signal.Ignore(os.Interrupt) // a terminal sends it to all; the parent ends us
	cmd := exec.Command(args[0], args[1:]...)
	detach(cmd) // nor may the program end before the workers have
	if err := cmd.Start(); err != nil {
		return 1
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // with an error, as it is killed
	}()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, stdin) // until its end, or an error
	}()
	select {
	case <-ended:
		return 1
	case <-closed:
		_ = cmd.Process.Kill() // it has ended by itself
		<-ended
		return 0
	}
}

func (r *redisProcess) Close() error { return errors.Join(r.Stop(), os.RemoveAll(r.dir)) }

// A standIn is a server inside this program.
type standIn struct {
	*miniredis.Miniredis
	addr string // it does not know it while it is stopped
}

func (m standIn) Addr() string { return m.addr }

func (m standIn) Stop() error {
	m.Miniredis.Close()
	m.FlushAll()
	return nil
}

func (m standIn) Start() error { return m.Restart() }

func (m standIn) Close() error {
	m.Miniredis.Close()
	return nil
}

// A foreignRedis is a server that we know only by its address.
type foreignRedis string

func (f foreignRedis) Addr() string { return string(f) }
func (foreignRedis) Stop() error    { return errors.New("stop Redis: it is not ours") }
func (foreignRedis) Start() error   { return nil }
func (foreignRedis) Close() error   { return nil }
