package main

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// bins is how many parts of the story the picture distinguishes.
const bins = 160

// A Bin has the counts of one part of the story.
type Bin struct {
	Offered, Done, Refused, Failed int
	InFlight                       float64 // on average, at the downstream
	Took                           []time.Duration
}

// A Meter sees every call at the downstream. It may be used concurrently.
type Meter struct {
	s Settings

	mu       sync.Mutex // guards all below
	bins     [bins]Bin
	inFlight int
	since    time.Duration // when inFlight changed
	over     time.Duration // for how long it was above the calls that the downstream runs and lets wait
}

// NewMeter returns a meter of a story that begins now.
func NewMeter(s Settings) *Meter { return &Meter{s: s} }

func (m *Meter) bin(at time.Duration) *Bin {
	return &m.bins[min(int(at*bins/m.s.Length), bins-1)]
}

// Offer counts an operation that is offered.
func (m *Meter) Offer(at time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bin(at).Offered++
}

// Begin counts a call that begins.
func (m *Meter) Begin(at time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.span(at)
	m.inFlight++
}

// End counts one that has ended. It does not count calls that end with the
// story.
func (m *Meter) End(began, at time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.span(at)
	m.inFlight--
	b := m.bin(at)
	switch {
	case at >= m.s.Length:
	case err == nil:
		b.Done++
		b.Took = append(b.Took, at-began)
	case errors.Is(err, errRefused):
		b.Refused++
	case errors.Is(err, errDown):
		b.Failed++
	}
}

// Close counts the calls in flight at the end.
func (m *Meter) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.span(m.s.Length)
}

// span notes how many calls were in flight until then. The caller holds mu.
func (m *Meter) span(to time.Duration) {
	to = min(to, m.s.Length)
	width := m.s.Length / bins
	for m.since < to { // by bin, and so by phase
		next := min(to, m.since-m.since%width+width)
		d := next - m.since
		m.bin(m.since).InFlight += float64(m.inFlight) * float64(d) / float64(width)
		if m.inFlight > m.s.Room(m.s.PhaseAt(m.since)) {
			m.over += d
		}
		m.since = next
	}
}

// Bins returns the bins so far, from first to last.
func (m *Meter) Bins() []Bin {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.bins[:])
}

// Over returns for how long so far there were more calls in flight than the
// downstream runs at once and lets wait.
func (m *Meter) Over() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.over
}

// quantile returns a quantile of times that are sorted; 0 if there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
