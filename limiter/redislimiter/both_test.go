package redislimiter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter/redislimiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter/internal/store"
)

// A rate and a semaphore in one All, with twice as many slots as the rate
// needs: leased starts must not expire because the slots are elsewhere.
func TestRateAndPlacesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate, burst, places = 8, 200, 20, 20
		f := &swarm{rate: store.NewMemoryRate(), places: store.NewMemoryPlaces()}
		for i := range n {
			m := &member{swarm: f, number: i, hold: 50 * time.Millisecond}
			bucket, err := redislimiter.NewTokenBucketOn(farRate{f.rate, m}, "both", rate, burst, redislimiter.Config{})
			require.NoError(t, err)
			semaphore, err := redislimiter.NewSemaphoreOn(farPlaces{f.places, m}, "both", places, redislimiter.Config{})
			require.NoError(t, err)
			m.bucket, m.places, m.limiter = bucket, semaphore, all(t, bucket, semaphore)
			f.members = append(f.members, m)
			m.work(20)
		}
		time.Sleep(5 * time.Second)
		from, before := time.Now(), f.calls.Load()
		time.Sleep(20 * time.Second)
		counts, sum := f.between(from, time.Now())
		calls := float64(f.calls.Load()-before) / sum
		missed := uint64(0)
		for _, m := range f.members {
			missed += m.bucket.Stats().Missed
		}
		for _, m := range f.members {
			m.rest()
			require.NoError(t, m.bucket.Close(t.Context()))
			require.NoError(t, m.places.Close(t.Context()))
		}
		t.Logf("used %.1f %%, fairness %.3f, %.3f calls per message, %d slots missed for %.0f starts", 100*sum/rate/20, jainIndex(counts), calls, missed, sum)
		require.LessOrEqual(t, f.peakOverRate(rate), burst+1e-6)
		require.LessOrEqual(t, f.peak(time.Now()), places)
		require.GreaterOrEqual(t, sum, 0.9*rate*20)
	})
}
