package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

const (
	rampmeter = "rampmeter redislimiter"
	naive     = "redis_rate, a call per message"
)

// A process is one process that shares a limit.
type process struct {
	acquire func(ctx context.Context) error
	close   func(ctx context.Context) error
}

// A contender makes the limiter of one process.
type contender struct {
	name string
	join func(client *redis.Client, key string, rate, burst int) (process, error)
}

func contenders() []contender {
	return []contender{
		{rampmeter, func(client *redis.Client, key string, rate, burst int) (process, error) {
			b, err := redislimiter.NewTokenBucket(client, key, float64(rate), burst, redislimiter.Config{})
			if err != nil {
				return process{}, err
			}
			return process{close: b.Close, acquire: func(ctx context.Context) error {
				p, err := b.Acquire(ctx)
				if err == nil {
					p.Release(nil)
				}
				return err
			}}, nil
		}},
		{naive, func(client *redis.Client, key string, rate, burst int) (process, error) {
			l, limit := redis_rate.NewLimiter(client), redis_rate.Limit{Rate: rate, Burst: burst, Period: time.Second}
			return process{close: func(context.Context) error { return nil }, acquire: func(ctx context.Context) error {
				for {
					res, err := l.Allow(ctx, key, limit)
					if err != nil || res.Allowed > 0 {
						return err
					}
					select {
					case <-time.After(res.RetryAfter):
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				}
			}}, nil
		}},
	}
}

// A wire stands between a process and Redis: it counts the calls, and delays
// each.
type wire struct {
	calls   *atomic.Int64
	latency time.Duration
}

var _ redis.Hook = wire{}

func (wire) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w wire) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w.pass()
		return next(ctx, cmd)
	}
}

func (w wire) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if own(cmds) {
			return next(ctx, cmds)
		}
		w.pass()
		return next(ctx, cmds)
	}
}

// own reports whether the client itself sends the commands when it opens a
// connection.
func own(cmds []redis.Cmder) bool {
	switch cmds[0].Name() {
	case "hello", "client", "auth", "select":
		return true
	}
	return false
}

func (w wire) pass() {
	w.calls.Add(1)
	if w.latency > 0 {
		time.Sleep(w.latency)
	}
}
