package limiter

import (
	"time"

	"github.com/rampmeter/rampmeter/internal/quota"
)

// allowed returns the rate that the quotas allow, or 0 if they name none; how
// long to pause; and for how long the answer holds. used is how many
// operations have used the quotas since the response.
//
// It goes by what is left, and by the tightest quota. A policy is not a rate:
// with a thousand a day, all of these may come within the first minute, and
// only what is left shows whether they have. Policies count only if the
// response does not say what is left of any quota.
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
		// At least one: the responses of the operations in flight will say.
		if r := max(1, q.Operations-used) / q.Within.Seconds(); rate == 0 || r < rate {
			rate, until = r, q.Within
		}
	}
	return rate, pause, until
}
