package sqsqueue_test

import "github.com/rampmeter/rampmeter/queue/internal/audit"

// The consumers of this package's tests recount their books after every step.
func init() { audit.On = true }
