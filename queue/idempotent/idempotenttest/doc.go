// Package idempotenttest tests whether a store implements the contract of
// idempotent.Store.
//
//	func TestStore(t *testing.T) {
//		idempotenttest.TestStore(t, newStore(t))
//	}
//
// [TestStore] checks the contract step by step, and waits for a few seconds, which
// cost nothing in a bubble of testing/synctest. [TestCrashes] runs twenty consumers,
// which crash at every step, on the same operations through the store, and counts the
// effects.
package idempotenttest
