// Package testrun determines how much of a test to run, and with which seed. Only
// tests import it.
package testrun

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Long reports whether tests run at full length: all seeds of a simulation, every
// row of a table, hours of virtual time. They do if RAMPMETER_LONG is set, unless
// -short is. Otherwise they run only what a developer has time to wait for.
func Long() bool {
	return os.Getenv("RAMPMETER_LONG") != "" && !testing.Short()
}

// Seed returns the seed of a test over random schedules: 1, or the value of
// RAMPMETER_SEED. "random" draws a fresh one for every call; t logs it, to be set
// again.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(1)
	switch s := os.Getenv("RAMPMETER_SEED"); s {
	case "":
	case "random":
		seed = rand.Uint64()
	default:
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("RAMPMETER_SEED: %q is neither a number nor \"random\"", s)
		}
		seed = n
	}
	t.Logf("RAMPMETER_SEED=%d", seed)
	return seed
}
