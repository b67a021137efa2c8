// Package idempotenttest tests whether a store keeps what idempotent.Store
// promises.
//
//	func TestStore(t *testing.T) {
//		idempotenttest.TestStore(t, newStore(t))
//	}
//
// [TestStore] goes through the contract, step by step, and waits for a few
// seconds; in a bubble of testing/synctest they cost nothing. [TestCrashes] has
// twenty consumers, which crash at every step, work on the same operations
// through the store, and counts the effects.
package idempotenttest
