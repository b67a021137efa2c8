package queue

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"

	"github.com/rampmeter/rampmeter/internal/nils"
	"github.com/rampmeter/rampmeter/limiter"
)

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
