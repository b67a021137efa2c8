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

// pop returns the first delivery that still waits, or nil.
func (f *fifo) pop() *delivery {
	for f.head < len(f.items) {
		d := f.items[f.head]
		f.items[f.head] = nil
		f.head++
		if d.state == waiting {
			return d
		}
	}
	f.items, f.head = f.items[:0], 0
	return nil
}

// empty forgets what no longer waits and reports whether nothing is left.
func (f *fifo) empty() bool {
	for f.head < len(f.items) && f.items[f.head].state != waiting {
		f.items[f.head] = nil
		f.head++
	}
	return f.head == len(f.items)
}
