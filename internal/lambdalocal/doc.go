// Package lambdalocal is AWS Lambda on this machine, for tests: an event source
// mapping between a queue and a function, and the runtime API that a compiled
// function is run by.
//
//	f, err := lambdalocal.NewProcess(lambdalocal.ProcessConfig{
//		Path:        "./bootstrap", // calls lambda.Start
//		Env:         []string{"AWS_ENDPOINT_URL_SQS=" + endpoint},
//		Timeout:     30 * time.Second,
//		Concurrency: 10,
//		Output:      os.Stderr,
//	})
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	m, err := lambdalocal.NewMapping(lambdalocal.MappingConfig{
//		Client:           client,
//		QueueURL:         url,
//		Function:         f,
//		BatchSize:        5,
//		MaxConcurrency:   10,
//		PartialResponses: true,
//	})
//	if err != nil {
//		return err
//	}
//	return m.Run(ctx)
//
// A [Function] in the place of the [Process] runs in this process: with the fake
// server of package sqsfake everything then goes on in virtual time, in a bubble
// of testing/synctest.
//
// What is reproduced here is what the AWS Lambda Developer Guide says, on the
// pages that are named below; where it gives no figure, the one chosen is said to
// be so.
//
// # The mapping
//
// Pages: "Using Lambda with Amazon SQS" (with-sqs), "Creating and configuring an
// SQS event source mapping" (services-sqs-configure), "Lambda parameters for
// Amazon SQS event source mappings" (services-sqs-parameters).
//
// It polls with waits of 20 s. A batch is complete when it has BatchSize
// messages, when its Window is over, or at 6 MB; what is received beyond that is
// the next batch of the same poller. Messages keep the queue's own visibility
// timeout, which must not be shorter than the function's timeout. Those that
// failed are left alone: they are visible again when it ends, and the queue's
// redrive policy counts their receives. Done ones are deleted.
//
// The event has all of the messages' attributes, binary ones in base64. Of FIFO
// queues there is one batch of a group at a time, and a batch may have several
// groups.
//
// # Responses
//
// Page: "Handling errors for an SQS event source" (services-sqs-errorhandling).
//
// With PartialResponses, a batch is done when batchItemFailures is empty, null
// or missing, and when there is no response or null; it has failed as a whole
// when the response is no JSON object, when an item has no itemIdentifier, or an
// empty or null one, or one that no message of the batch has. Names are case
// sensitive. Without PartialResponses a response means nothing. An invocation
// that fails, fails its whole batch.
//
// # Concurrency
//
// Page: "Configuring scaling behavior for SQS event source mappings"
// (services-sqs-scaling).
//
// There are five batches at a time in the beginning, and while there are
// messages 300 more a minute (here: one each 200 ms), up to MaxConcurrency or
// 1,250. For each long poll that brings nothing there is one less, down to five.
// FIFO queues are polled in the same way.
//
// A throttled batch is tried again until its messages are visible again (first
// after 250 ms, then after twice as long each time, up to 10 s: chosen here), and
// then dropped. The mapping does not know the function's concurrency, so a
// smaller one costs receives.
//
// With SlowDown, function errors and throttles reduce the batches at a time. The
// guide says "gradually" only. Chosen here: they are halved, once for all
// invocations that ran side by side, and down to one; from the first success on
// they grow again as in the beginning. There is no pause between batches, so the
// one that is left goes on receiving, which is the worst case for receive counts.
// Responses don't slow down, whatever they say. The guide also says that with
// partial responses turned on, failed invocations don't: that is SlowDown false.
//
// # The function
//
// Pages: "Using the Lambda runtime API for custom runtimes" (runtimes-api),
// "Understanding the Lambda execution environment lifecycle"
// (lambda-runtime-environment), "Defined runtime environment variables"
// (configuration-envvars).
//
// Each concurrent invocation has an execution environment: a process with a
// runtime API of its own, on a loopback address. The most recently used idle one
// is taken first; when all are busy another one is started, up to Concurrency,
// and what comes beyond that is throttled. The four routes of the runtime API are
// served: next invocation, response, error, and init error. The process has the
// environment variables that Lambda sets, and those of ProcessConfig.Env.
//
// A process has 10 s until it asks for its first invocation; one that doesn't, or
// that ends, fails the invocation it was started for. It has Timeout for each
// invocation, until it asks for the next one; then it is killed, and its
// invocation failed, unless it had answered. Between invocations it is frozen
// (SIGSTOP, as soon as it asks for the next one) and thawed by the next
// invocation (SIGCONT). Whatever ends a process, the next invocation starts
// another one.
//
// # What is not reproduced
//
// Of the mapping: filter criteria, provisioned mode, scaling to fewer than five
// when idle, metrics, encryption, and the several receives that Lambda makes
// side by side for a large batch. Of the function: memory and CPU limits, the
// file system, the extensions and telemetry APIs, response streaming, SnapStart,
// provisioned concurrency, several invocations in one environment, the second
// attempt at an init phase that took too long, and account limits. Lambda ends
// environments that have been idle for some time and replaces them now and then:
// here Recycle does, when it is called. SIGTERM comes before SIGKILL at the end
// of an idle process, which Lambda does for functions with an extension only.
//
// # Concurrency of the package
//
// All methods may be called concurrently, except that a Mapping has one Run at a
// time. Nothing is left running after Run, [Process.Close] and [Function.Wait]
// have returned.
package lambdalocal
