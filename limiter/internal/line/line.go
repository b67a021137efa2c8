// Package line implements the waiting line that the limiters of packages
// limiter and redislimiter share.
package line

import (
	"context"
	"math"
	"sync"
	"time"
)

// Never is the wait of a waiter that only another goroutine can wake.
const Never = time.Duration(math.MaxInt64)

// MaxIdle bounds what a limiter keeps for reuse after a crowd has left.
const MaxIdle = 1024

// A Line is where a limiter's callers wait: those in Acquire, first come, first
// served, and those in Ready, which only watch. The limiter's mutex guards it: the
// caller of a method holds that mutex.
//
// Waiters are reused, so that waiting allocates nothing. Each line keeps its own
// instead of using a pool of the package, because channels and timers must not
// move from one testing/synctest bubble to another.
//
// The zero Line is ready for use.
type Line struct {
	acquiring list
	watching  list
	granted   list    // waiters whose goroutines have not run yet
	idle      *Waiter // linked by next
	idling    int     // length of idle
}

// A Waiter is one waiting goroutine.
type Waiter struct {
	wake    chan struct{} // holds one wake-up; sent to under the limiter's mutex
	timer   *time.Timer   // made when first needed, used by the waiting goroutine only
	granted bool          // by Grant

	prev, next *Waiter
}

// Wait blocks until the waiter is woken, d has passed or ctx is done. It may
// return spuriously: callers check again. The caller does not hold the mutex.
func (w *Waiter) Wait(ctx context.Context, d time.Duration) {
	if d == Never {
		w.Granted(ctx)
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

// Granted blocks until the waiter is woken or ctx is done, and reports whether it
// was woken. In a line that grants slots to its waiters, a woken waiter has its
// slot and belongs to the line again; otherwise the caller must call
// [Line.Withdraw]. The caller does not hold the mutex.
func (w *Waiter) Granted(ctx context.Context) bool {
	select {
	case <-w.wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// poke wakes the waiter.
func (w *Waiter) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Join calls take until it succeeds: at once if nobody waits, else when it is
// the caller's turn. Only the first in line calls take, which reports success,
// or after how long to try again. It is not called once ctx has ended. If waits
// is not nil, Join calls it in line, before each wait.
//
// The caller holds mu, and holds it again when Join returns. The error is
// context.Cause(ctx).
func (l *Line) Join(ctx context.Context, mu *sync.Mutex, take func() (retry time.Duration, ok bool), waits func()) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	retry := Never
	if l.acquiring.n == 0 {
		var ok bool
		if retry, ok = take(); ok {
			return nil
		}
	}
	w := l.Enter()
	defer l.Leave(w)
	for {
		if waits != nil {
			waits()
		}
		mu.Unlock()
		w.Wait(ctx, retry)
		mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		retry = Never
		if l.acquiring.head == w {
			var ok bool
			if retry, ok = take(); ok {
				return nil
			}
		}
	}
}

// Watch waits until count reports 1 or more, and returns that, but at most max.
// Otherwise count returns after how long to call it again; whatever changes the
// result sooner must stir the line. Locks and errors are as in [Line.Join].
func (l *Line) Watch(ctx context.Context, mu *sync.Mutex, max int, count func() (n int, retry time.Duration)) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	n, retry := count()
	if n >= 1 {
		return min(n, max), nil
	}
	w := l.enter(&l.watching)
	defer l.leave(&l.watching, w)
	for {
		mu.Unlock()
		w.Wait(ctx, retry)
		mu.Lock()
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if n, retry = count(); n >= 1 {
			return min(n, max), nil
		}
	}
}

// Waiting returns how many callers wait to acquire.
func (l *Line) Waiting() int { return l.acquiring.n }

// Empty reports whether nobody waits.
func (l *Line) Empty() bool { return l.acquiring.n == 0 && l.watching.n == 0 }

// First returns the waiter that has waited longest to acquire, or nil.
func (l *Line) First() *Waiter { return l.acquiring.head }

// Enter puts the caller at the end of those who wait to acquire.
func (l *Line) Enter() *Waiter { return l.enter(&l.acquiring) }

// Leave removes w, which has entered, from the line, and makes the others
// check again: the next one is now the first, and watchers count one waiter
// less.
func (l *Line) Leave(w *Waiter) {
	l.leave(&l.acquiring, w)
	l.Stir()
}

// Grant wakes the first waiter, which must exist, with its slot. Its goroutine
// continues without calling the line again.
func (l *Line) Grant() {
	w := l.acquiring.head
	l.acquiring.remove(w)
	l.reclaim()
	l.granted.push(w)
	w.granted = true
	w.poke()
}

// Withdraw removes w, which has entered and was not woken. It reports whether w
// was granted a slot at the same moment, which the caller then has to return.
func (l *Line) Withdraw(w *Waiter) (granted bool) {
	granted = w.granted
	if granted {
		l.granted.remove(w)
	} else {
		l.acquiring.remove(w)
	}
	l.recycle(w)
	return granted
}

// Stir makes the first waiter and all watchers check again.
func (l *Line) Stir() {
	if l.acquiring.head != nil {
		l.acquiring.head.poke()
	}
	l.Alert()
}

// Alert makes all watchers check again.
func (l *Line) Alert() {
	for w := l.watching.head; w != nil; w = w.next {
		w.poke()
	}
}

// enter puts the caller at the end of one of the lists.
func (l *Line) enter(at *list) *Waiter {
	l.reclaim()
	w := l.idle
	if w == nil {
		w = &Waiter{wake: make(chan struct{}, 1)}
	} else {
		l.idle, w.next = w.next, nil
		l.idling--
	}
	at.push(w)
	return w
}

func (l *Line) leave(at *list, w *Waiter) {
	at.remove(w)
	l.recycle(w)
}

// reclaim recycles the waiters that were granted longest ago, once their
// wake-up has been received: nobody uses them after that.
func (l *Line) reclaim() {
	for w := l.granted.head; w != nil && len(w.wake) == 0; w = l.granted.head {
		l.granted.remove(w)
		l.recycle(w)
	}
}

// recycle keeps w, which is on no list, for reuse.
func (l *Line) recycle(w *Waiter) {
	select { // a wake-up that came too late is not for the next user
	case <-w.wake:
	default:
	}
	w.granted = false
	if l.idling < MaxIdle {
		w.next, l.idle = l.idle, w
		l.idling++
	}
}

// A list is a linked list of waiters.
type list struct {
	head, tail *Waiter
	n          int
}

func (l *list) push(w *Waiter) {
	w.prev = l.tail
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
	l.n++
}

func (l *list) remove(w *Waiter) {
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

// Asked brings the arguments of Ready into their ranges.
func Asked(max int, within time.Duration) (int, time.Duration) {
	if max < 1 {
		max = 1
	}
	if within < 0 {
		within = 0
	}
	return max, within
}
