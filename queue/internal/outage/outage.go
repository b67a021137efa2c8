// Package outage computes how long a message stays hidden during an outage when
// each of its deliveries costs a receive, as on Lambda.
package outage

import (
	"math/rand/v2"
	"time"
)

const (
	first   = 30 * time.Second
	longest = 15 * time.Minute
	jitter  = 4 // a delay grows by up to 1/jitter, at random
)

// Delay returns how long a message stays hidden after that many receives (less
// than 1 counts as 1), when the outage is known to last for remaining: the longer
// of remaining and 30 s, the latter doubled by each further receive; up to a
// quarter more, at random; at most 15 min.
func Delay(receives int, remaining time.Duration) time.Duration {
	d := min(max(least(receives), remaining), longest)
	return min(d+rand.N(d/jitter+1), longest)
}

// Span returns how long, at least, these delays alone keep a message out of the
// dead-letter queue when the queue allows that many receives: a shorter outage
// dead-letters nothing.
func Span(maxReceiveCount int) (span time.Duration) {
	for n := range max(maxReceiveCount, 0) {
		span += least(n + 1)
	}
	return span
}

func least(receives int) time.Duration {
	const doublings = 5 // enough to exceed longest
	return min(first<<min(max(receives-1, 0), doublings), longest)
}
