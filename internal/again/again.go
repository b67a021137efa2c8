// Package again marks refusals that are the operations' own.
package again

import "errors"

// Mark returns err, marked as a refusal that the operation, or one like it, meets each
// time, while others are accepted. A limiter must not lower a pace or a limit for it,
// but still obeys a Retry-After in it.
func Mark(err error) error { return &marked{err} }

// Is reports whether err has been marked.
func Is(err error) bool {
	var m *marked
	return errors.As(err, &m)
}

type marked struct{ error }

func (m *marked) Unwrap() error { return m.error }
