package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"github.com/redis/go-redis/v9"
)

// A server is a Redis server, started by this program or not.
type server struct {
	addr string
	dir  string
	cmd  *exec.Cmd // nil: not ours
}

// openServer connects to a server, or starts one.
func openServer(ctx context.Context, addr string) (*server, error) {
	s := &server{addr: addr}
	if addr == "" {
		if err := s.start(); err != nil {
			return nil, errors.Join(fmt.Errorf("start redis-server (-redis names one that runs): %w", err), s.close())
		}
	}
	client := redis.NewClient(&redis.Options{Addr: s.addr})
	defer func() { _ = client.Close() }()
	for until := time.Now().Add(10 * time.Second); ; {
		err := client.Ping(ctx).Err()
		if err == nil {
			return s, nil
		}
		if time.Now().After(until) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("reach Redis at %s: %w", s.addr, err), s.close())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *server) start() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.addr = ln.Addr().String()
	_, port, err := net.SplitHostPort(s.addr)
	if err = errors.Join(err, ln.Close()); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "bench-redis-"); err != nil {
		return err
	}
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", s.dir, "--save", "", "--appendonly", "no")
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	return nil
}

func (s *server) close() error {
	var err error
	if s.cmd != nil {
		err = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // it was killed
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}
