// Package idempotent runs an operation once, however often its messages are
// delivered.
//
// Queues deliver at least once: after a crash, a lost reply or a redrive the
// same order arrives again, and must not adjust the stock again. A [Middleware]
// remembers by a key of the message what was done:
//
//	once, err := idempotent.New(store, idempotent.Config{Key: orderID})
//	...
//	h := queue.Chain(handler, once.Wrap)
//
// The key is a name of the operation: an order's id. It is not the message's id,
// which is new when an order is sent twice or moved back from a dead-letter
// queue; see [DefaultKey].
//
// # Promise
//
// What can be promised depends on where the effect is:
//
//   - Once, if the downstream honours an idempotency key, and does for longer than
//     the queue and its dead-letter queue keep messages: pass it the key of
//     [Current].
//   - Once, if the effect and the record are one write: complete the claim of
//     [Current] in the same transaction, as with DoneItem of dynamostore.
//   - Otherwise at most one repeat of a run per crash that cuts it off, since
//     nobody can tell whether it had its effect. Such runs are counted as in
//     doubt, and the handler is told by Claim.InDoubt, until a run succeeds: it
//     may look first.
//
// What can't be promised by anybody who keeps a record beside the effect: to know
// of an effect whose process died before it could say so. Two more things break
// the promise. An effect that comes after the run's context has ended, more than
// a second later, may meet the next run: honour the context. And a success that
// could not be recorded, the store being away for longer than some five seconds
// or for what is left of the run's context, is not known to later deliveries:
// those are counted as unrecorded.
//
// # How a delivery goes
//
// The run claims the key until its context's deadline and a second more. A claim
// ends by itself, compared with the clock whenever it is looked at; a crashed
// run keeps the key no longer than that. A delivery that meets a claim is
// postponed until the claim ends: it is not run, has not failed and is never
// exhausted. After a success the key is done, and later deliveries are acked
// without a run. Each run has an owner's name of its own, so that a run which
// outlasts its claim can't overwrite what came after it.
//
// A postponed delivery stays away until the claim's end even if the run ends
// sooner. To come back earlier it would have to ask more than once, each time at
// the cost of a receive, of which a queue allows a few before it dead-letters
// the message by itself; and nothing waits for it: the run that it met does the
// work, and tries again by its own message if it fails. How long it may take is
// up to the deadline: give handlers one that fits, by Config.Timeout or
// [queue.Timeout], above all on FIFO queues, where the rest of the group waits
// behind a postponed message.
//
// Failures are counted with the key, so that a message's attempts are its failed
// runs and not its receives: crashes, drains and postponements cost none
// ([queue.Attempted]). Trouble at the downstream, a handler's own [queue.Postpone]
// and permanent errors give the claim up without a count; a permanent error
// forgets the failures, too, so a message that is redriven starts anew.
//
// # Stores
//
// [Memory] serves one process and forgets at its end. For several processes there
// is the package dynamostore, on Amazon DynamoDB. A [Store] of your own takes
// four atomic steps on a key; the package idempotenttest has tests for it.
//
// # Beside Powertools for AWS Lambda
//
// The idempotency utility of Powertools has the same shape: a key that says what
// is the same, a record that is in progress and then completed, written on the
// condition that there is none which counts, and expiry compared in the
// condition rather than left to the table. Its Python and TypeScript editions
// beside this package:
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
//	run after a crash       as if it were the first           counted as in doubt; the handler is told
//	success not recorded    error: the message runs again     tried again, then acked and counted
//	remembered for          an hour by default                30 days by default, longer than queues keep
//	result                  returned to the caller            optional: SetResult, Config.OnDone
//	same key, another       refused, if validation is on      not looked at: put it into the key
//	  payload
//	cache in the process    optional                          none: the store is asked each time
package idempotent
