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
//   - Once, if the far side honours an idempotency key, and does for longer than
//     the queues keep messages: pass it the key of [Current].
//   - Once, if the effect and the record are one write: complete the claim of
//     [Current] in the same transaction.
//   - Otherwise at most one repeat of a run per crash that cuts it off, since
//     nobody can tell whether it had its effect. Such runs are counted as in
//     doubt, and the handler is told by Claim.InDoubt: it may look first.
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
// Failures are counted with the key, so that a message's attempts are its failed
// runs and not its receives: crashes, drains and postponements cost none
// ([queue.Attempted]). Trouble at the far side and permanent errors give the
// claim up without a count, so a message that is redriven starts anew.
//
// # Stores
//
// [Memory] serves one process and forgets at its end. For several processes bring
// a [Store] of your own on a database that they share: four atomic steps on a key.
//
// # Beside Powertools for AWS Lambda
//
// The idempotency utility of Powertools (Python, TypeScript, Java, .NET) has the
// same shape: a key from the payload, a record that is in progress and then
// completed, a conditional write, expiry. It differs here:
//
//	                        Powertools                     this package
//	key                     hash of a part of the payload  function of the message; default an attribute, else a hash of the body
//	second delivery         error; the message fails,      postponed for the rest of the claim: no failure
//	  meanwhile             and may be dead-lettered
//	end of a claim          the function's deadline        the context's deadline and 1 s
//	late first run          no owner in the record         refused: owner's name in the condition
//	after a failure         record deleted                 failures counted: attempts are failures, not receives
//	run after a crash       as if it were the first        counted as in doubt, and the handler is told
//	success not recorded    error: the message runs again  acked, counted
//	result                  returned to the caller         optional: SetResult, Config.OnDone
package idempotent
