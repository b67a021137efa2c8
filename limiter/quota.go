package limiter

import (
	"time"

	"github.com/rampmeter/rampmeter/internal/quota"
)

// allowed returns the rate that the quotas allow, of which so many operations
// are used since the response, or 0 if they name none; how long to pause; and
// for how long the answer holds.
//
// What is left counts, and the tightest of it. A policy is no rate: with a
// thousand a day, all of these may come within the first minute, and whether
// they have is in what is left. Only where a response does not say that of any
// quota, its policies have to do.
func allowed(qs quota.Quotas, used float64) (rate float64, pause, until time.Duration) {
	known := qs.Left
	if len(known) == 0 {
		known, used = qs.Policies, 0
	}
	for _, q := range known {
		if q.Operations == 0 {
			pause = max(pause, q.Within)
			continue
		}
		// One at least: the responses of those on the way will say.
		if r := max(1, q.Operations-used) / q.Within.Seconds(); rate == 0 || r < rate {
			rate, until = r, q.Within
		}
	}
	return rate, pause, until
}
