// Package idempotent runs an operation once, however often its messages are
// delivered.
//
// Queues deliver at least once: after a crash, a lost reply or a redrive the
// same order arrives again, and must not adjust the stock again. A [Middleware]
// records what was done, under a key of the message:
//
//	once, err := idempotent.New(store, idempotent.Config{Key: orderID})
//	...
//	h := queue.Chain(handler, once.Wrap)
//
// The key identifies the operation, like an order's id. It is not the message's id,
// which is new when an order is sent twice or moved back from a dead-letter
// queue; see [DefaultKey].
//
// # Promise
//
// What can be promised depends on where the effect is:
//
//   - Once, if the downstream honours an idempotency key, for longer than the queue
//     and its dead-letter queue keep messages: pass it the key of [Current].
//   - Once, if the effect and the record are one write: complete the claim of
//     [Current] in the same transaction, as with DoneItem of dynamostore.
//   - Otherwise at most one repeat of a run per crash that interrupts it, because
//     nobody can know whether the run had its effect. Until a run succeeds, such
//     runs are counted as in doubt and have Claim.InDoubt set, so that the handler
//     can check for the effect first.
//
// A store that is separate from the effect cannot know about an effect whose process
// died before recording it. Two more things break the promise. An effect more than a
// second after the end of the run's context may overlap with the next run: honour
// the context. And if the store is unavailable for longer than about five seconds,
// or for the rest of the run's context, a success is not recorded, and a later
// delivery runs again. Such successes are counted as unrecorded.
//
// # How a delivery goes
//
// A run claims the key until one second after its context's deadline. A claim expires
// by itself, by the clock at each access, so a crashed run keeps the key no longer
// than that. A delivery that meets a claim is postponed until the claim ends: it is
// not run, has not failed and is never exhausted. After a success the key is done,
// and later deliveries are acked without a run. Each run has a unique owner name, so
// that a run which outlasts its claim can't overwrite what came after it.
//
// A postponed delivery stays hidden until the claim's end even if the run ends
// sooner. To come back earlier it would have to be received more than once, and a
// queue allows only a few receives before its redrive policy moves the message.
// Nothing depends on the postponed delivery: the run that it met does the work, and if
// it fails, its own message is retried. The deadline determines how long this takes.
// So give handlers a deadline that fits, with Config.Timeout or [queue.Timeout], above
// all on FIFO queues, where the rest of the group waits behind a postponed message.
//
// Failures are counted with the key, so that a message's attempts are its failed
// runs and not its receives: crashes, drains and postponements cost none
// ([queue.Attempted]). Errors that are limiter.ErrOverload or limiter.ErrMisconfigured,
// a handler's own [queue.Postpone] and permanent errors release the claim without
// counting a failure. A permanent error also resets the count, so a message that is
// redriven starts again.
//
// # Stores
//
// [Memory] serves one process and forgets at its end. For several processes there
// is the package dynamostore, on Amazon DynamoDB. A [Store] of your own implements
// four atomic operations on a key; the package idempotenttest has tests for it.
//
// # Compared with Powertools for AWS Lambda
//
// The idempotency utility of Powertools has the same design: a key that identifies
// the operation, a record that is in progress and then completed, written on the
// condition that no valid record exists, with expiry compared in the condition rather
// than left to the table. Its Python and TypeScript editions differ from this
// package:
//
//	                        Powertools                        this package
//	key                     hash of the payload, or a part    function of the message; by default an
//	                        chosen by a JMESPath expression   attribute, else a hash of the body
//	no key                  runs unprotected, with a warning  dead-lettered, with the reason
//	                        (or fails, if set so)
//	second delivery         error: the message fails          postponed to the claim's end: no failure
//	  meanwhile
//	end of a claim          the function's timeout, if its    the context's deadline and 1 s, always
//	                        context was registered; else
//	                        the record's expiry
//	late first run          overwrites or deletes what the    refused: the owner is in the condition
//	                        second has recorded
//	after a failure         record deleted                    failures counted: attempts are failures,
//	                                                          not receives
//	run after a crash       as if it were the first           counted as in doubt; Claim.InDoubt is set
//	success not recorded    error: the message runs again     tried again, then acked and counted
//	remembered for          an hour by default                30 days by default, longer than queues keep
//	result                  returned to the caller            optional: SetResult, Config.OnDone
//	same key, another       refused, if validation is on      not checked: put it into the key
//	  payload
//	cache in the process    optional                          none: the store is asked each time
package idempotent
