package queuetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// receiveCases are about Receive and its context.
func receiveCases() []testCase {
	return []testCase{
		{"Receive_Max", 0, func(r *run) {
			n := r.cfg.MaxBatch + 5
			r.send(r.messages(n)...)
			for _, most := range []int{1, 2, 1000} { // poll checks Max itself
				msgs := r.receive(most, r.long())
				if len(msgs) > r.cfg.MaxBatch {
					r.Fatalf("Receive returned %d messages: Config.MaxBatch says at most %d", len(msgs), r.cfg.MaxBatch)
				}
				n -= len(msgs)
			}
			r.collect(n, r.long())
			r.nothing(r.cfg.Slack, "all are leased")
		}},
		{"Receive_WakesOnSend", 0, func(r *run) {
			sent := make(chan time.Time, 1)
			go func() {
				time.Sleep(r.cfg.Lease / 2)
				at := time.Now()
				if err := r.q.Send(context.Background(), r.message("body")); err != nil {
					r.Errorf("Send: %v", err)
				}
				sent <- at
			}()
			m := r.receive(r.cfg.MaxBatch, r.long())[0]
			if late := time.Since(<-sent); late > r.cfg.Slack {
				r.Errorf("a waiting Receive returned %v after the send: want at most %v", late, r.cfg.Slack)
			}
			r.ack(m)
		}},
		{"Receive_Empty", 0, func(r *run) {
			ctx, cancel := context.WithTimeout(context.Background(), r.cfg.Lease)
			defer cancel()
			for ctx.Err() == nil {
				if msgs := r.poll(ctx, 1, r.cfg.Lease); len(msgs) > 0 {
					r.Fatalf("received %q from an empty queue", msgs[0].Body)
				}
			}
		}},
		{"Receive_CancelReturnsSoon", 0, func(r *run) {
			cause := errors.New("the test's own cause")
			ctx, cancel := context.WithCancelCause(context.Background())
			var at time.Time
			timer := time.AfterFunc(r.cfg.Lease/2, func() {
				at = time.Now()
				cancel(cause)
			})
			defer timer.Stop()
			var err error
			for err == nil && ctx.Err() == nil {
				var msgs []*queue.Message
				begin := time.Now()
				msgs, err = r.q.Receive(ctx, queue.ReceiveOptions{Max: 1, Lease: r.cfg.Lease})
				if len(msgs) > 0 {
					r.Fatalf("received %q from an empty queue", msgs[0].Body)
				}
				if err == nil && ctx.Err() == nil && r.cfg.Synctest && time.Since(begin) == 0 {
					r.Fatal("Receive returned empty at once: it must wait for the first message, or callers spin")
				}
			}
			if ctx.Err() == nil {
				r.Fatalf("Receive: %v", err)
			}
			if late := time.Since(at); late > r.cfg.Slack {
				r.Errorf("Receive returned %v after its context had ended: want at most %v", late, r.cfg.Slack)
			}
			if err != nil && !errors.Is(err, cause) {
				r.Errorf("Receive returned %v when its context ended: want context.Cause(ctx), %v", err, cause)
			}
			r.send(r.message("body"))
			r.ack(r.collect(1, r.long())...)
		}},
		{"Receive_CancelLosesNothing", 0, func(r *run) {
			for i := range 50 {
				ctx, cancel := context.WithCancel(context.Background())
				var done sync.WaitGroup
				done.Go(func() {
					if i%2 == 0 {
						cancel()
					}
					if err := r.q.Send(context.Background(), r.message("body")); err != nil {
						r.Errorf("Send: %v", err)
					}
					cancel()
				})
				msgs := r.poll(ctx, 1, r.cfg.Lease)
				done.Wait()
				if len(msgs) == 0 { // then it is still in the queue, or returns when the lost lease is over
					msgs = r.collect(1, r.cfg.Lease)
				}
				r.ack(msgs...)
			}
		}},
		{"Receive_Concurrent", 0, func(r *run) {
			const n, receivers = 200, 8
			ctx, cancel := context.WithTimeout(context.Background(), r.cfg.patience())
			defer cancel()
			var (
				mu   sync.Mutex // guards seen
				seen = make(map[string]int)
				done sync.WaitGroup
			)
			for range receivers {
				done.Go(func() {
					for ctx.Err() == nil {
						msgs, err := r.q.Receive(ctx, queue.ReceiveOptions{Max: r.cfg.MaxBatch, Lease: max(r.long(), 2*r.cfg.patience())})
						if err != nil && ctx.Err() == nil {
							r.Errorf("Receive: %v", err)
							return
						}
						mu.Lock()
						for _, m := range msgs {
							seen[string(m.Body)]++
						}
						if len(seen) == n {
							cancel()
						}
						mu.Unlock()
					}
				})
			}
			r.send(r.messages(n)...)
			done.Wait()
			if len(seen) < n {
				r.Errorf("%d receivers got %d of %d messages", receivers, len(seen), n)
			}
			for body, times := range seen {
				if times > 1 {
					r.Errorf("message %q was received %d times during one lease", body, times)
				}
			}
			r.nothing(r.cfg.Slack, "all are leased")
		}},
	}
}
