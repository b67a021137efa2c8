package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func onMiniredis(t *testing.T) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func onRedis(t *testing.T) *redis.Client {
	addr := os.Getenv("RAMPMETER_REDIS_ADDR")
	if addr == "" {
		t.Skip("needs a Redis server: set RAMPMETER_REDIS_ADDR")
	}
	c := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// schedule makes random calls of a few processes, as processes make them, and
// now and then as none should.
type schedule struct {
	r        *rand.Rand
	now      int64
	procs    []*caller
	declared []Limit
}

type caller struct {
	id       string
	number   int64
	reported State
	declared Limit
	cells    []int64
	held     int64
}

func newSchedule(seed uint64, limit func(r *rand.Rand) Limit) *schedule {
	r := rand.New(rand.NewPCG(seed, 0))
	s := &schedule{r: r, now: 1_700_000_000_000_000 + r.Int64N(1e9), declared: []Limit{limit(r), limit(r)}}
	for i := range 1 + r.IntN(6) {
		s.procs = append(s.procs, &caller{id: fmt.Sprint("p", i), declared: s.declared[0]})
	}
	return s
}

func (s *schedule) call(limit func(r *rand.Rand) Limit) (*caller, Call) {
	r := s.r
	switch r.IntN(20) {
	case 0:
		s.now += r.Int64N(4 * Lease)
	case 1:
		s.now -= r.Int64N(100_000)
	case 2:
		s.now += Memory
	default:
		s.now += r.Int64N(300_000)
	}
	p := s.procs[r.IntN(len(s.procs))]
	if r.IntN(40) == 0 { // it is restarted
		*p = caller{id: fmt.Sprint("p", r.IntN(1000)), declared: s.declared[r.IntN(2)]}
	}
	if r.IntN(30) > 0 {
		p.number++
	}
	number := p.number
	if r.IntN(20) == 0 { // it comes late
		number = max(1, number-r.Int64N(3))
	}
	c := Call{
		Now: s.now, ID: p.id, Number: number, Gen: p.reported.Gen, Seq: p.reported.Seq,
		Away: r.IntN(20) == 0, Join: p.reported.Gen == 0, Declared: p.declared,
		Version: p.reported.Version, Limit: p.reported.Limit, Leave: r.IntN(20) == 0, Rest: r.IntN(20) == 0,
	}
	switch r.IntN(40) {
	case 0:
		c.Set = limit(r).Value
	case 1:
		c.Pause = r.Int64N(2_000_000)
	case 2:
		c.Pause = -1
	case 3:
		c.Seq += 10
	case 4:
		c.Gen += r.Int64N(3) - 1
	}
	return p, c
}

func rateLimit(r *rand.Rand) Limit {
	rates := []float64{0.3, 1, 7, 100, 333.3, 1000, 12345.6, 40000}
	return Limit{Value: rates[r.IntN(len(rates))], Burst: 1 + r.Int64N(50)}
}

// The script does what its model does, call by call.
func TestRateScript(t *testing.T)     { testRateScript(t, onMiniredis(t), 60) }
func TestLiveRateScript(t *testing.T) { testRateScript(t, onRedis(t), 300) }

func testRateScript(t *testing.T, client *redis.Client, seeds uint64) {
	if testing.Short() {
		seeds /= 10
	}
	for seed := range seeds {
		s := newSchedule(seed, rateLimit)
		name := fmt.Sprintf("test-%d-%d", os.Getpid(), seed)
		script, model := NewRedisRate(client, name), NewMemoryRate()
		for i := range 100 {
			p, call := s.call(rateLimit)
			c := RateCall{
				Call: call, Demand: s.r.Int64N(3_000_000), Soon: s.r.Int64N(20), Fresh: s.r.Int64N(5), Spread: s.r.Int64N(60),
				After: s.now + s.r.Int64N(300_000), Held: int64(len(p.cells)), Lead: s.r.Int64N(10_000),
			}
			if s.r.IntN(3) == 0 {
				c.Before = s.now + s.r.Int64N(200_000)
			}
			if s.r.IntN(4) == 0 && len(p.cells) > 0 {
				n := s.r.IntN(len(p.cells))
				c.Return, p.cells = p.cells[n:], p.cells[:n]
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
			p.reported = got.State
			p.cells = append(p.cells, got.Cells...)
			if s.r.IntN(3) == 0 {
				p.cells = nil
			}
		}
		require.NoError(t, client.Del(t.Context(), script.keys...).Err())
	}
}
