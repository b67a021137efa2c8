package queue

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

func (f *fifo) push(d *delivery) {
	if f.head > 0 && len(f.items) == cap(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
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
