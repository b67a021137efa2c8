package limiter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
)

// A Limiter decides when an operation may start. Methods may be called
// concurrently.
//
// For one operation, acquire a limiter in exactly one place: either around the
// handler or inside the client that the handler calls. With both, each handler
// would hold the permit that its own call waits for.
type Limiter interface {
	// Ready waits until at least one operation could start within the given
	// time, and returns how many could, from 1 to max. It reserves nothing:
	// another caller may be first. A consumer calls it before it receives, so
	// that no message is leased only to wait. Operations that already wait in
	// Acquire are subtracted. A max below 1 counts as 1, a negative within as 0.
	// Once ctx has ended it fails with context.Cause(ctx), even if an operation
	// could start; nothing else makes it fail.
	Ready(ctx context.Context, max int, within time.Duration) (int, error)

	// Acquire waits, first come, first served, until one operation may start, and
	// takes a slot. The caller returns it with exactly one of [Permit.Release],
	// [Permit.Abstain] and [Permit.Cancel]. A context that ends before an
	// operation could start gets no permit. The error is context.Cause(ctx); the
	// limiter is then as if Acquire had never been called.
	Acquire(ctx context.Context) (Permit, error)

	// TryAcquire takes a slot if one is free now and nobody waits for it. It
	// never waits and never overtakes waiters.
	TryAcquire() (Permit, bool)

	// Blocked returns why no operation could start now, and until when, as far
	// as that is known. It returns the zero Block when one could start now.
	Blocked() Block
}

// A Permit is the slot that one operation has taken in a limiter. It is a small
// value: passing it around allocates nothing. The zero Permit does nothing.
//
// Return a permit once, with Release, Abstain or Cancel. Returning a copy again
// is a mistake that a limiter can't always detect.
type Permit struct {
	r     Releaser
	token uint64
}

// A Releaser is the part of a limiter that accepts returned permits. Only
// authors of limiters implement it; see [NewPermit].
type Releaser interface {
	// ReleasePermit is called by [Permit.Release].
	ReleasePermit(token uint64, err error)
	// AbstainPermit is called by [Permit.Abstain].
	AbstainPermit(token uint64)
	// CancelPermit is called by [Permit.Cancel].
	CancelPermit(token uint64)
}

// NewPermit returns a permit that returns token to r. It is for authors of
// limiters, including those in other modules, who choose the token.
func NewPermit(r Releaser, token uint64) Permit { return Permit{r: r, token: token} }

// Release returns the permit of an operation that ran and ended with err
// (nil: it succeeded). Breakers and adaptive limiters learn from err; see
// [Classify] for the errors they understand.
func (p Permit) Release(err error) {
	if p.r != nil {
		p.r.ReleasePermit(p.token, err)
	}
}

// Abstain returns the permit of an operation that ran, but whose outcome says
// nothing about the downstream: it panicked, say, or its failure is reported to
// another limiter. The slot is free again and the start counts, but no limiter
// counts it as a success or a failure.
func (p Permit) Abstain() {
	if p.r != nil {
		p.r.AbstainPermit(p.token)
	}
}

// Cancel returns the permit of an operation that did not start. Limiters
// learn nothing from it, and a rate token goes back into its bucket.
func (p Permit) Cancel() {
	if p.r != nil {
		p.r.CancelPermit(p.token)
	}
}

// An Observer is a [Releaser] that learns from the headers of responses. Only
// authors of limiters implement it.
type Observer interface {
	Releaser
	// ObservePermit is called by [Permit.Observe].
	ObservePermit(token uint64, h http.Header)
}

// Observe passes the header of the operation's response to the limiter, whatever its
// status, for what it says about the downstream's quotas. An [AdaptiveRate] learns
// from it; the other limiters of this package ignore it. A client calls it when it
// has the response's header, before it returns the permit, as a [Transport] does.
//
// It reads RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers),
// RateLimit-Remaining and X-RateLimit-Remaining with their Reset in any unit and
// format in use, and the equivalents of Anthropic, Atlassian, BigCommerce, Brevo,
// Contentful, Docker Hub, HubSpot, Linear, OpenAI, Shopify, Zendesk and others.
func (p Permit) Observe(h http.Header) {
	if o, ok := p.r.(Observer); ok {
		o.ObservePermit(p.token, h)
	}
}

// Do runs f under a permit of l. It returns f's error, or the error of
// [Limiter.Acquire] without having called f. If f panics or ends its goroutine, Do
// returns the permit with [Permit.Abstain], and the panic continues. It also
// abstains if ctx has ended and f's error says no more than that: how long the
// caller could wait, or that it has gone, says nothing about the downstream. A nil l
// or f is an error.
func Do(ctx context.Context, l Limiter, f func(ctx context.Context) error) (err error) {
	if nils.Is(l) {
		return fmt.Errorf("limiter: Do: l is %s: must be a Limiter", nils.Describe(l))
	}
	if f == nil {
		return errors.New("limiter: Do: f is nil: must be a function")
	}
	p, err := l.Acquire(ctx)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		switch {
		case returned && !endOf(ctx, err):
			p.Release(err)
		default:
			p.Abstain()
		}
	}()
	err = f(ctx)
	returned = true
	return err
}

// endOf reports whether err only says that ctx has ended.
func endOf(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() == nil {
		return false
	}
	for _, class := range [...]error{ErrMisconfigured, ErrOverload, ErrUnavailable} {
		if errors.Is(err, class) {
			return false
		}
	}
	return errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))
}
