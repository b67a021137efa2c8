// Package quota reads the rate-limit fields of an HTTP response header: how long to
// wait (Retry-After), and how much of each quota is left. It is the only reader of
// these fields in this module.
package quota

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxWait is the longest accepted wait. A server whose clock or arithmetic is wrong
// must not stop its clients for years.
const MaxWait = 24 * time.Hour

// A Quota is a number of operations in a period of time.
type Quota struct {
	Operations float64
	Within     time.Duration // above 0, at most MaxWait
}

// Quotas are a server's limits according to a response.
type Quotas struct {
	Left     []Quota // what is left of each quota until it resets
	Policies []Quota // the size of each quota, and its window
	Spent    bool    // at least one quota is used up, whether or not its reset is known
}

// Wait returns the time until no quota is used up any longer, or false if that is not
// known.
func (qs Quotas) Wait() (d time.Duration, ok bool) {
	for _, q := range qs.Left {
		if q.Operations == 0 {
			d, ok = max(d, q.Within), true
		}
	}
	return d, ok
}

// RetryAfter returns how long the header asks to wait, and whether it does.
// Retry-After is a number of seconds or an HTTP date, as in the standard, or a
// Unix time, a time in RFC 3339, or a duration such as 6m0s. Of several values the
// longest counts. The variants in milliseconds, Retry-After-Ms and
// X-Ms-Retry-After-Ms, are more precise and take precedence. Points in time are
// relative to the server's own Date, or to now if it sends none.
func RetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	for _, name := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms", "Retry-After", "X-Ratelimit-Retry-After", "X-Rate-Limit-Retry-After", "X-Contentful-Ratelimit-Reset"} {
		longest, found := time.Duration(0), false
		for _, value := range values(h, name) {
			if d, ok := until(name, value, clock(h, now)); ok {
				longest, found = max(longest, d), true
			}
		}
		if found {
			return longest, true
		}
	}
	return 0, false
}

// A family is a group of fields that say how much is left of one quota, and
// until when.
type family struct {
	left   string
	resets []string      // the first valid one counts
	within time.Duration // without a reset: the length of the window
}

var families = [...]family{
	{left: "Ratelimit-Remaining", resets: []string{"Ratelimit-Reset"}},
	{left: "X-Ratelimit-Remaining", resets: []string{"X-Ratelimit-Reset-After", "X-Ratelimit-Reset-Ms", "X-Ratelimit-Reset"}},
	{left: "X-Rate-Limit-Remaining", resets: []string{"X-Rate-Limit-Reset-Ms", "X-Rate-Limit-Reset"}},
	{left: "X-Ratelimit-Remaining-Requests", resets: []string{"X-Ratelimit-Reset-Requests"}},                 // OpenAI, Groq
	{left: "X-Ratelimit-Requests-Remaining", resets: []string{"X-Ratelimit-Requests-Reset"}},                 // Linear, RapidAPI
	{left: "Anthropic-Ratelimit-Requests-Remaining", resets: []string{"Anthropic-Ratelimit-Requests-Reset"}}, // Anthropic
	{left: "X-Sib-Ratelimit-Remaining", resets: []string{"X-Sib-Ratelimit-Reset"}},                           // Brevo
	{left: "X-Sentry-Rate-Limit-Remaining", resets: []string{"X-Sentry-Rate-Limit-Reset"}},                   // Sentry
	{left: "Fastly-Ratelimit-Remaining", resets: []string{"Fastly-Ratelimit-Reset"}},                         // Fastly
	{left: "X-Contentful-Ratelimit-Second-Remaining", resets: []string{"X-Contentful-Ratelimit-Reset"}},      // Contentful
	{left: "X-Rate-Limit-Requests-Left", resets: []string{"X-Rate-Limit-Time-Reset-Ms"}},                     // BigCommerce
	{left: "X-Hubspot-Ratelimit-Remaining", resets: []string{"X-Hubspot-Ratelimit-Interval-Milliseconds"}},   // HubSpot
	{left: "X-Rate-Limit-Api-Key-Remaining", resets: []string{"X-Rate-Limit-Api-Key-Interval-Ms"}},           // Trello
	{left: "X-Rate-Limit-Api-Token-Remaining", resets: []string{"X-Rate-Limit-Api-Token-Interval-Ms"}},       // Trello
	{left: "X-Ratelimit-Userremaining", resets: []string{"X-Ratelimit-Userreset"}},                           // Imgur
	{left: "X-Ratelimit-Remaining-Second", within: time.Second},
	{left: "X-Ratelimit-Remaining-Minute", within: time.Minute}, // Kong
	{left: "X-Remaining-This-Second", within: time.Second},      // Etsy
	{left: "X-Minlimit-Remaining", within: time.Minute},         // Xero
}

// Of returns the quotas in the header of a response that arrived at now.
//
// RateLimit and RateLimit-Policy follow draft-ietf-httpapi-ratelimit-headers-10. They
// are structured fields (RFC 9651), as in
//
//	RateLimit-Policy: "burst";q=100;w=60, "daily";q=1000;w=86400
//	RateLimit: "burst";r=50;t=30
//
// where the burst quota, with 50 left for 30 s, is the one that will be used up first.
// Draft 07 had RateLimit: limit=100, remaining=50, reset=30. Earlier drafts had a field
// for each of these, and other servers use variants of them (see families). A field
// may list several quotas, and a response may have several families: each one that has
// a remainder and a reset counts. Of ignores malformed fields, quotas in units other
// than requests, and responses from a cache.
func Of(h http.Header, now time.Time) (qs Quotas) {
	if age, ok := number(h.Get("Age")); ok && age > 0 {
		return Quotas{}
	}
	now = clock(h, now)
	leave := func(left float64, within time.Duration) {
		qs.Spent = qs.Spent || left == 0
		if within > 0 {
			qs.Left = append(qs.Left, Quota{left, within})
		}
	}
	policy := func(size float64, window time.Duration) {
		if size > 0 && window > 0 {
			qs.Policies = append(qs.Policies, Quota{size, window})
		}
	}

	other := map[string]bool{} // policies in other units
	for _, item := range items(h.Values("Ratelimit-Policy")) {
		if unit, ok := item.params["qu"]; ok && unit != "requests" && unit != "request" { // the draft has both
			other[item.name] = true
			continue
		}
		size, ok := number(item.params["q"])
		if !ok {
			size, _ = number(item.name) // 100;w=60, before draft 08
		}
		policy(size, seconds(item.params["w"]))
	}
	old, said := Quota{}, false // draft 07 has one quota, spread over a list
	for _, item := range items(h.Values("Ratelimit")) {
		if left, ok := number(item.params["r"]); ok && !other[item.name] {
			leave(left, seconds(item.params["t"]))
		}
		switch key, value, _ := strings.Cut(item.name, "="); key {
		case "remaining":
			if left, ok := number(value); ok {
				old.Operations, said = left, true
			}
		case "reset":
			old.Within = seconds(value)
		}
	}
	if said {
		leave(old.Operations, old.Within)
	}

	for _, f := range families {
		f.read(h, now, leave)
	}
	for name := range h {
		if strings.HasPrefix(name, "Zendesk-Ratelimit-") { // total=100; remaining=99; resets=41
			for _, item := range items(h[name]) {
				if left, ok := number(item.params["remaining"]); ok {
					leave(left, seconds(item.params["resets"]))
				}
			}
		}
	}
	// A leaky bucket, used/size, which loses a twentieth of its size each second: 32/40.
	if used, size, ok := strings.Cut(h.Get("X-Shopify-Shop-Api-Call-Limit"), "/"); ok {
		const emptied = 20 * time.Second
		in, ok1 := number(used)
		all, ok2 := number(size)
		switch {
		case !ok1 || !ok2 || all < 1:
		case in >= all:
			leave(0, time.Duration(float64(emptied)/all))
		default:
			leave(all-in+all, emptied)
		}
	}
	if rate, ok := number(h.Get("X-Amzn-Ratelimit-Limit")); ok { // per second
		policy(rate, time.Second)
	}
	if fill, ok := number(h.Get("X-Ratelimit-Fillrate")); ok { // Atlassian Data Center
		policy(fill, seconds(h.Get("X-Ratelimit-Interval-Seconds")))
	}
	return qs
}

// read passes what the family's fields contain to leave.
func (f family) read(h http.Header, now time.Time, leave func(float64, time.Duration)) {
	lefts := items(h[f.left])
	if len(lefts) == 0 {
		return
	}
	var waits []time.Duration
	for _, name := range f.resets {
		for _, value := range values(h, name) {
			d, _ := until(name, value, now)
			waits = append(waits, d)
		}
		if len(waits) > 0 {
			break
		}
	}
	for i, item := range lefts {
		left, ok := number(item.name)
		if !ok {
			continue
		}
		within := f.within
		switch {
		case len(waits) == len(lefts):
			within = waits[i]
		case len(waits) > 0:
			within = waits[0]
		case item.params["w"] != "": // 76;w=21600
			within = seconds(item.params["w"])
		}
		leave(left, within)
	}
}

// clock returns the server's Date, or now if it sends none.
func clock(h http.Header, now time.Time) time.Time {
	if at, err := http.ParseTime(strings.TrimSpace(h.Get("Date"))); err == nil {
		return at
	}
	return now
}

// values returns the values of a field, each line of which may list several. An
// HTTP date itself contains a comma.
func values(h http.Header, name string) (list []string) {
	for _, line := range h[name] {
		if _, err := http.ParseTime(strings.TrimSpace(line)); err == nil {
			list = append(list, line)
			continue
		}
		list = append(list, strings.Split(line, ",")...)
	}
	return list
}

// until returns the wait that a value of that field asks for, from 0 to MaxWait, and
// whether it asks for any.
func until(name, value string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if n, ok := signed(value); ok {
		if strings.HasSuffix(name, "-Ms") || strings.HasSuffix(name, "-Milliseconds") {
			return span(n, time.Millisecond), true
		}
		return wait(n, now)
	}
	if d, err := time.ParseDuration(value); err == nil { // 6m0s
		return min(max(d, 0), MaxWait), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		value, _, _ = strings.Cut(value, " (") // Tue Feb 16 2021 09:02:42 GMT+0100 (Central European Standard Time)
		for _, layout := range [...]string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05-0700", "Mon Jan 02 2006 15:04:05 GMT-0700"} {
			if at, err = time.Parse(layout, value); err == nil {
				break
			}
		}
	}
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), MaxWait), true
}

// Thresholds at which a number is read in another unit.
const (
	epoch    = 1e9            // seconds since 1970, or more: no wait takes decades
	furthest = 31 * 24 * 3600 // seconds until the latest accepted reset, that of a monthly quota
	longest  = 24 * 60 * 60   // the longest wait in seconds
	inMillis = 60 * 60 * 1e3  // the longest wait in milliseconds: an hour
	inMicros = 60 * 60 * 1e6  // the same in microseconds
	inNanos  = 60 * 60 * 1e9  // and in nanoseconds
)

// wait returns the wait that a number without a unit asks for, or false if it makes
// no sense in any unit. The number may be a time since 1970 or from now, in seconds,
// milliseconds, microseconds or nanoseconds. If two readings make sense, wait takes
// the shorter one: if that is wrong, it costs one request, whereas the longer one
// could cost a day.
func wait(n float64, now time.Time) (time.Duration, bool) {
	for at, i := n, 0; at >= epoch && i < 4; at, i = at/1000, i+1 {
		if at < 100*epoch { // the year 5138; more is in a smaller unit
			if d := at - float64(now.UnixMicro())/1e6; d <= furthest {
				return span(d, time.Second), true
			}
			break
		}
	}
	switch {
	case n <= longest:
		return span(n, time.Second), true
	case n <= inMillis:
		return span(n, time.Millisecond), true
	case n <= inMicros:
		return span(n, time.Microsecond), true
	case n <= inNanos:
		return span(n, time.Nanosecond), true
	}
	return 0, false
}

// span returns n units, from 0 to MaxWait.
func span(n float64, unit time.Duration) time.Duration {
	return time.Duration(min(max(n*float64(unit), 0), float64(MaxWait)))
}

// number parses a number that is not negative.
func number(s string) (float64, bool) {
	n, ok := signed(strings.TrimSpace(s))
	return n, ok && n >= 0 && !math.Signbit(n)
}

// signed parses a number as strconv.ParseFloat does, but accepts no exponents,
// hexadecimals or names. A number out of range is infinite.
func signed(s string) (float64, bool) {
	if s == "" || strings.Trim(s, "+-.0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil || n != 0
}

// seconds parses a number of seconds. It returns 0 if s is not one.
func seconds(s string) time.Duration {
	n, _ := number(s)
	return span(n, time.Second)
}

// An item is an item of a list in a structured field, with its parameters. Strings
// are unquoted.
type item struct {
	name   string
	params map[string]string
}

// items parses lists of items, as far as the fields of this package need it.
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
			i++ // skip the escaped character
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
