package lambdalocal

import "time"

const (
	firstPollers = 5                 // concurrent batches at the start
	mostPollers  = 1250              // without a maximum concurrency
	growEvery    = time.Minute / 300 // a poller is added
)

// Pollers are started and ended here. Each has one batch at a time, so their number
// limits the concurrency.

// start starts pollers up to the wanted number. The caller holds r.mu.
func (r *run) start() {
	for r.pollers < r.want && !r.stopped {
		r.pollers++
		r.m.count(func(s *Stats) {
			s.Pollers++
			s.PeakPollers = max(s.PeakPollers, s.Pollers)
		})
		r.all.Go(r.poller)
	}
}

// stays reports whether a poller is to take another batch. If not, it no longer counts
// as a poller.
func (r *run) stays() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped && r.pollers <= r.want {
		return true
	}
	r.pollers--
	r.m.count(func(s *Stats) { s.Pollers-- })
	return false
}

// found is called when there are messages: a fifth of a second later it adds a poller,
// unless failures have slowed the mapping down.
func (r *run) found() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.slow {
		r.growSoon()
	}
}

// growSoon is called with r.mu held.
func (r *run) growSoon() {
	if r.growing != nil || r.stopped || r.want >= r.most {
		return
	}
	r.growing = time.AfterFunc(growEvery, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.growing = nil
		if !r.slow {
			r.want = min(r.want+1, r.most)
			r.start()
		}
	})
}

// empty is called after an empty long poll: it removes a poller that was added.
func (r *run) empty() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want > min(firstPollers, r.most) {
		r.want--
	}
}

// round returns the number of slow-downs so far, which distinguishes an invocation that
// begins now from those that began before the last one.
func (r *run) round() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rounds
}

// failed halves the number of pollers, once for all invocations that ran
// concurrently.
func (r *run) failed(round int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.m.cfg.SlowDown || round != r.rounds {
		return
	}
	r.slow = true
	r.rounds++
	r.want = max(1, r.want/2)
}

// succeeded lets the number of pollers grow again.
func (r *run) succeeded(round int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if round == r.rounds {
		r.slow = false
		r.growSoon()
	}
}

// stop ends all pollers after their current batches.
func (r *run) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.growing != nil {
		r.growing.Stop()
	}
}
