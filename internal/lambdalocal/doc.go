// Package lambdalocal is AWS Lambda on this machine, for tests: an event source
// mapping between a queue and a function, and the runtime API that runs a compiled
// function.
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
// A [Function] instead of the [Process] runs in this process. With the fake server of
// package sqsfake everything then runs in virtual time, in a bubble of
// testing/synctest.
//
// The package reproduces what the AWS Lambda Developer Guide says, on the pages named
// below. Where the guide gives no figure, this documentation says which one was chosen.
//
// # The mapping
//
// Pages: "Using Lambda with Amazon SQS" (with-sqs), "Creating and configuring an
// SQS event source mapping" (services-sqs-configure), "Lambda parameters for
// Amazon SQS event source mappings" (services-sqs-parameters).
//
// The mapping polls with waits of 20 s. A batch is complete when it has BatchSize
// messages, when its Window is over, or at 6 MB; further messages form the next batch
// of the same poller. Messages keep the queue's visibility timeout, which must not be
// shorter than the function's timeout. Failed messages are left alone: they are visible
// again when the visibility timeout ends, and the queue's redrive policy counts their
// receives. Done messages are deleted.
//
// The event has all attributes of the messages, binary ones in base64. For FIFO
// queues there is one batch of a group at a time, and a batch may have several
// groups.
//
// # Responses
//
// Page: "Handling errors for an SQS event source" (services-sqs-errorhandling).
//
// With PartialResponses, a batch is done when batchItemFailures is empty, null
// or missing, and when the response is missing or null. The batch fails as a whole
// when the response is not a JSON object, or when the itemIdentifier of an item is
// missing, empty, null, or not the id of a message of the batch. Names are case
// sensitive. Without PartialResponses the response is ignored. An invocation that
// fails, fails its whole batch.
//
// # Concurrency
//
// Page: "Configuring scaling behavior for SQS event source mappings"
// (services-sqs-scaling).
//
// The mapping starts with five concurrent batches. While there are messages, it adds
// 300 a minute (here: one every 200 ms), up to MaxConcurrency or 1,250. Each empty long
// poll removes one, down to five. FIFO queues are polled in the same way.
//
// A throttled batch is retried until its messages are visible again (first after 250
// ms, then after twice as long each time, up to 10 s: chosen here), and then dropped.
// The mapping does not know the function's concurrency, so if that is smaller, it costs
// receives.
//
// With SlowDown, function errors and throttles reduce the number of concurrent batches.
// The guide only says "gradually". Chosen here: the number is halved, once for all
// invocations that ran concurrently, down to one; after the first success it grows as
// at the start. There is no pause between batches, so the last one continues to
// receive, which is the worst case for receive counts. Responses never slow the mapping
// down. The guide also says that failed invocations do not if partial responses are
// turned on: that is SlowDown false.
//
// # The function
//
// Pages: "Using the Lambda runtime API for custom runtimes" (runtimes-api),
// "Understanding the Lambda execution environment lifecycle"
// (lambda-runtime-environment), "Defined runtime environment variables"
// (configuration-envvars).
//
// Each concurrent invocation has an execution environment: a process with its own
// runtime API, on a loopback address. The most recently used idle environment is used
// first. When all are busy another one is started, up to Concurrency; invocations
// beyond that are throttled. The runtime API has four routes: next invocation,
// response, error, and init error. The process has the environment variables that
// Lambda sets, and those of ProcessConfig.Env.
//
// A process has 10 s to ask for its first invocation; if it does not, or ends, the
// invocation that it was started for fails. It has Timeout for each invocation, until
// it asks for the next one. Then it is killed, and its invocation fails, unless the
// process had responded. Between invocations it is frozen (SIGSTOP, as soon as it asks
// for the next one) and thawed by the next invocation (SIGCONT). If a process ends, the
// next invocation starts another one.
//
// # What is not reproduced
//
// Of the mapping: filter criteria, provisioned mode, scaling to fewer than five
// when idle, metrics, encryption, and the concurrent receives that Lambda makes
// for a large batch. Of the function: memory and CPU limits, the
// file system, the extensions and telemetry APIs, response streaming, SnapStart,
// provisioned concurrency, several invocations in one environment, the second
// attempt at an init phase that took too long, and account limits. Lambda ends
// environments that have been idle for some time and occasionally replaces them; here
// only Recycle does that. An idle process is ended by SIGTERM before SIGKILL, as Lambda
// does only for functions with an extension.
//
// # Concurrency of the package
//
// All methods may be called concurrently, except that a Mapping has one Run at a
// time. Nothing is still running after Run, [Process.Close] and [Function.Wait]
// have returned.
package lambdalocal
