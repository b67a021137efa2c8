package queue

// A heap keeps its items ordered by less, and each item's position in it, so
// that an item can be moved or removed in logarithmic time. An item's position
// is 0 while it is in no heap.
type heap[T any] struct {
	items []T
	less  func(a, b T) bool
	at    func(T) *int // where an item keeps its position, counted from 1
}

// top returns the least item; false if there is none.
func (h *heap[T]) top() (item T, ok bool) {
	if len(h.items) == 0 {
		return item, false
	}
	return h.items[0], true
}

// fix puts an item that is new, or has changed, where it belongs.
func (h *heap[T]) fix(item T) {
	if *h.at(item) == 0 {
		h.items = append(h.items, item)
		*h.at(item) = len(h.items)
	}
	h.down(h.up(*h.at(item) - 1))
}

// remove takes an item out, if it is in the heap.
func (h *heap[T]) remove(item T) {
	i := *h.at(item) - 1
	if i < 0 {
		return
	}
	*h.at(item) = 0
	last := len(h.items) - 1
	moved := h.items[last]
	var none T
	h.items[last] = none
	h.items = h.items[:last]
	if i < last {
		h.items[i] = moved
		h.down(h.up(i))
	}
}

// up and down move the item at i to where it belongs, and write it once, at the end.
func (h *heap[T]) up(i int) int {
	item := h.items[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(item, h.items[parent]) {
			break
		}
		h.put(i, h.items[parent])
		i = parent
	}
	h.put(i, item)
	return i
}

func (h *heap[T]) down(i int) {
	item := h.items[i]
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && h.less(h.items[right], h.items[child]) {
			child = right
		}
		if !h.less(h.items[child], item) {
			break
		}
		h.put(i, h.items[child])
		i = child
	}
	h.put(i, item)
}

func (h *heap[T]) put(i int, item T) {
	h.items[i] = item
	*h.at(item) = i + 1
}
