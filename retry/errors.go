package retry

import (
	"errors"
	"fmt"
	"time"

	"github.com/rampmeter/rampmeter/internal/permanent"
)

var (
	// ErrPermanent means that an operation will never succeed, however often it is
	// tried. Errors become permanent by [Permanent], or by an Is method that reports
	// true for ErrPermanent.
	ErrPermanent = permanent.Err

	// ErrExhausted means that all attempts that the policy allows were made. It is
	// the Cause of an [*Error].
	ErrExhausted = errors.New("retry: attempts used up")
)

// Permanent marks err as an error that will never succeed: errors.Is(err,
// ErrPermanent). The text remains that of err. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string        { return e.err.Error() }
func (e *permanentError) Unwrap() error        { return e.err }
func (e *permanentError) Is(target error) bool { return target == ErrPermanent }

// After marks err as not to be retried before d has passed: the result has a
// method RetryAfter() time.Duration. The text remains that of err. A negative
// d counts as 0. After(d, nil) is nil.
//
// It delays only the operation that failed: others slow down only for an
// error that a limiter classifies as overload.
func After(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &afterError{err, max(d, 0)}
}

type afterError struct {
	err   error
	after time.Duration
}

func (e *afterError) Error() string             { return e.err.Error() }
func (e *afterError) Unwrap() error             { return e.err }
func (e *afterError) RetryAfter() time.Duration { return e.after }

// retryAfter returns the first RetryAfter() in err's tree. It reports false if
// that is negative.
func retryAfter(err error) (time.Duration, bool) {
	var after interface{ RetryAfter() time.Duration }
	if !errors.As(err, &after) {
		return 0, false
	}
	d := after.RetryAfter()
	return d, d >= 0
}

// An Error means that an operation worth another attempt gets none. errors.Is
// and errors.As see both Cause and Err.
type Error struct {
	// Attempts is how many attempts were made.
	Attempts int
	// Cause is why there are no more: [ErrExhausted], or how the context ended
	// (context.Cause), or context.DeadlineExceeded when the wait for the next
	// attempt would have outlasted the context's deadline.
	Cause error
	// Err is the error of the last attempt, nil if there was none.
	Err error
}

// Error returns a text with all three fields.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("retry: after %d attempts: %v", e.Attempts, e.Cause)
	case e.Cause == ErrExhausted:
		return fmt.Sprintf("retry: %d attempts used up: %v", e.Attempts, e.Err)
	}
	return fmt.Sprintf("retry: after %d attempts: %v; last error: %v", e.Attempts, e.Cause, e.Err)
}

// Unwrap returns those of Cause and Err that are not nil.
func (e *Error) Unwrap() []error {
	errs := make([]error, 0, 2)
	for _, err := range [...]error{e.Cause, e.Err} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// LastError returns Err. Limiters call it to separate the error of the last attempt
// from the reason why there are no more: a deadline that ends the attempts says
// nothing about the downstream.
func (e *Error) LastError() error { return e.Err }

// Reason is [ReasonExhausted] if the attempts were used up, whatever the last
// one failed with. Otherwise it is empty and Err decides; see [Reason].
func (e *Error) Reason() string {
	if e.Cause == ErrExhausted {
		return ReasonExhausted
	}
	return ""
}
