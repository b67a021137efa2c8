package queue

import "github.com/rampmeter/rampmeter/queue/internal/audit"

// Every consumer of this package's tests recounts its books after every step.
func init() { audit.On = true }
