// Package audit has the switch by which tests make every consumer recount its
// books.
package audit

// On has each consumer compare its ledger with a recount after every step, and
// panic at a difference. Tests set it before anything runs.
var On bool
