package memqueue

// A heap is a priority queue of items, the least key first. It tracks the
// position of each item, so that any item can be removed. Equal keys are ordered
// by serial.
type heap struct {
	items []*item
	index int // which key, and which of an item's positions
}

const heapSmall = 1024 // an array of this length need not shrink

func (h *heap) first() *item {
	if len(h.items) == 0 {
		return nil
	}
	return h.items[0]
}

func (h *heap) push(it *item) {
	h.items = append(h.items, it)
	h.up(len(h.items)-1, it)
}

// remove removes an item, which must be in the heap.
func (h *heap) remove(it *item) {
	i, last := it.place[h.index], len(h.items)-1
	moved := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	if i < last {
		h.put(i, moved)
		h.fix(moved)
	}
	if c := cap(h.items); c > heapSmall && last < c/4 {
		h.items = append(make([]*item, 0, c/2), h.items...)
	}
}

// fix restores the order after the key of an item in the heap has changed.
func (h *heap) fix(it *item) {
	i := it.place[h.index]
	h.up(i, it)
	if it.place[h.index] == i {
		h.down(i, it)
	}
}

func (h *heap) less(a, b *item) bool {
	ka, kb := a.key(h.index), b.key(h.index)
	return ka < kb || ka == kb && a.serial < b.serial
}

func (h *heap) put(i int, it *item) {
	h.items[i] = it
	it.place[h.index] = i
}

func (h *heap) up(i int, it *item) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(it, h.items[parent]) {
			break
		}
		h.put(i, h.items[parent])
		i = parent
	}
	h.put(i, it)
}

func (h *heap) down(i int, it *item) {
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if child+1 < len(h.items) && h.less(h.items[child+1], h.items[child]) {
			child++
		}
		if !h.less(h.items[child], it) {
			break
		}
		h.put(i, h.items[child])
		i = child
	}
	h.put(i, it)
}
