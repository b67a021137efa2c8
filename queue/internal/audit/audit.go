// Package audit has the switch by which tests make every consumer recount its
// ledger.
package audit

// On makes each consumer compare its ledger with a recount after every step, and
// panic if they differ. Tests set it before anything runs.
var On bool
