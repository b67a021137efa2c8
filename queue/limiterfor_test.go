package queue_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/memqueue"
)

// A message for each of a hundred tenants arrives every second. One tenant is
// refused with a Retry-After of a minute, and the others continue. Then sixty are
// refused, and all tenants are paced.
func TestOneTenantsRefusalsAreItsOwn(t *testing.T) {
	const tenants, after = 100, time.Minute
	lasts := time.Hour
	if !testrun.Long() {
		lasts = 3 * time.Minute
	}
	limits := map[string]func(*testing.T) limiter.Limiter{
		"a semaphore":     func(t *testing.T) limiter.Limiter { return semaphore(t, 5) },
		"a bucket":        func(t *testing.T) limiter.Limiter { return bucket(t, 100, 10) },
		"a learning pace": func(t *testing.T) limiter.Limiter { return adaptiveRate(t) },
	}
	for name, own := range limits {
		bubble(t, name, func(t *testing.T) {
			q := newQueue(t, memqueue.Config{})
			var mu sync.Mutex // guards all below
			refused := 1      // tenants, the first ones
			done, calls, sent := 0, 0, 0
			r := start(t, q, queue.Config{
				LimiterFor: perTenant(func(string) limiter.Limiter { return own(t) }).limiterFor,
			}, func(_ context.Context, m *queue.Message) error {
				time.Sleep(20 * time.Millisecond)
				tenant, err := strconv.Atoi(m.Attributes["tenant"])
				require.NoError(t, err)
				mu.Lock()
				defer mu.Unlock()
				calls++
				if tenant < refused {
					return stamped{is: limiter.ErrOverload, after: after}
				}
				if tenant > 0 {
					done++
				}
				return nil
			})
			send := func(d time.Duration) {
				for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
					for i := range tenants {
						require.NoError(t, q.Send(t.Context(), of(strconv.Itoa(i), i)))
					}
					sent += tenants - 1
				}
			}
			send(lasts)
			synctest.Wait()
			mu.Lock()
			t.Logf("of %d messages of the others %d are done", sent, done)
			require.GreaterOrEqual(t, done, sent*97/100)
			require.LessOrEqual(t, calls-done, int(lasts/after)+1, "calls for the refused one")
			refused = 60
			mu.Unlock()

			send(5 * time.Second)
			mu.Lock()
			before := calls
			mu.Unlock()
			time.Sleep(after - 10*time.Second)
			mu.Lock()
			require.Equal(t, before, calls, "they are paused for as long as the downstream asks")
			mu.Unlock()
			require.Equal(t, limiter.ByPause, r.Stats().Blocked.Reason)

			mu.Lock()
			refused = 0
			mu.Unlock()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			mu.Lock()
			require.Greater(t, calls, before, "and then work goes on")
			mu.Unlock()
			require.NoError(t, r.drain())
		})
	}
}
