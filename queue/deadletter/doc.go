// Package deadletter reads dead-letter queues and brings their messages back.
//
// A [queue.Consumer] writes into each message that it gives up why: a
// [retry.DeadLetter]. [List] tells what is in a dead-letter queue, and [Redrive]
// sends it back to where it came from, or elsewhere:
//
//	bucket, err := limiter.NewTokenBucket(20, 1) // no faster than the consumer can take it
//	...
//	s, err := deadletter.Redrive(ctx, dead, orders, deadletter.Config{
//		Filter:  deadletter.Filter{Reasons: []string{retry.ReasonExhausted}, From: outage},
//		Limiter: bucket,
//	})
//	fmt.Println(s.Redriven, "of", s.Examined, "redriven,", s.Failed, "refused,", s.InDoubt, "in doubt")
//
// Both work on any [queue.Source] and [queue.Sink]. A message that has no record,
// since the queue's own redrive policy moved it, is a letter too.
//
// # Delivery
//
// A message is sent first, and deleted from the dead-letter queue when it has been
// accepted. A crash at any instruction leaves it in one of the queues or in both,
// never in none. What was in hand is hidden until its lease ends; a redrive that is
// started again then finishes the work. Ten messages at most are between send and
// delete; fewer than twenty if some can't be deleted, for with ten of those the
// redrive ends. Those a standard queue gets twice; a FIFO queue drops the second one
// if it comes within five minutes, for a redrive gives a message the same
// deduplication id each time, made of its id in the dead-letter queue. It is not
// the id that the message was first sent with, so a message that died within
// minutes is not dropped.
//
// A redriven message is a new one to its queue: with a new id, and no receives. So
// its attempts start anew, and its retention does. Something that must not be done
// twice needs a key that stays the same, as in package idempotent.
//
// # The record
//
// Body, attributes and group of a message stay as they are. Its dead-letter record
// is taken off: it is about a life that is over, and a message has one record at
// most. In its place comes a [History], with the last record, how often it was
// tried in all its lives, and when it was first received. The history stays with
// the message when that dies again, beside its new record, and [Letter] reads both.
// A message that the destination refuses with its history (ten attributes of its
// own are all that SQS takes) goes without.
//
// # Reading a queue
//
// A queue can be read only by receiving. Letters are hidden while the reading goes
// on, so that none is seen twice, their leases are extended, and in the end, also
// when the context ends, what is still there is given back at once, unless the queue
// does not answer. Each reading
// costs a receive per letter: a dead-letter queue with a redrive policy of its own
// would lose letters to it.
//
// A dead-letter queue has no end that it would tell. Reading ends after two receives
// in a row that found nothing, each of which waits Config.Wait at the queue: on SQS
// such a long poll asks all its servers, where a short one samples them. What others
// hide meanwhile, a redrive that was killed a moment ago for one, is not seen. A
// source that ignores [queue.ReceiveOptions].Wait takes up to 15 s more for each of
// the two.
//
// Letters that are sent to the queue after reading began are left alone: else a
// consumer that still fails would make a redrive go in a circle. The queue's clock
// says when, so one that is off by a minute makes letters of the last minute late
// or early; a letter that the same redrive has sent is known by its history, too.
//
// SQS hides a FIFO queue's group behind its first messages in hand. So List sees of
// each group those that come with the first receive, up to ten. Redrive sends
// nothing behind a message that could not be sent, and of what is behind one that
// it leaves alone, as the filter does not take it, only what came with it.
//
// At most 100,000 letters can stay behind in a reading ([ErrTooMany]), since SQS
// gives out no more than 120,000 at a time.
//
// # Errors and retries
//
// What the destination refuses about one message fails that message, which stays.
// What is wrong with the destination as a whole, as [limiter.Classify] tells, is
// tried again up to eight times, with backoff or for a RetryAfter, and then ends the
// redrive; so does [limiter.ErrMisconfigured] at once. A Breaker among Config's
// limiters waits out an outage of any length instead. A dead-letter queue that
// accepts no deletes ends the redrive, too, before more is sent.
//
// # The service's own redrive
//
// SQS can move messages itself: sqsqueue.Move. That takes all, needs no process that
// runs, and is no faster than 500 a second. It does not choose, can't tell a reason,
// and brings a message back to its source only if the service had moved it: what a
// Consumer has sent to the dead-letter queue needs a destination.
//
// # Concurrency
//
// Functions of this package may be called concurrently, on one queue too: they share
// its letters out between them.
package deadletter
