package sleep_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sleep"
)

func TestFor(t *testing.T) {
	for name, c := range map[string]struct {
		d, end time.Duration // end: of the context; 0: before the call
		took   time.Duration
		alive  bool
	}{
		"whole":             {d: time.Hour, end: 2 * time.Hour, took: time.Hour, alive: true},
		"cut short":         {d: time.Hour, end: time.Minute, took: time.Minute},
		"ended before":      {d: time.Hour},
		"nothing":           {end: time.Hour, alive: true},
		"less than that":    {d: -time.Hour, end: time.Hour, alive: true},
		"nothing, too late": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.end)
				defer cancel()
				begin := time.Now()
				require.Equal(t, c.alive, sleep.For(ctx, c.d))
				require.Equal(t, c.took, time.Since(begin))
			})
		})
	}
}
