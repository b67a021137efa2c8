package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// A Phase is a part of the story in which the downstream's state is constant.
type Phase struct {
	Name     string
	From, To float64 // as shares of the length
	Capacity float64 // as a share of the best
	Takes    float64 // for one call, as a multiple of what is usual; 0: it is down
}

// story lists the phases of the downstream.
var story = []Phase{
	{"full", 0, 3.0 / 16, 1, 1},
	{"half", 3.0 / 16, 6.5 / 16, 0.5, 1},
	{"slow", 6.5 / 16, 9.0 / 16, 1, 2},
	{"down", 9.0 / 16, 11.0 / 16, 0, 0},
	{"double", 11.0 / 16, 1, 2, 1},
}

// PhaseAt returns the phase at that time.
func (s Settings) PhaseAt(at time.Duration) Phase {
	share := at.Seconds() / s.Length.Seconds()
	for _, p := range story {
		if share < p.To {
			return p
		}
	}
	return story[len(story)-1]
}

// Places is the number of slots, calls that the downstream runs at once, in that phase.
func (s Settings) Places(p Phase) int { return int(p.Capacity * float64(s.Capacity)) }

// Room is the number of calls that it runs at once and lets wait in that phase; it
// refuses further ones.
func (s Settings) Room(p Phase) int { return int((1 + room) * float64(s.Places(p))) }

// Rate is the rate of calls a second that the downstream reaches in that phase.
func (s Settings) Rate(p Phase) float64 {
	if p.Takes == 0 {
		return 0
	}
	return float64(s.Places(p)) / p.Takes / service.Seconds()
}

// Properties of the downstream in every phase.
const (
	room    = 0.5                    // calls that may wait for a slot, as a share of the slots
	refusal = 10 * time.Millisecond  // until a call is refused
	cost    = 15 * time.Millisecond  // of a slot's time, to refuse one
	maxDebt = 200 * time.Millisecond // of that, which it can defer, for each slot
	broken  = 5 * time.Millisecond   // until there is no connection
	jitter  = 0.5                    // by which the time of a call varies, as a share of it
)

// A Downstream is a service that runs some calls at once and lets some wait. It
// refuses further calls, which costs it time as well. It may be called
// concurrently, by one client.
type Downstream struct {
	*Meter
	s     Settings
	began time.Time

	mu      sync.Mutex // guards all below
	rnd     *rand.Rand
	busy    int
	waiting []chan struct{}
	debt    time.Duration // of the slots' time, for refused calls
}

// NewDownstream returns a Downstream whose story begins now.
func NewDownstream(s Settings) *Downstream {
	return &Downstream{Meter: NewMeter(s), s: s, began: time.Now(), rnd: rand.New(rand.NewPCG(s.Seed, 1))}
}

// A problem is a downstream's error, as a limiter understands it.
type problem struct {
	text  string
	class error
}

func (p problem) Error() string        { return p.text }
func (p problem) Is(target error) bool { return target == p.class }

var (
	errRefused = problem{"429: too many requests", limiter.ErrOverload}
	errDown    = problem{"no connection", limiter.ErrUnavailable}
)

// Call calls the downstream. Its error is one of the two, or the context's cause.
func (f *Downstream) Call(ctx context.Context) error {
	at := time.Since(f.began)
	f.Begin(at)
	err := f.call(ctx, f.s.PhaseAt(at))
	f.End(at, time.Since(f.began), err)
	return err
}

func (f *Downstream) call(ctx context.Context, p Phase) error {
	if p.Takes == 0 {
		return sleep(ctx, broken, errDown)
	}
	f.mu.Lock()
	switch {
	case f.busy < f.s.Places(p):
		f.busy++
		f.mu.Unlock()
	case f.busy+len(f.waiting) < f.s.Room(p):
		place := make(chan struct{})
		f.waiting = append(f.waiting, place)
		f.mu.Unlock()
		select {
		case <-place:
		case <-ctx.Done():
			return context.Cause(ctx) // the story is over
		}
	default:
		f.debt = min(f.debt+cost, time.Duration(f.s.Capacity)*maxDebt)
		f.mu.Unlock()
		return sleep(ctx, refusal, errRefused)
	}
	return f.serve(ctx)
}

// serve runs a call that has a slot.
func (f *Downstream) serve(ctx context.Context) error {
	defer f.leave()
	p := f.s.PhaseAt(time.Since(f.began))
	if p.Takes == 0 {
		return errDown // it waited in vain
	}
	f.mu.Lock()
	took := time.Duration(p.Takes * float64(service) * (1 + jitter*(f.rnd.Float64()-0.5)))
	if places := max(f.s.Places(p), 1); f.debt > 0 {
		share := min(f.debt, f.debt/time.Duration(places)+cost)
		f.debt -= share
		took += share
	}
	f.mu.Unlock()
	if err := sleep(ctx, took, nil); err != nil {
		return err
	}
	if p := f.s.PhaseAt(time.Since(f.began)); p.Takes == 0 {
		return errDown // before it was done
	}
	return nil
}

// leave frees a slot, and assigns free slots to waiting calls.
func (f *Downstream) leave() {
	p := f.s.PhaseAt(time.Since(f.began))
	places := f.s.Places(p)
	if p.Takes == 0 {
		places = f.s.Capacity // so that they fail
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy--
	for f.busy < places && len(f.waiting) > 0 {
		f.busy++
		close(f.waiting[0])
		f.waiting = f.waiting[1:]
	}
}

// sleep returns err after that time, or ctx's cause if ctx ends
// before.
func sleep(ctx context.Context, d time.Duration, err error) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
