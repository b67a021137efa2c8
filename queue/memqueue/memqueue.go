package memqueue

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/rampmeter/rampmeter/queue"
)

// The limits of SQS, which can't be configured there either.
const (
	maxReceive     = 10               // messages per receive
	maxSize        = 1 << 20          // bytes of body, attribute names and values
	maxAttributes  = 10               // per message
	maxDelay       = 15 * time.Minute // of a message that is sent
	dedupWindow    = 5 * time.Minute
	maxGroupLength = 128 // bytes of a group or deduplication id
	maxNameLength  = 256 // bytes of an attribute's name
)

var (
	// ErrClosed is returned by Send after [Queue.Close].
	ErrClosed = errors.New("memqueue: the queue is closed")

	// ErrFull is returned by Send, for single messages in a [queue.BatchError],
	// when the queue holds Config.MaxMessages and Config.RefuseWhenFull is set.
	ErrFull = errors.New("memqueue: the queue is full")
)

// Config configures a [Queue]. The zero value is a standard queue with the limits
// of SQS.
type Config struct {
	// FIFO makes a queue that keeps the order of each [queue.Message.Group],
	// delivers none of a group while one of it is in flight, and suppresses
	// duplicates for five minutes. Every message then needs a Group, and a Dedup
	// unless ContentDedup is set; none may have a Delay of its own.
	FIFO bool
	// ContentDedup uses the SHA-256 of the body as the Dedup of a message that
	// has none. FIFO only.
	ContentDedup bool

	// Wait is how long Receive waits for a first message before it returns
	// empty. Negative: it does not wait. A consumer's drain ends the wait at once.
	// Default 20 s.
	Wait time.Duration
	// MaxLease is how long a message can stay hidden after a receive, however
	// often its lease is extended. Default 12 h.
	MaxLease time.Duration
	// MaxInFlight is how many messages may be received and not yet acked or
	// visible again; while that many are, nothing is received. Default 120,000.
	MaxInFlight int
	// Retention is how long a message is kept, counted from when it was sent;
	// then it is dropped, even if it is in flight. Default 4 days.
	Retention time.Duration

	// MaxMessages bounds how many messages the queue holds, in flight and delayed
	// ones included. It does not stop a redrive policy from moving messages here.
	// Default 0: no bound.
	MaxMessages int
	// RefuseWhenFull makes Send to a queue that holds MaxMessages fail with
	// [ErrFull]. Without it Send waits for room until its context ends.
	RefuseWhenFull bool

	// MaxReceives and DeadLetter are the redrive policy: a message that has been
	// received MaxReceives times is moved to DeadLetter when it would be received
	// once more. Set both or neither; both queues must be of the same kind. Give
	// DeadLetter a consumer that ends after this queue's.
	MaxReceives int
	DeadLetter  *Queue
}

// A Queue is a queue in memory: a [queue.Source] and a [queue.Sink]. Make one
// with [New]. Its methods may be called concurrently.
type Queue struct {
	cfg    Config
	start  time.Time // times within the queue are counted from here
	prefix string    // of ids and receipts, to detect those of another queue

	// mu guards everything below. A queue that redrives locks its dead-letter
	// queue's mu under its own; there is no cycle, for a dead-letter queue is
	// older than the queues that name it.
	mu sync.Mutex

	total, delayed, inFlight int // messages; what is neither delayed nor in flight is visible
	serial                   uint64
	known                    table[uint64, *item] // by serial; those that were received at least once
	ready                    list[*item]          // visible messages in the order they became so; not on FIFO queues
	hidden                   heap                 // delayed and in flight, by when that ends
	ages                     list[*item]          // all messages, oldest first, except those in movedAges
	movedAges                heap                 // messages that keep their age from another queue
	groups                   groups               // FIFO queues only
	dedups                   dedups               // FIFO queues only
	spare                    pool

	receivers list[*receiver] // waiting for a message; while there are any, no message can be received
	senders   list[*sender]   // waiting for room
	timer     *time.Timer     // runs tick; made when somebody first waits
	alarm     time.Duration   // when timer fires; 0: not set
	closed    bool

	counts  Stats
	scratch []byte // for the text of a receive
}

var (
	_ queue.Source = (*Queue)(nil)
	_ queue.Sink   = (*Queue)(nil)
)

// New returns an empty queue. It fails when cfg is invalid or contradicts itself,
// and the error names the field.
func New(cfg Config) (*Queue, error) {
	switch {
	case cfg.ContentDedup && !cfg.FIFO:
		return nil, errors.New("memqueue: New: ContentDedup is set: only a FIFO queue suppresses duplicates")
	case cfg.MaxLease < 0:
		return nil, fmt.Errorf("memqueue: New: MaxLease is %v: must not be negative", cfg.MaxLease)
	case cfg.MaxInFlight < 0:
		return nil, fmt.Errorf("memqueue: New: MaxInFlight is %d: must not be negative", cfg.MaxInFlight)
	case cfg.Retention < 0:
		return nil, fmt.Errorf("memqueue: New: Retention is %v: must not be negative", cfg.Retention)
	case cfg.MaxMessages < 0:
		return nil, fmt.Errorf("memqueue: New: MaxMessages is %d: must not be negative", cfg.MaxMessages)
	case cfg.RefuseWhenFull && cfg.MaxMessages == 0:
		return nil, errors.New("memqueue: New: RefuseWhenFull is set: needs MaxMessages")
	case cfg.MaxReceives < 0:
		return nil, fmt.Errorf("memqueue: New: MaxReceives is %d: must not be negative", cfg.MaxReceives)
	case cfg.MaxReceives > 0 && cfg.DeadLetter == nil:
		return nil, fmt.Errorf("memqueue: New: MaxReceives is %d: needs DeadLetter", cfg.MaxReceives)
	case cfg.DeadLetter != nil && cfg.MaxReceives == 0:
		return nil, errors.New("memqueue: New: DeadLetter is set: needs MaxReceives")
	case cfg.DeadLetter != nil && cfg.DeadLetter.cfg.FIFO != cfg.FIFO:
		return nil, errors.New("memqueue: New: DeadLetter: a FIFO queue needs a FIFO dead-letter queue, and a standard queue a standard one")
	}
	if cfg.Wait == 0 {
		cfg.Wait = 20 * time.Second
	}
	if cfg.MaxLease == 0 {
		cfg.MaxLease = 12 * time.Hour
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 120_000
	}
	if cfg.Retention == 0 {
		cfg.Retention = 4 * 24 * time.Hour
	}
	return &Queue{
		cfg:       cfg,
		start:     time.Now(),
		prefix:    strconv.FormatUint(1<<32|uint64(rand.Uint32()), 16)[1:] + "-",
		hidden:    heap{index: byDeadline},
		movedAges: heap{index: byAge},
	}, nil
}

// Close ends sending: Send fails with [ErrClosed] from now on, and so do the
// Sends that wait for room. Receive continues until no message is left, visible,
// delayed or in flight, and then returns io.EOF. Closing twice is harmless. A
// redrive policy still moves messages to a closed queue.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for s := q.senders.front(); s != nil; s = q.senders.front() {
		q.senders.remove(&s.turn)
		s.fail(ErrClosed)
		close(s.done)
	}
	q.update(q.advance())
}

// Stats are a queue's figures at one instant.
type Stats struct {
	// Visible messages can be received now, except those that wait for an earlier
	// one of their group. Delayed ones have not become visible since they were
	// sent. InFlight ones are hidden since a receive, by its lease or by the
	// delay of a Nack.
	Visible, Delayed, InFlight int
	// OldestAge is how long ago the oldest message was sent. 0: no messages.
	OldestAge time.Duration

	// What happened since New, in messages: accepted by Send or from a redrive
	// policy, handed out by Receive, deleted by Ack.
	Sent, Received, Acked uint64
	// Deduplicated messages were dropped by Send as duplicates of one sent in the
	// last five minutes. Expired ones were dropped at the end of Retention.
	// Redriven ones were moved to the dead-letter queue.
	Deduplicated, Expired, Redriven uint64
}

// Stats returns the queue's figures now.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.advance()
	q.update(now)
	s := q.counts
	s.Visible, s.Delayed, s.InFlight = q.total-q.delayed-q.inFlight, q.delayed, q.inFlight
	if it := q.oldest(); it != nil {
		s.OldestAge = now - it.sent
	}
	return s
}

// advance brings the queue up to the present, and returns it: messages whose time
// has come become visible, and those that are too old are dropped. Every method
// begins with it, so that nothing has to run when a deadline passes. The caller
// holds mu, and calls update when it is done.
func (q *Queue) advance() time.Duration {
	now := time.Since(q.start)
	for it := q.hidden.first(); it != nil && it.due <= now; it = q.hidden.first() {
		q.show(it)
	}
	for it := q.oldest(); it != nil && later(it.sent, q.cfg.Retention) <= now; it = q.oldest() {
		q.drop(it)
		q.counts.Expired++
	}
	q.dedups.expire(now)
	return now
}

// update serves the waiting senders and receivers, as far as the queue's new
// state allows, and sets the alarm for the others. The caller holds mu.
func (q *Queue) update(now time.Duration) {
	for q.admit(now) || q.deliver(now) {
		// A sent message can be delivered, and a receive that redrives messages
		// makes room.
	}
	for r := q.receivers.front(); r != nil && (r.until <= now || q.drained()); r = q.receivers.front() {
		if q.drained() {
			r.err = io.EOF
		}
		q.receivers.remove(&r.turn)
		close(r.done)
	}
	q.setAlarm(now)
}

// drained reports whether no message will ever come. The caller holds mu.
func (q *Queue) drained() bool { return q.closed && q.total == 0 }

// setAlarm makes tick run at the next deadline that somebody waits for. An alarm
// that is too early is left as it is, and tick sets the next: so a waiting
// receive costs no timer of its own. The caller holds mu.
func (q *Queue) setAlarm(now time.Duration) {
	next := time.Duration(-1)
	if r := q.receivers.front(); r != nil { // the one that has waited longest is also the first to give up
		next = r.until
		if it := q.hidden.first(); it != nil {
			next = min(next, it.due)
		}
	}
	if it := q.oldest(); it != nil && !q.senders.empty() {
		if expiry := later(it.sent, q.cfg.Retention); next < 0 || expiry < next {
			next = expiry
		}
	}
	if next < 0 || q.alarm > 0 && q.alarm <= next {
		return
	}
	q.alarm = next
	if q.timer == nil {
		q.timer = time.AfterFunc(next-now, q.tick)
	} else {
		q.timer.Reset(next - now)
	}
}

// later returns t + d, d not being negative, or the last possible time.
func later(t, d time.Duration) time.Duration {
	if sum := t + d; sum >= t {
		return sum
	}
	return math.MaxInt64
}

// tick is the alarm: it runs on a goroutine of its own, and ends.
func (q *Queue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.alarm = 0
	q.update(q.advance())
}
