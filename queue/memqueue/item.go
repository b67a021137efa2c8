package memqueue

import "time"

// A message's states. hide and show change between them; drop ends the last one.
type state uint8

const (
	visible  state = iota
	delayed        // hidden since it was sent
	inFlight       // hidden since it was received
)

// An item is a message in a queue. All of it is guarded by the queue's mu.
// Times are counted from Queue.start.
type item struct {
	serial     uint64 // never used twice by the queue
	id         string // set if the message was moved from another queue, which assigned it; else ""
	body       []byte
	attributes map[string]string
	dedup      string
	tenant     string // the group's name
	group      *group // FIFO queues only

	sent, firstReceived, received time.Duration
	receives                      int

	state state
	moved bool          // came from another queue with its age: is in movedAges, not in ages
	due   time.Duration // when it becomes visible, while hidden

	turn  node[*item] // in Queue.ready while visible, or always in its group's items
	age   node[*item] // in Queue.ages
	place [2]int      // in Queue.hidden and in Queue.movedAges: by the heaps' index
}

const (
	byDeadline = iota
	byAge
)

// key is what the heap of the given index orders by.
func (it *item) key(index int) time.Duration {
	if index == byDeadline {
		return it.due
	}
	return it.sent
}

// add puts a new item into the queue, visible after delay. The caller holds mu
// and has set the fields of the message.
func (q *Queue) add(it *item, now, delay time.Duration) {
	q.serial++
	it.serial = q.serial
	q.total++
	q.counts.Sent++
	if it.moved {
		q.movedAges.push(it)
	} else {
		q.ages.pushBack(&it.age, it)
	}
	switch {
	case q.cfg.FIFO:
		q.groups.join(it)
	case delay > 0:
		it.state, it.due = delayed, now+delay
		q.delayed++
		q.hidden.push(it)
	default:
		q.ready.pushBack(&it.turn, it)
	}
}

// lease puts a visible item in flight. The caller holds mu, and updates the
// item's group when it has taken all that it wants from it.
func (q *Queue) lease(it *item, now, lease time.Duration) {
	if it.group != nil {
		it.group.inFlight++
	} else {
		q.ready.remove(&it.turn)
	}
	if it.receives == 0 {
		it.firstReceived = now
		q.known.put(it.serial, it)
	}
	it.receives++
	it.received = now
	it.state, it.due = inFlight, later(now, lease)
	q.inFlight++
	q.hidden.push(it)
}

// show makes a hidden item visible. The caller holds mu.
func (q *Queue) show(it *item) {
	q.unhide(it)
	it.state = visible
	if it.group != nil {
		q.groups.returned(it)
	} else {
		q.ready.pushBack(&it.turn, it)
	}
}

// unhide removes an item from the hidden ones. The caller holds mu.
func (q *Queue) unhide(it *item) {
	q.hidden.remove(it)
	if it.state == delayed {
		q.delayed--
	} else {
		q.inFlight--
	}
}

// drop removes an item from the queue, whatever its state. The caller holds mu.
func (q *Queue) drop(it *item) {
	if it.state != visible {
		q.unhide(it)
	}
	if it.group != nil {
		q.groups.leave(it)
	} else {
		q.ready.remove(&it.turn)
	}
	if it.moved {
		q.movedAges.remove(it)
	} else {
		q.ages.remove(&it.age)
	}
	if it.receives > 0 {
		q.known.delete(it.serial)
	}
	q.total--
	q.spare.put(it)
}

// oldest returns the item that was sent first, nil if there is none. The
// caller holds mu.
func (q *Queue) oldest() *item {
	own, moved := q.ages.front(), q.movedAges.first()
	if own == nil || moved != nil && moved.sent < own.sent {
		return moved
	}
	return own
}

// A pool keeps items for reuse, with the buffers of their bodies, so that a
// queue in steady use allocates nothing to store a message. It never holds more
// than poolItems of them, nor a buffer longer than poolBody.
type pool struct {
	free []*item
}

const (
	poolItems = 1024
	poolBlock = 16 // items allocated at once
	poolBody  = 4 << 10
)

func (p *pool) get() *item {
	if len(p.free) == 0 {
		block := make([]item, poolBlock)
		for i := range block {
			p.free = append(p.free, &block[i])
		}
	}
	last := len(p.free) - 1
	it := p.free[last]
	p.free = p.free[:last]
	return it
}

func (p *pool) put(it *item) {
	body := it.body[:0]
	if cap(body) > poolBody {
		body = nil
	}
	*it = item{body: body}
	if len(p.free) < poolItems {
		p.free = append(p.free, it)
	}
}
