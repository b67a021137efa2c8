// Package retry says what a failure means and when to try again.
//
//	p := retry.Policy{MaxAttempts: 5, BaseDelay: 200 * time.Millisecond}
//	order, err := retry.Value(ctx, p, func(ctx context.Context) (Order, error) {
//		return client.Order(ctx, id)
//	})
//
// # Policy
//
// A [Policy] is a value without state. [Policy.Next] is a function of the
// number of the attempt that failed and of its error, so the same policy
// serves a loop in this process ([Do], [Value]), the redelivery delay of a
// queue, and any number of goroutines at once. The zero Policy is a good one.
//
// Delays grow exponentially up to a maximum and are jittered over their full
// length by default: clients that failed together don't come back together.
//
// # Errors
//
// What an error means is asked of the error itself:
//
//   - errors.Is(err, [ErrPermanent]): trying again can't help. [Permanent] marks
//     an error so; a typed error answers by an Is method. For an HTTP response,
//     limiter.ResponseError makes the error, permanent or not.
//   - RetryAfter() time.Duration in its tree: not before then. [After] adds it;
//     [ParseRetryAfter] reads it from an HTTP response.
//   - Everything else is worth another attempt, unless Policy.Retryable says
//     otherwise.
//
// [Do] and [Value] return an error that is not retried just as it is. When
// they give up on one that is, they return an [*Error] with the number of
// attempts, the last error, and why there was no further attempt:
// [ErrExhausted] or the end of the context.
//
// # Dead letters
//
// A [DeadLetter] is what is written about a message that was given up. It
// fits in one message attribute, [DeadLetterAttribute].
//
// # Concurrency
//
// Everything in this package may be used from several goroutines at once.
package retry
