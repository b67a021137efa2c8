package judge

import (
	"sync"
	"time"
)

const (
	guardStock   = 20          // dead letters that may go out at once
	guardGain    = time.Minute // in which the stock grows by one
	guardSuccess = 2           // further ones for each success
)

// A Guard rations dead letters. When hardly anything succeeds, the likely cause
// is this program, such as a bad deploy, and not the messages: then only a few of
// them go to the dead-letter queue, while everything else continues. It starts
// with a stock of 20, its maximum, and gains one a minute and two with every
// success. Its methods may be called concurrently. A nil Guard rations nothing.
type Guard struct {
	mu        sync.Mutex // guards all below
	begun     bool
	stock     float64
	at        time.Time // of stock
	rationing bool
}

// Succeeded records a message that is done, and reports whether the guard has
// just stopped rationing.
func (g *Guard) Succeeded(now time.Time) (ended bool) {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gain(now, guardSuccess)
	if g.rationing && g.stock >= guardStock/2 {
		g.rationing = false
		return true
	}
	return false
}

// Allow reports whether a dead letter may go out, and whether the guard has just
// started rationing.
func (g *Guard) Allow(now time.Time) (allowed, began bool) {
	if g == nil {
		return true, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gain(now, 0)
	if g.stock >= 1 {
		g.stock--
		return true, false
	}
	began = !g.rationing
	g.rationing = true
	return false, began
}

// Returned records that an allowed dead letter did not go out.
func (g *Guard) Returned(now time.Time) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gain(now, 1)
}

func (g *Guard) gain(now time.Time, by float64) {
	if !g.begun {
		g.begun, g.stock, g.at = true, guardStock, now
	}
	by += max(0, now.Sub(g.at).Seconds()/guardGain.Seconds())
	g.stock, g.at = min(guardStock, g.stock+by), now
}
