package memqueue

// A table is a map that frees memory when it has become much smaller than it was;
// a plain map never does. The zero table is empty.
type table[K comparable, V any] struct {
	entries map[K]V
	peak    int // most entries since the map was made
}

const tableSmall = 1024 // a map of this many entries need not shrink

func (t *table[K, V]) get(k K) (V, bool) {
	v, ok := t.entries[k]
	return v, ok
}

func (t *table[K, V]) put(k K, v V) {
	if t.entries == nil {
		t.entries = make(map[K]V)
	}
	t.entries[k] = v
	t.peak = max(t.peak, len(t.entries))
}

func (t *table[K, V]) delete(k K) {
	delete(t.entries, k)
	if t.peak <= tableSmall || len(t.entries) >= t.peak/4 {
		return
	}
	entries := make(map[K]V, 2*len(t.entries))
	for k, v := range t.entries {
		entries[k] = v
	}
	t.entries, t.peak = entries, len(entries)
}
