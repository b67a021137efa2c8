package idempotent_test

import (
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/rampmeter/rampmeter/internal/testrun"
	"github.com/rampmeter/rampmeter/queue/idempotent/idempotenttest"
)

var quiet = slog.New(slog.DiscardHandler)

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { idempotenttest.TestStore(t, memory(t, 1000)) })
}

// Twenty consumers, and a thousand operations delivered five times each in
// random overlap, with a crash at every kind of step: once where the downstream
// knows the key, once where effect and record are one write, and otherwise one
// repeat per crash at most, each of them counted as in doubt.
func TestCrashes(t *testing.T) {
	for name, effect := range idempotenttest.Effects() {
		t.Run(name, func(t *testing.T) {
			rounds := 6
			if !testrun.Long() {
				rounds = 1
			}
			for seed := range uint64(rounds) {
				synctest.Test(t, func(t *testing.T) { idempotenttest.TestCrashes(t, memory(t, 10_000), effect, 1000, seed) })
			}
		})
	}
}
