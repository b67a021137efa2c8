// Package permanent holds the error that retry exports as ErrPermanent, so that
// limiter, which must not import retry, can recognize it.
package permanent

import "errors"

// Err is retry.ErrPermanent.
var Err = errors.New("retry: permanent error")
