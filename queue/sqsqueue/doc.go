// Package sqsqueue is a [queue.Source] and a [queue.Sink] on Amazon SQS, that
// loses nothing, costs few requests, and survives what the service really does.
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
// [Queue.Check] reads the queue's attributes and says what about them will hurt.
//
// # Delivery
//
// Delivery is at least once: a message comes again when its lease (the
// visibility timeout) is over, when a reply is lost, and now and then on a
// standard queue even after it was deleted. Attempt is the service's receive
// count, which counts those too; it is 0 where a server does not tell it.
//
// A lease counts from when the receive that brought the message was made, since
// the service may have handed it out then. Receives wait at the service for up
// to 20 seconds, so an idle consumer makes three requests a minute, or more if
// its DrainTimeout or its Lease is so short that receives must wait for less. A
// lease can be extended until 12 hours after the receive, and no further: Extend
// asks for what is left of them, and when nothing is left fails with
// [queue.ErrLeaseLost].
//
// On FIFO queues, whose URL ends in .fifo, a message that is hidden holds up its
// group. So a receive whose reply was lost is made again, with the same
// ReceiveRequestAttemptId, by the next Receive that asks for as many: the service
// then hands out the same messages once more, in the same delivery and with a new
// lease. Where it no longer does, as their lease has run out, they come as others
// do. A message that goes to a dead-letter queue lets the later ones of its group
// pass. On standard queues a Group is the tenant of a fair queue.
//
// The service lets about 120,000 messages of a queue be in flight, those included
// that wait out a Nack's delay, and hands out no more until some of them are not.
//
// # Messages
//
// A body must be text: UTF-8 without control characters other than tab, line
// feed and carriage return, and without U+FFFE and U+FFFF. The service takes no
// others, nor empty ones; Send refuses them rather than encode them, since other
// programs that read the queue would not know of it.
//
// Attributes of type String and Number are read as they are written, and those of
// type Binary as their bytes. On the way back those that have their old value
// have their old type, and others are String, or Binary when they are no text.
// The trace header of AWS X-Ray is the attribute [TraceHeader].
//
// What a message's Receipt has is the service's receipt handle and when it was
// received. Ack, Nack and Extend also take a message with a bare handle, from a
// Lambda event for example.
//
// # Dead letters
//
// The service takes ten attributes and 1 MiB. A dead letter, that is a message
// with the attribute [retry.DeadLetterAttribute], would be stuck if Send refused
// it for its record, so the record gives way. If all ten attributes are taken,
// the shortest one travels within the record, and Receive puts it back to its
// place. If the message becomes too long, or the service refuses it, as the queue's
// own MaximumMessageSize may be less than 1 MiB, the record is sent without its
// texts, or not at all. Config.Logger is told, with the whole record. A record from
// an earlier life is replaced.
//
// Package deadletter reads them and brings them back. [Move] has the service itself
// move all messages of a dead-letter queue, and says when it can't.
//
// # Errors
//
// An error of a request answers errors.Is for
//
//   - [limiter.ErrOverload]: throttled, or too many messages in flight,
//   - [limiter.ErrUnavailable]: the service fails, or can't be reached, or takes
//     longer than Config.Timeout,
//   - [limiter.ErrMisconfigured]: the queue is gone, access is denied, to the
//     queue or to its KMS key, the credentials are missing, wrong or expired, or
//     refused by the service that hands them out, what answers is not SQS or
//     speaks its older protocol only, the HTTP client's Timeout is shorter than
//     the wait of a receive. The text says what to do. A consumer whose first
//     receive fails so ends; later it waits,
//
// and for none of them when the service refuses just this request.
//
// Ack, Nack, Extend and Send ask again for what failed in the first two ways, and
// for what a reply names neither as done nor as failed, up to six times in about
// two seconds, as long as their context lasts. When two replies name no message at
// all, another server has given them, and that is [limiter.ErrMisconfigured]. What fails then, or otherwise, they
// tell message by message in a [queue.BatchError]; [queue.ErrLeaseLost] stands
// for a receipt handle that the service does not take any more. Receive makes
// one request: the consumer decides when to try again.
//
// # Shutdown
//
// A Queue holds nothing and needs no closing. When the context of a Receive ends
// the request is cut off, and messages that the service has just handed out come
// back at the end of their lease. So Receive ignores [queue.ReceiveOptions].Stop, and
// a [queue.Consumer] that drains lets a receive land, for its DrainTimeout; it has
// its receives wait for 2 s less than that at most. An idle one drains when its long
// poll ends, after up to 20 s.
//
// # Concurrency
//
// All methods may be called concurrently. Calls with more than ten messages make
// their requests one after the other.
//
// # Connections
//
// The SDK's own HTTP client keeps ten idle connections for each host. A fast
// consumer has more requests in flight, and those beyond ten would dial each time.
// So if the client uses that HTTP client (an awshttp.BuildableClient) with the SDK's
// defaults for MaxIdleConns, MaxIdleConnsPerHost and MaxConnsPerHost, a Queue with
// several requests in flight makes them through a copy. The copy keeps each
// connection until it has been idle for IdleConnTimeout (90 s); its timeouts, TLS
// configuration, proxy and dialer are those of the original. Each Queue has a copy
// of its own. A Queue with one request in flight uses the original, so Queues that
// live for one call, and many quiet ones, share its connections.
//
// Any other HTTP client is used as it is. For an http.Client, and for a
// BuildableClient with other settings, [Queue.Check] reports if it keeps too few
// connections, and Config.Logger gets a warning, once, when that makes a tenth of
// the requests dial, and at least a hundred.
//
// # Permissions
//
// A consumer needs sqs:ReceiveMessage, sqs:DeleteMessage and
// sqs:ChangeMessageVisibility, whoever sends sqs:SendMessage, and Check
// sqs:GetQueueAttributes and sqs:GetQueueUrl. [Move] says what it needs.
package sqsqueue
