package lambdalocal

// Stats are what a [Mapping] has done so far. After Run has returned, Received
// is the sum of Deleted, Undeleted, Returned and Dropped.
type Stats struct {
	Batches          int // of messages, formed
	Invocations      int // that ran, including FunctionErrors, but not Throttles
	FunctionErrors   int // invocations that failed
	Throttles        int // invocations that did not run because of the function's concurrency
	PartialResponses int // invocations that named at least one message as failed
	Malformed        int // invocations with an invalid response, so that their whole batch failed

	Received  int // messages, counted at each receive
	Deleted   int // messages
	Undeleted int // messages that are done, but that SQS did not delete
	Returned  int // messages that failed: alone, or with their whole batch
	Dropped   int // messages of batches that were throttled until they were visible again, or until Run ended

	ReceiveErrors int // receives that failed

	Concurrency     int // invocations now
	PeakConcurrency int // the maximum of Concurrency
	Pollers         int // batches that are collected or in progress now
	PeakPollers     int // the maximum of Pollers
}

// count changes the figures.
func (m *Mapping) count(f func(*Stats)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.stats)
}

// Stats returns the figures. It may be called at any time.
func (m *Mapping) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stats
}
