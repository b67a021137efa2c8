package limiter

import (
	"context"
	"fmt"
	"iter"
	"math"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

// All returns a limiter that lets an operation start when all the given limiters do.
// Its permits hold a slot in each of them.
//
// A caller holds nothing while it waits, so no slot or token lies idle, and All(a, b)
// next to All(b, a) does not deadlock. The callers of one All are served first come,
// first served. They need all members at one instant, so they may wait forever where
// two or more members always have waiters of their own; see the package
// documentation.
//
// A limiter that is passed twice counts once, and an All is replaced by its members.
// All of one limiter is that limiter; All of none sets no limit. All fails when a
// limiter is nil, or a nil pointer such as a constructor returns with its error: the
// error names its index and its type.
func All(limiters ...Limiter) (Limiter, error) {
	var members []Limiter
	for i, l := range limiters {
		if nils.Is(l) {
			return nil, fmt.Errorf("limiter: All: limiters[%d] is %s: leave it out, or check the error of what makes it", i, nils.Describe(l))
		}
		some := []Limiter{l}
		switch l := l.(type) {
		case unlimited:
			continue
		case *all:
			some = l.members
		}
		for _, l := range some {
			if !slices.ContainsFunc(members, func(m Limiter) bool { return same(m, l) }) {
				members = append(members, l)
			}
		}
	}
	switch {
	case len(members) == 0:
		return unlimited{}, nil
	case len(members) == 1:
		return members[0], nil
	case len(limiters) == 1:
		return limiters[0], nil
	}
	return &all{members: members}, nil
}

// same reports whether a and b are one limiter. An operation that acquired it
// twice would wait for itself.
func same(a, b Limiter) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && Identity(a) == Identity(b)
}

// Members iterates over the limiters that l consists of: the members of an [All]
// (none for an All of none), the limiter behind a key of a [Keyed], otherwise l
// itself.
func Members(l Limiter) iter.Seq[Limiter] {
	return func(yield func(Limiter) bool) { members(l, yield) }
}

func members(l Limiter, yield func(Limiter) bool) bool {
	switch l := l.(type) {
	case *all:
		for _, m := range l.members {
			if !members(m, yield) {
				return false
			}
		}
		return true
	case unlimited:
		return true
	case interface{ inner() Limiter }:
		return members(l.inner(), yield)
	}
	return yield(l)
}

// parts returns the limiters of which an operation takes one permit each.
func parts(l Limiter) []Limiter {
	switch l := l.(type) {
	case *all:
		return l.members
	case unlimited:
		return nil
	}
	return []Limiter{l}
}

// Identity returns what identifies l among limiters. For what [Keyed].For
// returns it is equal, as an any, for the same key, even if the limiter was
// forgotten in between. For other limiters it is l itself.
func Identity(l Limiter) any {
	if k, ok := l.(interface{ identity() any }); ok {
		return k.identity()
	}
	return l
}

// Share reports whether a and b are the same limiter or, if they are Alls,
// have a member in common: whether an operation that acquired both would take
// two slots in it.
func Share(a, b Limiter) bool {
	return slices.ContainsFunc(parts(a), func(m Limiter) bool {
		return slices.ContainsFunc(parts(b), func(n Limiter) bool {
			return m != nil && n != nil && same(m, n)
		})
	})
}

type all struct {
	members []Limiter // two or more; never changes

	mu      sync.Mutex // guards all below
	line    line.Line  // its first caller waits in the member that refused last
	refuser int        // the member that refused last
	idle    *bundle    // for reuse, linked by next
	idling  int        // length of idle
	out     int        // number of bundles in use
}

// A bundle is what one operation holds: a permit of each member.
type bundle struct {
	all     *all
	use     atomic.Uint64 // counts its uses; odd while it is held
	permits []Permit
	next    *bundle
}

// Ready implements [Limiter].
func (a *all) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	max, within = line.Asked(max, within)
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, inLine, err := a.least(ctx, max, within)
		if err != nil {
			return 0, err
		}
		if n > inLine {
			return n - inLine, nil
		}
		// Those in line will take all of it. Look again when one has left.
		a.mu.Lock()
		_, err = a.line.Watch(ctx, &a.mu, 1, func() (int, time.Duration) {
			return inLine - a.line.Waiting(), line.Never
		})
		a.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
}

// least returns the smallest number that a member is ready for, and how many
// callers already wait in line for it; it asks for that many more than max.
func (a *all) least(ctx context.Context, max int, within time.Duration) (n, inLine int, err error) {
	a.mu.Lock()
	inLine = a.line.Waiting()
	first := a.refuser
	a.mu.Unlock()
	waitsIn := -1 // the member in which the first caller waits, and has been subtracted already
	if inLine > 0 {
		waitsIn = first
	}
	max = min(max, math.MaxInt-inLine) + inLine

	// A member that keeps us waiting makes the earlier answers stale, so it is
	// asked first in the next round. What counts as waiting doubles each round:
	// members that are slow to answer must not keep us here forever.
	for patience := 10 * time.Millisecond; ; patience *= 2 {
		n = max
		stale := false
		for k := 0; k < len(a.members) && !stale; k++ {
			i := (first + k) % len(a.members)
			asked := time.Now()
			r, err := a.members[i].Ready(ctx, max, within)
			if err != nil {
				return 0, 0, err
			}
			if i == waitsIn {
				r++
			}
			n = min(n, r)
			if k > 0 && time.Since(asked) > patience {
				stale, first = true, i
			}
		}
		if !stale {
			return n, inLine, nil
		}
	}
}

// Acquire implements [Limiter].
func (a *all) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	if p, ok := a.TryAcquire(); ok {
		return unlessEnded(ctx, p)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Only one caller at a time waits in the members. If all did, each change
	// in the member that blocks would move all of them from one line to
	// another.
	w := a.line.Enter()
	defer a.line.Leave(w)
	for a.line.First() != w {
		a.mu.Unlock()
		w.Wait(ctx, line.Never)
		a.mu.Lock()
		if ctx.Err() != nil {
			return Permit{}, context.Cause(ctx)
		}
	}
	b := a.bundle()
	for {
		refuser := a.refuser
		a.mu.Unlock()
		p, err := a.members[refuser].Acquire(ctx)
		refused := -1
		if err == nil {
			b.permits[refuser] = p
			refused = b.tryAcquire(refuser)
			if refused < 0 && ctx.Err() != nil {
				b.cancel()
				err = context.Cause(ctx)
			}
		}
		a.mu.Lock()
		switch {
		case err != nil:
			a.keep(b)
			return Permit{}, err
		case refused < 0:
			return b.permit(), nil
		}
		a.refuser = refused
	}
}

// unlessEnded returns p unless ctx has ended. TryAcquire does not check the
// context, which may have ended before there was a slot.
func unlessEnded(ctx context.Context, p Permit) (Permit, error) {
	if ctx.Err() != nil {
		p.Cancel()
		return Permit{}, context.Cause(ctx)
	}
	return p, nil
}

// TryAcquire implements [Limiter].
func (a *all) TryAcquire() (Permit, bool) {
	a.mu.Lock()
	if a.line.Waiting() > 0 {
		a.mu.Unlock()
		return Permit{}, false
	}
	b := a.bundle()
	a.mu.Unlock()
	refused := b.tryAcquire(-1)
	if refused < 0 {
		return b.permit(), true
	}
	a.mu.Lock()
	if a.line.Waiting() == 0 { // else refuser belongs to the first caller, which waits there
		a.refuser = refused
	}
	a.keep(b)
	a.mu.Unlock()
	return Permit{}, false
}

// Idle reports whether the limiter is as good as new; see [Keyed].
func (a *all) Idle() bool {
	a.mu.Lock()
	idle := a.out == 0 && a.line.Empty()
	a.mu.Unlock()
	return idle && !slices.ContainsFunc(a.members, func(m Limiter) bool { return !isIdle(m) })
}

// Blocked implements [Limiter]: a closed valve first, then a breaker, then a
// pause, since limits are irrelevant during these; otherwise the member that
// blocks longest as far as is known.
func (a *all) Blocked() Block {
	var block Block
	for _, m := range a.members {
		b := m.Blocked()
		switch by, than := b.Reason.precedence(), block.Reason.precedence(); {
		case by > than, by == than && b.Until.After(block.Until):
			block = b
		}
	}
	return block
}

// bundle returns an empty bundle.
func (a *all) bundle() *bundle {
	a.out++
	b := a.idle
	if b == nil {
		return &bundle{all: a, permits: make([]Permit, len(a.members))}
	}
	a.idle, b.next = b.next, nil
	a.idling--
	return b
}

// keep keeps an empty bundle for reuse.
func (a *all) keep(b *bundle) {
	a.out--
	if a.idling < line.MaxIdle {
		b.next, a.idle = a.idle, b
		a.idling++
	}
}

// tryAcquire takes a slot in every member but held, whose permit is in the
// bundle already. If a member refuses, it returns all permits and that
// member's index; otherwise it returns -1.
func (b *bundle) tryAcquire(held int) (refused int) {
	for i, m := range b.all.members {
		if i == held {
			continue
		}
		p, ok := m.TryAcquire()
		if !ok {
			b.cancel()
			return i
		}
		b.permits[i] = p
	}
	return -1
}

// permit returns the permit of the operation that will hold the bundle.
func (b *bundle) permit() Permit { return Permit{r: b, token: b.use.Add(1)} }

// ReleasePermit implements [Releaser].
func (b *bundle) ReleasePermit(token uint64, err error) {
	b.end(token)
	for i := range b.permits {
		b.permits[i].Release(err)
		b.permits[i] = Permit{}
	}
	b.free()
}

// AbstainPermit implements [Releaser].
func (b *bundle) AbstainPermit(token uint64) {
	b.end(token)
	for i := range b.permits {
		b.permits[i].Abstain()
		b.permits[i] = Permit{}
	}
	b.free()
}

// ObservePermit implements [Observer].
func (b *bundle) ObservePermit(_ uint64, h http.Header) {
	for _, p := range b.permits {
		p.Observe(h)
	}
}

// CancelPermit implements [Releaser].
func (b *bundle) CancelPermit(token uint64) {
	b.end(token)
	b.cancel()
	b.free()
}

// end ends the use with that token.
func (b *bundle) end(token uint64) {
	if !b.use.CompareAndSwap(token, token+1) {
		panic("limiter: All: a permit was returned twice")
	}
}

// cancel cancels every permit; zero permits do nothing.
func (b *bundle) cancel() {
	for i := range b.permits {
		b.permits[i].Cancel()
		b.permits[i] = Permit{}
	}
}

func (b *bundle) free() {
	b.all.mu.Lock()
	b.all.keep(b)
	b.all.mu.Unlock()
}

// unlimited is All of nothing.
type unlimited struct{}

func (unlimited) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	max, _ = line.Asked(max, within)
	return max, nil
}

func (unlimited) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	return Permit{}, nil
}

func (unlimited) Idle() bool                 { return true }
func (unlimited) TryAcquire() (Permit, bool) { return Permit{}, true }
func (unlimited) Blocked() Block             { return Block{} }
