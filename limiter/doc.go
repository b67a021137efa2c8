// Package limiter decides when an operation may start, so that a downstream never
// gets more than it can take.
//
//	slots, err := limiter.NewSemaphore(10)          // 10 at once
//	...
//	starts, err := limiter.NewTokenBucket(200, 20)  // 200 a second, 20 in a burst
//	...
//	breaker, err := limiter.NewBreaker(limiter.BreakerConfig{}) // none while it is down
//	...
//	limit, err := limiter.All(slots, starts, breaker)
//	...
//
//	err = limiter.Do(ctx, limit, func(ctx context.Context) error {
//		return callTheAPI(ctx)
//	})
//
// [Semaphore] limits how many operations are in flight, [TokenBucket] how often
// they start, and [Breaker] stops them while the downstream is down. [Adaptive] and
// [AdaptiveRate] learn how many it can take. [Valve] is opened and closed by hand
// or by a schedule. [Keyed] holds one limiter for each tenant, item or host, and
// [All] combines several limiters. [Transport] applies a limiter to an HTTP
// client's requests. Other limiters only need to implement [Limiter].
//
// # Which limiter
//
// It depends on what you know about the downstream:
//
//   - It documents how many requests a second it accepts: a [TokenBucket] set a
//     little lower, since the network changes the spacing of starts.
//   - Nobody knows how many, or the number changes, or other processes use it too:
//     [AdaptiveRate]. It needs no configuration, obeys Retry-After and quota
//     headers (see [Permit.Observe]), and sets no limit before the first refusal.
//     Combine it with a TokenBucket too, in case the bucket is set wrong.
//   - It documents how many requests it handles at once, or you want to limit how
//     many of your own are in flight: a [Semaphore].
//   - Its capacity is unknown, shared with others, or scaled up and down, and it
//     slows down or refuses when it is overloaded: [Adaptive], with the most that
//     you ever want in flight as its Max.
//   - It may fail: a [Breaker], in an [All] with any of these. It reacts to
//     failures only, and leaves refusals and their Retry-After to an adaptive
//     limiter. The adaptive limiter learns how much works; the breaker notices that
//     nothing does.
//   - It has maintenance windows or opening hours, or you want to be able to stop
//     all calls by hand: a [Valve], in an [All] with any of these.
//   - Each tenant, item or host has its own limit: [Keyed] of any of these.
//
// A consumer of package queue always has a Breaker and an AdaptiveRate.
//
// Finding a limit means trying it, so now and then a request is refused or slow.
// TestPace measures what that costs an AdaptiveRate, against some seventy simulated
// downstreams, with 10 and 100 callers that always have work, and a Retry-After of
// 1 s. With a Retry-After it gets 96 % of a token bucket, with at most 0.3 % of the
// requests refused; without one it gets all of it, with 1.2 to 1.6 % refused. Two
// to twenty processes that know nothing of each other together get 92 to 99 % with
// a Retry-After, and 95 % or more without.
//
// Where latency is steady, rate and concurrency express the same limit, by Little's
// law: operations in flight equal starts a second times the seconds that each
// takes. Where latency rises under load they differ. A concurrency limit then
// starts fewer operations, which relieves an overloaded downstream; a rate limit
// keeps starting them, and suits quotas.
//
// # Ready and Acquire
//
// [Limiter.Acquire] waits for a slot and takes it. The [Permit] returns it: with
// Release when the operation ran, with Abstain when it ran but says nothing about
// the downstream, with Cancel when it did not start. [Do] does all of this.
// [Limiter.Ready] takes nothing: it waits until an operation could start soon. A
// queue consumer calls it before it receives, because a message that is received
// only to wait uses up its visibility timeout.
//
// # Exactness
//
// The limits hold at every instant, measured when Acquire returns: there are never
// more permits out than the semaphore has slots, and never more starts in any span
// of time t than burst + rate*t, whatever is cancelled, resized, paused or changed
// meanwhile. The network may change the spacing of starts after that, so a server
// that counts arrivals needs a little more burst.
//
// # All and Keyed
//
// The callers of one [All] take one position in a member's line. So next to others that
// use a member directly, or through another All, they take turns with these instead of
// getting a share each. To start they need all members at one instant. Nobody waits
// forever because of others that also take turns, but where two or more members always
// have waiters of their own, an All over them may.
//
// A [Keyed] never forgets a key while operations are in flight or waiting, it is paused,
// its bucket is not full, or its breaker remembers a failure. A breaker's outage is
// forgotten when no operation has come for ten minutes since a probe was due, and what
// an [Adaptive] or [AdaptiveRate] has learned after ten minutes without use. Each new
// key makes the Keyed check two others, so there are never more than about twice as many
// keys as can't be forgotten, or 1024 if that is more.
//
// # How a Breaker decides
//
// A closed [Breaker] opens when MinFailures operations have failed within ten
// seconds (or within ten times their mean duration, if that is longer), and one of
// these holds:
//
//   - None has succeeded between them. If failures were common before, the row must
//     be too long to be chance.
//   - Clearly more than Ratio of the results, by three standard deviations, were
//     [ErrUnavailable]. [ErrMisconfigured] does not count here: while other
//     operations succeed, a 403 is about one request.
//
// An open breaker lets nothing pass until the next probe is due: a tenth of the
// outage's age after the last probe started, but between OpenFor and MaxOpen. The
// age is the time from the start of the first failure to the end of the last. So
// the end of an outage is noticed within a tenth of its length, and by default at
// most 90 probes start in the first hour and 15 in each later one. Up to a sixth of
// the wait is jitter, so that the processes of a fleet do not probe in step.
//
// A half-open breaker has one probe in flight at a time. A failure opens it again,
// and the outage's age keeps growing. After the first success the load doubles each
// round-trip: every success allows one more operation in flight. The breaker closes
// when it allows as many as were in flight when it opened, or when an operation
// succeeds that started two seconds or more after the first success. Failures
// during this ramp open it again by the same rules as when it is closed.
//
// A probe is overdue, and counts as a failure, when the next probe would be due and
// it has taken three times as long as any recent success (ten seconds, if there is
// none). Another probe then starts; a late success of the first still counts. If,
// after the first success, nothing starts or ends for that long, and for at least
// ten seconds, the breaker goes back to probing.
//
// An operation that started before the failures that opened the breaker does not
// help to close it. If an operation succeeds that started with those failures or
// later, not everything fails, and the load rises at once, without a probe.
//
// # How an Adaptive finds its limit
//
// An [Adaptive] needs no target latency. By Little's law, operations in flight
// equal throughput times latency. While the downstream has room, one more operation
// in flight adds throughput and latency stays the same. Past the knee, throughput
// stays the same and latency grows with the number in flight. So the limiter tries
// a limit that is a little larger or smaller, and holds its limit between trials.
// It keeps a larger limit if latency stays the same, and a smaller one if latency
// falls. Steps double while they are kept.
//
// The more latencies vary, the more operations a trial takes. Trials compare
// geometric means, on which a few very slow operations have little effect. Like TCP
// Vegas, this infers a queue from latency, but it uses no fixed base latency: the
// lowest latency seen is no good estimate where latencies vary. When latency at the
// limit itself jumps, the limit falls at once, provided that lowers latency.
//
// A downstream may also refuse excess operations at once, without any rise in
// latency. An [ErrOverload] lowers the limit by a tenth or, if a larger limit was
// on trial, back to where it was, once for all operations that were in flight. The
// level at which the downstream refused is tried again after 150 accepted
// operations, and not before 5 s or twice the pause have passed; it takes longer if
// that level was refused before.
//
// Timeouts lower the limit in the same way when they are more than one in ten, and
// so do refusals while at most half of the limit is in use. A timeout is an
// [ErrUnavailable] with a method Timeout() bool that reports true, such as the 503
// and 504 of a [Transport]. ErrMisconfigured and other ErrUnavailable errors have
// no effect.
//
// An operation is accepted if it succeeds, and also if it ends with an error that
// says nothing about the downstream ([Classify] returns nil for it), such as "out
// of stock": a downstream that answers is working. The time such an answer takes
// says nothing about how long the work takes, so only successes raise the limit
// itself. Our own cancellation is no answer, and neither is a run that abstains
// ([Permit.Abstain]). A [Breaker] is stricter. It decides whether the downstream is
// down, and an early rejection of a request proves little about that, so such
// errors neither open a breaker nor help to close it.
//
// # How an AdaptiveRate sets its pace
//
// An [AdaptiveRate] follows these rules:
//
//   - There is no limit until the first refusal.
//   - A refusal with a [RetryAfter] stops all starts until that time is over,
//     whichever operation it comes from. Work then resumes at once, at the pace
//     that was measured to be sustained, and such that the next refusal is due when
//     pauses take 4.5 % of the time: after 22 s if the Retry-After is 1 s.
//   - If that refusal does not come, the pace rises until it does, doubling every 3
//     s. So twice the capacity is found within half a minute.
//   - If nothing was accepted before the first refusal, work resumes with one
//     operation a second, and the pace rises at once, in the same way.
//   - A bare refusal (one without a Retry-After) lowers the pace by 2.5 %. An
//     acceptance raises it by that times the target share of refusals: 1.2 % for a
//     fast process, up to 6 % for a slow one.
//   - Bare refusals that do not become fewer when the pace is halved for a moment
//     are noise, up to a quarter of all results. The pace then returns to what it
//     was, and ignores that share. This is checked again every minute.
//   - Refusals with a Retry-After whose share stays the same at a quarter of the
//     pace, three times running, are noise too. From then on the limiter ignores
//     Retry-After, until more than half of 64 results are refusals. The caller
//     still delays the message that was refused.
//   - If four of them in a row come while unusually many operations are in flight,
//     the downstream limits operations in flight, and so does the AdaptiveRate,
//     instead of their pace.
//   - If nothing is accepted for 10 s and 20 refusals, that is an outage. The next
//     probe starts after a tenth of the outage's length so far, but after at least
//     1 s and at most 5 min. The first acceptance ends the outage, and the pace is
//     what it was before.
//   - A quota in the headers of a response is a limit too, while it holds; see
//     [Permit.Observe].
//   - The pace rises only as far as it is used, so that a correctly set
//     [TokenBucket] in series ([All]) remains the limit that decides.
//   - Everything learned is forgotten after ten minutes without an operation.
//     Pauses and time spent waiting count as use.
//
// Starts are spread evenly. Since timers may fire late, one operation plus 10 ms'
// worth of them may start at once, but no more.
//
// # What a Transport reports
//
// A [Transport] reports to its limiter:
//
//	a response                       what [ResponseError] makes of its status and header;
//	                                 a success if that is nil or has no class
//	no response, or not all of it    ErrUnavailable: the connection was refused, reset, or closed
//	                                 while idle, the stream was reset (RST_STREAM, GOAWAY), a proxy
//	                                 refused to connect, the answer was not HTTP
//	  because of a timeout           ErrUnavailable: of the dialer, TLS, the response header,
//	                                 an HTTP/2 ping, or [http.Client.Timeout], also in the body
//	  a bad certificate or name      ErrMisconfigured, as [Classify] says
//	  the request's own context      nothing: the caller has gone, or had too little time left
//
// A deadline of the request's context is the caller's own. To count a timeout as
// the downstream's, use http.Client.Timeout, or the timeouts of the base.
//
// A Transport acquires one permit per request. [http.Transport] sends a request
// again under the same permit if the server says that it has not processed it
// (HTTP/2 REFUSED_STREAM, GOAWAY), or if it had not begun to write it. A request
// that may have been processed is not sent again. http.Transport would do so, for
// GETs and requests with an Idempotency-Key, if a kept connection is closed before
// the response; through a Transport such a request fails. Apart from that, requests
// are sent as the caller made them.
//
// # Errors
//
// Acquire and Ready fail only when their context ends, with context.Cause(ctx).
//
// [ResponseError] returns the error for any HTTP response: nil for a success, one
// of the classes below if it concerns the downstream as a whole, and
// retry.ErrPermanent for a request that will never succeed. Return it from the
// handler. Its RetryAfter comes from the Retry-After header or, if it is
// [ErrOverload], from the time when a used-up quota has something left again. Its
// text has up to 256 bytes of the body, without anything that looks like a secret.
// For that, ResponseError reads up to 4 KiB of the body and puts them back. It
// closes a body that takes longer than a second to deliver that much or its end. If
// the result is nil, it has read and changed nothing.
//
// Release takes the operation's own error, and [Classify] determines what it says
// about the downstream: [ErrOverload], [ErrUnavailable], [ErrMisconfigured], or
// nothing. A client's errors answer errors.Is for the class that fits, and have a
// method RetryAfter() time.Duration if the downstream said how long to stay away.
// Constructors and setters reject values out of range with an error that names the
// value, and change nothing.
//
// The error alone does not show whose context.DeadlineExceeded it is. Classify
// returns ErrUnavailable for it, since most deadlines limit how long an operation
// may take. It says nothing about the downstream where the deadline is known to be
// the caller's: [Do] and [Transport] check whether the context that they were given
// has ended. If the attempts of package retry ran into a deadline, the error of the
// last attempt counts.
//
// # Concurrency
//
// Everything may be used by many goroutines at once. Waiters are served first come,
// first served. A waiter whose context ends leaves the limiter as if it had never
// waited, and neither acquiring nor waiting allocates. No limiter has goroutines of
// its own, and none needs to be closed.
package limiter
