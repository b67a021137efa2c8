// Package sqslambda runs a [queue.Handler] as a Lambda function behind an Amazon
// SQS queue, with the limits, retries and dead letters that a [queue.Consumer]
// would give it.
//
//	orders, err := sqsqueue.New(client, ordersURL, sqsqueue.Config{})
//	...
//	dead, err := sqsqueue.New(client, deadURL, sqsqueue.Config{})
//	...
//	f, err := sqslambda.Handler(queue.Decode(json.Unmarshal, reserve), sqslambda.Config{
//		Queue:      orders, // the one behind the event source mapping
//		DeadLetter: dead,
//		Retry:      retry.Policy{MaxAttempts: 20}, // with a maxReceiveCount of 50
//	})
//	...
//	lambda.Start(f) // of github.com/aws/aws-lambda-go
//
// The event source mapping needs ReportBatchItemFailures. Without it Lambda does
// not read the function's response, and deletes messages that were to be delivered
// again.
//
// [Wrap] adapts an existing Lambda function.
//
// # What differs from a consumer
//
// An invocation runs a consumer over its event, as a source that ends. But Lambda
// receives before any of our code runs, and bills while it runs:
//
//   - Each delivery costs a receive, even if the message is returned untried, and
//     brings the message closer to the queue's maxReceiveCount. So set
//     maxReceiveCount high (50) and Retry.MaxAttempts well below it (20), and keep
//     the batch small enough to finish in time: batch size times handler time,
//     divided by Config.Concurrency. The log warns when a batch is too big.
//   - There is no heartbeat. The queue's visibility timeout covers the whole
//     delivery: set it to six times the function's timeout, plus the batch window.
//   - An invocation waits for the end of an outage for 2 seconds, not for minutes.
//     Then it returns what is not done: a message that waits in a running function
//     is billed, and its batch is all that the process works on. A message that
//     fails while others succeed is returned at once. The wait for a rate continues
//     while there is time, unless the rate is paused for longer than that.
//   - Nothing runs after the response: no timer, no call, no goroutine, except for a
//     handler that ignores the end of its context. Lambda may freeze the process for
//     minutes then. Afterwards a rate limit lets one burst pass, and no more.
//   - There is no drain. Lambda ends processes between invocations.
//
// # Deadline
//
// A handler's context ends a second before the function's deadline, or a sixth of
// the remaining time before it, if that is less. The rest is for sending dead
// letters and setting delays. A message is not started if it can't be expected to end in
// time, judging by how long handlers took lately: it is returned without a delay.
// The first messages of an invocation are always tried. A context without a
// deadline, in a test for example, sets no limit.
//
// A handler that runs into the deadline has timed out, and as usual
// context.DeadlineExceeded is [limiter.ErrUnavailable]. But if the handler had less
// than half of the time that handlers have, its error says nothing: it is not
// reported to the limits, and the message is returned, hidden for its retry delay.
//
// # Results
//
// Results mean what package queue says, with these differences:
//
//   - Attempts are receives, because earlier attempts may have been made by other
//     processes.
//   - Guilt is decided from what the process has seen. A message that fails with
//     limiter.ErrOverload, ErrUnavailable or ErrMisconfigured is guilty when it was
//     received three times or more and others succeed: a message succeeded within
//     the last 30 s, at most two messages have failed with the same class since then,
//     and less than a tenth of the first runs of the last ten minutes failed with it
//     (if there were at least 20). A message that was received as often is a suspect
//     if, since the last success, only such messages have failed: its attempts do not
//     count, and its failures are not reported to the limits. A new process has seen
//     no success, and finds no message guilty.
//   - Refusals count as the messages' own when four fifths of the messages that the
//     process has seen refused before are refused again, and no more than a quarter of
//     the others. Then they do not lower the pace. For refusals with a Retry-After it
//     takes nearly all of twenty messages, and then they pause nobody.
//   - A message that failed is returned, hidden for its retry delay through
//     Config.Queue.
//   - A message that got a 429 without a Retry-After while others succeed is hidden
//     for its retry delay as well.
//   - Any other message that the downstream refused, and that is not guilty, is
//     hidden for 30 s, doubled by each further receive, or for as long as the breaker
//     is known to stay open or the limit to be paused, if that is longer. Up to a
//     quarter of jitter is added, and 15 min is the most. Only the message's own
//     RetryAfter can hide it for longer. The same delays hide messages that are
//     returned untried because of an outage. An outage that is shorter than
//     [OutageSpan] dead-letters nothing. In a longer one the queue's redrive policy
//     moves messages, because no process knows how long a message has been failing.
//     After an outage messages may take as long as their last delay to come back.
//   - Lambda continues to poll at full speed while messages are returned; it slows
//     down only when invocations fail. [Error] makes them fail.
//   - The dead-letter guard lives as long as the process. A new process has its own
//     guard, so after a bad deploy each process may send 20 dead letters.
//
// # Without a queue
//
// The response can return a message, but can't set its delay. Without Config.Queue
// every returned message comes back when its visibility timeout ends: retry delays
// and Retry-After have no effect, an untried message comes back as late as a failed
// one, and in an outage each message is received once per visibility timeout, so it
// is dead-lettered after maxReceiveCount of them. Without Config.DeadLetter messages
// that can't succeed are returned until the queue's redrive policy moves them, and no
// record says why.
//
// # Order
//
// Messages of one group of a FIFO queue are handled one at a time and in order. A
// message that fails is tried again before the next one of its group, for 2 seconds
// at most, while other groups continue. When it is returned, the rest of its group is
// returned too, untried. A dead letter is done, and does not hold up its group.
//
// # Errors
//
// The function fails in two cases: as [Error] says, if that is set; and when a
// message to be returned has no id, which SQS never sends: the response can't name
// the message, so the whole batch is returned. Everything else is logged to
// Config.Logger: a delay that could not be set, a dead letter that could not be sent,
// handlers that outlived the function's time.
//
// # Limits across processes
//
// Lambda runs as many processes as the mapping's MaximumConcurrency allows, each
// with its own Config.Limiter. Limit concurrency with the mapping, not with reserved
// concurrency alone: the mapping ignores that, and each message that it receives in
// excess costs a receive. Divide a rate with [FleetLimit], or share it exactly with a
// limiter that all processes use.
//
// # Messages
//
// A message is as sqsqueue would have received it, with the bare receipt handle as
// its Receipt. Native is a *types.Message of the SDK, so that a dead letter
// keeps the types of its attributes. Two records with the same id are one
// message.
//
// # Permissions
//
// In addition to what the mapping itself needs, the function's role needs
// sqs:ChangeMessageVisibility on the queue, for Config.Queue, and
// sqs:SendMessage on the dead-letter queue, for Config.DeadLetter.
package sqslambda
