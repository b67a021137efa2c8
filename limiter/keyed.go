package limiter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
)

// keptKeys is how many keys a Keyed remembers before it looks for some to
// forget.
const keptKeys = 1024

// A Keyed holds one limiter for each key: for each tenant, item or host. It makes a
// key's limiter when the key is first used, and forgets it when it is as good as new,
// so that making it again changes nothing.
//
// A limiter changed by hand (Resize, SetRate, SetBurst) is never forgotten, nor is
// one of your own type, unless it has a method
//
//	Idle() bool
//
// that reports whether it is as good as new. Do not put limits that keys share into
// each key's limiter, which would keep all of them from being forgotten. Combine them
// outside, as in All(keyed.For(tenant), shared).
type Keyed[K comparable] struct {
	create func(K) (Limiter, error) // never changes

	mu          sync.Mutex // guards all below
	keys        map[K]*key[K]
	first, last *key[K] // the queue in which they are checked, linked by next
}

// NewKeyed returns a Keyed that calls create to make the limiter of a key.
// Apart from what they have learned, all limiters that create returns for a key
// must be the same; it may be called concurrently. When it fails for a key, the
// methods Acquire and Ready of that key's limiter fail with its error, and
// create is called again the next time. NewKeyed fails when create is nil.
func NewKeyed[K comparable](create func(K) (Limiter, error)) (*Keyed[K], error) {
	if create == nil {
		return nil, errors.New("limiter: NewKeyed: create is nil: must be a function")
	}
	return &Keyed[K]{create: create, keys: make(map[K]*key[K])}, nil
}

// For returns the limiter of a key. The caller may keep it: if it has been
// forgotten meanwhile, it is made again.
func (k *Keyed[K]) For(name K) Limiter {
	e, err := k.get(name)
	if err != nil {
		return failed{err}
	}
	return e
}

// Len returns how many keys are remembered.
func (k *Keyed[K]) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys)
}

// get returns the limiter of a key, and makes it if necessary.
func (k *Keyed[K]) get(name K) (*key[K], error) {
	k.mu.Lock()
	e := k.keys[name]
	k.mu.Unlock()
	if e != nil {
		return e, nil
	}
	l, err := k.create(name)
	if err == nil && nils.Is(l) {
		err = fmt.Errorf("create returned %s", nils.Describe(l))
	}
	if err != nil {
		return nil, fmt.Errorf("limiter: Keyed: key %v: %w", name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.keys[name]; e != nil {
		return e, nil // another goroutine was faster
	}
	e = &key[K]{keyed: k, name: name, limiter: l}
	k.keys[name] = e
	k.push(e)
	for range 2 {
		if len(k.keys) > keptKeys {
			k.look()
		}
	}
	return e, nil
}

// look forgets the key that was checked longest ago, or moves it to the end
// of the queue.
func (k *Keyed[K]) look() {
	e := k.first
	k.first = e.next
	if e.forget() {
		delete(k.keys, e.name)
		return
	}
	k.push(e)
}

func (k *Keyed[K]) push(e *key[K]) {
	e.next = nil
	if k.first == nil {
		k.first = e
	} else {
		k.last.next = e
	}
	k.last = e
}

// A key is the limiter of one key.
type key[K comparable] struct {
	keyed   *Keyed[K]
	name    K
	limiter Limiter
	users   atomic.Int32 // calls in progress; forgotten when negative
	next    *key[K]      // guarded by keyed.mu
}

// use returns the key, or its replacement if it has been forgotten, for a
// call. The caller must call done at the end.
func (e *key[K]) use() (*key[K], error) {
	for {
		for n := e.users.Load(); n >= 0; n = e.users.Load() {
			if e.users.CompareAndSwap(n, n+1) {
				return e, nil
			}
		}
		var err error
		if e, err = e.keyed.get(e.name); err != nil {
			return nil, err
		}
	}
}

func (e *key[K]) done() { e.users.Add(-1) }

// forget reports whether the key could be forgotten, and if so marks it as
// forgotten.
func (e *key[K]) forget() bool {
	if !e.users.CompareAndSwap(0, -1) {
		return false
	}
	if isIdle(e.limiter) {
		return true
	}
	e.users.Store(0)
	return false
}

func isIdle(l Limiter) bool {
	i, ok := l.(interface{ Idle() bool })
	return ok && i.Idle()
}

// Ready implements [Limiter].
func (e *key[K]) Ready(ctx context.Context, max int, within time.Duration) (int, error) {
	e, err := e.use()
	if err != nil {
		return failed{err}.Ready(ctx, max, within)
	}
	defer e.done()
	return e.limiter.Ready(ctx, max, within)
}

// Acquire implements [Limiter].
func (e *key[K]) Acquire(ctx context.Context) (Permit, error) {
	e, err := e.use()
	if err != nil {
		return failed{err}.Acquire(ctx)
	}
	defer e.done()
	return e.limiter.Acquire(ctx)
}

// TryAcquire implements [Limiter].
func (e *key[K]) TryAcquire() (Permit, bool) {
	e, err := e.use()
	if err != nil {
		return Permit{}, false
	}
	defer e.done()
	return e.limiter.TryAcquire()
}

// Blocked implements [Limiter].
func (e *key[K]) Blocked() Block {
	e, err := e.use()
	if err != nil {
		return failed{err}.Blocked()
	}
	defer e.done()
	return e.limiter.Blocked()
}

// Idle reports whether the limiter is as good as new; see [Keyed].
func (e *key[K]) Idle() bool { return e.users.Load() <= 0 && isIdle(e.limiter) }

// identity stays the same when the key's limiter has been forgotten and made
// again.
func (e *key[K]) identity() any {
	return struct {
		keyed *Keyed[K]
		name  K
	}{e.keyed, e.name}
}

// inner returns the limiter of the key, for [Tripped] and [Members].
func (e *key[K]) inner() Limiter { return e.limiter }

// failed is the limiter of a key whose limiter could not be made.
type failed struct{ err error }

func (f failed) Ready(ctx context.Context, _ int, _ time.Duration) (int, error) {
	_, err := f.Acquire(ctx)
	return 0, err
}

func (f failed) Acquire(ctx context.Context) (Permit, error) {
	if ctx.Err() != nil {
		return Permit{}, context.Cause(ctx)
	}
	return Permit{}, f.err
}

func (f failed) TryAcquire() (Permit, bool) { return Permit{}, false }
func (f failed) Blocked() Block             { return Block{Reason: ByError, Cause: f.err} }
