// Package queuetest tests queues and the code that uses them.
//
// [TestSource] is the suite that every [queue.Source] and [queue.Sink] must
// pass. The test of a package that implements them is
//
//	func TestSource(t *testing.T) {
//		queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
//			return newEmptyQueue(t)
//		}, queuetest.Config{Synctest: true})
//	}
//
// A failing case says which promise of the interfaces the queue breaks. Run it
// alone with go test -run 'TestSource/Nack_Delay'.
//
// [Script] makes a source that plays a sequence of steps to a consumer or
// handler, and records how its messages are settled; a [Recorder] is a sink that
// keeps what it is sent.
//
// [Faulty] makes any queue fail: before a call is made, after it, for half of its
// messages, or by not returning. A [Plan] decides which calls fail: the k-th call
// of all, so that a test can place a fault at every point in turn; some calls of
// one method; or some at random from a seed. Plans are plain functions:
//
//	f := &queuetest.Faulty{Source: q, Sink: q, Latency: 20 * time.Millisecond}
//	f.Plan = queuetest.Random(seed, 0.05,
//		queuetest.Fault{Mode: queuetest.Refuse},
//		queuetest.Fault{Mode: queuetest.LoseReply})
//
// # Concurrency
//
// All types may be used concurrently once their exported fields are set.
package queuetest
