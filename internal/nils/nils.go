// Package nils finds nils that are hidden in an interface. A caller that ignores a
// constructor's error has a nil pointer, which is not == nil once it is in an
// interface.
package nils

import (
	"fmt"
	"reflect"
)

// Is reports whether v is nil, or holds a nil pointer, function, map or channel.
func Is(v any) bool {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Chan:
		return r.IsNil()
	}
	return false
}

// Describe names a v for which Is is true: "nil", or "nil (a *limiter.Breaker)".
func Describe(v any) string {
	if v == nil {
		return "nil"
	}
	return fmt.Sprintf("nil (a %T)", v)
}
