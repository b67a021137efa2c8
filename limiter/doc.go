// Package limiter decides when an operation may start, so that a far side that
// can take only so much never gets more.
//
//	places, err := limiter.NewSemaphore(10)          // 10 at once
//	...
//	starts, err := limiter.NewTokenBucket(200, 20)   // 200 a second, 20 in a burst
//	...
//	trouble, err := limiter.NewBreaker(limiter.BreakerConfig{}) // none while it is down
//	...
//	limit := limiter.All(places, starts, trouble)
//
//	err = limiter.Do(ctx, limit, func(ctx context.Context) error {
//		return callTheAPI(ctx)
//	})
//
// [Semaphore] limits how many operations are in flight, [TokenBucket] how often
// they start, [Breaker] stops them while the far side is in trouble, and [All]
// puts several limiters together. [Transport] puts a limiter round an HTTP
// client's requests. Other limiters need to implement [Limiter] only.
//
// # Asking and taking
//
// [Limiter.Acquire] waits for a place and takes it; the [Permit] gives it back,
// with Release when the operation ran, with Cancel when it did not. [Do] does
// all of it. [Limiter.Ready] only asks: it waits until an operation could start
// soon, and takes nothing. A consumer of a queue asks it before it receives,
// because a message that is received only to wait uses up its lease.
//
// # Exactness
//
// The limits hold at the return of Acquire, at every instant: never more
// permits out than the semaphore has places, and never more starts in any span
// of time t than burst + rate*t, whatever is cancelled, resized, paused or
// changed meanwhile. What a network makes of the spacing of starts is its own
// affair: a server that counts arrivals needs a little more burst.
//
// # Errors
//
// Acquire and Ready fail only when their context ends, with context.Cause(ctx).
// What an operation's own error says about the far side is told to Release, and
// understood by [Classify]: [ErrOverload], [ErrUnavailable],
// [ErrMisconfigured], or nothing. A client's errors answer errors.Is for the
// one that fits, and have a method RetryAfter() time.Duration where the far
// side said how long to stay away. Constructors and setters refuse values out
// of range with an error that names the value, and change nothing.
//
// # Concurrency
//
// Everything may be used by many goroutines at once. Waiters are served first
// come first served, a waiter whose context ends leaves the limiter as if it
// had never come, and neither acquiring nor waiting allocates. No limiter has
// goroutines of its own, and none needs to be closed.
package limiter
