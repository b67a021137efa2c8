// Package sqsfake is an Amazon SQS server in memory, made to misbehave: an
// [http.Handler] that speaks the service's JSON protocol to the real SDK client.
//
//	var server sqsfake.Server
//	url, err := server.CreateQueue("orders", map[string]string{"VisibilityTimeout": "60"})
//	if err != nil {
//		return err
//	}
//	client := server.Client() // an *sqs.Client that calls the server in process
//	out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
//
// All time is that of package time. In a bubble of testing/synctest a long poll
// of twenty seconds and a visibility timeout of twelve hours take no time; make
// the server in the bubble in which it is used. It has no goroutines of its
// own, needs no closing, and starts a timer only while somebody polls or a message
// move task runs.
//
// # Clients
//
// [Server.Client] has static credentials and no retries, so that a test counts
// the calls that its subject makes; its arguments change any of the SDK's
// options. [Server.Do] is the sqs.HTTPClient under it: it runs the handler in
// the caller's goroutine, and ends with the request's context. Over sockets the
// same server is served by net/http, and [NewClient] makes a client for its
// address.
//
// # The service
//
// Queues, standard and FIFO, behave as the service documents, to the second and
// to the error code. Where the documentation leaves a choice ("may", "might",
// "up to"), the server is strict: queues keep nothing back at random, attributes
// change at once, a receive returns all that it may, standard queues keep the
// order. Sampling, and everything else that goes wrong, is asked for by a plan.
// The visibility of a message that is visible again can't be changed
// (MessageNotInflight). A message move task takes what is visible, and ends when
// nothing is. Signatures, permissions and request rates are not checked, tags not
// known, and redrive policies that form a cycle refused. FIFO queues look for
// groups in all that they hold, not in the first 120,000 messages; no tenant of a
// fair queue is noisy; a move task may take longer than 36 hours.
//
// Errors carry the code of the JSON protocol in the body, and that of the older
// protocol, with its AWS.SimpleQueueService prefix where it has one, in the
// header x-amzn-query-error, as those of the service do.
//
// # Faults
//
// Server.Plan says what happens to each request: it may be refused with any
// [Error], be acted on and its reply lost, be late, be cut short, or fail for
// some of its entries only. Plans are plain functions; [On], [OnCall], [Random],
// [Between], [Fewer] and [First] make the common ones:
//
//	server.Plan = sqsfake.First(
//		sqsfake.OnCall(3, sqsfake.Fault{Mode: sqsfake.LoseReply}),
//		sqsfake.Random(seed, 0.05, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}),
//	)
//
// # Counting
//
// [Server.Stats] tells how many requests of an operation came in, how many
// messages they carried and how many were open at once; [Server.Queue] what a
// queue holds and what went through it, and [Server.Messages] its messages.
//
// # Concurrency
//
// Fields of a Server are set before the first call. Its methods may be called
// concurrently.
package sqsfake
