// Package outage says how long a message is to stay away during an outage when
// each of its deliveries costs a receive, as on Lambda.
package outage

import (
	"math/rand/v2"
	"time"
)

const (
	first   = 30 * time.Second
	longest = 15 * time.Minute
	jitter  = 4 // a delay is longer by up to one part in so many
)

// Delay returns for how long a message stays hidden after having been received
// so many times (less than 1 counts as 1), when the trouble is known to last for
// remaining: the longer of remaining and 30 s, doubled by each further receive;
// up to a quarter more, at random; at most 15 min.
func Delay(receives int, remaining time.Duration) time.Duration {
	d := min(max(least(receives), remaining), longest)
	return min(d+rand.N(d/jitter+1), longest)
}

// Span returns for how long at least a message is kept out of the dead-letter
// queue by these delays alone, when the queue allows so many receives: an outage
// that is shorter than that dead-letters nothing.
func Span(maxReceiveCount int) (span time.Duration) {
	for n := range max(maxReceiveCount, 0) {
		span += least(n + 1)
	}
	return span
}

func least(receives int) time.Duration {
	const doublings = 5 // to get beyond the longest
	return min(first<<min(max(receives-1, 0), doublings), longest)
}
