package redislimiter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/limiter/redislimiter"
)

// network is how far the downstream's record may exceed the limit, because of
// timers, the scheduler and the network.
const network = 100 * ms

// A liveProcess is a limiter with a client of its own, as a process has it.
type liveProcess[L limiter.Limiter] struct {
	l      L
	client *redis.Client
	stop   context.CancelFunc
}

// kill ends it as if the process had been killed: nothing is returned.
func (p *liveProcess[L]) kill() {
	p.stop()
	_ = p.client.Close()
}

func liveLength(t *testing.T, d time.Duration) time.Duration {
	if testing.Short() {
		return d / 4
	}
	return d
}

// closeAll closes what still lives, and waits for the rest to notice.
func closeAll[L interface {
	limiter.Limiter
	Close(context.Context) error
}](t *testing.T, all []*liveProcess[L]) {
	for _, p := range all {
		p.stop()
		closing(t, p.l)
		_ = p.client.Close()
	}
}

// Eight processes; every quarter of the time one is killed and one is added.
func TestLiveTokenBucketFleet(t *testing.T) {
	c := liveClient(t)
	const n, rate, burst = 8, 200, 20
	name := liveName(t, c)
	var far downstream
	var wg sync.WaitGroup
	var all []*liveProcess[*redislimiter.TokenBucket]
	add := func() {
		client := redis.NewClient(&redis.Options{Addr: c.Options().Addr})
		b, err := redislimiter.NewTokenBucket(client, name, rate, burst, redislimiter.Config{})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(context.Background())
		work(ctx, &wg, b, &far, len(all), 10, nil)
		all = append(all, &liveProcess[*redislimiter.TokenBucket]{b, client, stop})
	}
	for range n {
		add()
	}
	time.Sleep(2 * time.Second)
	length := liveLength(t, 16*time.Second)
	begin := time.Now()
	for i := range 4 {
		time.Sleep(length / 4)
		if i < 3 {
			all[i].kill()
			add()
		}
	}
	end := time.Now()
	var calls, missed uint64
	for _, p := range all {
		s := p.l.Stats()
		calls, missed = calls+s.Calls, missed+s.Missed
	}
	used := far.between(begin, end)
	closeAll(t, all)
	wg.Wait()
	t.Logf("%.3f of the rate used, worst window %.1f over rate*t, %.3f calls per message, %d slots missed", float64(used)/rate/end.Sub(begin).Seconds(), far.worst(rate), float64(calls)/float64(len(far.starts)), missed)
	require.LessOrEqual(t, far.worst(rate), burst+rate*network.Seconds())
	require.GreaterOrEqual(t, float64(used), 0.95*rate*end.Sub(begin).Seconds())
}

func TestLiveSemaphoreFleet(t *testing.T) {
	c := liveClient(t)
	const n, limit = 8, 20
	name := liveName(t, c)
	var far crowd
	var wg sync.WaitGroup
	var all []*liveProcess[*redislimiter.Semaphore]
	add := func() {
		client := redis.NewClient(&redis.Options{Addr: c.Options().Addr})
		s, err := redislimiter.NewSemaphore(client, name, limit, redislimiter.Config{})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(context.Background())
		far.work(ctx, &wg, s, len(all), 20, func() time.Duration { return 20*ms + rand.N(60*ms) })
		all = append(all, &liveProcess[*redislimiter.Semaphore]{s, client, stop})
	}
	for range n {
		add()
	}
	time.Sleep(2 * time.Second)
	far.lap(limit)
	length := liveLength(t, 16*time.Second)
	for i := range 4 {
		time.Sleep(length / 4)
		if i < 3 {
			all[i].kill()
			add()
		}
	}
	most, used := far.lap(limit)
	closeAll(t, all)
	wg.Wait()
	t.Logf("at most %d in flight, %.3f of the places used", most, used)
	require.LessOrEqual(t, most, limit)
	require.GreaterOrEqual(t, used, 0.95*(1-kills(length)))
}

// kills is the share of the slots that is lost to three processes that are
// killed: the limit over eight, each for a lease.
func kills(length time.Duration) float64 { return 3.0 / 8 * cold.Seconds() / length.Seconds() }

// A thousand messages a second in total, through eight processes.
func TestLiveCallsPerMessage(t *testing.T) {
	c := liveClient(t)
	const n, rate, burst, offered = 8, 2000, 100, 1000
	name := liveName(t, c)
	var all []*liveProcess[*redislimiter.TokenBucket]
	var wg sync.WaitGroup
	var mu sync.Mutex // guards waits
	var waits []time.Duration
	begin := time.Now()
	settled := begin.Add(5 * time.Second) // what waited for the cold start is through
	var calls uint64
	for range n {
		client := redis.NewClient(&redis.Options{Addr: c.Options().Addr})
		b, err := redislimiter.NewTokenBucket(client, name, rate, burst, redislimiter.Config{})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(context.Background())
		all = append(all, &liveProcess[*redislimiter.TokenBucket]{b, client, stop})
		wg.Go(func() { poisson(ctx, offered/n, b, settled, &mu, &waits) })
	}
	time.Sleep(time.Until(settled))
	for _, p := range all {
		calls -= p.l.Stats().Calls
	}
	length := liveLength(t, 8*time.Second)
	time.Sleep(length)
	for _, p := range all {
		calls += p.l.Stats().Calls
		p.stop()
	}
	wg.Wait()
	closeAll(t, all)
	slices.Sort(waits)
	per := float64(calls) / float64(len(waits))
	t.Logf("%d messages, %.3f calls per message, wait for a start: median %v, p99 %v, max %v", len(waits), per, waits[len(waits)/2], waits[len(waits)*99/100], waits[len(waits)-1])
	require.LessOrEqual(t, per, 0.1)
	require.GreaterOrEqual(t, float64(len(waits)), 0.9*offered*length.Seconds())
}

// poisson acquires l at random instants, so often a second, and notes how long
// that took from settled on.
func poisson(ctx context.Context, perSecond float64, l limiter.Limiter, settled time.Time, mu *sync.Mutex, waits *[]time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	next := time.Now()
	for ctx.Err() == nil {
		next = next.Add(time.Duration(rand.ExpFloat64() / perSecond * float64(time.Second)))
		time.Sleep(time.Until(next))
		wg.Go(func() {
			came := time.Now()
			p, err := l.Acquire(ctx)
			if err != nil {
				return
			}
			took := time.Since(came)
			p.Release(nil)
			if came.After(settled) {
				mu.Lock()
				*waits = append(*waits, took)
				mu.Unlock()
			}
		})
	}
}

// A server that the test starts and stops.
type ownServer struct {
	t    *testing.T
	port int
	cmd  *exec.Cmd
}

func (s *ownServer) start() {
	s.cmd = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", fmt.Sprint(s.port), "--save", "", "--appendonly", "no")
	require.NoError(s.t, s.cmd.Start())
	c := redis.NewClient(&redis.Options{Addr: s.addr()})
	defer func() { _ = c.Close() }()
	require.Eventually(s.t, func() bool { return c.Ping(context.Background()).Err() == nil }, 10*time.Second, 10*ms)
}

func (s *ownServer) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func (s *ownServer) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

func newServer(t *testing.T) *ownServer {
	if os.Getenv("RAMPMETER_REDIS_ADDR") == "" {
		t.Skip("needs a Redis server: set RAMPMETER_REDIS_ADDR") // and have redis-server in PATH
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	s := &ownServer{t: t, port: port}
	s.start()
	t.Cleanup(s.stop)
	return s
}

// The server is killed in mid-load, and starts again empty after 20 s.
func TestLiveRestart(t *testing.T) {
	for _, mode := range []redislimiter.Outage{redislimiter.Share, redislimiter.Closed} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			server := newServer(t)
			const n, rate, burst, limit = 4, 200, 20, 12
			var far downstream
			var in crowd
			var wg sync.WaitGroup
			var buckets []*liveProcess[*redislimiter.TokenBucket]
			var semaphores []*liveProcess[*redislimiter.Semaphore]
			for i := range n {
				client := redis.NewClient(&redis.Options{Addr: server.addr()})
				b, err := redislimiter.NewTokenBucket(client, "x", rate, burst, redislimiter.Config{OnOutage: mode})
				require.NoError(t, err)
				s, err := redislimiter.NewSemaphore(client, "x", limit, redislimiter.Config{OnOutage: mode})
				require.NoError(t, err)
				ctx, stop := context.WithCancel(context.Background())
				work(ctx, &wg, b, &far, i, 10, nil)
				in.work(ctx, &wg, s, i, 10, func() time.Duration { return 20*ms + rand.N(60*ms) })
				buckets = append(buckets, &liveProcess[*redislimiter.TokenBucket]{b, client, stop})
				semaphores = append(semaphores, &liveProcess[*redislimiter.Semaphore]{s, client, stop})
			}
			time.Sleep(4 * time.Second)
			server.stop()
			gone := time.Now()
			time.Sleep(2 * time.Second)
			most0, _ := in.lap(limit)
			down := liveLength(t, 20*time.Second)
			time.Sleep(down - 2*time.Second)
			most, held := in.lap(limit)
			for _, p := range buckets {
				require.Equal(t, redislimiter.Away, p.l.Stats().State)
			}
			back := time.Now()
			server.start()
			time.Sleep(2 * time.Second)
			most1, _ := in.lap(limit)
			time.Sleep(3 * time.Second)
			end := time.Now()
			most2, after := in.lap(limit)
			during := float64(far.between(gone.Add(2*time.Second), back)) / rate / (down - 2*time.Second).Seconds()
			later := float64(far.between(back.Add(2*time.Second), end)) / rate / end.Sub(back.Add(2*time.Second)).Seconds()
			for i := range n {
				buckets[i].stop()
				closing(t, semaphores[i].l)
			}
			closeAll(t, buckets)
			wg.Wait()

			t.Logf("%v: without Redis %.3f of the rate and %.3f of the places used, 2 s after it came back %.3f and %.3f; worst window %.1f over rate*t", mode, during, held, later, after, far.worst(rate))
			require.LessOrEqual(t, max(most0, most, most1, most2), limit)
			require.GreaterOrEqual(t, later, 0.95)
			require.GreaterOrEqual(t, after, 0.95)
			if mode == redislimiter.Closed {
				require.Zero(t, during)
				require.Zero(t, most)
				require.LessOrEqual(t, far.worst(rate), burst+rate*network.Seconds())
			} else {
				require.LessOrEqual(t, far.worst(rate*(1+1.0/n)), burst+rate*network.Seconds())
				require.GreaterOrEqual(t, during, 0.8) // what timers are late for is lost, on a machine as busy as this test makes it
			}
		})
	}
}
