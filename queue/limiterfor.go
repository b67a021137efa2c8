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

// troubles tracks the keys of Config.LimiterFor that were active in the last
// minute, and those that fail: whose last result was a failure downstream. Used
// under Consumer.mu.
type troubles struct {
	keys   map[any]*troubled
	oldest heap[*troubled]
	failed int // keys that fail
}

// A troubled is the state of one key.
type troubled struct {
	key    any
	until  time.Time // then it is no longer active
	failed bool
	pos    int // in troubles.oldest
}

const (
	keyActive    = time.Minute // how long a key is active after a result, or after its pause
	leastTrouble = 3           // when this many keys fail, and half of the active ones, the failure concerns all
)

// result records a result of a key, which is paused until the given time if that
// is in the future. It reports whether a failure concerns the limits for all.
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

// limiterOf returns the message's own limiter, if Config.LimiterFor returns one.
// The field must be set. The caller must not hold mu, since this runs the user's
// code.
func (e *engine) limiterOf(m *Message) (own limiter.Limiter, err error) {
	defer func() {
		if v := recover(); v != nil {
			own, err = nil, fmt.Errorf("queue: Config.LimiterFor: %w", &PanicError{Value: v, Stack: debug.Stack()})
		}
	}()
	own = e.cfg.LimiterFor(m)
	switch v := reflect.ValueOf(own); {
	case own == nil:
	case nils.Is(own): // a map's value for an unknown key, for example
		err = fmt.Errorf("queue: Config.LimiterFor: returned a nil %T: for none it must return nil itself", own)
	case !v.Comparable():
		err = fmt.Errorf("queue: Config.LimiterFor: a %T can't be compared: return a pointer, or another comparable value", own)
	case limiter.Share(own, e.limits):
		err = errors.New("queue: Config.LimiterFor: its limiter is in Config.Limiter or Config.Gate, too: an operation would wait for itself")
	}
	if err != nil {
		own = nil
	}
	return own, err
}
