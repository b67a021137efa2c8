// Package again marks refusals that are no news.
package again

import "errors"

// Mark returns err, marked as the failure of an operation that has failed the same
// way before, while others were accepted. A limiter that measures what the downstream
// accepts would count it again and again. It obeys a Retry-After in it all the same.
func Mark(err error) error { return &marked{err} }

// Is reports whether err has been marked.
func Is(err error) bool {
	var m *marked
	return errors.As(err, &m)
}

type marked struct{ error }

func (m *marked) Unwrap() error { return m.error }
