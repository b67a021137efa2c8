package retry

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter is the longest that [ParseRetryAfter] returns. Asking again
// once a day harms nobody; a garbled header must not silence a client for
// years.
const MaxRetryAfter = 24 * time.Hour

// ParseRetryAfter returns how long the Retry-After in a response's header asks
// to wait, and whether there is one that can be understood. The response
// arrived at now.
//
// Seconds may have a fraction. An HTTP date, in any of the three formats of
// RFC 9110, is measured against the response's own Date, which comes from the
// same clock; only without one against now. What has passed already is 0, what
// is longer than [MaxRetryAfter] is cut to it.
func ParseRetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if d, ok := parseSeconds(v); ok {
		return d, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	if sent, err := http.ParseTime(strings.TrimSpace(h.Get("Date"))); err == nil {
		now = sent
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter), true
}

// parseSeconds understands what strconv.ParseFloat does, without its
// exponents, hexadecimals and names.
func parseSeconds(s string) (time.Duration, bool) {
	if s == "" || strings.Trim(s, "+-.0123456789") != "" {
		return 0, false
	}
	// A number that is out of range comes back as an infinity, which the
	// comparisons below put in its place.
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil && f == 0: // not a number
		return 0, false
	case f <= 0:
		return 0, true
	case f >= MaxRetryAfter.Seconds():
		return MaxRetryAfter, true
	}
	return time.Duration(f * float64(time.Second)), true
}
