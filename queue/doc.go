// Package queue consumes message queues no faster than the work behind them
// allows.
//
// A [Source] hands out messages under a lease, a [Handler] does the work for
// one message, and a [Consumer] stands between them:
//
//	c, err := queue.NewConsumer(src, queue.Decode(json.Unmarshal, reserve), queue.Config{
//		Concurrency: 10,
//		DeadLetter:  dead,
//	})
//	...
//	err = c.Run(ctx) // until ctx ends, then drains
//
// Sources are in the packages below this one: memqueue keeps messages in
// memory with the semantics of SQS. queuetest has the suite that a source of
// your own must pass, and sources that fail as planned, for tests.
//
// # Delivery
//
// Delivery is at least once. The consumer deletes a message only after its
// handler succeeded, or after the dead-letter sink has accepted a copy that
// says why. A crash at any moment means at worst that a message is handled
// again, so handlers must be idempotent.
//
// A message is received only when the limits say that it can start within a
// few milliseconds, so its lease does not run while it waits. The leases of
// all messages in hand are extended, however long a handler takes. A message
// that the queue delivers again while it is in hand is not handled twice: the
// newer delivery takes over. Once its nack has been sent, a new delivery is a
// new delivery.
//
// Messages of one ordered group (a FIFO queue's: they have a Group and a
// Sequence) are handled one at a time and in order; the next one starts when the
// one before is acked. A message that fails is retried in hand, at the head of
// its group, for up to 11 hours, so that the messages behind it lose no receives.
// The messages that wait behind it do not count against other groups.
//
// # Results
//
// What a handler returns decides what becomes of the message:
//
//   - nil: it is acked.
//   - [retry.Permanent], or an error that answers errors.Is(err,
//     retry.ErrPermanent), a body that does not decode among them: a copy with
//     a [retry.DeadLetter] record goes to Config.DeadLetter, then it is acked.
//   - [limiter.ErrOverload], [limiter.ErrUnavailable], [limiter.ErrMisconfigured]:
//     the downstream failed, not the message. The message stays in hand, its
//     slot and permit go to others, and it runs again when the error's RetryAfter
//     and the backoff are over and the limits admit it. After Config.MaxHold it
//     is returned; an ordered one after 11 hours. No attempt counts, unless the
//     message is guilty (below).
//   - [Postpone]: the handler did not run it; it is returned as it was.
//   - any other error, a panic: it is returned, hidden for Config.Retry's delay,
//     or the error's RetryAfter if that is longer. When its attempts are used up
//     it is dead-lettered as "exhausted".
//
// An attempt is a receive, so crashes count too, but for the receives that this
// consumer knows to have ended without a failure of the message's own: drains,
// postponements, refusals by the downstream. A run that failed and is repeated in
// hand is one as well. [Attempted] says otherwise.
//
// # Guilt
//
// The consumer compares a message that the downstream fails again and again with
// what the first runs of other messages did since, in the last ten minutes at
// most. When its failures in a row would be chance with a probability below
// 0.1 %, it is a suspect: the limits hear no more of it. When fewer than a tenth
// of the others failed the same way, it is guilty, and its attempts count: it is
// returned, and in the end dead-lettered, like any message that fails. Above
// that it is a partial outage, and nobody's fault. With nothing to compare it
// with, on a quiet queue, a message is kept and tried for twelve hours after its
// first receive; then it is dead-lettered as "exhausted: nothing to compare with".
//
// Once a fresh message has succeeded since a message's first failure, the limits hear
// no more of it, except that they obey a Retry-After until it is a suspect. Fresh
// messages start before those that run again: four for each of these, and nineteen
// for each suspect. In an outage every other probe is a fresh message. So what
// always fails stops nobody.
//
// # Dead letters
//
// When hardly anything succeeds the fault is likely ours, a bad deploy say. So
// dead letters are rationed: 20 may go out at once, then one a minute and two for
// every message that succeeds. The others are returned, for Retry.MaxDelay at
// first and twice as long each further time, up to 11 hours. Nothing else is
// held up. A sink that fails returns its message with backoff.
//
// # Limits
//
// Config.Limiter is what you know of the downstream, and may be empty. It is asked
// before a receive and acquired for each handler, together with two limits that
// every consumer has:
//
//   - A pace ([limiter.AdaptiveRate]) reacts to limiter.ErrOverload. There is no
//     limit until the first refusal. A Retry-After is obeyed, and then work goes on
//     at the pace that the downstream was found to accept.
//   - A breaker ([limiter.Breaker]) reacts to limiter.ErrUnavailable and
//     limiter.ErrMisconfigured. In an outage nothing is received but for a few probes.
//
// One of the same kind in Limiter or Gate takes its place, and Config.NoPace and
// NoBreaker leave them out. A limiter that the handler's own client acquires goes
// into Config.Gate, which is only asked. One operation acquires a limiter in one
// place: the same one in Limiter and in the client makes every handler wait for the
// permit that it holds itself.
//
// ErrOverload is about the downstream as a whole. For one object or one tenant
// return [retry.After], which no limit hears, or give the messages limiters of their
// own.
//
// Config.LimiterFor gives messages limiters of their own, by tenant for example.
// What such a limiter refuses stays in hand for its turn, and the others pass it.
// The queue can't be asked for other tenants' messages only, so of a tenant that
// sends more than its limit admits the excess has to be received, and when there
// is too much of it to be kept, is returned until its turn may have come. Each
// limiter has a pace and a breaker of its own, so what a tenant's messages meet
// downstream holds that tenant's messages only. The limits for all hear of it when
// half of the tenants that were active in the last minute, and three at least, meet
// the same.
//
// To keep fast handlers busy the consumer asks for more messages than it has free
// slots: as many as will be started while the receive is under way, and never more
// than the limits admit within that time. For slow handlers that is none.
//
// # Errors
//
// Run returns only at the end. Until then calls to the source that fail are
// tried again with backoff; they are counted in [Stats], reported to
// [Config].Trace, and logged. A failed receive never holds up what is in hand,
// and a result that can't be confirmed is tried again beside the others; when
// too many are unconfirmed, nothing is received. Stats.Blocked says at any
// moment what keeps the consumer from receiving.
//
// # Log
//
// A healthy consumer logs nothing. A line about each of these is logged at most once
// a minute, with the number of those that were left out:
//
//   - a refusal, with its error and the pace that it led to: "refused, Retry-After
//     1s: paced to 47/s"
//   - refusals that have been coming for a minute although a [limiter.TokenBucket] is
//     set: "the rate is set too high: 62/s, the downstream takes about 50/s"
//   - a failure downstream, denied access or a misconfiguration, and a message that
//     fails by itself or while others succeed
//   - a call to the source, the dead-letter sink or a limiter that failed
//
// In an outage, in a pause of more than five minutes and behind a closed valve a
// line says that nothing is received, why and until when. It is repeated after a
// minute and then less and less often, and another one says when it is over. A drain
// logs its beginning and its end.
//
// # Shutdown
//
// When Run's context ends, nothing more is received or started, and what has
// not started is nacked at once. Running handlers keep their context and their
// leases for Config.DrainTimeout; then their context ends with the cause
// [ErrDrainTimeout], and Run returns within a second. A handler that ignores the
// end of its context is left behind and named in an [*AbandonedError]; its message
// is delivered again when its lease ends.
//
// A receive that is under way ends at once if the source can stop it without risk
// ([ReceiveOptions].Stop), so an idle consumer of such a source, memqueue for one,
// drains at once. A long poll of SQS is left to land, because the queue may already
// have handed out messages: the drain of an idle consumer then lasts until the poll
// ends, for up to 20 s, and never longer than DrainTimeout. The log says when a drain
// begins, what it waits for and until when, and when it has ended. A program restores
// the default handling of signals once the drain has begun (signal.NotifyContext's
// stop does), so that a second Ctrl-C ends it at once.
//
// # Concurrency
//
// Handlers are called concurrently, on goroutines of the consumer, at most
// Config.Concurrency at once. A panic is recovered and counts as a failure.
// All methods of this package's types may be called concurrently. All
// goroutines but those of abandoned handlers have ended when Run returns.
package queue
