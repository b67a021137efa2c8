// Package limiter decides when an operation may start, so that a downstream that
// can take only so much never gets more.
//
//	places, err := limiter.NewSemaphore(10)          // 10 at once
//	...
//	starts, err := limiter.NewTokenBucket(200, 20)   // 200 a second, 20 in a burst
//	...
//	trouble, err := limiter.NewBreaker(limiter.BreakerConfig{}) // none while it is down
//	...
//	limit, err := limiter.All(places, starts, trouble)
//	...
//
//	err = limiter.Do(ctx, limit, func(ctx context.Context) error {
//		return callTheAPI(ctx)
//	})
//
// [Semaphore] limits how many operations are in flight, [TokenBucket] how often
// they start, [Breaker] stops them while the downstream is down; [Adaptive] and
// [AdaptiveRate] find out how many it can take; [Valve] is opened and closed by
// hand or by a schedule; [Keyed] has one limiter for each tenant, item or host;
// and [All] puts several limiters together.
// [Transport] puts a limiter around an HTTP client's requests. Other limiters need
// to implement [Limiter] only.
//
// # Which limiter
//
// What you know of the downstream decides:
//
//   - It says how many requests a second it accepts: a [TokenBucket] of a little
//     less, since what a network makes of the spacing of starts is not ours.
//   - Nobody says how many, or the number changes, or other processes use it too:
//     [AdaptiveRate]. It needs no configuration, obeys Retry-After and quota headers
//     (see [Permit.Observe]), sets no limit before the first refusal, and
//     belongs next to a TokenBucket too, which may be set wrong.
//   - It says how many requests it handles at once, or you want no more of your
//     own at once: a [Semaphore].
//   - It has a capacity that nobody knows, shared with others, or scaled up and
//     down: it slows down, or refuses, when it has too much: [Adaptive], with the
//     most that you ever want as its Max.
//   - It may fail: a [Breaker], in an [All] with any of these. It reacts to
//     failures only, and leaves refusals and their Retry-After to an adaptive
//     limiter: that learns how much works, the breaker notices that nothing does.
//   - It has maintenance windows or opening hours, or you want to be able to stop
//     all calls by hand: a [Valve], in an [All] with any of these.
//   - Each tenant, item or host has a limit of its own: [Keyed] of any of these.
//
// A consumer of package queue has a Breaker and an AdaptiveRate in any case.
//
// To find a limit means to try it, and what is tried is refused, or slow, now and
// then. What that costs an AdaptiveRate is measured by TestPace, in front of some
// seventy simulated downstreams, with 10 and 100 callers that always have work,
// and a Retry-After of 1 s: 96 % of a token bucket with a Retry-After, 0.3 % of
// the requests refused at most; all of one without, 1.2 to 1.6 % refused. Two to
// twenty processes that know nothing of each other get 92 to 99 % together with a
// Retry-After, 95 % and more without.
//
// Rate and concurrency are one limit in two words where latency is steady, by
// Little's law: operations in flight are starts a second times seconds that each
// takes. Where latency rises under load they part. A limit of concurrency then
// starts fewer, and relieves a downstream that is overloaded; a limit of rate
// keeps on, and is for quotas.
//
// # Asking and taking
//
// [Limiter.Acquire] waits for a slot and takes it. The [Permit] returns it: with
// Release when the operation ran, with Abstain when it ran and says nothing about
// the downstream, with Cancel when it did not start. [Do] does all of it.
// [Limiter.Ready] only asks: it waits until an operation could start
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
//
// [ResponseError] makes the error for an HTTP response, whatever it is: nil for a
// success, one of the classes below for what is about the downstream as a whole, and
// retry.ErrPermanent for a request that will never succeed. A handler returns it.
//
// What an operation's own error says about the downstream is passed to Release, and
// understood by [Classify]: [ErrOverload], [ErrUnavailable],
// [ErrMisconfigured], or nothing. A client's errors answer errors.Is for the
// one that fits, and have a method RetryAfter() time.Duration where the downstream
// said how long to stay away. Constructors and setters refuse values out
// of range with an error that names the value, and change nothing.
//
// # Concurrency
//
// Everything may be used by many goroutines at once. Waiters are served first
// come first served, a waiter whose context ends leaves the limiter as if it
// had never come, and neither acquiring nor waiting allocates. No limiter has
// goroutines of its own, and none needs to be closed.
package limiter
