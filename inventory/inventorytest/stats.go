package inventorytest

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Stats are the counts of a [Server] since [New].
type Stats struct {
	// Requests is how many arrived, Admitted how many of them were handled.
	Requests int `json:"requests"`
	Admitted int `json:"admitted"`
	// RejectedByRate, RejectedByQuota and RejectedByConcurrency were answered 429
	// because of the limits; an outage refused FailedByOutage.
	RejectedByRate        int `json:"rejected_by_rate"`
	RejectedByQuota       int `json:"rejected_by_quota"`
	RejectedByConcurrency int `json:"rejected_by_concurrency"`
	FailedByOutage        int `json:"failed_by_outage"`

	// PeakInFlight is the largest number of requests handled at once. PeakOpen
	// also counts those that were being refused.
	PeakInFlight int `json:"peak_in_flight"`
	PeakOpen     int `json:"peak_open"`

	// MaxOverRate is by how many requests the arrivals were above Burst +
	// Rate*t at most, over all windows of any length t, rounded up; 0 if never,
	// and without a Rate. It is exact to a millionth of a request.
	// MaxAdmittedOverRate is the same of those that were admitted.
	MaxOverRate         int `json:"max_over_rate"`
	MaxAdmittedOverRate int `json:"max_admitted_over_rate"`
	// PeakRate is how many arrived within one second at most, wherever that
	// second begins.
	PeakRate int `json:"peak_rate"`

	// AppliedOnce and AppliedTwice are how many references had one adjustment
	// of a SKU applied, and more than one. Taking and returning stock count
	// separately: stock that is returned was not taken twice. Replayed is how many
	// requests were answered from an earlier answer.
	AppliedOnce  int `json:"applied_once"`
	AppliedTwice int `json:"applied_twice"`
	Replayed     int `json:"replayed"`

	// Status counts the finished requests by the status that they were answered
	// with. 0: the connection was dropped.
	Status map[int]int `json:"status"`
}

// An Arrival is a request as [Server.Arrivals] reports it.
type Arrival struct {
	At     time.Duration // since New
	Status int           // 0 if it is not finished, or its connection was dropped
}

// A record holds the data of Stats and Arrivals. It is guarded by the server's
// mutex.
type record struct {
	stats              Stats
	open, inFlight     int
	arriving, admitted overRate
	lastSecond         []time.Duration // arrivals, oldest first
	arrivals           []Arrival
	keep               int
}

func newRecord(cfg Config) record {
	limit := overRate{rate: cfg.Rate, burst: float64(cfg.Burst)}
	return record{stats: Stats{Status: make(map[int]int)}, arriving: limit, admitted: limit, keep: cfg.KeepArrivals}
}

// arrive records an arrival and returns its number, counted from 1.
func (r *record) arrive(now time.Duration) int {
	r.stats.Requests++
	r.open++
	r.stats.PeakOpen = max(r.stats.PeakOpen, r.open)
	r.stats.MaxOverRate = r.arriving.add(now)

	past := 0
	for past < len(r.lastSecond) && r.lastSecond[past] <= now-time.Second {
		past++
	}
	r.lastSecond = append(r.lastSecond[past:], now)
	r.stats.PeakRate = max(r.stats.PeakRate, len(r.lastSecond))

	if len(r.arrivals) < r.keep {
		r.arrivals = append(r.arrivals, Arrival{At: now})
	}
	return r.stats.Requests
}

func (r *record) admit(now time.Duration) {
	r.stats.Admitted++
	r.inFlight++
	r.stats.PeakInFlight = max(r.stats.PeakInFlight, r.inFlight)
	r.stats.MaxAdmittedOverRate = r.admitted.add(now)
}

func (r *record) leave(number, status int, admitted bool) {
	r.open--
	if admitted {
		r.inFlight--
	}
	r.stats.Status[status]++
	if number <= len(r.arrivals) {
		r.arrivals[number-1].Status = status
	}
}

// overRate finds the window in which events were the most above burst + rate*t,
// in constant memory. The excess over rate*t of the worst window that ends with
// an event is that of the worst window that ended with the event before, less
// what the rate allows since then, plus one; or just the event, if that is more.
type overRate struct {
	rate, burst float64
	level, peak float64
	last        time.Duration
}

// add counts an event and returns by how much, rounded up, the worst window so
// far is above.
func (o *overRate) add(now time.Duration) int {
	if o.rate == 0 {
		return 0
	}
	o.level = max(o.level-o.rate*(now-o.last).Seconds(), 0) + 1
	o.last = now
	o.peak = max(o.peak, o.level)
	return max(0, int(math.Ceil(o.peak-o.burst-1e-6)))
}

// A bucket is the server's own rate limit.
type bucket struct {
	rate, burst, tokens float64
	last                time.Duration
}

// take takes a token, or returns when there will be one.
func (b *bucket) take(now time.Duration) (ok bool, wait time.Duration) {
	if b.rate == 0 {
		return true, 0
	}
	b.tokens = min(b.burst, b.tokens+b.rate*(now-b.last).Seconds())
	b.last = now
	const rounding = 1e-6
	if b.tokens < 1-rounding {
		return false, time.Duration(min((1-b.tokens)/b.rate, 86400) * float64(time.Second))
	}
	b.tokens--
	return true, 0
}

// A quota is the server's own limit of requests in a window of time.
type quota struct {
	size   int
	window time.Duration
	used   int
	number time.Duration // of the window that used is about
}

// take takes a request of the window, or returns when the next window begins.
func (q *quota) take(now time.Duration) (ok bool, wait time.Duration) {
	if q.size == 0 {
		return true, 0
	}
	left, wait := q.left(now)
	if left == 0 {
		return false, wait
	}
	q.used++
	return true, 0
}

// left returns how many requests are left in the window, and how long the window
// still lasts.
func (q *quota) left(now time.Duration) (left int, within time.Duration) {
	if number := now / q.window; number != q.number {
		q.number, q.used = number, 0
	}
	return q.size - q.used, (q.number+1)*q.window - now
}

// tell writes the quota into a response's header.
func (q *quota) tell(h http.Header, how QuotaHeaders, now time.Duration) {
	if how == NoHeaders {
		return
	}
	left, within := q.left(now)
	reset := int(math.Ceil(within.Seconds()))
	switch how {
	case DraftHeaders:
		h.Set("RateLimit-Policy", fmt.Sprintf(`"quota";q=%d;w=%d`, q.size, int(q.window.Seconds())))
		h.Set("RateLimit", fmt.Sprintf(`"quota";r=%d;t=%d`, left, reset))
	case XHeaders:
		h.Set("X-RateLimit-Limit", strconv.Itoa(q.size))
		h.Set("X-RateLimit-Remaining", strconv.Itoa(left))
		h.Set("X-RateLimit-Reset", strconv.Itoa(reset))
	}
}
