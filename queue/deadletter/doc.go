// Package deadletter inspects dead-letter queues and redrives their messages.
//
// A [queue.Consumer] adds to each message that it gives up a record of the reason, a
// [retry.DeadLetter]. [List] returns the messages in a dead-letter queue, and
// [Redrive] sends them back to their queue, or to another one:
//
//	bucket, err := limiter.NewTokenBucket(20, 1) // no faster than the consumer can handle
//	...
//	s, err := deadletter.Redrive(ctx, dead, orders, deadletter.Config{
//		Filter:  deadletter.Filter{Reasons: []string{retry.ReasonExhausted}, From: outage},
//		Limiter: bucket,
//	})
//	fmt.Println(s.Redriven, "of", s.Examined, "redriven,", s.Failed, "refused,", s.InDoubt, "in doubt")
//
// Both work on any [queue.Source] and [queue.Sink]. A message without a record,
// because the queue's redrive policy moved it, is a letter too.
//
// # Delivery
//
// A message is sent first, and deleted from the dead-letter queue after the
// destination has accepted it. A crash at any instruction leaves it in one of the
// queues or in both, never in none. After a crash the letters in flight stay hidden
// until their leases end; a redrive that is started again then finishes the work. At
// most ten messages are between send and delete.
//
// Sent letters that can't be deleted are in both queues, and a redrive that continued
// would duplicate every letter. So it ends when ten sent letters can't be deleted in
// spite of several attempts, or at once if the error is [limiter.ErrMisconfigured].
// Fewer than twenty letters are in both queues then, and their outcome is [InDoubt].
// If fewer than ten can't be deleted, the redrive does not fail.
//
// A standard queue gets such messages twice. A FIFO queue drops the second copy if it
// comes within five minutes, because a redrive gives a message the same deduplication
// id each time, derived from its id in the dead-letter queue. It differs from the id
// that the message was first sent with, so a message that died within minutes is not
// dropped.
//
// A redriven message is a new one to its queue: it has a new id and no receives, and
// its attempts and its retention start again. An operation that must not be done
// twice needs a key that stays the same, as in package idempotent.
//
// # The record
//
// A message keeps its body, attributes and group. Its dead-letter record is removed,
// because it describes a life that is over, and a message has at most one record. A
// [History] replaces it, with the last record, how often the message was tried in all
// its lives, and when it was first received. The history stays with the message when
// that dies again, in addition to its new record, and [Letter] reads both. If the
// destination refuses a message with its history (SQS accepts only ten attributes), it
// is sent without.
//
// # Reading a queue
//
// A queue can be read only by receiving. Letters are hidden until the reading ends, so
// that none is seen twice, and their leases are extended. At the end, also when the
// context ends, the remaining letters are returned to the queue without a delay, unless
// the queue does not answer; then they come back when their leases end. Each reading
// costs a receive per letter, so a dead-letter queue with a redrive policy of its own
// would lose letters.
//
// SQS does not report when a queue is empty. Reading ends after two empty receives
// in a row, each of which waits Config.Wait at the queue: on SQS such a long poll
// asks all servers of the queue, while a short poll samples them. Letters that others
// hide meanwhile are not seen, for example those of a redrive that was just killed. A
// source that ignores [queue.ReceiveOptions].Wait takes up to 15 s more for each of
// the two.
//
// Letters that are sent to the queue after the reading began are left alone;
// otherwise a redrive and a consumer that still fails could pass letters to each other
// forever. A letter's age is measured by the queue's clock, so if that is off by a
// minute, letters of the last minute are misjudged. Redrive also recognizes a letter
// that it has sent itself, by its history.
//
// SQS hides the rest of a FIFO group while the first messages of the group are in
// flight. So List sees, of each group, only the messages of the first receive, up to
// ten. Redrive sends nothing behind a message that could not be sent. Behind a message
// that it leaves alone, because the filter does not match, it sends only what came
// with that message.
//
// A reading can leave at most 100,000 letters in the queue ([ErrTooMany]), because SQS
// allows no more than 120,000 messages in flight.
//
// A redrive remembers every letter, so that it sends none twice, in about 40 bytes:
// ten million letters take 400 MB. The few letters without an outcome yet take their
// full size.
//
// # Errors and retries
//
// When the destination refuses one message, that message fails and stays in the
// dead-letter queue. A failure of the destination as a whole ([limiter.Classify]) is
// retried, after a RetryAfter or with backoff, up to eight times in a row; then it ends
// the redrive. [limiter.ErrMisconfigured] ends it at once. A Breaker in Config.Limiter
// waits for the end of an outage of any length instead, and attempts during that wait
// are not counted. A dead-letter queue that accepts no deletes also ends the redrive,
// before it sends more.
//
// # Cancellation
//
// When the context ends, calls in progress are completed and the remaining letters are
// returned. That takes as long as the queues take to answer. If they do not answer, a
// redrive takes about two minutes at most: each call has 30 s, and after the first call
// that the dead-letter queue does not answer there are no others. A list takes a minute
// at most.
//
// # The service's own redrive
//
// SQS can move messages itself: see sqsqueue.Move. It moves all messages, needs no
// running process, and moves at most 500 messages a second. It can't select messages
// or know why they died, and it returns a message to its source only if the service
// had moved it: messages that a Consumer sent to the dead-letter queue need a
// destination.
//
// # Concurrency
//
// Functions of this package may be called concurrently, on one queue too: each gets a
// part of the letters. So several redrives of one queue are faster: each receives,
// sends and acks ten letters at a time.
package deadletter
