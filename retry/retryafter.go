package retry

import (
	"net/http"
	"time"

	"github.com/rampmeter/rampmeter/internal/quota"
)

// MaxRetryAfter is the longest result of [ParseRetryAfter]. Asking again once
// a day harms nobody, and a garbled header must not silence a client for
// years.
const MaxRetryAfter = quota.MaxWait

// ParseRetryAfter returns how long the Retry-After in a response's header asks to
// wait, and whether there is one that it understands. The response arrived at now. It
// reads Retry-After-Ms, X-Ms-Retry-After-Ms and X-RateLimit-Retry-After too. The
// package documentation lists the formats.
func ParseRetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	return quota.RetryAfter(h, now)
}
