package queue

import "slices"

// remove takes d out of ds, whose array it reuses.
func remove(ds []*delivery, d *delivery) []*delivery {
	for i := range ds {
		if ds[i] == d {
			copy(ds[i:], ds[i+1:])
			ds[len(ds)-1] = nil
			return ds[:len(ds)-1]
		}
	}
	return ds
}

// A fifo is a queue of deliveries that reuses its array.
type fifo struct {
	items []*delivery
	head  int
}

// push puts d last. When the array is full, it first forgets whatever no longer
// waits, and not only what is in front: the first delivery of a lane that stands
// aside may wait for long while those behind it are given back. The array grows
// when more than half of it still waits, so the work is that of a few moves for
// each push.
func (f *fifo) push(d *delivery) {
	if len(f.items) == cap(f.items) {
		f.items = slices.DeleteFunc(f.items, func(d *delivery) bool { return d == nil || d.state != waiting })
		f.items = slices.Grow(f.items, max(1, len(f.items)))
		f.head = 0
	}
	f.items = append(f.items, d)
}

// drop forgets the first delivery, if one still waits.
func (f *fifo) drop() {
	if f.peek() != nil {
		f.items[f.head] = nil
		f.head++
	}
}

// peek returns the first delivery that still waits, or nil, and forgets what
// does not.
func (f *fifo) peek() *delivery {
	for f.head < len(f.items) && f.items[f.head].state != waiting {
		f.items[f.head] = nil
		f.head++
	}
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
		return nil
	}
	return f.items[f.head]
}

// last returns the last delivery that waits and that ok accepts, or nil.
func (f *fifo) last(ok func(*delivery) bool) *delivery {
	for i := len(f.items) - 1; i >= f.head; i-- {
		if d := f.items[i]; d.state == waiting && ok(d) {
			return d
		}
	}
	return nil
}
