// Package queue consumes message queues no faster than the work behind them
// allows.
//
// A [Source] hands out messages under a lease, a [Handler] does the work for one
// message, and a [Consumer] connects the two:
//
//	c, err := queue.NewConsumer(src, queue.Decode(json.Unmarshal, reserve), queue.Config{
//		Concurrency: 10,
//		DeadLetter:  dead,
//	})
//	...
//	err = c.Run(ctx) // until ctx ends, then drains
//
// Sources are in the packages below this one: memqueue keeps messages in memory
// with the semantics of SQS. queuetest has the suite that your own source must
// pass, and sources that fail as planned, for tests.
//
// # Delivery
//
// Delivery is at least once. The consumer deletes a message only after its
// handler succeeded, or after the dead-letter sink has accepted a copy that gives
// the reason. After a crash, the worst case is that a message is handled again,
// so handlers must be idempotent.
//
// The consumer receives a message only when the limits say that it can start
// within a few milliseconds, so its lease does not run while it waits. It extends
// the leases of all messages in flight, however long a handler takes. When the
// queue delivers a message again while it is in flight, it is not handled twice:
// the newer delivery takes over. Once its nack has been sent, the next delivery
// is handled as a new one.
//
// Messages of one ordered group (a FIFO queue's: they have a Group and a
// Sequence) are handled one at a time and in order; the next one starts when the
// one before is acked. A message that fails is retried in memory, at the head of
// its group, for up to 11 hours, so that the messages behind it use up no
// receives. Messages that wait behind another one of their group do not count
// against other groups.
//
// # Results
//
// The error that a handler returns decides what happens to the message:
//
//   - nil: it is acked.
//   - [retry.Permanent], or any other error that matches [retry.ErrPermanent],
//     such as a body that does not decode: a copy with a [retry.DeadLetter]
//     record goes to Config.DeadLetter, then it is acked.
//   - [limiter.ErrOverload], [limiter.ErrUnavailable],
//     [limiter.ErrMisconfigured]: the downstream failed, not the message. The
//     message is held in memory while its slot and permit go to others. It runs
//     again once the error's RetryAfter and the backoff are over and the limits
//     admit it. After Config.MaxHold it is returned; an ordered one after 11
//     hours. No attempt counts, unless the message is guilty (below).
//   - [Postpone]: the handler did not run it; it is returned as it was.
//   - any other error, or a panic: it is returned, hidden for Config.Retry's
//     delay, or for the error's RetryAfter if that is longer. When its attempts
//     are used up it is dead-lettered as "exhausted".
//
// Each receive counts as an attempt, crashes included, except those that this
// consumer knows to have ended without a failure of the message itself: drains,
// postponements, refusals by the downstream. A run that failed and is repeated
// without another receive counts as well. [Attempted] overrides this count.
//
// # Guilt
//
// When the downstream fails a message again and again, the consumer compares it
// with the first runs of other messages since then, over the last ten minutes at
// most. If its failures in a row would be chance with a probability below 0.1 %,
// the message is a suspect: its results no longer reach the limits. If, in
// addition, fewer than a tenth of the others failed the same way, it is guilty,
// and its attempts count: it is returned, and in the end dead-lettered, like any
// message that fails. When a tenth or more failed, it is a partial outage, and no
// message is at fault. On a quiet queue with nothing to compare it with, a
// message is kept and retried for twelve hours after its first receive; then it
// is dead-lettered as "exhausted: nothing to compare with".
//
// Once a fresh message has succeeded since a message's first failure, that
// message's results no longer reach the limits, except that the limits obey its
// Retry-After until it is a suspect. Fresh messages start before those that run
// again: four for each of these, and nineteen for each suspect. In an outage
// every other probe is a fresh message. So messages that always fail do not stop
// the others.
//
// # Dead letters
//
// When hardly anything succeeds, the likely cause is this program, such as a bad
// deploy. So dead letters are rationed: 20 may go out at once, then one a minute
// and two for every message that succeeds. The others are returned, for
// Retry.MaxDelay at first and twice as long each further time, up to 11 hours.
// Nothing else is held up. A sink that fails returns its message with backoff.
//
// # Limits
//
// Config.Limiter holds the limits that you know of, and may be empty. The
// consumer checks it before a receive and acquires it for each handler, together
// with two limits that every consumer has:
//
//   - A pace ([limiter.AdaptiveRate]) reacts to limiter.ErrOverload. There is no
//     limit until the first refusal. A Retry-After is obeyed, and then work
//     continues at the pace that the downstream was found to accept.
//   - A breaker ([limiter.Breaker]) reacts to limiter.ErrUnavailable and
//     limiter.ErrMisconfigured. In an outage nothing is received except for a few
//     probes.
//
// A limiter of the same kind in Limiter or Gate replaces the consumer's, and
// Config.NoPace and NoBreaker leave them out. A limiter that the handler's own
// client acquires goes into Config.Gate, which the consumer only checks. Each
// operation must acquire a limiter only once: with the same one in Limiter and in
// the client, every handler would wait for the permit that it holds itself.
//
// ErrOverload is about the downstream as a whole. For a single object or tenant
// return [retry.After], which does not affect the limits, or use limits per key.
//
// To keep fast handlers busy the consumer asks for more messages than it has free
// slots: as many as will be started while the receive is under way, and never
// more than the limits admit within that time. For slow handlers that is none.
//
// # Limits per key
//
// Config.LimiterFor gives messages limiters of their own, by tenant for example.
// A message that its own limiter refuses waits in memory for its turn, and
// messages of other keys pass it. A consumer can't ask the queue for other
// tenants' messages only: when a tenant sends more than its limit admits, the
// excess is received all the same. When too many messages wait for their own
// limiters or for the end of an outage of their key (more than 100 and more than
// ten times Concurrency in all), the consumer returns the most recent ones of the
// key that has most, until their turn may have come. Each return costs the
// message a receive. Up to half of Retry.MaxAttempts may be spent like this, so
// MaxAttempts must be at least 8, or negative, and the queue's own maximum of
// receives should be well above it. When that many messages have used up their
// half, nothing is received until there is room ([ByParked]).
//
// Each of these limiters gets a breaker and a pace of its own, as Limiter does,
// unless it contains one of that kind; they are forgotten when the key has been
// idle for ten minutes. A failure downstream concerns its key only: the key's
// messages are held, the others continue, and Limiter learns only that the
// operation has ended. Limiter learns of the failure, too, when half of the keys
// that were active in the last minute, and at least three, failed last time. With
// NoBreaker and NoPace a Semaphore or a TokenBucket learns nothing: each message
// that fails just waits for its own backoff or Retry-After.
//
// # Errors
//
// Run returns only at the end. Until then failed calls to the source are tried
// again with backoff, counted in [Stats], reported to [Config].Trace, and logged.
// A failed receive never holds up messages in flight, and a result that can't be
// confirmed is tried again while others proceed; when too many are unconfirmed,
// nothing is received. Stats.Blocked says at any moment what keeps the consumer
// from receiving.
//
// # Log
//
// A healthy consumer logs nothing. Each of the following is logged at most once a
// minute, with the number of lines that were left out:
//
//   - a refusal, with its error and the pace that it led to: "refused, Retry-After
//     1s: paced to 47/s"
//   - refusals that continue for a minute although a [limiter.TokenBucket] is
//     set: "the rate is set too high: 62/s, the downstream takes about 50/s"
//   - a failure downstream, denied access or a misconfiguration, and a message that
//     fails by itself or while others succeed
//   - a call to the source, the dead-letter sink or a limiter that failed
//
// In an outage, in a pause of more than five minutes and behind a closed valve, a
// line says that nothing is received, why and until when. It is repeated after a
// minute and then less and less often, and another line says when receiving
// resumes. A drain logs its beginning and its end.
//
// # Shutdown
//
// When Run's context ends, nothing more is received or started, and what has not
// started is nacked at once. Running handlers keep their context and their leases
// for Config.DrainTimeout; then their context ends with the cause
// [ErrDrainTimeout], results are flushed, and Run returns within a second. A
// handler that ignores the end of its context is left behind and named in an
// [*AbandonedError]; its message is delivered again when its lease ends.
//
// A receive that is under way ends at once if the source can stop it without risk
// ([ReceiveOptions].Stop), so an idle consumer of such a source, memqueue for
// one, drains at once. A long poll of SQS runs to its end, because the queue may
// already have handed out messages, and the messages it brings are nacked: the
// drain of an idle consumer then lasts until the poll ends, for up to 20 s, and
// never longer than DrainTimeout. The log says when a drain begins, what it waits
// for and until when, and when it has ended. A program restores the default
// handling of signals once the drain has begun (signal.NotifyContext's stop
// does), so that a second Ctrl-C ends it at once.
//
// # Concurrency
//
// Handlers are called concurrently, on goroutines of the consumer, at most
// Config.Concurrency at once. A panic is recovered and counts as a failure.
// All methods of this package's types may be called concurrently. All
// goroutines but those of abandoned handlers have ended when Run returns.
package queue
