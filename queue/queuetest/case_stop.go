package queuetest

import (
	"context"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// stopCases are about ReceiveOptions.Stop.
func stopCases() []testCase {
	return []testCase{
		{"Stop_LosesNothing", 0, func(r *run) {
			// A message that is taken and not returned stays leased for longer than
			// the case looks for it.
			lease := max(r.long(), 2*r.cfg.patience())
			for i := range 60 {
				stop := make(chan struct{})
				var done sync.WaitGroup
				if i%3 == 0 {
					close(stop)
				}
				done.Go(func() {
					if i%3 == 1 {
						close(stop)
					}
					if err := r.q.Send(context.Background(), r.message("body")); err != nil {
						r.Errorf("Send: %v", err)
					}
					if i%3 == 2 {
						close(stop)
					}
				})
				msgs := r.stopped(stop, lease)
				done.Wait()
				if len(msgs) == 0 {
					msgs = r.collect(1, lease)
				}
				r.ack(msgs...)
			}
		}},
		{"Stop_IsNoError", 0, func(r *run) {
			stop := make(chan struct{})
			timer := time.AfterFunc(stopWait/2, func() { close(stop) })
			defer timer.Stop()
			for range 3 { // the last one is stopped before it begins
				if msgs := r.stopped(stop, r.cfg.Lease); len(msgs) > 0 {
					r.Fatalf("received %q from an empty queue", msgs[0].Body)
				}
			}
		}},
		{"Stop_EndsTheWait", stops, func(r *run) {
			ctx, cancel := context.WithTimeout(context.Background(), r.cfg.patience())
			defer cancel()
			stop := make(chan struct{})
			var at time.Time
			timer := time.AfterFunc(r.cfg.Lease/2, func() {
				at = time.Now()
				close(stop)
			})
			defer timer.Stop()
			open := func() bool {
				select {
				case <-stop:
					return false
				default:
					return ctx.Err() == nil
				}
			}
			for open() {
				begin := time.Now()
				if msgs := r.once(ctx, queue.ReceiveOptions{Max: 1, Lease: r.cfg.Lease, Stop: stop}); len(msgs) > 0 {
					r.Fatalf("received %q from an empty queue", msgs[0].Body)
				}
				if open() && r.cfg.Synctest && time.Since(begin) == 0 {
					r.Fatal("Receive returned empty at once: until Stop is closed it must wait for the first message, or callers spin")
				}
			}
			if late := time.Since(at); late > r.cfg.Slack {
				r.Errorf("Receive returned %v after Stop had been closed: want at most %v", late, r.cfg.Slack)
			}
			begin := time.Now()
			if msgs := r.once(ctx, queue.ReceiveOptions{Max: 1, Lease: r.cfg.Lease, Stop: stop}); len(msgs) > 0 {
				r.Fatalf("received %q from an empty queue", msgs[0].Body)
			}
			if late := time.Since(begin); late > r.cfg.Slack {
				r.Errorf("Receive returned after %v although Stop had been closed before: want at most %v", late, r.cfg.Slack)
			}
			r.send(r.message("body"))
			r.ack(r.collect(1, r.cfg.Lease)...)
		}},
	}
}

// stopWait is how long a stopped receive would wait otherwise.
const stopWait = time.Second

// stopped receives one message, or none, in a receive that is stopped.
func (r *run) stopped(stop <-chan struct{}, lease time.Duration) []*queue.Message {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.patience())
	defer cancel()
	return r.once(ctx, queue.ReceiveOptions{Max: 1, Lease: lease, Wait: stopWait, Stop: stop})
}
