package queue

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
)

// troubles knows which keys of Config.LimiterFor were active in the last minute, and
// in trouble: whose last result was a failure downstream. Used under Consumer.mu.
type troubles struct {
	keys   map[any]*troubled
	oldest heap[*troubled]
	failed int // keys in trouble
}

// A troubled is what troubles knows of a key.
type troubled struct {
	key    any
	until  time.Time // then it is no longer active
	failed bool
	pos    int // in troubles.oldest
}

const (
	keyActive    = time.Minute // a key is active for so long after a result, or after a pause of its own
	leastTrouble = 3           // so many keys in trouble, and half of the active ones, are everybody's trouble
)

// result notes a result of a key, which pauses until then if it is in the future.
// It reports whether a failure concerns the limits for all.
func (t *troubles) result(key any, failed bool, paused, now time.Time) (everybody bool) {
	if t.keys == nil {
		t.keys = make(map[any]*troubled)
		t.oldest = heap[*troubled]{
			less: func(a, b *troubled) bool { return a.until.Before(b.until) },
			at:   func(k *troubled) *int { return &k.pos },
		}
	}
	for k, ok := t.oldest.top(); ok && !k.until.After(now); k, ok = t.oldest.top() {
		t.oldest.remove(k)
		delete(t.keys, k.key)
		t.set(k, false)
	}
	k := t.keys[key]
	if k == nil {
		k = &troubled{key: key}
		t.keys[key] = k
	}
	k.until = now.Add(keyActive)
	if paused.After(now) {
		k.until = paused.Add(keyActive)
	}
	t.oldest.fix(k)
	t.set(k, failed)
	return t.failed >= leastTrouble && 2*t.failed >= len(t.keys)
}

func (t *troubles) set(k *troubled, failed bool) {
	switch {
	case failed && !k.failed:
		t.failed++
	case k.failed && !failed:
		t.failed--
	}
	k.failed = failed
}

// limiterOf returns the message's own limiter, if Config.LimiterFor, which must be
// set, names one. The caller does not hold mu, since the function is the
// configuration's.
func (e *engine) limiterOf(m *Message) (own limiter.Limiter, err error) {
	defer func() {
		if v := recover(); v != nil {
			own, err = nil, fmt.Errorf("queue: Config.LimiterFor: %w", &PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	own = e.cfg.LimiterFor(m)
	switch v := reflect.ValueOf(own); {
	case own == nil:
	case nils.Is(own): // a map's answer for an unknown key, for example
		err = fmt.Errorf("queue: Config.LimiterFor: returned a nil %T: for none it must return nil itself", own)
	case !v.Comparable():
		err = fmt.Errorf("queue: Config.LimiterFor: a %T can't be told from another: must be comparable, a pointer for example", own)
	case limiter.Share(own, e.limits):
		err = errors.New("queue: Config.LimiterFor: its limiter is in Config.Limiter or Config.Gate, too: an operation would wait for itself")
	}
	if err != nil {
		own = nil
	}
	return own, err
}
