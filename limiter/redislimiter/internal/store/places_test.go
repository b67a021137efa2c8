package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func placesLimit(r *rand.Rand) Limit { return Limit{Value: float64(1 + r.IntN(30))} }

// The script does what its model does, call by call.
func TestPlacesScript(t *testing.T)     { testPlacesScript(t, onMiniredis(t), 100) }
func TestLivePlacesScript(t *testing.T) { testPlacesScript(t, onRedis(t), 400) }

func testPlacesScript(t *testing.T, client *redis.Client, seeds uint64) {
	if testing.Short() {
		seeds /= 10
	}
	for seed := range seeds {
		s := newSchedule(seed, placesLimit)
		name := fmt.Sprintf("test-%d-%d", os.Getpid(), seed)
		script, model := NewRedisPlaces(client, name), NewMemoryPlaces()
		for i := range 100 {
			p, call := s.call(placesLimit)
			c := PlacesCall{Call: call, Held: p.held, Want: s.r.Int64N(12)}
			if s.r.IntN(3) == 0 {
				c.Held = s.r.Int64N(p.held + 2)
			}
			if s.r.IntN(60) == 0 {
				require.NoError(t, client.Del(t.Context(), script.keys...).Err())
				model.Flush()
			}
			want, err := model.Lease(t.Context(), c)
			require.NoError(t, err)
			got, err := script.Lease(t.Context(), c)
			require.NoError(t, err, "seed %d, call %d", seed, i)
			require.Equal(t, want, got, "seed %d, call %d: %+v", seed, i, c)
			p.reported, p.held = got.State, got.Held
		}
		require.NoError(t, client.Del(t.Context(), script.keys...).Err())
	}
}
