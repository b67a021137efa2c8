package limiter

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A quota is what a response tells of one of the far side's limits.
type quota struct {
	left   float64       // operations that are left; negative: not told
	within time.Duration // for how long these have to do; 0: not told
	size   float64       // operations in a window; 0: not told
	window time.Duration // 0: not told
}

type quotas []quota

// allow returns the rate that the quotas allow, of which so many operations
// are used since the response, or 0 if they tell none; how long to pause; and
// for how long the answer holds.
func (qs quotas) allow(used float64) (rate float64, pause, until time.Duration) {
	atMost := func(r float64, d time.Duration) {
		if rate == 0 || r < rate {
			rate, until = r, d
		}
	}
	for _, q := range qs {
		if q.size > 0 && q.window > 0 {
			atMost(q.size/q.window.Seconds(), q.window)
		}
		switch {
		case q.left < 0 || q.within <= 0:
		case q.left == 0:
			pause = max(pause, q.within)
		default:
			// One at least: the responses of those on the way will tell.
			atMost(max(1, q.left-used)/q.within.Seconds(), q.within)
		}
	}
	return rate, pause, until
}

// quotasOf returns what a response's header tells of quotas.
//
// There are several ways to tell it. RateLimit and RateLimit-Policy are those
// of draft-ietf-httpapi-ratelimit-headers-10, structured fields (RFC 9651) as
// in
//
//	RateLimit-Policy: "burst";q=100;w=60, "daily";q=1000;w=86400
//	RateLimit: "burst";r=50;t=30
//
// Draft 07 had RateLimit: limit=100, remaining=50, reset=30. Drafts before it
// had RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset, which are
// older than any draft with an X- before them; reset is in seconds from now,
// or, at some, a time in seconds or milliseconds since 1970. What is malformed
// is ignored, as are quotas in other units than requests, and what comes from a
// cache.
func quotasOf(h http.Header) quotas {
	if age, ok := number(h.Get("Age")); ok && age > 0 {
		return nil
	}
	var qs quotas
	other := map[string]bool{} // policies in other units
	for _, item := range items(h.Values("RateLimit-Policy")) {
		if unit, ok := item.params["qu"]; ok && unit != "requests" {
			other[item.name] = true
			continue
		}
		size, ok := number(item.params["q"])
		if !ok {
			size, ok = number(item.name) // 100;w=60, before draft 08
		}
		if window, known := duration(item.params["w"]); ok && known {
			qs = append(qs, quota{left: -1, size: size, window: window})
		}
	}
	old := quota{left: -1}
	for _, item := range items(h.Values("RateLimit")) {
		if left, ok := number(item.params["r"]); ok && !other[item.name] {
			within, _ := duration(item.params["t"])
			qs = append(qs, quota{left: left, within: within})
		}
		switch key, value, _ := strings.Cut(item.name, "="); key {
		case "remaining":
			if left, ok := number(value); ok {
				old.left = left
			}
		case "reset":
			old.within, _ = duration(value)
		}
	}
	for _, prefix := range [...]string{"RateLimit-", "X-RateLimit-", "X-Rate-Limit-"} {
		left, ok := number(h.Get(prefix + "Remaining"))
		if !ok || old.left >= 0 {
			continue
		}
		old = quota{left: left, within: reset(h, h.Get(prefix+"Reset"))}
	}
	if old.left >= 0 {
		qs = append(qs, old)
	}
	return qs
}

// reset returns the time until a reset that is told as one or the other.
func reset(h http.Header, value string) time.Duration {
	n, ok := number(value)
	const (
		seconds = 1e9 // since 1970, if it is more: a quota of decades is none
		millis  = 1e12
	)
	switch {
	case !ok:
		return 0
	case n < seconds:
		d, _ := duration(value)
		return d
	case n >= millis:
		n /= 1000
	}
	now, err := http.ParseTime(h.Get("Date")) // the server's own clock, if it tells
	if err != nil {
		now = time.Now()
	}
	d := n - float64(now.UnixMilli())/1000
	return time.Duration(min(max(d, 0), maxRetryAfter.Seconds()) * float64(time.Second))
}

// number parses a number that is not negative.
func number(s string) (float64, bool) {
	if s = strings.TrimSpace(s); s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

// duration parses a number of seconds, of which no more than a day is believed.
func duration(s string) (time.Duration, bool) {
	n, ok := number(s)
	return time.Duration(min(n, maxRetryAfter.Seconds()) * float64(time.Second)), ok
}

// An item is one of a list in a structured field, with its parameters. Strings
// are without their quotes.
type item struct {
	name   string
	params map[string]string
}

// items parses lists of items, as far as the fields here need it.
func items(fields []string) []item {
	var list []item
	for _, field := range fields {
		for _, member := range split(field, ',') {
			parts := split(member, ';')
			it := item{name: unquote(parts[0]), params: make(map[string]string, len(parts)-1)}
			for _, p := range parts[1:] {
				key, value, _ := strings.Cut(p, "=")
				it.params[strings.TrimSpace(key)] = unquote(value)
			}
			list = append(list, it)
		}
	}
	return list
}

// split splits s at the separators outside of quotes.
func split(s string, separator byte) []string {
	var parts []string
	begin, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++ // and what it escapes
		case s[i] == '"':
			quoted = !quoted
		case s[i] == separator && !quoted:
			parts = append(parts, s[begin:i])
			begin = i + 1
		}
	}
	return append(parts, s[begin:])
}

func unquote(s string) string { return strings.Trim(strings.TrimSpace(s), `"`) }
