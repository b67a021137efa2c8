// Package again marks repeated refusals.
package again

import "errors"

// Mark returns err, marked as the failure of an operation that has failed in the same
// way before while others were accepted. A limiter that measures what the downstream
// accepts must not count it again and again. The limiter still obeys a Retry-After in
// it.
func Mark(err error) error { return &marked{err} }

// Is reports whether err has been marked.
func Is(err error) bool {
	var m *marked
	return errors.As(err, &m)
}

type marked struct{ error }

func (m *marked) Unwrap() error { return m.error }
