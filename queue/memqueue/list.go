package memqueue

// A list is a doubly linked list of things that have its nodes as fields, so that
// adding and removing them allocates nothing. The zero list is empty.
type list[T any] struct {
	first, last *node[T]
}

// A node is a thing's position in a list. The zero node is in none.
type node[T any] struct {
	next, prev *node[T]
	in         *list[T]
	thing      T
}

// pushBack puts thing, by its node n, which is in no list, at the end.
func (l *list[T]) pushBack(n *node[T], thing T) {
	*n = node[T]{prev: l.last, in: l, thing: thing}
	if l.last == nil {
		l.first = n
	} else {
		l.last.next = n
	}
	l.last = n
}

// remove removes a node. It does nothing if the node is not in the list.
func (l *list[T]) remove(n *node[T]) {
	if n.in != l {
		return
	}
	if n.prev == nil {
		l.first = n.next
	} else {
		n.prev.next = n.next
	}
	if n.next == nil {
		l.last = n.prev
	} else {
		n.next.prev = n.prev
	}
	*n = node[T]{}
}

// has reports whether the node is in the list.
func (l *list[T]) has(n *node[T]) bool { return n.in == l }

func (l *list[T]) empty() bool { return l.first == nil }

// front returns the first thing, the zero T if there is none.
func (l *list[T]) front() T {
	if l.first == nil {
		var none T
		return none
	}
	return l.first.thing
}

// after returns the thing that follows that of node n, the zero T if none does.
func (l *list[T]) after(n *node[T]) T {
	if n.next == nil {
		var none T
		return none
	}
	return n.next.thing
}
