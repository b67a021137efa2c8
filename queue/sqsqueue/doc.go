// Package sqsqueue is a [queue.Source] and a [queue.Sink] on Amazon SQS. It loses
// nothing, makes few requests, and copes with the service's real behavior.
//
//	client := sqs.NewFromConfig(aws) // of github.com/aws/aws-sdk-go-v2
//	orders, err := sqsqueue.New(client, ordersURL, sqsqueue.Config{})
//	...
//	dead, err := sqsqueue.New(client, deadURL, sqsqueue.Config{})
//	...
//	c, err := queue.NewConsumer(orders, handler, queue.Config{Concurrency: 20, DeadLetter: dead})
//	...
//	err = c.Run(ctx)
//
// [Queue.Check] reads the queue's attributes and reports settings that will hurt.
//
// # Delivery
//
// Delivery is at least once: a message is delivered again when its lease (the
// visibility timeout) is over, when a reply is lost, and occasionally on a standard
// queue even after it was deleted. Attempt is the service's receive count, which
// includes all these deliveries; it is 0 if the server does not report it.
//
// A lease counts from the start of the receive that brought the message, because
// the service may have delivered the message then. Receives wait at the service for
// up to 20 seconds, so an idle consumer makes three requests a minute, or more if
// its DrainTimeout or its Lease is so short that receives must wait for less. A
// lease can be extended until 12 hours after the receive, and no further: Extend
// asks for at most the time that is left, and fails with [queue.ErrLeaseLost] when
// none is.
//
// On FIFO queues, whose URL ends in .fifo, a hidden message holds up its group. So
// after a lost reply the next Receive for at least as many messages repeats the
// request, with the same ReceiveRequestAttemptId, and the service returns the same
// messages again, in the same delivery and with a new lease. If it no longer does,
// because their lease has expired, the messages come back as usual. A message that
// goes to a dead-letter queue lets the later ones of its group pass. On standard
// queues a Group is the tenant of a fair queue.
//
// A queue can have about 120,000 messages in flight, including those hidden by a
// Nack's delay. At that limit the service delivers no more until some of them are
// deleted or visible again.
//
// # Messages
//
// A body must be text: UTF-8 without control characters other than tab, line
// feed and carriage return, and without U+FFFE and U+FFFF. The service accepts no
// other bodies, nor empty ones. Send refuses them and does not encode them, because
// other programs that read the queue could not know the encoding.
//
// Attributes of type String and Number are read as they are written, and those of
// type Binary as their bytes. When a message is sent on, attributes that kept their
// value keep their type; others become String, or Binary if they are not text.
// The trace header of AWS X-Ray is the attribute [TraceHeader].
//
// A Receipt encodes the SQS receipt handle and the time of the receive. Ack, Nack and
// Extend also accept a message with a bare handle, from a Lambda event for example.
//
// # Sending
//
// Send fails a message that the service would not accept, and does not send it. A
// message must have
//
//   - a body as described above, and at most 1 MiB of body and attributes (names,
//     types and values),
//   - at most ten attributes, none of them empty,
//   - attribute names of 1 to 256 letters, digits, "_", "-" and "." (single dots, not
//     at an end) that do not begin with "AWS." (except [TraceHeader]) or "Amazon.",
//   - a Group and a Dedup of at most 128 characters, printable ASCII without spaces,
//   - a Delay from 0 to 15 minutes,
//   - on a FIFO queue a Group, no Delay, and a Dedup unless the queue derives one from
//     the content, which only the service knows.
//
// Send makes a request again after a temporary failure, so a standard queue may get
// a message twice. On a FIFO queue, once a message of a group is not accepted, Send
// sends no more of that group, except those in the same request as a message that the
// service refuses.
//
// # Dead letters
//
// The service accepts ten attributes and 1 MiB. A dead letter, that is a message
// with the attribute [retry.DeadLetterAttribute], would be stuck if Send refused
// it because of its record, so Send shortens the record. If the message already has
// ten attributes, the shortest one travels within the record, and Receive restores
// it. If the message becomes too long, or the service refuses it (the queue's own
// MaximumMessageSize may be less than 1 MiB), the record is sent without its
// texts, or not at all. Config.Logger then logs the whole record. A record from an
// earlier life is replaced.
//
// Package deadletter reads dead letters and redrives them.
//
// # Moving dead letters
//
// [Move] makes the service itself move all messages of a dead-letter queue. It fails
// with [ErrNotMovable] unless all of this holds:
//
//   - The server has message move tasks. Servers that emulate SQS often have none.
//   - The queue is the dead-letter queue of another queue's redrive policy.
//   - Without MoveConfig.To, each message was moved there by such a policy. The task
//     fails at the first message that somebody sent; what it has moved by then stays
//     moved.
//   - Both queues are standard, or both are FIFO.
//
// The service moves all messages as they are, with the attribute of their dead-letter
// record. To choose among them, or to use your own limiter, call deadletter.Redrive.
// A queue has one task at a time. Moved messages are new ones: they have a new id, and
// their retention starts again.
//
// If the context ends while the task is being started, Move first waits for the start,
// up to 10 s, because only its reply identifies the task to cancel. The task continues
// after Move fails if its state could not be read or it could not be cancelled, which
// the error says, and if the reply to its start was lost.
//
// # Errors
//
// An error of a request answers errors.Is for
//
//   - [limiter.ErrOverload]: throttled, or too many messages in flight,
//   - [limiter.ErrUnavailable]: the service fails, can't be reached, or takes
//     longer than Config.Timeout,
//   - [limiter.ErrMisconfigured]: the queue does not exist; access to the queue or to
//     its KMS key is denied; the credentials are missing, wrong, expired, or refused
//     by the service that issues them; the server is not SQS, or speaks only its older
//     protocol; the HTTP client's Timeout is shorter than the wait of a receive. The
//     text says what to do. A consumer ends if its first receive fails like this;
//     later it waits,
//
// and for none of them when the service refuses only this request.
//
// Ack, Nack, Extend and Send retry what failed in the first two ways, and messages
// that a reply names neither as done nor as failed, up to six times in about two
// seconds, as long as their context lasts. When two replies name no message at all,
// they came from another server, and that is [limiter.ErrMisconfigured]. The
// remaining failures are reported per message in a [queue.BatchError];
// [queue.ErrLeaseLost] stands for a receipt handle that the service no longer
// accepts. Receive makes one request: the consumer decides when to try again.
//
// # Shutdown
//
// A Queue holds no resources and needs no closing. When the context of a Receive ends,
// the request is aborted, and messages that the service has just delivered come
// back at the end of their lease. So Receive ignores [queue.ReceiveOptions].Stop, and
// a draining [queue.Consumer] waits for its receive, for up to its DrainTimeout; its
// receives wait for at least 2 s less than that. An idle consumer drains when its long
// poll ends, after up to 20 s.
//
// # Concurrency
//
// All methods may be called concurrently. Calls with more than ten messages make
// their requests one after the other.
//
// # The client
//
// A Queue uses the SDK's client unchanged, with five exceptions that apply only to the
// Queue's own requests:
//
//   - The SDK does not retry, because its delays would keep a consumer from receiving.
//   - A request has a time limit.
//   - The HTTP client gets a copy of the request body. Without the copy, the SDK and
//     net/http together can lose the reply of a fast server.
//   - The answers of the SDK's own endpoint resolver are cached.
//   - The SDK's own HTTP client keeps more connections, as described below.
//
// A client whose HTTP client has a Timeout that is not longer than a receive's wait
// can send, but Receive refuses to use it.
//
// # Connections
//
// The SDK's own HTTP client keeps ten idle connections for each host. A fast
// consumer has more requests in flight, and those beyond ten would dial each time.
// So if the client uses that HTTP client (an awshttp.BuildableClient) with the SDK's
// defaults for MaxIdleConns, MaxIdleConnsPerHost and MaxConnsPerHost, a Queue with
// several requests in flight makes them through a copy. The copy keeps each
// connection until it has been idle for IdleConnTimeout (90 s); its timeouts, TLS
// configuration, proxy and dialer are those of the original. Each Queue has its own
// copy. A Queue with one request in flight uses the original, so short-lived and idle
// Queues share its connections.
//
// Any other HTTP client is used unchanged. For an http.Client, and for a
// BuildableClient with other settings, [Queue.Check] reports if it keeps too few
// connections, and Config.Logger gets one warning when this makes a tenth of
// the requests dial, and at least a hundred.
//
// # Permissions
//
// A consumer needs sqs:ReceiveMessage, sqs:DeleteMessage and
// sqs:ChangeMessageVisibility, Send needs sqs:SendMessage, and Check needs
// sqs:GetQueueAttributes and sqs:GetQueueUrl. [Move] lists the permissions that it
// needs.
package sqsqueue
