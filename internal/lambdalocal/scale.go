package lambdalocal

import "time"

const (
	firstPollers = 5                 // batches at a time in the beginning
	mostPollers  = 1250              // without a maximum concurrency
	growEvery    = time.Minute / 300 // one more
)

// Pollers are started and ended here. Each of them has one batch at a time, so
// that their number is what limits the concurrency.

// start starts pollers up to the wanted number. It is called with r.mu held.
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

// stays tells a poller whether to take another batch. If not, it is one no more.
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

// found is told that there are messages: one more poller comes a fifth of a
// second later, unless failures have slowed the mapping down.
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

// empty is told that a long poll brought nothing: pollers that were added go
// again.
func (r *run) empty() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.want > min(firstPollers, r.most) {
		r.want--
	}
}

// round returns what later tells an invocation begun now from one begun before
// the mapping slowed down.
func (r *run) round() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rounds
}

// failed halves the number of pollers, once for all the invocations that ran
// side by side.
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

// stop ends all pollers after what they are doing.
func (r *run) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.growing != nil {
		r.growing.Stop()
	}
}
