package limiter

import (
	"context"
	"math"
	"sync"
	"time"
)

// never is the wait of a waiter that only another goroutine can wake.
const never = time.Duration(math.MaxInt64)

// maxIdle bounds what a limiter keeps for reuse after a crowd has gone.
const maxIdle = 1024

// A line is where a limiter's callers wait: those in Acquire first come first
// served, and beside them those in Ready, who only watch. The limiter's mutex
// guards it.
//
// Waiters are reused, so that waiting allocates nothing. They are kept here and
// not in a pool shared by the package, because channels and timers must not
// travel from one testing/synctest bubble to another.
type line struct {
	acquiring list
	watching  list
	granted   list    // waiters whose goroutines have not looked yet, or have gone (Semaphore only)
	idle      *waiter // linked by next
	idling    int     // length of idle
}

// A waiter is one waiting goroutine.
type waiter struct {
	wake    chan struct{} // holds one wake-up; sent to under the limiter's mutex
	timer   *time.Timer   // made when first needed, touched by the waiting goroutine only
	granted bool          // its place was taken for it (Semaphore only)

	prev, next *waiter
}

// wait blocks until the waiter is woken, d has passed or ctx is done. It may
// return for no reason: callers look again.
func (w *waiter) wait(ctx context.Context, d time.Duration) {
	if d == never {
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
		return
	}
	if w.timer == nil {
		w.timer = time.NewTimer(d)
	} else {
		w.timer.Reset(d)
	}
	select {
	case <-w.wake:
	case <-ctx.Done():
	case <-w.timer.C:
	}
	w.timer.Stop()
}

// poke wakes the waiter.
func (w *waiter) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// join has take succeed, at once if nobody waits, else when it is the caller's
// turn in line. Only the first in line calls take, which reports success, or after
// how long another try is worth it. It is never called once ctx has ended.
//
// The caller holds mu, and holds it again when join returns. The error is
// context.Cause(ctx).
func (l *line) join(ctx context.Context, mu *sync.Mutex, take func() (retry time.Duration, ok bool)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	retry := never
	if l.acquiring.n == 0 {
		var ok bool
		if retry, ok = take(); ok {
			return nil
		}
	}
	w := l.enter(&l.acquiring)
	defer l.leave(&l.acquiring, w)
	for {
		mu.Unlock()
		w.wait(ctx, retry)
		mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		retry = never
		if l.acquiring.head == w {
			var ok bool
			if retry, ok = take(); ok {
				return nil
			}
		}
	}
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
			w = l.enter(&l.watching)
			defer l.leave(&l.watching, w)
		}
		mu.Unlock()
		w.wait(ctx, retry)
		mu.Lock()
	}
}

// enter puts the caller at the end of one of the line's lists.
func (l *line) enter(at *list) *waiter {
	l.reclaim()
	w := l.idle
	if w == nil {
		w = &waiter{wake: make(chan struct{}, 1)}
	} else {
		l.idle, w.next = w.next, nil
		l.idling--
	}
	at.push(w)
	return w
}

// grant tells w, which is in line, that it has its place. Its goroutine goes on
// without coming back here, and leaves w for reclaim.
func (l *line) grant(w *waiter) {
	l.acquiring.remove(w)
	l.reclaim()
	l.granted.push(w)
	w.granted = true
	w.poke()
}

// reclaim takes back the waiters that were granted longest ago, once their
// wake-up has been taken: nobody touches them after that.
func (l *line) reclaim() {
	for w := l.granted.head; w != nil && len(w.wake) == 0; w = l.granted.head {
		l.granted.remove(w)
		l.recycle(w)
	}
}

// empty reports whether nobody waits.
func (l *line) empty() bool { return l.acquiring.n == 0 && l.watching.n == 0 }

// leave takes w off the list, and lets the others see that it has gone: the
// next in line is the head now, and who watches counts one waiter less.
func (l *line) leave(at *list, w *waiter) {
	at.remove(w)
	l.recycle(w)
	if at == &l.acquiring {
		l.stir()
	}
}

// recycle keeps w, which is on no list, for reuse.
func (l *line) recycle(w *waiter) {
	select { // a wake-up that came too late is not for the next user
	case <-w.wake:
	default:
	}
	w.granted = false
	if l.idling < maxIdle {
		w.next, l.idle = l.idle, w
		l.idling++
	}
}

// stir makes the head and all who watch look again.
func (l *line) stir() {
	if l.acquiring.head != nil {
		l.acquiring.head.poke()
	}
	l.alert()
}

// alert makes all who watch look again.
func (l *line) alert() {
	for w := l.watching.head; w != nil; w = w.next {
		w.poke()
	}
}

// A list is a linked list of waiters.
type list struct {
	head, tail *waiter
	n          int
}

func (l *list) push(w *waiter) {
	w.prev = l.tail
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
	l.n++
}

func (l *list) remove(w *waiter) {
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
	w.prev, w.next = nil, nil
	l.n--
}

// asked brings the arguments of Ready into their ranges.
func asked(max int, within time.Duration) (int, time.Duration) {
	if max < 1 {
		max = 1
	}
	if within < 0 {
		within = 0
	}
	return max, within
}
