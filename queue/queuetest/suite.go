package queuetest

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/queue"
)

// A Queue is both ends of the queue under test.
type Queue interface {
	queue.Source
	queue.Sink
}

// Config describes the queue under test. The zero value stands for a standard
// queue with leases, tested in real time.
type Config struct {
	// Synctest runs each case in a bubble of testing/synctest, where hours pass
	// in milliseconds. It is for queues that live in the test's process: in
	// memory, or behind an in-process fake.
	Synctest bool

	// FIFO is set for a queue that keeps the order of each Message.Group and
	// suppresses duplicates by Message.Dedup. The suite then gives every message
	// a Group and a Dedup.
	FIFO bool
	// NoLeases is set for a source whose messages are hidden until they are
	// settled. Cases about leases are then skipped.
	NoLeases bool
	// NoDelay is set for a sink that ignores or refuses Message.Delay. It is
	// implied by FIFO.
	NoDelay bool
	// NoEmptyBody and NoBinary are set for a queue that can't carry an empty
	// body, or one that is not UTF-8.
	NoEmptyBody, NoBinary bool
	// Stops is set for a source whose receive ends its wait at once when
	// [queue.ReceiveOptions].Stop is closed. Without it the source must ignore
	// Stop, or lose no message when it is closed.
	Stops bool

	// Lease is the lease that the cases use and then wait for, so it should be
	// short in real time, but calls to the queue must be much quicker. It must be
	// a multiple of LeaseUnit. Default 30 s in a bubble, else 2 s.
	Lease time.Duration
	// LeaseUnit is the unit to which the queue rounds leases and delays up: one
	// second on SQS. Default: it does not round.
	LeaseUnit time.Duration
	// MaxLease is how long after its receive a lease can be extended to at most.
	// 0: that is not tested. Set it only where a wait of that length is
	// acceptable.
	MaxLease time.Duration
	// MaxBatch is how many messages a receive returns at most. Default 10.
	MaxBatch int
	// MaxBody is the length of the longest body that is tried, in bytes. Default
	// 256 KiB.
	MaxBody int
	// Slack is how late things may happen: the return of a cancelled receive,
	// a redelivery, a wake-up. Default 1 s.
	Slack time.Duration
}

// TestSource checks that a queue does what [queue.Source] and [queue.Sink]
// promise, each promise in a subtest named after it. Each subtest calls newQueue
// for an empty queue that nobody else uses; with Config.Synctest it does so
// within the bubble, and the queue must have no goroutines left when the subtest
// ends: newQueue can register a cleanup. In real time the subtests run in
// parallel.
func TestSource(t *testing.T, newQueue func(t *testing.T) Queue, cfg Config) {
	t.Helper()
	switch {
	case newQueue == nil:
		t.Fatal("queuetest: TestSource: newQueue is nil")
	case cfg.Lease < 0, cfg.LeaseUnit < 0, cfg.MaxLease < 0, cfg.MaxBatch < 0, cfg.MaxBody < 0, cfg.Slack < 0:
		t.Fatalf("queuetest: TestSource: a field of Config is negative: %+v", cfg)
	case cfg.LeaseUnit > 0 && cfg.Lease%cfg.LeaseUnit != 0:
		t.Fatalf("queuetest: TestSource: Lease is %v: must be a multiple of LeaseUnit, %v", cfg.Lease, cfg.LeaseUnit)
	}
	if cfg.Lease == 0 {
		cfg.Lease = 2 * time.Second
		if cfg.Synctest {
			cfg.Lease = 30 * time.Second
		}
		if rest := cfg.Lease % max(cfg.LeaseUnit, 1); rest > 0 {
			cfg.Lease += cfg.LeaseUnit - rest
		}
	}
	if cfg.MaxBatch == 0 {
		cfg.MaxBatch = 10
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 256 << 10
	}
	if cfg.Slack == 0 {
		cfg.Slack = time.Second
	}
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			if reason := c.skip(cfg); reason != "" {
				t.Skip(reason)
			}
			if !cfg.Synctest {
				t.Parallel()
				c.run(t, newQueue, cfg)
				return
			}
			synctest.Test(t, func(t *testing.T) { c.run(t, newQueue, cfg) })
		})
	}
}

// A testCase checks one promise.
type testCase struct {
	name  string
	needs need
	test  func(*run)
}

// run runs the case on a queue of its own.
func (c testCase) run(t *testing.T, newQueue func(t *testing.T) Queue, cfg Config) {
	t.Helper()
	q := newQueue(t)
	if nils.Is(q) {
		t.Fatalf("queuetest: TestSource: newQueue returned %s", nils.Describe(q))
	}
	c.test(&run{T: t, q: q, cfg: cfg})
}

// A need is a property that a queue must have for a case to apply to it.
type need int

const (
	leases need = 1 << iota
	maxLease
	order
	delays
	emptyBody
	binary
	stops
)

func cases() []testCase {
	return slices.Concat(messageCases(), receiveCases(), stopCases(), leaseCases(), settleCases(), orderCases())
}

// skip returns why the case does not apply to such a queue, "" if it does.
func (c testCase) skip(cfg Config) string {
	lacks := func(n need, absent bool) bool { return c.needs&n != 0 && absent }
	switch {
	case lacks(leases, cfg.NoLeases):
		return "Config.NoLeases is set"
	case lacks(maxLease, cfg.MaxLease == 0):
		return "Config.MaxLease is not set"
	case lacks(order, !cfg.FIFO):
		return "Config.FIFO is not set"
	case lacks(delays, cfg.NoDelay || cfg.FIFO):
		return "Config.NoDelay or Config.FIFO is set"
	case lacks(emptyBody, cfg.NoEmptyBody):
		return "Config.NoEmptyBody is set"
	case lacks(binary, cfg.NoBinary):
		return "Config.NoBinary is set"
	case lacks(stops, !cfg.Stops):
		return "Config.Stops is not set"
	}
	return ""
}
