package line_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter/internal/line"
)

var errGaveUp = errors.New("gave up")

// A pot has portions, which callers take one by one.
type pot struct {
	mu       sync.Mutex // guards all below
	line     line.Line
	portions int
	took     []int // who has, in order
	asked    int   // how often somebody was about to wait
}

func (p *pot) take(ctx context.Context, i int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.line.Join(ctx, &p.mu, func() (time.Duration, bool) {
		if p.portions == 0 {
			return line.Never, false
		}
		p.portions--
		p.took = append(p.took, i)
		return 0, true
	}, func() { p.asked++ })
}

func (p *pot) fill(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.portions += n
	p.line.Stir()
}

func (p *pot) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.line.Waiting()
}

func TestFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pot{portions: 1}
		ctx, cancel := context.WithCancelCause(t.Context())
		for i := range 6 {
			c := t.Context()
			if i == 1 || i == 3 { // the first in line, and one behind
				c = ctx
			}
			go func() { _ = p.take(c, i) }()
			synctest.Wait()
		}
		require.Equal(t, []int{0}, p.took, "at once")
		require.Equal(t, 5, p.waiting())
		require.Equal(t, 5, p.asked)
		cancel(errGaveUp)
		synctest.Wait()
		require.Equal(t, 3, p.waiting())
		p.fill(2)
		synctest.Wait()
		require.Equal(t, []int{0, 2, 4}, p.took)
		p.fill(2)
		synctest.Wait()
		require.Equal(t, []int{0, 2, 4, 5}, p.took)
		require.True(t, p.line.Empty())
	})
}

// Nothing is taken once the context has ended, nor before the time to try again.
func TestJoinTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var l line.Line
		tries := 0
		join := func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return l.Join(ctx, &mu, func() (time.Duration, bool) {
				tries++
				return time.Second, tries == 4
			}, nil)
		}
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(errGaveUp)
		require.Equal(t, errGaveUp, join(ended))
		require.Zero(t, tries)
		begin := time.Now()
		require.NoError(t, join(t.Context()))
		require.Equal(t, 3*time.Second, time.Since(begin))

		tries = 0
		short, stop := context.WithTimeoutCause(t.Context(), 1500*time.Millisecond, errGaveUp)
		defer stop()
		require.Equal(t, errGaveUp, join(short))
		require.Equal(t, 2, tries)
		require.True(t, l.Empty())
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var l line.Line
		n := 0
		var got []int
		watch := func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			seen, err := l.Watch(ctx, &mu, 3, func() (int, time.Duration) { return n, line.Never })
			got = append(got, seen)
			return err
		}
		var watchers sync.WaitGroup
		for range 2 {
			watchers.Go(func() { _ = watch(t.Context()) })
		}
		synctest.Wait()
		mu.Lock()
		require.False(t, l.Empty())
		require.Zero(t, l.Waiting(), "who watches is not in line")
		n = 5
		l.Alert()
		mu.Unlock()
		watchers.Wait()
		require.Equal(t, []int{3, 3}, got)

		ended, cancel := context.WithCancelCause(t.Context())
		cancel(errGaveUp)
		require.Equal(t, errGaveUp, watch(ended), "though there are five")
	})
}

// A waiter that gives up as it is granted its slot is informed of the grant.
func TestGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l line.Line
		first, second := l.Enter(), l.Enter()
		require.Same(t, first, l.First())
		l.Grant()
		require.Same(t, second, l.First())
		require.True(t, first.Granted(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.False(t, second.Granted(ctx))
		l.Grant()
		require.True(t, l.Withdraw(second))
		require.False(t, l.Withdraw(l.Enter()))
		require.True(t, l.Empty())
	})
}

func TestWaitingAllocatesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	var l line.Line
	mu.Lock()
	defer mu.Unlock()
	allocs := testing.AllocsPerRun(100, func() {
		tries := 0
		if err := l.Join(ctx, &mu, func() (time.Duration, bool) { tries++; return 1, tries > 1 }, nil); err != nil {
			panic(err)
		}
		if _, err := l.Watch(ctx, &mu, 1, func() (int, time.Duration) { tries++; return tries - 3, 1 }); err != nil {
			panic(err)
		}
	})
	cancel()
	require.Zero(t, allocs)
}

func TestAsked(t *testing.T) {
	max, within := line.Asked(0, -1)
	require.Equal(t, 1, max)
	require.Zero(t, within)
	max, within = line.Asked(7, time.Second)
	require.Equal(t, 7, max)
	require.Equal(t, time.Second, within)
}
