package queue

// A delivery has a link for each list that it can be in at the same time.
const (
	inAll    = iota // all that were not started, wait to run again, run, or are to be settled
	inGroup         // its ordered group
	inLane          // its lane's fresh or due deliveries
	inSpares        // those that may be returned unrun when there are too many
	links
)

type link struct{ prev, next *delivery }

// A list is a queue of deliveries, linked through one of their links, so that
// a delivery leaves it from any position in constant time.
type list struct {
	first, last *delivery
	n           int
	by          int // the link
}

// push puts d last.
func (l *list) push(d *delivery) {
	d.links[l.by].prev = l.last
	if l.last == nil {
		l.first = d
	} else {
		l.last.links[l.by].next = d
	}
	l.last = d
	l.n++
}

// remove takes d, which must be in the list, out of it.
func (l *list) remove(d *delivery) {
	k := d.links[l.by]
	if k.prev == nil {
		l.first = k.next
	} else {
		k.prev.links[l.by].next = k.next
	}
	if k.next == nil {
		l.last = k.prev
	} else {
		k.next.links[l.by].prev = k.prev
	}
	d.links[l.by] = link{}
	l.n--
}

// next returns the delivery after d.
func (l *list) next(d *delivery) *delivery { return d.links[l.by].next }
