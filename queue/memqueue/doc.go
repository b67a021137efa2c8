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
// All time is that of package time, so that in a bubble of testing/synctest
// hours of leases and delays pass in milliseconds. Make a queue in the bubble
// in which it is used. A queue has no goroutine of its own, and one timer, set
// only while somebody waits.
//
// # Delivery
//
// A received message is hidden for its lease. It is deleted by Ack, and comes
// back at the end of the lease, which Extend moves, or when Nack gives it back:
// at least once, with an Attempt one higher. Each receive gives a receipt of its
// own. One that is no longer the latest settles nothing: Ack succeeds with it,
// as on SQS, and Nack and Extend fail. A receive hands out ten messages at most
// and, on a standard queue, those first that became visible first.
//
// A message that has been received Config.MaxReceives times is moved to
// Config.DeadLetter by the receive that would have been the next. It keeps its
// ID and its content, and is counted anew there. On standard queues it keeps
// SentAt too, so its retention goes on; on FIFO queues it is sent anew, with its
// ID for Dedup.
//
// # FIFO queues
//
// With Config.FIFO the messages of one group come in the order they were sent.
// A receive may take several of one group; until all of them are acked or
// visible again, the group gives no others. So the delay of a Nack holds up its
// group. A second message with the same Dedup within five minutes is accepted
// and dropped. On standard queues Group goes with the message and orders
// nothing, nor does it share out receives fairly.
//
// # Errors
//
// Calls for several messages that fail for some of them return a
// [queue.BatchError]. A message whose lease is over fails in it with
// [queue.ErrLeaseLost], one for which there is no room with [ErrFull], one that
// SQS would not take with an error that says why. Send after Close fails with
// [ErrClosed]. All calls fail with context.Cause when their context has ended
// before they began.
//
// # Shutdown
//
// [Queue.Close] ends sending. Receivers go on until the queue is empty, and then
// get io.EOF, so a consumer drains it and ends. A receive that waits ends at once
// when [queue.ReceiveOptions].Stop is closed, and loses nothing by it; so a consumer
// with nothing to do drains at once. A queue that is not closed needs no cleaning up.
//
// # Concurrency
//
// All methods may be called concurrently. Receivers that wait are served first
// come first served, and so are senders that wait for room; a message that
// arrives wakes only the receiver that gets it. Bodies and attributes are copied
// in and out.
package memqueue
