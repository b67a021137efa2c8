// Package memqueue is a queue in memory that behaves like Amazon SQS: for
// tests, and for programs that need no more.
//
//	q, err := memqueue.New(memqueue.Config{})
//	if err != nil {
//		return err
//	}
//	if err := q.Send(ctx, &queue.Message{Body: []byte("hello")}); err != nil {
//		return err
//	}
//	msgs, err := q.Receive(ctx, queue.ReceiveOptions{Max: 10, Lease: 30 * time.Second})
//	if err != nil {
//		return err
//	}
//	return q.Ack(ctx, msgs...)
//
// All time is that of package time, so that in a bubble of testing/synctest hours
// of leases and delays pass in milliseconds. Make a queue in the bubble in which
// it is used. A queue has no goroutine of its own, and one timer, set only while
// somebody waits.
//
// # Delivery
//
// A received message is hidden for its lease. Ack deletes it. Otherwise it is
// delivered again, with an Attempt one higher, when Nack returns it or when its
// lease ends, which Extend postpones: delivery is at least once. Each receive
// creates a new receipt. A receipt that is no longer the latest settles nothing:
// Ack succeeds with it, as on SQS, and Nack and Extend fail. A receive returns
// ten messages at most and, on a standard queue, first those that became visible
// first.
//
// A message that has been received Config.MaxReceives times is moved to
// Config.DeadLetter by the receive that would otherwise return it again. It keeps
// its ID and its content, and its receives are counted anew there. On standard
// queues it keeps SentAt too, so its retention continues; on FIFO queues it is
// sent anew, with its ID for Dedup.
//
// # FIFO queues
//
// With Config.FIFO the messages of one group are received in the order they were
// sent. A receive may return several of one group; until all of them are acked or
// visible again, no other message of the group is received. So the delay of a
// Nack holds up its group. A second message with the same Dedup within five
// minutes is accepted and dropped. On standard queues a message keeps its Group,
// which neither orders messages nor shares out receives fairly.
//
// # Messages
//
// [Queue.Send] rejects messages that SQS would reject: more than 1 MiB of body,
// attribute names and values; more than ten attributes; an attribute whose name
// is not 1 to 256 letters, digits, "_", "-" and "." (single, and not at either
// end) or begins with "AWS." or "Amazon."; a Group or Dedup of more than 128
// characters, or other than printable ASCII without spaces; a Delay below 0 or
// above 15 minutes; and what Config.FIFO rules out. Unlike SQS, body and
// attributes may be any bytes, and empty. As on SQS, the trace header of AWS
// X-Ray ("AWS.TraceHeader", sqsqueue.TraceHeader) counts neither among the
// attributes nor in the size.
//
// # Errors
//
// Calls for several messages that fail for some of them return a
// [queue.BatchError]. In it a message whose lease is over fails with
// [queue.ErrLeaseLost], one for which there is no room with [ErrFull], and one
// that SQS would reject with an error that gives the reason. Send after Close
// fails with [ErrClosed]. All calls fail with context.Cause when their context
// ended before they began.
//
// # Shutdown
//
// [Queue.Close] ends sending. Receivers continue until the queue is empty, and
// then get io.EOF, so a consumer drains it and ends. A receive that waits ends at
// once when [queue.ReceiveOptions].Stop is closed, and loses no message; so a
// consumer with nothing to do drains at once. A queue that is not closed needs no
// cleaning up.
//
// # Concurrency
//
// All methods may be called concurrently. Waiting receivers are served first
// come, first served, and so are senders that wait for room; a message that
// arrives wakes only the receiver that gets it. Bodies and attributes are copied
// in and out.
package memqueue
