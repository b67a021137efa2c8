package sqsfake

import "time"

// A window remembers values for five minutes.
type window[V any] struct {
	values map[string]V
	stamps map[string]time.Time
	order  []string
}

func (w *window[V]) get(now time.Time, key string) (V, bool) {
	over := func(key string) bool { return now.Sub(w.stamps[key]) >= dedupWindow }
	for len(w.order) > 0 && over(w.order[0]) {
		w.forget(w.order[0])
		w.order = w.order[1:]
	}
	v, ok := w.values[key]
	return v, ok && !over(key)
}

// put remembers the value of a key that get has just failed to find.
func (w *window[V]) put(now time.Time, key string, v V) {
	if w.values == nil {
		w.values, w.stamps = make(map[string]V), make(map[string]time.Time)
	}
	w.values[key], w.stamps[key] = v, now
	w.order = append(w.order, key)
}

func (w *window[V]) forget(key string) {
	delete(w.values, key)
	delete(w.stamps, key)
}
