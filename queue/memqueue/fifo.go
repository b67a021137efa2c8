package memqueue

import "time"

// A group has the messages of one group of a FIFO queue. It exists while it has
// any.
type group struct {
	name     string
	items    list[*item] // in order, those in flight included
	inFlight int
	turn     node[*group]
}

// groups are a FIFO queue's groups.
type groups struct {
	byName table[string, *group]
	turns  list[*group] // those that can be received from, in the order they became so
}

// join puts a new item at the end of its group.
func (gs *groups) join(it *item) {
	g, ok := gs.byName.get(it.tenant)
	if !ok {
		g = &group{name: it.tenant}
		gs.byName.put(g.name, g)
	}
	it.group = g
	g.items.pushBack(&it.turn, it)
	gs.update(g)
}

// returned records that an item in flight became visible again, at its old
// position.
func (gs *groups) returned(it *item) {
	it.group.inFlight--
	gs.update(it.group)
}

// leave takes an item out of its group.
func (gs *groups) leave(it *item) {
	g := it.group
	g.items.remove(&it.turn)
	if it.state == inFlight {
		g.inFlight--
	}
	gs.update(g)
}

// update adds the group to turns or removes it, depending on its items.
func (gs *groups) update(g *group) {
	switch {
	case g.items.empty():
		gs.turns.remove(&g.turn)
		gs.byName.delete(g.name)
	case g.inFlight > 0:
		gs.turns.remove(&g.turn)
	case !gs.turns.has(&g.turn):
		gs.turns.pushBack(&g.turn, g)
	}
}

// dedups are the deduplication ids of the last five minutes.
type dedups struct {
	ids   table[string, struct{}]
	queue []dedup // oldest first, from head on
	head  int
}

type dedup struct {
	id    string
	until time.Duration
}

const dedupSmall = 1024 // a queue with so few entries need not shrink

// has reports whether the id was added in the last five minutes.
func (d *dedups) has(id string) bool {
	_, ok := d.ids.get(id)
	return ok
}

// add records an id, which must be a new one.
func (d *dedups) add(id string, now time.Duration) {
	d.ids.put(id, struct{}{})
	d.queue = append(d.queue, dedup{id, now + dedupWindow})
}

// expire removes the ids whose time is over.
func (d *dedups) expire(now time.Duration) {
	for d.head < len(d.queue) && d.queue[d.head].until <= now {
		d.ids.delete(d.queue[d.head].id)
		d.queue[d.head] = dedup{}
		d.head++
	}
	if d.head > dedupSmall && d.head >= len(d.queue)/2 {
		d.queue = append([]dedup(nil), d.queue[d.head:]...)
		d.head = 0
	}
}
