package idempotenttest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue/idempotent"
	"github.com/rampmeter/rampmeter/queue/idempotent/idempotenttest"
)

func memory(t *testing.T) *idempotent.Memory {
	t.Helper()
	s, err := idempotent.NewMemory(10_000)
	require.NoError(t, err)
	return s
}

// faulty is a store that does some things in its own way.
type faulty struct {
	*idempotent.Memory
	claim   func(s *idempotent.Memory, c idempotent.Claim) (idempotent.Record, error)
	done    func(s *idempotent.Memory, c idempotent.Claim, result []byte) error
	failed  func(s *idempotent.Memory, c idempotent.Claim) (int, error)
	release func(s *idempotent.Memory, c idempotent.Claim, forget bool) error
}

func (f faulty) Claim(ctx context.Context, c idempotent.Claim) (idempotent.Record, error) {
	if f.claim != nil {
		return f.claim(f.Memory, c)
	}
	return f.Memory.Claim(ctx, c)
}

func (f faulty) Done(ctx context.Context, c idempotent.Claim, result []byte) error {
	if f.done != nil {
		return f.done(f.Memory, c, result)
	}
	return f.Memory.Done(ctx, c, result)
}

func (f faulty) Failed(ctx context.Context, c idempotent.Claim) (int, error) {
	if f.failed != nil {
		return f.failed(f.Memory, c)
	}
	return f.Memory.Failed(ctx, c)
}

func (f faulty) Release(ctx context.Context, c idempotent.Claim, forget bool) error {
	if f.release != nil {
		return f.release(f.Memory, c, forget)
	}
	return f.Memory.Release(ctx, c, forget)
}

// complaints is a test that continues after errors were reported to it.
type complaints struct {
	testing.TB
	mu   sync.Mutex // guards said
	said []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, fmt.Sprintf(format, args...))
}

var ctx = context.Background()

func faults() map[string]faulty {
	return map[string]faulty{
		"anybody may complete": {done: func(s *idempotent.Memory, c idempotent.Claim, result []byte) error {
			_ = s.Done(ctx, c, result)
			return nil
		}},
		"no result": {done: func(s *idempotent.Memory, c idempotent.Claim, _ []byte) error { return s.Done(ctx, c, nil) }},
		"no doubt": {claim: func(s *idempotent.Memory, c idempotent.Claim) (idempotent.Record, error) {
			r, err := s.Claim(ctx, c)
			r.InDoubt = false
			return r, err
		}},
		"no count": {failed: func(s *idempotent.Memory, c idempotent.Claim) (int, error) {
			_, err := s.Failed(ctx, c)
			return 1, err
		}},
		"a success is not kept": {done: func(s *idempotent.Memory, c idempotent.Claim, result []byte) error {
			c.Keep = time.Now().Add(time.Second)
			return s.Done(ctx, c, result)
		}},
		"nothing expires": {claim: func(s *idempotent.Memory, c idempotent.Claim) (idempotent.Record, error) {
			if c.Keep.After(c.Until) || c.Keep.Equal(c.Until) {
				c.Keep = c.Keep.Add(24 * time.Hour)
			}
			return s.Claim(ctx, c)
		}, done: func(s *idempotent.Memory, c idempotent.Claim, result []byte) error {
			c.Keep = c.Keep.Add(24 * time.Hour)
			return s.Done(ctx, c, result)
		}},
		"claims don't end": {claim: func(s *idempotent.Memory, c idempotent.Claim) (idempotent.Record, error) {
			if c.Until.Before(time.Now().Add(time.Minute)) {
				c.Until, c.Keep = c.Until.Add(24*time.Hour), c.Keep.Add(24*time.Hour)
			}
			return s.Claim(ctx, c)
		}},
		"releases always forget": {release: func(s *idempotent.Memory, c idempotent.Claim, _ bool) error { return s.Release(ctx, c, true) }},
		"releases never forget":  {release: func(s *idempotent.Memory, c idempotent.Claim, _ bool) error { return s.Release(ctx, c, false) }},
		"releases do nothing":    {release: func(*idempotent.Memory, idempotent.Claim, bool) error { return nil }},
		"long keys are cut": {claim: func(s *idempotent.Memory, c idempotent.Claim) (idempotent.Record, error) {
			c.Key = c.Key[:min(len(c.Key), 1000)]
			return s.Claim(ctx, c)
		}, done: func(s *idempotent.Memory, c idempotent.Claim, result []byte) error {
			c.Key = c.Key[:min(len(c.Key), 1000)]
			return s.Done(ctx, c, result)
		}},
		"freshness is overlooked": {claim: func(s *idempotent.Memory, c idempotent.Claim) (idempotent.Record, error) {
			c.Fresh = false
			return s.Claim(ctx, c)
		}},
		"a failure is counted again": {failed: func(s *idempotent.Memory, c idempotent.Claim) (int, error) {
			n, err := s.Failed(ctx, c)
			if err == nil {
				if _, err := s.Claim(ctx, c); err == nil {
					_, _ = s.Failed(ctx, c)
				}
			}
			return n, err
		}},
	}
}

// The suite finds each of these faults, and none in a store that has none.
func TestFaultsAreFound(t *testing.T) {
	for name, f := range faults() {
		synctest.Test(t, func(t *testing.T) {
			f.Memory = memory(t)
			c := &complaints{TB: t}
			idempotenttest.TestStore(c, f)
			require.NotEmpty(t, c.said, name)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := &complaints{TB: t}
		idempotenttest.TestStore(c, memory(t))
		require.Empty(t, c.said)
	})
}

// A store that forgets owners, doubts or successes is found by its repeats, too.
func TestCrashesFindRepeats(t *testing.T) {
	for name, f := range map[string]faulty{
		"successes are not kept": {done: func(s *idempotent.Memory, c idempotent.Claim, _ []byte) error { return s.Release(ctx, c, true) }},
		"no doubt":               faults()["no doubt"],
	} {
		synctest.Test(t, func(t *testing.T) {
			f.Memory = memory(t)
			c := &complaints{TB: t}
			idempotenttest.TestCrashes(c, f, idempotenttest.Alone, 1000, 1)
			require.NotEmpty(t, c.said, name)
		})
	}
}

func TestANilStoreIsAComplaint(t *testing.T) {
	c := &complaints{TB: t}
	idempotenttest.TestStore(c, (*idempotent.Memory)(nil))
	idempotenttest.TestCrashes(c, nil, idempotenttest.Alone, 1, 1)
	require.Equal(t, []string{
		"idempotenttest: TestStore: s is nil (a *idempotent.Memory)",
		"idempotenttest: TestCrashes: s is nil",
	}, c.said)
}
