package sqsqueue_test

import (
	"testing"
	"time"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/queue/queuetest"
)

func TestSource(t *testing.T) {
	for name, cfg := range map[string]queuetest.Config{
		"standard": {},
		"fifo":     {FIFO: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Synctest, cfg.NoEmptyBody, cfg.NoBinary = true, true, true
			cfg.Lease, cfg.LeaseUnit, cfg.MaxLease = 20*time.Second, time.Second, 12*time.Hour
			queuetest.TestSource(t, func(t *testing.T) queuetest.Queue {
				return newQueue(t, &sqsfake.Server{}, cfg.FIFO, nil)
			}, cfg)
		})
	}
}
