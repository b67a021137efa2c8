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
// It is the consumer's engine, over one event as a source that ends. But Lambda
// receives, before any code of ours runs, and bills while it runs:
//
//   - Each delivery costs a receive, whatever becomes of it: a message that is
//     returned untried is one step nearer to the queue's maxReceiveCount. So
//     the queue's maxReceiveCount is high (50), Retry.MaxAttempts well below it
//     (20), and the batch small enough to be done in time: batch size times handler
//     time, divided by Config.Concurrency. The log warns when it is not.
//   - There is no heartbeat. The queue's visibility timeout covers the whole
//     delivery: six times the function's timeout, plus the batch window.
//   - Trouble at the far side is waited out for 2 seconds, not for minutes. Then
//     what is not done is returned: a message that waits in a running function is
//     billed, and takes a place. Waiting for a rate is not trouble, and goes on
//     while there is time, unless it is paused for longer than that.
//   - Nothing runs after the answer: no timer, no call, no goroutine, except for a
//     handler that ignores the end of its context. A process may be frozen for
//     minutes then. A rate limit lets one burst pass after that, and no more.
//   - There is no drain. Lambda ends processes between invocations.
//
// # Deadline
//
// A handler's context ends a second before the function does, or a sixth of the
// time before, if that is less; dead letters are sent and delays are set in what
// is left. No message is started that can't be expected to end in time, after
// what handlers took lately: it is returned, to come back at once. The first
// messages of an invocation are always tried. In a context without a deadline,
// in a test for example, there is no limit.
//
// # Results
//
// They mean what package queue says, with these differences:
//
//   - A message that failed is returned, and its visibility set to its retry
//     delay through Config.Queue.
//   - When the attempts are used up the message is a dead letter, as ever; but
//     an unavailable far side is not held against it unless others succeed: the
//     process has seen a success within 30 s, and less than three such failures
//     since. A new process knows nothing of an outage that others have seen.
//   - What is returned because of an outage stays away for 30 s, doubled by each
//     further receive, or for as long as the breaker is known to stay open or the
//     limit to be paused, with up to a quarter of jitter, and 15 min at most.
//     Returned so is what failed with limiter.ErrOverload and
//     limiter.ErrMisconfigured; with limiter.ErrUnavailable, but for the first
//     time while others succeed; and what was not tried because the breaker is
//     open or the limit paused. An outage that is shorter than [OutageSpan]
//     dead-letters nothing. After it, messages may take as long to come back.
//   - Lambda polls on at full speed while messages are returned; it slows down
//     only when invocations fail. [Error] makes them fail.
//   - The dead-letter guard looks at the results of the process, since an
//     invocation may have few. While it is tripped, a batch is returned from its
//     first failure on, with the delays of an outage, since there is no time to
//     wait for. A new process begins with a guard of its own, so a fleet hands
//     off about ten messages for each process before it stops.
//
// # Without a queue
//
// The answer alone can return a message, but not say for how long. Without
// Config.Queue everything that is returned comes back when its visibility timeout
// ends: retry delays and Retry-After have no effect, a message that was not tried
// comes back as late as one that failed, and in an outage each message is
// received once in a visibility timeout, so that it is dead-lettered after
// maxReceiveCount of them. Without Config.DeadLetter messages that can't succeed are
// returned until the queue's own redrive takes them, and nothing says why.
//
// # Order
//
// Messages of one group of a FIFO queue are handled one at a time and in order.
// After the first of them that is returned, the rest of its group is returned
// too, untried. A dead letter is done, and does not hold up its group.
//
// # Errors
//
// The function returns the error that [Error] asks for; and one when a message
// that is to be returned has no id, which SQS does not send: an answer can't name
// it, so the whole batch is returned. Everything else is told to Config.Logger: a
// delay that could not be set, a dead letter that could not be sent, handlers that
// outlived the function's time.
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
// The function's role needs, beside what the mapping needs for itself,
// sqs:ChangeMessageVisibility on the queue, for Config.Queue, and
// sqs:SendMessage on the dead-letter queue, for Config.DeadLetter.
package sqslambda
