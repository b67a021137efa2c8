package redislimiter

import (
	"context"
	"math"
	"sync"
	"time"
)

// never is the wait of a waiter that only another goroutine can wake.
const never = time.Duration(math.MaxInt64)

// A line is where callers wait: those in Acquire first come first served, of
// whom only the head looks, and beside them those in Ready, who only watch. The
// limiter's mutex guards it.
type line struct {
	head, tail *waiter
	waiting    int // in Acquire
	watching   map[*waiter]struct{}
}

// A waiter is one waiting goroutine.
type waiter struct {
	wake chan struct{} // holds one wake-up
	next *waiter
	prev *waiter
}

func (w *waiter) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// wait blocks until the waiter is poked, d has passed or ctx is done.
func (w *waiter) wait(ctx context.Context, d time.Duration) {
	var over <-chan time.Time
	if d != never {
		timer := time.NewTimer(d)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-w.wake:
	case <-over:
	case <-ctx.Done():
	}
}

// join waits in line for take to succeed. Only the head calls it; otherwise it
// says after how long it is worth another call. ask is called when the caller
// waits, and when take has failed. The caller of join holds mu, and holds it
// again when join returns. The error is context.Cause(ctx).
func (l *line) join(ctx context.Context, mu *sync.Mutex, ask func(), take func() (retry time.Duration, ok bool)) error {
	w := &waiter{wake: make(chan struct{}, 1), prev: l.tail}
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
	l.waiting++
	defer l.leave(w)
	for {
		retry := never
		if l.head == w {
			var ok bool
			if retry, ok = take(); ok {
				return nil
			}
		}
		ask()
		mu.Unlock()
		w.wait(ctx, retry)
		mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// leave takes w out of the line, and lets the others see that it has gone.
func (l *line) leave(w *waiter) {
	if w.prev == nil {
		l.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	l.waiting--
	l.stir()
}

// watch waits for count to report 1 or more, and returns that, but at most
// max. Otherwise count says after how long it is worth another call, and
// whatever changes the answer sooner stirs the line. Locks and errors as in
// join.
func (l *line) watch(ctx context.Context, mu *sync.Mutex, max int, count func() (n int, retry time.Duration)) (int, error) {
	var w *waiter
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, retry := count()
		if n >= 1 {
			return min(n, max), nil
		}
		if w == nil {
			w = &waiter{wake: make(chan struct{}, 1)}
			if l.watching == nil {
				l.watching = map[*waiter]struct{}{}
			}
			l.watching[w] = struct{}{}
			defer delete(l.watching, w)
		}
		mu.Unlock()
		w.wait(ctx, retry)
		mu.Lock()
	}
}

// stir makes the head and all who watch look again.
func (l *line) stir() {
	if l.head != nil {
		l.head.poke()
	}
	for w := range l.watching {
		w.poke()
	}
}

func (l *line) empty() bool { return l.waiting == 0 && len(l.watching) == 0 }

// asked brings the arguments of Ready into their ranges.
func asked(max int, within time.Duration) (int, time.Duration) {
	if max < 1 {
		max = 1
	}
	if within < 0 {
		within = 0
	}
	// As much again may be added to a quarter of what a Duration holds.
	return min(max, math.MaxInt32), min(within, math.MaxInt64/4)
}
