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
// not read the function's answer, and deletes what was to be delivered again.
//
// [Wrap] takes a Lambda function that was written before.
//
// # What differs from a consumer
//
// An invocation runs a consumer over its event, as a source that ends. But Lambda
// receives before any of our code runs, and bills while it runs:
//
//   - Each delivery costs a receive, whatever becomes of it: a message that is
//     returned untried is one step closer to the queue's maxReceiveCount. So set
//     the queue's maxReceiveCount high (50) and Retry.MaxAttempts well below it
//     (20), and keep the batch small enough to be done in time: batch size times
//     handler time, divided by Config.Concurrency. The log warns when it is not.
//   - There is no heartbeat. The queue's visibility timeout covers the whole
//     delivery: set it to six times the function's timeout, plus the batch window.
//   - An outage is waited out for 2 seconds, not for minutes. Then what is not done
//     is returned: a message that waits in a running function is billed, and its
//     batch is all that the process works on. A message that fails while others
//     succeed is returned at once. The wait for a rate goes on while there is time,
//     unless the rate is paused for longer than that.
//   - Nothing runs after the answer: no timer, no call, no goroutine, except for a
//     handler that ignores the end of its context. A process may be frozen for
//     minutes then. A rate limit lets one burst pass after that, and no more.
//   - There is no drain. Lambda ends processes between invocations.
//
// # Deadline
//
// The deadline of a handler's context is a second before that of the function, or
// a sixth of the time, if that is less; dead letters are sent and delays are set
// in what is left. No message is started that can't be expected to end in time, by
// what handlers took lately: it is returned, to come back at once. The first
// messages of an invocation are always tried. A context without a deadline, in a
// test for example, sets no limit.
//
// A handler that the deadline ends has met a timeout, and context.DeadlineExceeded
// is [limiter.ErrUnavailable] as ever. But when it had less than half of the time
// that handlers have, its error says nothing: the limits do not hear it, and the
// message is returned, hidden for its retry delay.
//
// # Results
//
// They mean what package queue says, with these differences:
//
//   - Attempts are receives, for other processes may have seen the earlier ones.
//   - Guilt is judged by what the process knows. A message that fails with
//     limiter.ErrOverload, ErrUnavailable or ErrMisconfigured is guilty when it
//     was received three times or more and others succeed: a message did within
//     the last 30 s, not more than two have failed with the same class since, and
//     of the first runs of the last ten minutes less than a tenth did (as long as
//     there are 20 of them). One that was received as often, after which only such
//     messages have failed, is a suspect: no attempt of it counts, and the limits
//     hear nothing of it. A new process knows of no success, and finds no message
//     guilty.
//   - Refusals are taken for the messages' own when four fifths of the messages that
//     the process has seen refused before are refused again, and no more than a
//     quarter of the others. Then they lower no pace. With a Retry-After it takes 95 %
//     of twenty, and they pause nobody.
//   - A message that failed is returned, hidden for its retry delay through
//     Config.Queue.
//   - A message that got a 429 without a Retry-After while others succeed is hidden
//     for its retry delay as well.
//   - Any other message that the downstream refused, and that is not guilty, stays
//     away for 30 s, doubled by each further receive; or for as long as the breaker is known
//     to stay open, the limit to be paused, or its own RetryAfter to last; with up to
//     a quarter of jitter, and 15 min at most but for the RetryAfter. So does what
//     is returned untried because of an outage. An outage that is shorter than
//     [OutageSpan] dead-letters nothing, and after a longer one it is the queue's
//     own redrive that takes messages, for here nobody knows since when one has
//     failed. After the outage messages may take as long to come back.
//   - Lambda goes on polling at full speed while messages are returned; it slows
//     down only when invocations fail. [Error] makes them fail.
//   - The dead-letter guard lives as long as the process. A new process has a guard
//     of its own, so after a bad deploy each process may send 20 dead letters.
//
// # Without a queue
//
// The answer can return a message, but not say for how long. Without Config.Queue
// every returned message comes back when its visibility timeout ends: retry delays
// and Retry-After have no effect, a message that was not tried comes back as late
// as one that failed, and in an outage each message is received once in a
// visibility timeout, so it is dead-lettered after maxReceiveCount of them. Without
// Config.DeadLetter messages that can't succeed are returned until the queue's own
// redrive takes them, and nothing says why.
//
// # Order
//
// Messages of one group of a FIFO queue are handled one at a time and in order. One
// that fails is tried again in its place, for 2 seconds at most, while other
// groups go on. When it is returned, the rest of its group is returned too,
// untried. A dead letter is done, and does not hold up its group.
//
// # Errors
//
// The function fails when [Error] is set and asks for it, and when a message that
// is to be returned has no id, which SQS does not send: an answer can't name it, so
// the whole batch is returned. Everything else goes to Config.Logger: a delay that
// could not be set, a dead letter that could not be sent, handlers that outlived
// the function's time.
//
// # Limits across processes
//
// Lambda runs as many processes as the mapping's MaximumConcurrency allows, each
// with its own Config.Limiter. A limit of concurrency is best left to the mapping
// (not to reserved concurrency alone: the mapping does not know of that, and what
// it receives too much costs receives). A rate can be shared out with
// [FleetLimit], or exactly with a limiter that the processes have in common.
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
