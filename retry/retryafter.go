package retry

import (
	"net/http"
	"time"

	"github.com/rampmeter/rampmeter/internal/quota"
)

// MaxRetryAfter is the longest that [ParseRetryAfter] returns. Asking again
// once a day harms nobody; a garbled header must not silence a client for
// years.
const MaxRetryAfter = quota.MaxWait

// ParseRetryAfter returns how long the Retry-After in a response's header asks
// to wait, and whether there is one that can be understood. The response
// arrived at now.
//
// Seconds may have a fraction or a sign. An HTTP date, in any of the three formats
// of RFC 9110, or a time in RFC 3339, is measured against the response's own Date,
// which comes from the same clock; only without one against now. What has passed
// already is 0, what is longer than [MaxRetryAfter] is cut to it.
//
// Not every server keeps to the standard. A number that makes no sense in seconds
// is read as a Unix time, in seconds or a smaller unit, or as milliseconds: 1.8
// billion is a point in time, and 120,000 is two minutes. One that makes sense in no
// unit is ignored. Durations such as 6m0s are understood, of several values the
// longest counts, and Retry-After-Ms, X-Ms-Retry-After-Ms and X-RateLimit-Retry-After
// are read too.
func ParseRetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	return quota.RetryAfter(h, now)
}
