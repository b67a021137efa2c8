// Package retry decides what a failure means and when to try again.
//
//	p := retry.Policy{MaxAttempts: 5, BaseDelay: 200 * time.Millisecond}
//	order, err := retry.Value(ctx, p, func(ctx context.Context) (Order, error) {
//		return client.Order(ctx, id)
//	})
//
// # Policy
//
// A [Policy] is a stateless value. [Policy.Next] depends only on the number of
// the attempt that failed and on its error, so the same policy serves a loop in
// this process ([Do], [Value]), the redelivery delay of a queue, and any number
// of goroutines at once. The zero Policy is a good default.
//
// Delays grow exponentially up to a maximum. By default they are jittered over
// their full length, so that clients that failed together don't come back
// together.
//
// # Errors
//
// The error itself determines what it means:
//
//   - errors.Is(err, [ErrPermanent]): trying again can't help. [Permanent] marks
//     an error as permanent; a typed error can have an Is method instead. For an
//     HTTP response, limiter.ResponseError makes the error, permanent or not.
//   - A method RetryAfter() time.Duration in its tree: not before then. [After]
//     adds it; [ParseRetryAfter] reads it from an HTTP response.
//   - Everything else is worth another attempt, unless Policy.Retryable reports
//     otherwise.
//
// [Do] and [Value] return a non-retryable error unchanged. When they give up on
// a retryable one, they return an [*Error] with the number of attempts, the last
// error, and why there was no further attempt: [ErrExhausted] or the end of the
// context.
//
// # Retry-After
//
// [ParseRetryAfter] accepts what the standard allows and more. Seconds may have
// a fraction or a sign. An HTTP date, in any of the three formats of RFC 9110,
// or a time in RFC 3339, is relative to the response's own Date, which comes
// from the same clock; without one, it is relative to now. A time in the past is
// 0, and a longer wait than [MaxRetryAfter] is cut to it.
//
// Not every server follows the standard. A number that makes no sense in seconds
// is read as a Unix time, in seconds or a smaller unit, or as milliseconds: 1.8
// billion is a point in time, and 120,000 is two minutes. A number that makes
// sense in no unit is ignored. Durations such as 6m0s are understood, and the
// longest of several values counts.
//
// # Dead letters
//
// A [DeadLetter] records why a message was given up. It fits in one message
// attribute, [DeadLetterAttribute].
//
// # Concurrency
//
// Everything in this package may be used from several goroutines at once.
package retry
