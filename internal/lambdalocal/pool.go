package lambdalocal

import (
	"slices"
	"sync"
)

// A pool holds the execution environments of a function. It reuses idle environments,
// the most recently used first, before it allows another one.
type pool[E any] struct {
	max int

	mu     sync.Mutex    // guards what is below
	idle   []E           // the most recently used last
	places int           // environments that are starting, idle or busy
	empty  chan struct{} // set when the pool is closed; closed when places is then 0
}

// take returns an idle environment, or reserves a slot to start one.
func (p *pool[E]) take() (e E, warm bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.empty != nil {
		return e, false, ErrClosed
	}
	if n := len(p.idle); n > 0 {
		e, p.idle = p.idle[n-1], p.idle[:n-1]
		return e, true, nil
	}
	if p.places == p.max {
		return e, false, ErrThrottled
	}
	p.places++
	return e, false, nil
}

// put returns a busy environment for reuse. It reports false if the environment is to
// end instead; the caller then frees its slot.
func (p *pool[E]) put(e E) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.empty != nil {
		return false
	}
	p.idle = append(p.idle, e)
	return true
}

// free frees the slot of an environment that has ended, or did not start.
func (p *pool[E]) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.places--
	p.checkEmpty()
}

// checkEmpty is called with p.mu held.
func (p *pool[E]) checkEmpty() {
	if p.empty != nil && p.places == 0 {
		close(p.empty)
	}
}

// shed removes idle environments, n at most, the least recently used first. The caller
// frees their slots.
func (p *pool[E]) shed(n int) []E {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(n, len(p.idle))
	out := slices.Clone(p.idle[:n])
	p.idle = slices.Delete(p.idle, 0, n)
	return out
}

// close closes the pool. It returns the idle environments, whose slots the caller
// frees, and a channel that is closed when all slots are free.
func (p *pool[E]) close() (idle []E, empty <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	idle, p.idle = p.idle, nil
	if p.empty == nil {
		p.empty = make(chan struct{})
		p.checkEmpty()
	}
	return idle, p.empty
}
