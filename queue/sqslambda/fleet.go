package sqslambda

import (
	"fmt"
	"math"

	"github.com/rampmeter/rampmeter/limiter"
)

// A FleetLimit divides a rate among the processes of a function, of which Lambda
// runs up to MaxConcurrency at once. Each process uses its share, without
// communicating with the others.
//
// The shares of idle processes are lost to the others. MaximumConcurrency alone
// limits how many messages are handled at once, not how many per second. Sharing a
// rate exactly needs a limiter that all processes use, in Redis for example.
type FleetLimit struct {
	// Rate is how many messages per second all processes together may start. It
	// must be a finite number above 0.
	Rate float64
	// Burst is how many messages the downstream accepts at once, beyond the rate. It
	// must be at least MaxConcurrency, because each process may have one unused
	// token; any excess is not used. Defaults to MaxConcurrency. A network may bunch
	// one request of each process with the one before, so a server that counts
	// strictly must allow twice as many.
	Burst int
	// MaxConcurrency is the MaximumConcurrency of the event source mapping, 2 to
	// 1,000 there; 1 stands for a reserved concurrency of 1.
	MaxConcurrency int
}

// Limiter returns the share of one process: Rate/MaxConcurrency with a burst of
// 1. The bucket starts empty, so that a new process adds no burst to that of the
// process it replaces. Limiter fails when a field is out of range.
func (l FleetLimit) Limiter() (*limiter.TokenBucket, error) {
	switch {
	case !(l.Rate > 0) || math.IsInf(l.Rate, 1): // not NaN either
		return nil, fmt.Errorf("sqslambda: FleetLimit: Rate is %v: must be a finite number above 0", l.Rate)
	case l.MaxConcurrency < 1:
		return nil, fmt.Errorf("sqslambda: FleetLimit: MaxConcurrency is %d: must be at least 1", l.MaxConcurrency)
	case l.Burst != 0 && l.Burst < l.MaxConcurrency:
		return nil, fmt.Errorf("sqslambda: FleetLimit: Burst is %d: must be at least MaxConcurrency, %d, since each process may start one at once", l.Burst, l.MaxConcurrency)
	}
	bucket, err := limiter.NewTokenBucket(l.Rate/float64(l.MaxConcurrency), 1)
	if err != nil {
		return nil, fmt.Errorf("sqslambda: FleetLimit: %w", err)
	}
	bucket.TryAcquire() // its only token
	return bucket, nil
}
