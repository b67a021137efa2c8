// Package sqsfake is an in-memory Amazon SQS server that can misbehave on request. It
// is an [http.Handler] that speaks the service's JSON protocol to the real SDK client.
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
// of twenty seconds and a visibility timeout of twelve hours take no time; create
// the server in the bubble in which it is used. It has no goroutines of its
// own, needs no closing, and starts a timer only while somebody polls or a message
// move task runs.
//
// # Clients
//
// [Server.Client] has static credentials and no retries, so that a test counts
// the calls that its subject makes; its arguments change any of the SDK's
// options. [Server.Do] is the sqs.HTTPClient beneath it: it runs the handler in
// the caller's goroutine, and ends with the request's context. To use sockets, serve
// the server with net/http; [NewClient] creates a client for its address.
//
// # The service
//
// Queues, standard and FIFO, behave as the service documents, to the second and
// to the error code. Where the documentation leaves a choice ("may", "might",
// "up to"), the server is strict: queues hold back no messages at random, attributes
// change at once, a receive returns as many messages as it may, and standard queues
// keep the order. A plan adds sampling and all other faults.
//
// The visibility of a message that is visible again can't be changed
// (MessageNotInflight). A message move task moves visible messages, and ends when
// there are none. Redrive policies that form a cycle are refused.
//
// The server does not check signatures, permissions and request rates, and has no
// tags. FIFO queues look for groups in all their messages, not in the first 120,000;
// no tenant of a fair queue is noisy; a move task may take longer than 36 hours.
//
// Like those of the service, errors carry the code of the JSON protocol in the body,
// and the code of the older protocol, with its AWS.SimpleQueueService prefix if it has
// one, in the header x-amzn-query-error.
//
// # Faults
//
// Server.Plan decides what happens to each request: it may be refused with any
// [Error], be acted on and its reply lost, be delayed, be cut short, or fail for only
// some of its entries. Plans are plain functions; [On], [OnCall], [Random],
// [Between], [Fewer] and [First] make the common ones:
//
//	server.Plan = sqsfake.First(
//		sqsfake.OnCall(3, sqsfake.Fault{Mode: sqsfake.LoseReply}),
//		sqsfake.Random(seed, 0.05, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Throttled()}),
//	)
//
// # Counting
//
// [Server.Stats] returns how many requests of an operation arrived, how many
// messages they carried and how many were open at once. [Server.Queue] returns what a
// queue contains and what has passed through it, and [Server.Messages] its messages.
//
// # Concurrency
//
// Set the fields of a Server before the first call. Its methods may be called
// concurrently.
package sqsfake
