package redislimiter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

// Using held slots allocates nothing.
func TestAcquireAllocatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newPlaces(t, 1, 10, redislimiter.Config{})
		s := f.all[0]
		warm(t, s)
		allocs := testing.AllocsPerRun(100, func() {
			p, ok := s.TryAcquire()
			if ok {
				p.Release(nil)
			}
			p, err := s.Acquire(t.Context())
			if err == nil {
				p.Release(nil)
			}
		})
		require.Zero(t, allocs)
		closing(t, s)
	})
	synctest.Test(t, func(t *testing.T) {
		f := newRates(t, 1, 10_000, 1000, redislimiter.Config{})
		b := f.all[0]
		warm(t, b)
		for range 5000 { // so that there is demand to predict
			b.TryAcquire()
			time.Sleep(200 * time.Microsecond)
		}
		time.Sleep(20 * ms)
		n, err := b.Ready(t.Context(), 10, 0)
		require.NoError(t, err)
		require.Equal(t, 10, n)
		allocs := testing.AllocsPerRun(n-1, func() {
			if p, err := b.Acquire(t.Context()); err == nil {
				p.Release(nil)
			}
		})
		require.Zero(t, allocs)
		closing(t, b)
	})
}
