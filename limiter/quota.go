package limiter

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A quota is a number of operations, and for how long these have to do.
type quota struct {
	operations float64
	within     time.Duration // above 0
}

// quotas are what a response tells of the far side's limits.
type quotas struct {
	left     []quota // what is left of each, until there is more
	policies []quota // what each has in a window
}

// allow returns the rate that the quotas allow, of which so many operations
// are used since the response, or 0 if they tell none; how long to pause; and
// for how long the answer holds.
//
// What is left counts, and the tightest of it. A policy is no rate: with a
// thousand a day, all of these may come within the first minute, and whether
// they have is what the far side tells in what is left. Only where it tells that
// of no quota at all, its policies have to do.
func (qs quotas) allow(used float64) (rate float64, pause, until time.Duration) {
	tell := qs.left
	if len(tell) == 0 {
		tell, used = qs.policies, 0
	}
	for _, q := range tell {
		if q.operations == 0 {
			pause = max(pause, q.within)
			continue
		}
		// One at least: the responses of those on the way will tell.
		if r := max(1, q.operations-used) / q.within.Seconds(); rate == 0 || r < rate {
			rate, until = r, q.within
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
// where the burst, of which 50 are left for 30 s, is what is near its end.
// Draft 07 had RateLimit: limit=100, remaining=50, reset=30. Drafts before it
// had RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset, which are
// older than any draft with an X- before them; reset is in seconds from now,
// or, at some, a time in seconds or milliseconds since 1970. What is malformed
// is ignored, as are quotas in other units than requests, what is left for an
// unknown time, and what comes from a cache.
func quotasOf(h http.Header) (qs quotas) {
	if age, ok := number(h.Get("Age")); ok && age > 0 {
		return quotas{}
	}
	other := map[string]bool{} // policies in other units
	for _, item := range items(h.Values("RateLimit-Policy")) {
		if unit, ok := item.params["qu"]; ok && unit != "requests" && unit != "request" { // the draft has both
			other[item.name] = true
			continue
		}
		size, ok := number(item.params["q"])
		if !ok {
			size, ok = number(item.name) // 100;w=60, before draft 08
		}
		if window := duration(item.params["w"]); ok && size > 0 && window > 0 {
			qs.policies = append(qs.policies, quota{size, window})
		}
	}
	leave := func(left float64, within time.Duration) {
		if within > 0 {
			qs.left = append(qs.left, quota{left, within})
		}
	}
	old, told := quota{}, false // as it was told before draft 08
	for _, item := range items(h.Values("RateLimit")) {
		if left, ok := number(item.params["r"]); ok && !other[item.name] {
			leave(left, duration(item.params["t"]))
		}
		switch key, value, _ := strings.Cut(item.name, "="); key {
		case "remaining":
			if left, ok := number(value); ok {
				old.operations, told = left, true
			}
		case "reset":
			old.within = duration(value)
		}
	}
	for _, prefix := range [...]string{"RateLimit-", "X-RateLimit-", "X-Rate-Limit-"} {
		left, ok := number(h.Get(prefix + "Remaining"))
		if ok && !told {
			old, told = quota{left, reset(h, h.Get(prefix+"Reset"))}, true
		}
	}
	if told {
		leave(old.operations, old.within)
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
		return duration(value)
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
	if err != nil {
		return 0, false
	}
	return n, true
}

// duration parses a number of seconds, of which no more than a day is believed.
// It is 0 if s is none.
func duration(s string) time.Duration {
	n, _ := number(s)
	return time.Duration(min(n, maxRetryAfter.Seconds()) * float64(time.Second))
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
