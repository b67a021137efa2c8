package main

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/orders/order"
)

func TestSpike(t *testing.T) {
	a := NewSpike(small)
	require.Equal(t, a, NewSpike(small), "the same seed makes the same spike")
	other := small
	other.Seed = 2
	require.NotEqual(t, a, NewSpike(other))

	require.Len(t, a.Arrivals, 205)
	seen := make(map[string]bool)
	poison, last := 0, time.Duration(0)
	for _, arrival := range a.Arrivals {
		require.GreaterOrEqual(t, arrival.At, last)
		require.LessOrEqual(t, arrival.At, a.Length)
		require.False(t, seen[arrival.ID])
		seen[arrival.ID], last = true, arrival.At
		o, err := order.Parse(arrival.Body)
		if arrival.Poison {
			poison++
			require.True(t, err != nil || bytes.Contains(arrival.Body, []byte("NO-SUCH-SKU")))
			continue
		}
		require.NoError(t, err)
		require.Equal(t, arrival.ID, o.ID)
	}
	require.Equal(t, 5, poison)

	one := small
	one.Orders = 1
	require.Len(t, NewSpike(one).Arrivals, 6)
}

func TestPlay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sp := NewSpike(small)
		var mu sync.Mutex
		at := make(map[string]time.Duration)
		start := time.Now()
		sp.Play(t.Context(), func(a Arrival) {
			mu.Lock()
			at[a.ID] = time.Since(start)
			mu.Unlock()
			time.Sleep(time.Second) // no customer waits for another's answer
		})
		for _, a := range sp.Arrivals {
			require.Equal(t, a.At, at[a.ID], a.ID)
		}

		ctx, cancel := context.WithTimeout(t.Context(), sp.Length/2)
		defer cancel()
		n := 0
		sp.Play(ctx, func(Arrival) { mu.Lock(); n++; mu.Unlock() })
		require.Greater(t, n, 50)
		require.Less(t, n, 155)
		n = 0
		sp.Play(ctx, func(Arrival) { mu.Lock(); n++; mu.Unlock() })
		require.Zero(t, n)
	})
}
