package redislimiter

import (
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

// NewTokenBucketOn returns a bucket on a store of another kind.
func NewTokenBucketOn(s store.Rate, name string, ratePerSecond float64, burst int, cfg Config) (*TokenBucket, error) {
	return newTokenBucket(s, name, ratePerSecond, burst, cfg)
}

// NewSemaphoreOn returns a semaphore on a store of another kind.
func NewSemaphoreOn(s store.Places, name string, n int, cfg Config) (*Semaphore, error) {
	return newSemaphore(s, name, n, cfg)
}
